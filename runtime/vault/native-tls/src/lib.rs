//! The part of `native-tls` 0.2's interface that `tokio-native-tls` and `tungstenite` call, on rustls.
//!
//! `aleph-sdk` asks for `tokio-tungstenite` with its `native-tls` feature, which on Linux means OpenSSL and its
//! headers. The rest of the SDK already speaks TLS through rustls and the platform's certificate store; with this
//! crate in `[patch.crates-io]` the websocket does too (`docs/adr/0003-no-openssl.md`).
//!
//! It does not accept connections ([`TlsAcceptor`] has no values), load client identities or switch verification off.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};
use rustls_platform_verifier::ConfigVerifierExt as _;

/// Why a TLS session could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of the server is not a DNS name or IP address.
    #[error("{name:?} is not a valid server name")]
    ServerName {
        /// The name as it was given.
        name: String,
    },
    /// rustls refused the configuration, the certificate or the peer.
    #[error("TLS failed")]
    Tls(#[from] rustls::Error),
    /// The transport failed during the handshake.
    #[error("the connection failed during the TLS handshake")]
    Io(#[from] io::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Starts TLS sessions as a client, verifying servers against the platform's certificate store.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    /// A connector with the platform's trust roots.
    ///
    /// # Errors
    /// [`Error::Tls`] when the platform's certificate store cannot be used.
    pub fn new() -> Result<Self> {
        Ok(Self {
            config: Arc::new(ClientConfig::with_platform_verifier()?),
        })
    }

    /// Runs the client's handshake with `domain` over `stream`.
    ///
    /// # Errors
    /// [`HandshakeError::WouldBlock`] when a non-blocking stream has to be waited for,
    /// [`HandshakeError::Failure`] for everything else.
    pub fn connect<S: Read + Write>(
        &self,
        domain: &str,
        stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        let name = ServerName::try_from(domain.to_owned()).map_err(|_| {
            HandshakeError::Failure(Error::ServerName {
                name: domain.to_owned(),
            })
        })?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| HandshakeError::Failure(error.into()))?;
        MidHandshakeTlsStream {
            inner: Box::new(Session { connection, stream }),
        }
        .handshake()
    }
}

/// The server's side, which this crate does not have: there is no value of this type.
#[derive(Clone, Debug)]
pub enum TlsAcceptor {}

impl TlsAcceptor {
    /// Never called, because no acceptor exists.
    ///
    /// # Errors
    /// None.
    pub fn accept<S: Read + Write>(
        &self,
        _stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match *self {}
    }
}

/// Why [`TlsConnector::connect`] did not end with a session.
#[derive(Debug)]
pub enum HandshakeError<S> {
    /// The handshake failed for good.
    Failure(Error),
    /// The stream has to be waited for; go on with [`MidHandshakeTlsStream::handshake`].
    WouldBlock(MidHandshakeTlsStream<S>),
}

/// A connection and its stream, apart because callers name these types without bounds on `S`; boxed because a
/// connection has a kilobyte and travels in errors.
#[derive(Debug)]
struct Session<S> {
    connection: ClientConnection,
    stream: S,
}

/// A session whose handshake waits for its stream.
#[derive(Debug)]
pub struct MidHandshakeTlsStream<S> {
    inner: Box<Session<S>>,
}

impl<S> MidHandshakeTlsStream<S> {
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner.stream
    }

    /// The stream below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner.stream
    }
}

impl<S: Read + Write> MidHandshakeTlsStream<S> {
    /// Goes on with the handshake.
    ///
    /// # Errors
    /// As [`TlsConnector::connect`].
    pub fn handshake(mut self) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        while self.inner.connection.is_handshaking() {
            match self.inner.connection.complete_io(&mut self.inner.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(HandshakeError::WouldBlock(self));
                }
                Err(error) => return Err(HandshakeError::Failure(error.into())),
            }
        }
        Ok(TlsStream { inner: self.inner })
    }
}

/// An established TLS session over `S`.
#[derive(Debug)]
pub struct TlsStream<S> {
    inner: Box<Session<S>>,
}

impl<S> TlsStream<S> {
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner.stream
    }

    /// The stream below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner.stream
    }
}

impl<S: Read + Write> TlsStream<S> {
    /// Sends close_notify and writes out what is left.
    ///
    /// # Errors
    /// The stream's.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.inner.connection.send_close_notify();
        while self.inner.connection.wants_write() {
            self.inner.connection.write_tls(&mut self.inner.stream)?;
        }
        self.inner.stream.flush()
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Stream::new(&mut self.inner.connection, &mut self.inner.stream).read(buffer)
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Stream::new(&mut self.inner.connection, &mut self.inner.stream).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Stream::new(&mut self.inner.connection, &mut self.inner.stream).flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn refuses_a_name_that_is_no_server_name() {
        let connector = TlsConnector::new().unwrap();
        let outcome = connector.connect("not a name", Cursor::new(Vec::new()));
        assert!(matches!(
            outcome,
            Err(HandshakeError::Failure(Error::ServerName { .. }))
        ));
    }

    #[test]
    fn fails_on_a_peer_that_does_not_speak_tls() {
        struct Peer(Cursor<Vec<u8>>);
        impl Read for Peer {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl Write for Peer {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                Ok(buffer.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let peer = Peer(Cursor::new(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
        let outcome = TlsConnector::new().unwrap().connect("example.org", peer);
        assert!(matches!(outcome, Err(HandshakeError::Failure(Error::Io(_)))));
    }
}
