//! What can go wrong on the link. Used by both ends; the kernel turns it into an `error` message.

use std::path::PathBuf;

/// Result of a link operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a frame or the handover file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The other end closed the socket between two frames.
    #[error("the other end of the link is gone")]
    Closed,
    /// Reading or writing the socket failed.
    #[error("the link between cell and kernel broke: {source}")]
    Io {
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A frame longer than [`crate::MAX_FRAME_BYTES`].
    #[error("a frame of {bytes} bytes is larger than the {limit} bytes that the link takes")]
    TooLarge {
        /// Length of the refused frame.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A frame that is not the JSON that was expected.
    #[error("a frame on the link is not understood: {source}")]
    Malformed {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The handover file cannot be read or written.
    #[error("the handover file {path} cannot be used: {source}", path = path.display())]
    HandoverIo {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The handover file is not the JSON that was expected.
    #[error("the handover file {path} is not understood: {source}", path = path.display())]
    HandoverMalformed {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Other accounts of this machine may read the handover file.
    #[error("the handover file {path} may be read by others (mode {mode:o})", path = path.display())]
    HandoverExposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Error {
    /// Stable machine-readable name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "link_closed",
            Self::Io { .. } => "link_io",
            Self::TooLarge { .. } => "link_frame_too_large",
            Self::Malformed { .. } => "link_frame_malformed",
            Self::HandoverIo { .. } => "handover_io",
            Self::HandoverMalformed { .. } => "handover_malformed",
            Self::HandoverExposed { .. } => "handover_exposed",
        }
    }

    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Closed | Self::Io { .. } => Some("restart the kernel".to_owned()),
            Self::TooLarge { .. } => Some("show or send less at once".to_owned()),
            Self::HandoverExposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Malformed { .. } | Self::HandoverIo { .. } | Self::HandoverMalformed { .. } => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io { source },
        }
    }
}
