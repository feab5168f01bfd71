//! The handover: a small JSON file, readable by its owner only, that says where the broker is and whose
//! kernel this is. It holds no secret, but the mode is checked all the same: whoever can change it could
//! point a cell at another broker.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Environment variable with the path of the handover file.
pub const HANDOVER_ENV: &str = "ALEPHLAB_HANDOVER";

/// What a kernel's cells need to know about the place they run in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The broker's Unix socket, or nothing where no broker runs beside this kernel.
    pub broker: Option<PathBuf>,
    /// The kernel's id (a UUID) as the gateway knows it.
    pub kernel_id: String,
    /// Address of the account that the kernel belongs to.
    pub account: String,
    /// Base URL of the gateway.
    pub gateway: String,
    /// Folder that cells start in.
    pub work_dir: PathBuf,
}

impl Handover {
    /// The handover named by the environment; `None` when the variable is not set or empty.
    ///
    /// # Errors
    /// [`Error::HandoverIo`], [`Error::HandoverExposed`] or [`Error::HandoverMalformed`].
    pub fn from_env() -> Result<Option<Self>> {
        match std::env::var_os(HANDOVER_ENV) {
            Some(path) if !path.is_empty() => Self::read(Path::new(&path)).map(Some),
            _ => Ok(None),
        }
    }

    /// Reads a handover file.
    ///
    /// # Errors
    /// As [`Handover::from_env`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::HandoverIo {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::HandoverExposed {
                path: path.to_owned(),
                mode,
            });
        }
        let text = std::io::read_to_string(file).map_err(io)?;
        serde_json::from_str(&text).map_err(|source| Error::HandoverMalformed {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the file with mode 0600. The file must not exist yet.
    ///
    /// # Errors
    /// [`Error::HandoverIo`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let io = |source| Error::HandoverIo {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::HandoverMalformed {
            path: path.to_owned(),
            source,
        })?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn handover() -> Handover {
        Handover {
            broker: Some("/run/broker.sock".into()),
            kernel_id: "0b3e3c50-6ad4-4d6c-8a7e-6f5b5d7c9a10".into(),
            account: "0x0000000000000000000000000000000000000000".into(),
            gateway: "http://127.0.0.1:8888".into(),
            work_dir: "/home/ada".into(),
        }
    }

    #[test]
    fn survives_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.json");
        handover().write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Handover::read(&path).unwrap(), handover());
    }

    #[test]
    fn refuses_a_file_that_others_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.json");
        handover().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Handover::read(&path).unwrap_err();
        assert_eq!(error.code(), "handover_exposed");
        assert!(error.hint().unwrap().starts_with("chmod 600"));
    }

    #[test]
    fn names_the_file_that_is_missing_or_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.json");
        let missing = Handover::read(&path).unwrap_err();
        assert_eq!(missing.code(), "handover_io");
        assert!(missing.to_string().contains("handover.json"));
        std::fs::write(&path, "{").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Handover::read(&path).unwrap_err().code(), "handover_malformed");
    }
}
