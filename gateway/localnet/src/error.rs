//! The crate's error: what can go wrong when the local node starts or works.
//!
//! Not here: why a message was refused (that is [`crate::rejection`]) and how an HTTP
//! request is answered (that is `http::failure`). `cli` shows [`Error::hint`] to the user.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why the local node could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("the local Aleph node cannot listen on {address}: {cause}")]
    Bind {
        /// Address that was asked for.
        address: SocketAddr,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// The data folder cannot be made or written.
    #[error("the local Aleph node cannot write to its data folder {}: {cause}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// Another process works on the same data folder.
    #[error("another local Aleph node already uses the data folder {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The database file is not one that this version can use.
    #[error("the local Aleph node cannot open its database {}: {cause}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Reason in words.
        cause: String,
    },
    /// A query failed.
    #[error("the local Aleph node's database failed")]
    Database {
        /// The database's answer.
        #[from]
        source: sqlx::Error,
    },
    /// A stored file cannot be read or written.
    #[error("the local Aleph node cannot use the stored file {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// The hosts that are set are none.
    #[error("the hosts of the local Aleph network cannot be as they are set: {cause}")]
    Compute {
        /// Reason in words.
        cause: String,
    },
    /// Instances cannot be kept apart from this machine.
    #[error("the local Aleph network cannot start instances with {}: {cause}", program.display())]
    Sandbox {
        /// bubblewrap, as it was looked for.
        program: PathBuf,
        /// Reason in words.
        cause: String,
    },
    /// The program that instances run is not there.
    #[error("the program of the local Aleph network's instances is not at {}", path.display())]
    Instance {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The HTTP server ended by itself.
    #[error("the local Aleph node stopped serving: {cause}")]
    Serve {
        /// The operating system's answer.
        cause: io::Error,
    },
}

impl Error {
    /// Stable name of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "localnet_bind",
            Self::Folder { .. } => "localnet_folder",
            Self::InUse { .. } => "localnet_in_use",
            Self::Open { .. } => "localnet_open",
            Self::Database { .. } => "localnet_database",
            Self::File { .. } => "localnet_file",
            Self::Compute { .. } => "localnet_compute",
            Self::Sandbox { .. } => "localnet_sandbox",
            Self::Instance { .. } => "localnet_instance",
            Self::Serve { .. } => "localnet_serve",
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { cause, .. } if cause.kind() == io::ErrorKind::AddrInUse => Some(
                "stop the program that uses the port, or choose another port (0 takes a free one)".into(),
            ),
            Self::Folder { .. } => Some("choose a folder that you may write to".into()),
            Self::InUse { .. } => Some("stop the other node, or choose another data folder".into()),
            Self::Sandbox { .. } => Some(
                "install bubblewrap (on Debian: apt-get install bubblewrap); it needs user namespaces".into(),
            ),
            Self::Instance { .. } => Some("build it: cargo build --release -p alephlab-localnet".into()),
            Self::Open { .. } => Some("move the file away to start with an empty node".into()),
            _ => None,
        }
    }
}

/// Result of the crate.
pub type Result<T> = std::result::Result<T, Error>;
