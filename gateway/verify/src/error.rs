//! Why a verification could not be done at all. What is wrong with a revision is a finding, not an error.

use std::io;

/// What every fallible public function of this crate returns.
pub type Result<T> = std::result::Result<T, VerifyError>;

/// Why there is no report. [`VerifyError::code`] is stable; messages are for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The source did not give bytes that it says it has.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// Path within the revision.
        file: String,
        /// What the source said.
        source: io::Error,
    },
    /// A folder cannot be listed.
    #[error("the folder {path} cannot be listed: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// More files, or deeper folders, than a revision may have.
    #[error("the revision has {what}, more than the {limit} that are checked")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A result given from outside that is none of the checks that may be.
    #[error("{id} is made by this crate and is not taken from outside")]
    NotFromOutside {
        /// The check's id.
        id: crate::CheckId,
    },
}

impl VerifyError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "verify_read",
            Self::Folder { .. } => "verify_folder",
            Self::TooMany { .. } => "verify_too_many",
            Self::NotFromOutside { .. } => "verify_not_from_outside",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "try again; if it stays, look at the disk, the mount or the node that holds the file"
            }
            Self::Folder { .. } => "name a folder that exists and that you may read",
            Self::TooMany { .. } => "publish fewer files: data belongs into a dataset",
            Self::NotFromOutside { .. } => "only V2, V5 and V8 are made elsewhere",
        }
    }
}
