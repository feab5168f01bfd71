//! The door for agents of rented hosts: TLS 1.3 with a certificate of the gateway's own, which a host is handed with its lease
//! and takes instead of every other. So the gateway needs no name and no certificate authority, and nobody between can read
//! or answer.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::server::TlsStream;

use crate::error::{GatewayError, Result};

/// Handshakes at the same time; more wait at the listener.
const HANDSHAKES: usize = 64;
/// How long one may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A TLS connection and whose it is.
pub(crate) type Entered = (TlsStream<TcpStream>, SocketAddr);

/// The gateway's certificate for hosts.
pub(crate) struct Certificate {
    /// As hosts get it.
    pub(crate) pem: String,
    key_pem: String,
}

impl Certificate {
    /// The one in `folder` that is for `name`, made when there is none for it.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self> {
        let (path, key_path, name_path) = (
            folder.join("hosts.pem"),
            folder.join("hosts.key"),
            folder.join("hosts.name"),
        );
        if fs::read_to_string(&name_path).is_ok_and(|known| known == name) {
            let read = |path: &Path| {
                fs::read_to_string(path).map_err(|source| GatewayError::Folder {
                    path: path.to_owned(),
                    source,
                })
            };
            return Ok(Self {
                pem: read(&path)?,
                key_pem: read(&key_path)?,
            });
        }
        let made = Self::make(name)?;
        write(&key_path, &made.key_pem)?;
        write(&path, &made.pem)?;
        // Last: it tells that the other two are whole.
        write(&name_path, name)?;
        Ok(made)
    }

    fn make(name: &str) -> Result<Self> {
        let failed = |error: rcgen::Error| GatewayError::Setting {
            setting: "hosts.address",
            reason: format!("no certificate can be made for `{name}`: {error}"),
        };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Alephlab gateway, for its hosts");
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    fn server(&self) -> Result<ServerConfig> {
        let failed = |error: &dyn std::fmt::Display| GatewayError::Setting {
            setting: "the certificate for hosts",
            reason: error.to_string(),
        };
        let certificate =
            CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| failed(&error))?;
        // Named, because more than one may be built in.
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Takes connections: a slow handshake holds nobody else up.
    pub(crate) fn listen(&self, mut listener: TcpListener) -> Result<mpsc::Receiver<Entered>> {
        let acceptor = TlsAcceptor::from(Arc::new(self.server()?));
        let (sender, entered) = mpsc::channel(HANDSHAKES);
        let room = Arc::new(Semaphore::new(HANDSHAKES));
        tokio::spawn(async move {
            while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
                let (tcp, address) = Listener::accept(&mut listener).await;
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                if sender.is_closed() {
                    return;
                }
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = tcp.set_nodelay(true);
                    if let Ok(Ok(tls)) = timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                        let _ = sender.send((tls, address)).await;
                    }
                });
            }
        });
        Ok(entered)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let bad = |source| GatewayError::Folder {
        path: path.to_owned(),
        source,
    };
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(bad)?;
    file.write_all(text.as_bytes()).map_err(bad)?;
    file.sync_all().map_err(bad)
}

#[cfg(test)]
mod tests {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    fn trusting(pem: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    #[tokio::test]
    async fn only_who_was_handed_the_certificate_comes_in() {
        let folder = tempfile::tempdir().unwrap();
        let ours = Certificate::open(folder.path(), "127.0.0.1").unwrap();
        let again = Certificate::open(folder.path(), "127.0.0.1").unwrap();
        assert_eq!(ours.pem, again.pem, "a host that is there already still knows it");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut entered = ours.listen(listener).unwrap();
        let dial = async |pem: &str| {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = address.ip().to_string().try_into().unwrap();
            trusting(pem).connect(name, tcp).await
        };
        // One that says nothing does not hold up the others.
        let _silent = TcpStream::connect(address).await.unwrap();
        let stranger = Certificate::make("127.0.0.1").unwrap();
        assert!(dial(&stranger.pem).await.is_err());
        let tls = dial(&ours.pem).await.unwrap();
        assert_eq!(
            tls.get_ref().1.protocol_version(),
            Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_3)
        );
        let (_, peer) = entered.recv().await.unwrap();
        assert_eq!(peer, tls.get_ref().0.local_addr().unwrap());
        let other = Certificate::open(folder.path(), "gateway.example").unwrap();
        assert_ne!(other.pem, ours.pem, "it is for another name");
    }
}
