//! The connection file: where the client wants the five channels, and the key that signs messages.
//!
//! Read once by [`crate::kernel::Kernel::start`]. Format: "Connection files" in jupyter_client's documentation.

use std::path::Path;

use jupyter_protocol::{ConnectionInfo, Transport};

use crate::{Error, Result};

/// One channel of the protocol, in the order of the connection file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Requests that run or ask about code.
    Shell,
    /// Everything that all clients see.
    IoPub,
    /// Questions of the kernel to the person.
    Stdin,
    /// Requests that must not wait for a cell.
    Control,
    /// Echo, tells that the process lives.
    Heartbeat,
}

impl Channel {
    /// The protocol's name of this channel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::IoPub => "iopub",
            Self::Stdin => "stdin",
            Self::Control => "control",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Where the client wants the channels, and the key.
#[derive(Clone)]
pub struct Connection {
    info: ConnectionInfo,
}

impl Connection {
    /// Takes connection information that is already parsed.
    pub fn new(info: ConnectionInfo) -> Self {
        Self { info }
    }

    /// Reads a connection file.
    ///
    /// # Errors
    /// [`Error::ConnectionFile`], [`Error::ConnectionMalformed`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ConnectionFile {
            path: path.to_owned(),
            source,
        })?;
        let malformed = |message| Error::ConnectionMalformed {
            path: path.to_owned(),
            message,
        };
        let info: ConnectionInfo =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if !info.key.is_empty() && info.signature_scheme != "hmac-sha256" {
            return Err(malformed(format!(
                "signature scheme {} is not hmac-sha256",
                info.signature_scheme
            )));
        }
        Ok(Self { info })
    }

    /// The signing key; empty means that messages are not signed.
    pub(crate) fn key(&self) -> &[u8] {
        self.info.key.as_bytes()
    }

    /// `tcp://IP:PORT` or `ipc://PATH-NUMBER`.
    pub fn address(&self, channel: Channel) -> String {
        match self.info.transport {
            Transport::TCP => format!("tcp://{}:{}", self.info.ip, self.port(channel)),
            Transport::IPC => format!("ipc://{}-{}", self.info.ip, self.port(channel)),
        }
    }

    fn port(&self, channel: Channel) -> u16 {
        match channel {
            Channel::Shell => self.info.shell_port,
            Channel::IoPub => self.info.iopub_port,
            Channel::Stdin => self.info.stdin_port,
            Channel::Control => self.info.control_port,
            Channel::Heartbeat => self.info.hb_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Connection> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        Connection::read(file.path())
    }

    const IPC: &str = r#"{"transport":"ipc","ip":"/tmp/k","shell_port":1,"iopub_port":2,"stdin_port":3,
        "control_port":4,"hb_port":5,"key":"k","signature_scheme":"hmac-sha256","jupyter_session":"x"}"#;

    #[test]
    fn reads_both_transports() {
        let connection = read(IPC).unwrap();
        assert_eq!(connection.address(Channel::Control), "ipc:///tmp/k-4");
        let connection = read(&IPC.replace("ipc", "tcp").replace("/tmp/k", "127.0.0.1")).unwrap();
        assert_eq!(connection.address(Channel::IoPub), "tcp://127.0.0.1:2");
    }

    #[test]
    fn refuses_another_signature_scheme_and_names_the_file() {
        let error = read(&IPC.replace("hmac-sha256", "hmac-md5")).err().unwrap();
        assert_eq!(error.code(), "connection_malformed");
        let missing = Connection::read(Path::new("/nowhere/kernel.json")).err().unwrap();
        assert!(missing.to_string().contains("/nowhere/kernel.json"));
    }
}
