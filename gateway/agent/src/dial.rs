//! Dialling the gateway: plainly on its own machine, by TLS 1.3 from a rented host, where only the certificate is taken that
//! came with the lease.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::either::Either;

use crate::error::{AgentError, Result};

/// A connection to the gateway.
pub(crate) type Socket = WebSocketStream<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// How the gateway is dialled.
pub(crate) struct Dial {
    /// `ws` form.
    url: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dial {
    /// For a gateway's address in `http` form.
    pub(crate) fn new(gateway: &str, certificate: Option<&str>) -> Result<Self> {
        let wrong = || AgentError::Address {
            address: gateway.to_owned(),
        };
        let rest = gateway.strip_prefix("http").ok_or_else(wrong)?;
        let url = format!("ws{}/v1/agent", rest.trim_end_matches('/'));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("wss");
        let tls = match (is_tls, certificate) {
            (false, _) => None,
            (true, Some(pem)) => Some((
                trusting(pem)?,
                ServerName::try_from(host.clone()).map_err(|_| wrong())?,
            )),
            (true, None) => return Err(untrusted("it was not handed over")),
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { url, host, port, tls })
    }

    pub(crate) async fn dial(&self, config: WebSocketConfig) -> Result<Socket, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| said(&error))?;
        // Without it a message waits some 40 ms for the peer's acknowledgement.
        tcp.set_nodelay(true).map_err(|error| said(&error))?;
        let stream = match &self.tls {
            None => Either::Left(tcp),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                Either::Right(Box::new(tls.map_err(|error| said(&error))?))
            }
        };
        let (socket, _) = client_async_with_config(self.url.as_str(), stream, Some(config))
            .await
            .map_err(|error| said(&error))?;
        Ok(socket)
    }
}

fn trusting(pem: &str) -> Result<TlsConnector> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| untrusted(&error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate)
        .map_err(|error| untrusted(&error.to_string()))?;
    // Named, because more than one may be built in.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| untrusted(&error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn untrusted(reason: &str) -> AgentError {
    AgentError::Certificate {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let plain = Dial::new("http://127.0.0.1:8888/", None).unwrap();
        assert_eq!(
            (plain.url.as_str(), plain.host.as_str(), plain.port),
            ("ws://127.0.0.1:8888/v1/agent", "127.0.0.1", 8888)
        );
        assert_eq!(Dial::new("http://[::1]:9", None).unwrap().host, "::1");
        assert_eq!(Dial::new("ftp://x", None).err().unwrap().code(), "agent_address");
        for (address, certificate) in [
            ("https://x.example", None),
            ("https://x.example", Some("no certificate")),
        ] {
            let refused = Dial::new(address, certificate).err().unwrap();
            assert_eq!(refused.code(), "agent_certificate");
        }
    }
}
