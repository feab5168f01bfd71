//! Why a mount does not come about.

use std::path::PathBuf;

/// What every fallible function here returns.
pub type Result<T> = std::result::Result<T, MountError>;

/// Why a mount does not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The system lets this process mount nothing.
    #[error("{} cannot be mounted: {reason}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What is in the way, and what would help.
        reason: String,
    },
    /// The folder cannot be used.
    #[error("nothing can be mounted at {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl MountError {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "mount_refused",
            Self::Folder { .. } => "mount_folder",
        }
    }

    pub(crate) fn refused(path: &std::path::Path, error: &std::io::Error) -> Self {
        let device = std::path::Path::new("/dev/fuse");
        let reason = if !device.exists() {
            "this machine has no /dev/fuse (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
                .to_owned()
        } else if error.kind() == std::io::ErrorKind::PermissionDenied {
            "only root or the program fusermount3 (Debian: apt-get install fuse3) may mount".to_owned()
        } else {
            error.to_string()
        };
        Self::Refused {
            path: path.to_owned(),
            reason,
        }
    }
}
