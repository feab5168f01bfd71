//! The data folder: where everything of one installation lies, and who may use it now.
//!
//! ```text
//! DATA/ alephlab.toml  lock  run.json  rules.json  aleph/  gateway/  accounts/NAME/  work/  notebooks/  logs/
//! ```
//! It knows paths and permissions, not what the files mean. Used by every command.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{CliError, Result};

/// Only the owner: every folder here may hold a secret below it.
const PRIVATE_FOLDER: u32 = 0o700;
/// Only the owner: keys, tokens and rules.
const PRIVATE_FILE: u32 = 0o600;

/// An existing, writable data folder.
#[derive(Clone, Debug)]
pub(crate) struct DataFolder {
    root: PathBuf,
    /// File with the passphrase of its accounts.
    passphrase_file: Option<PathBuf>,
}

impl DataFolder {
    /// Makes the folder when it is missing and checks that files can be made in it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let refuse = |source| CliError::DataFolder {
            path: root.to_path_buf(),
            source,
        };
        create_private_folder(root).map_err(refuse)?;
        let root = root.canonicalize().map_err(refuse)?;
        let probe = root.join(format!(".probe-{}", std::process::id()));
        File::create(&probe).map_err(refuse)?;
        fs::remove_file(&probe).map_err(refuse)?;
        Ok(Self {
            root,
            passphrase_file: None,
        })
    }

    /// The folder without making or checking it: for commands that only look.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            passphrase_file: None,
        }
    }

    /// With a file that has the passphrase of its accounts.
    pub(crate) fn unlocked_by(mut self, file: Option<PathBuf>) -> Self {
        self.passphrase_file = file;
        self
    }

    /// The file with the passphrase of its accounts, if the settings name one.
    pub(crate) fn passphrase_file(&self) -> Option<&Path> {
        self.passphrase_file.as_deref()
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The local Aleph node's files.
    pub(crate) fn aleph(&self) -> PathBuf {
        self.root.join("aleph")
    }

    /// Objects of remote Aleph nodes, as they are stored there.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// The gateway's database.
    pub(crate) fn gateway(&self) -> PathBuf {
        self.root.join("gateway")
    }

    /// Scratch folders of kernels on this machine.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Executed notebooks.
    pub(crate) fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// Log files.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What the agent and its brokers say.
    pub(crate) fn agent_log(&self) -> PathBuf {
        self.logs().join("agent.log")
    }

    /// All accounts, one folder each.
    pub(crate) fn accounts(&self) -> PathBuf {
        self.root.join("accounts")
    }

    /// What was executed in kernels that `kernel start` started.
    pub(crate) fn history(&self) -> PathBuf {
        self.root.join("history.jsonl")
    }

    /// What a running `up` says about itself.
    pub(crate) fn run_file(&self) -> PathBuf {
        self.root.join("run.json")
    }

    /// The saved answers of `alephlab keys`.
    pub(crate) fn rules_file(&self) -> PathBuf {
        self.root.join("rules.json")
    }

    /// Makes one of the folders above, private.
    pub(crate) fn make(&self, folder: &Path) -> Result<()> {
        create_private_folder(folder).map_err(|source| CliError::file("make the folder", folder, source))
    }

    /// Takes the folder for this process; a second holder is told who has it.
    pub(crate) fn lock(&self) -> Result<FolderLock> {
        let path = self.root.join("lock");
        let mut file = lock_file(&path).map_err(|source| CliError::DataFolder {
            path: self.root.clone(),
            source,
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // The other process may be just about to write it: unknown is said, not guessed.
                let pid = fs::read_to_string(&path).unwrap_or_default();
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(CliError::Locked {
                    path: self.root.clone(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(CliError::file("lock", &path, source)),
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|source| CliError::file("write", &path, source))?;
        Ok(FolderLock { _file: file })
    }
}

/// Held as long as this process uses the folder; the system drops it when the process ends, however it ends.
pub(crate) struct FolderLock {
    _file: File,
}

/// A file that other processes of this machine wait for; the system unlocks it when this process ends.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock of `path`, a file beside it, as soon as nobody else has it. For moments only: it blocks.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        let (file, path) = Self::open(path)?;
        file.lock()
            .map_err(|source| CliError::file("lock", &path, source))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock of `path` if nobody has it now.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>> {
        let (file, path) = Self::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(CliError::file("lock", &path, source)),
        }
    }

    /// Another file than the one that it protects: that one is replaced whole, and a lock would go with it.
    fn open(path: &Path) -> Result<(File, PathBuf)> {
        let path = path.with_extension("lock");
        let file = lock_file(&path).map_err(|source| CliError::file("open", &path, source))?;
        Ok((file, path))
    }
}

/// Opens a file that is there to be locked, and keeps what its holder wrote into it.
pub(crate) fn lock_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(path)
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, bytes, Some(PRIVATE_FILE))
}

/// Writes a file whole or not at all; an existing file keeps its permissions.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, bytes, None)
}

/// The first line of a file that nobody else can read; empty where there is none.
pub(crate) fn private_line(path: &Path) -> Result<Zeroizing<String>> {
    let text = private_text(path)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// A file that nobody else can read.
pub(crate) fn private_text(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |source| CliError::file("read", path, source);
    let mode = path.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(CliError::Usage {
            message: format!("other people on this machine can read {}", path.display()),
            hint: format!("chmod 600 {}", path.display()),
        });
    }
    Ok(Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?))
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CliError::file("read", path, source)),
    };
    let value = serde_json::from_str(&text).map_err(|error| CliError::Malformed {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    Ok(Some(value))
}

/// Writes a private JSON file.
pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| CliError::Malformed {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    bytes.push(b'\n');
    write_private(path, &bytes)
}

/// Makes a folder and its missing parents, all of them private; an existing one stays as it is.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)
}

fn write_atomically(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<()> {
    let fail = |source| CliError::file("write", path, source);
    let name = path
        .file_name()
        .ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.{:08x}", std::process::id(), rand::random::<u32>()));
    let temporary = path.with_file_name(hidden);
    let result = fill(&temporary, bytes, mode, path).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The error that matters is the first one.
        drop(fs::remove_file(&temporary));
    }
    result.map_err(fail)
}

fn fill(temporary: &Path, bytes: &[u8], mode: Option<u32>, target: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if let Some(mode) = mode {
        options.mode(mode);
    }
    let mut file = options.open(temporary)?;
    if mode.is_none()
        && let Ok(existing) = fs::metadata(target)
    {
        file.set_permissions(existing.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_second_lock_names_the_holder() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let lock = data.lock().unwrap();
        let refused = data.lock().map(|_| ()).unwrap_err();
        assert!(
            matches!(&refused, CliError::Locked { pid, .. } if *pid == std::process::id().to_string()),
            "{refused}"
        );
        drop(lock);
        assert!(data.lock().is_ok());
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_refused() {
        let folder = scratch();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            DataFolder::open(&path),
            Err(CliError::DataFolder { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let folder = scratch();
        let path = folder.path().join("secret");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
