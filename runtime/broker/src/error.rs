//! The broker's one error type, and how it becomes the [`Problem`] that a cell sees.

use std::path::{Path, PathBuf};

use alephlab_api::Problem;
use alephlab_api::client::ClientError;
use alephlab_vault::VaultError;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, BrokerError>;

/// Why the broker could not do what a cell asked, or could not start. Nothing here carries a key or a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The file with the broker's own beginnings is unusable.
    #[error("the bootstrap file {path} cannot be used: {reason}", path = path.display())]
    Bootstrap {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The socket for cells cannot be made.
    #[error("the socket {path} cannot be opened: {reason}", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file or folder of this machine.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The gateway did not do its part.
    #[error("{source}")]
    Gateway {
        /// What it said.
        #[from]
        source: ClientError,
    },
    /// Sealing, opening, storing or signing failed.
    #[error("{source}")]
    Vault {
        /// Which check.
        #[from]
        source: VaultError,
    },
    /// The owner's machine said no.
    #[error("{problem}")]
    Refused {
        /// In its own words.
        problem: Problem,
    },
    /// The owner's machine or the gateway answered something that does not fit the question.
    #[error("the answer does not fit the question: {reason}")]
    Answer {
        /// What does not fit.
        reason: String,
    },
    /// The cell asked for something that cannot be done.
    #[error("{reason}")]
    Request {
        /// Why not.
        reason: String,
    },
}

impl BrokerError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Stable name of the kind of error.
    pub fn code(&self) -> &str {
        match self {
            Self::Bootstrap { .. } => "broker_bootstrap",
            Self::Socket { .. } => "broker_socket",
            Self::Io { .. } => "broker_io",
            Self::Gateway {
                source: ClientError::Refused { problem, .. },
            } => &problem.code,
            Self::Gateway { source } => source.code(),
            Self::Vault { source } => source.code(),
            Self::Refused { problem } => &problem.code,
            Self::Answer { .. } => "broker_answer",
            Self::Request { .. } => "broker_request",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gateway { source } => source.hint(),
            Self::Vault { source } => source.hint(),
            Self::Refused { problem } => problem.hint.clone(),
            Self::Bootstrap { .. }
            | Self::Socket { .. }
            | Self::Io { .. }
            | Self::Answer { .. }
            | Self::Request { .. } => None,
        }
    }

    /// The same for a cell.
    pub fn to_problem(&self) -> Problem {
        match self {
            Self::Gateway { source } => source.to_problem(),
            Self::Refused { problem } => problem.clone(),
            other => Problem {
                code: other.code().to_owned(),
                message: other.to_string(),
                hint: other.hint(),
            },
        }
    }
}
