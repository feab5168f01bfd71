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
    /// The kernel's hub cannot be served.
    #[error("the kernel's hub cannot listen on the loopback: {reason}")]
    Hub {
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
    /// What is to be opened is larger than the place where opened files lie.
    #[error("opening {name} takes {needed} bytes, and {place} has {free} bytes free", place = place.display())]
    Space {
        /// What was to be opened.
        name: String,
        /// Bytes that its files take there.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The folder for opened files.
        place: PathBuf,
    },
    /// A revision whose signed record would not fit into one Aleph message.
    #[error(
        "the record of {files} files would have up to {bytes} bytes, and a node takes at most {limit} in one message"
    )]
    RecordSize {
        /// Files of the revision, the card included.
        files: usize,
        /// Bytes of the message's content.
        bytes: u64,
        /// Most that a message has.
        limit: u64,
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
            Self::Hub { .. } => "broker_hub",
            Self::Io { .. } => "broker_io",
            Self::Gateway {
                source: ClientError::Refused { problem, .. },
            } => &problem.code,
            Self::Gateway { source } => source.code(),
            Self::Vault { source } => source.code(),
            Self::Refused { problem } => &problem.code,
            Self::Answer { .. } => "broker_answer",
            Self::Space { .. } => "broker_space",
            Self::RecordSize { .. } => "broker_record_size",
            Self::Request { .. } => "broker_request",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gateway { source } => source.hint(),
            Self::Vault { source } => source.hint(),
            Self::Refused { problem } => problem.hint.clone(),
            Self::Space { .. } => Some(
                "restart kernels that have something open, or use a machine with more memory (a container: with a \
                 larger /dev/shm)"
                    .to_owned(),
            ),
            Self::RecordSize { .. } => Some("publish fewer files: pack small ones into one".to_owned()),
            Self::Bootstrap { .. }
            | Self::Socket { .. }
            | Self::Hub { .. }
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
            Self::Vault { source } => {
                let (code, message) = source.told();
                Problem {
                    code: code.to_owned(),
                    message,
                    hint: source.hint(),
                }
            }
            other => Problem {
                code: other.code().to_owned(),
                message: other.to_string(),
                hint: other.hint(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_tell_a_wrong_key_from_a_wrong_tag() {
        let object = || "ab".repeat(32);
        let commit = BrokerError::from(VaultError::Commit { object: object() });
        let tag = BrokerError::from(VaultError::Tag {
            object: object(),
            chunk: 7,
        });
        assert_eq!(commit.to_problem(), tag.to_problem());
        // The log still has them apart.
        assert_eq!((commit.code(), tag.code()), ("E_COMMIT", "E_TAG"));
    }
}
