//! The agent's private folder: sockets, connection files and handovers, 0700, gone when the agent is.
//!
//! Not the work folder, which belongs to the account. The path stays short because a Unix socket's address has 108
//! bytes.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use alephlab_api::agent::BOOT_ID;
use uuid::Uuid;

use crate::error::{AgentError, Result};

const PREFIX: &str = "alephlab-agent-";

/// Locks `path` for as long as the file is open, and writes this process's id there: a gateway that comes back sees by the
/// lock that the agent is still there, by the id which process it is, by the address whether it will find the gateway, and by
/// the boot whether it is on the same machine: the folder may be one that several share.
pub(crate) fn lock(path: &Path, gateway: &str) -> Result<fs::File> {
    let failed = |source| AgentError::File {
        what: "locking the agent's file",
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.try_lock().map_err(|error| failed(error.into()))?;
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    file.write_all(format!("{} {gateway} {}", std::process::id(), boot.trim()).as_bytes())
        .map_err(failed)?;
    Ok(file)
}

/// A folder that is removed with its content when dropped.
pub(crate) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// Makes the agent's folder, and removes those of agents that were killed.
    pub(crate) fn create() -> Result<Self> {
        let root = std::env::temp_dir();
        sweep(&root);
        let random = Uuid::new_v4().simple().to_string();
        Self::make(root.join(format!("{PREFIX}{}-{}", std::process::id(), &random[..8])))
    }

    /// Makes a folder inside this one.
    pub(crate) fn make(path: PathBuf) -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(AgentError::File {
                what: "making the private folder",
                path,
                source,
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a new file that only this account can read.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.0.join(name);
        write_private(&path, content)?;
        Ok(path)
    }
}

/// Writes a new file that only this account can read.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(|source| AgentError::File {
        what: "writing a private file",
        path: path.to_owned(),
        source,
    })
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a private folder could not be removed");
        }
    }
}

/// Folders of agents that no longer run: a killed agent cannot remove its own.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some((pid, _)) = rest.split_once('-') else {
            continue;
        };
        if pid
            .parse::<u32>()
            .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        {
            // Somebody else's is refused by its mode, which is as it should be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keeps_files_private_and_removes_them() {
        let folder = PrivateFolder::create().unwrap();
        let file = folder.write("x.json", b"{}").unwrap();
        assert_eq!(
            fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.write("x.json", b"{}").unwrap_err().code(), "agent_file");
        drop(folder);
        assert!(!file.exists());
    }

    #[test]
    fn removes_folders_of_agents_that_are_gone() {
        let root = std::env::temp_dir().join(format!("alephlab-sweep-{}", Uuid::new_v4().simple()));
        let gone = root.join(format!("{PREFIX}4194304999-x"));
        let here = root.join(format!("{PREFIX}{}-x", std::process::id()));
        fs::create_dir_all(&gone).unwrap();
        fs::create_dir_all(&here).unwrap();
        sweep(&root);
        assert!(here.exists());
        fs::remove_dir_all(&root).unwrap();
        assert!(!gone.exists());
    }
}
