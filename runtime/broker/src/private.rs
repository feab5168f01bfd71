//! A private folder in memory for opened files, erased when the broker ends.
//!
//! In `/dev/shm` where that is a memory file system, else in `$XDG_RUNTIME_DIR`, else in the kernel's working folder, or in
//! the folder for temporary files where cells are in a sandbox (both on the disk, and said so). What a killed broker leaves
//! behind is found and erased by the next one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hardening::{Space, space_of};
use crate::{BrokerError, Result};

const PREFIX: &str = "alephlab-broker-";
const LOCK: &str = ".lock";
/// Zeros written at a time when a file is erased.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The broker's folder. Erased when dropped.
#[derive(Debug)]
pub struct PrivateRoot {
    path: PathBuf,
    in_memory: bool,
    next: AtomicU64,
    /// It was made a mount of its own, so that what is mounted here is seen in the sandbox of cells.
    is_shared: bool,
    /// Why what is mounted here is not seen there.
    unseen: Option<String>,
    /// Held locked while this broker lives; tells other brokers that the folder is in use.
    _lock: File,
}

/// One opened dataset or model. Erased when dropped.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
}

impl PrivateRoot {
    /// Makes a folder for the kernel `name` in the best place of this machine, after erasing what dead brokers left.
    ///
    /// `work_dir` is none where cells are in a sandbox: what they put in there, links and pipes, would be in the way of a
    /// process that sees more than they do.
    ///
    /// # Errors
    /// [`BrokerError::Io`] when no place will do.
    pub fn open(name: &str, work_dir: Option<&Path>) -> Result<Self> {
        let shm = Path::new("/dev/shm");
        if is_memory(shm)
            && let Ok(root) = Self::open_in(shm, true, name)
        {
            return Ok(root);
        }
        // Without links in its path: what cells name is compared with it.
        if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
            && let Ok(runtime) = runtime.canonicalize()
            && let Ok(root) = Self::open_in(&runtime, is_memory(&runtime), name)
        {
            return Ok(root);
        }
        let last = work_dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let last = last.canonicalize().map_err(BrokerError::io("find", &last))?;
        Self::open_in(&last, is_memory(&last), name)
    }

    /// Makes the folder in `base`.
    ///
    /// # Errors
    /// [`BrokerError::Io`].
    pub fn open_in(base: &Path, in_memory: bool, name: &str) -> Result<Self> {
        sweep(base);
        let unfinished = base.join(format!(".{PREFIX}{name}.{}", std::process::id()));
        make_folder(&unfinished)?;
        let lock_path = unfinished.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path);
        let lock = lock.map_err(BrokerError::io("make", &lock_path))?;
        lock.lock().map_err(BrokerError::io("lock", &lock_path))?;
        // Only now does it get the name that other brokers look at: they must never see it unlocked.
        let path = base.join(format!("{PREFIX}{name}-{}", std::process::id()));
        std::fs::rename(&unfinished, &path).map_err(BrokerError::io("make the folder", &path))?;
        Ok(Self {
            path,
            in_memory,
            next: AtomicU64::new(1),
            is_shared: false,
            unseen: None,
            _lock: lock,
        })
    }

    /// For cells in a sandbox, which is shown this folder before anything is mounted in it.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self.unseen = alephlab_mount::share(&self.path).err();
        if let Some(why) = &self.unseen {
            tracing::info!(why, "datasets are copied, not mounted");
        }
        self
    }

    /// Why cells would not see what is mounted here; none when they do.
    pub(crate) fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }

    /// Whether what lies here stays off the disk (but for swap).
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses what will not fit, by the sizes of its files, before anything of it is fetched. Two that open at once
    /// may still fill the place up together: then writing fails, and the later one is erased again.
    pub(crate) fn check_room(&self, name: &str, sizes: impl Iterator<Item = u64>) -> Result<()> {
        let space = space_of(&self.path).map_err(BrokerError::io("measure", &self.path))?;
        let needed = taken(sizes, space);
        if needed <= space.free {
            return Ok(());
        }
        Err(BrokerError::Space {
            name: name.to_owned(),
            needed,
            free: space.free,
            place: self.path.clone(),
        })
    }

    /// A new, empty folder whose name people recognise.
    pub(crate) fn folder(&self, name: &str) -> Result<PrivateFolder> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number}-{}", plain(name)));
        make_folder(&path)?;
        Ok(PrivateFolder { path })
    }
}

impl PrivateFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes writing away from all files, so that nobody changes by mistake what was verified.
    pub(crate) fn make_read_only(&self) -> Result<()> {
        for file in files_under(&self.path) {
            let mode = std::fs::Permissions::from_mode(0o400);
            std::fs::set_permissions(&file, mode).map_err(BrokerError::io("protect", &file))?;
        }
        Ok(())
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        erase(&self.path);
    }
}

impl Drop for PrivateRoot {
    fn drop(&mut self) {
        if self.is_shared {
            alephlab_mount::unshare(&self.path);
        }
        erase(&self.path);
    }
}

/// Bytes that files of these sizes take, each in whole blocks.
fn taken(sizes: impl Iterator<Item = u64>, space: Space) -> u64 {
    let rounded = sizes.map(|size| size.div_ceil(space.block).saturating_mul(space.block));
    rounded.fold(0, u64::saturating_add)
}

/// Overwrites every file with zeros, then removes the folder. Goes on where one file resists.
fn erase(folder: &Path) {
    for file in files_under(folder) {
        if let Err(error) = overwrite(&file) {
            tracing::warn!(file = %file.display(), %error, "an opened file could not be overwritten");
        }
    }
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "an opened folder could not be removed");
    }
}

/// What is overwritten is the file that was found, whatever has its name by then: it is opened again for that, because what
/// was opened is read-only.
fn overwrite(file: &Path) -> std::io::Result<()> {
    let found = open_file(file, OpenOptions::new().read(true))?;
    found.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    let mut open = OpenOptions::new().write(true).open(itself)?;
    let mut left = open.metadata()?.len();
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        open.write_all(&ZEROS[..piece])?;
        left -= piece as u64;
    }
    open.flush()
}

/// Opens what is a file: no link is followed, and no pipe waited at.
fn open_file(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// Erases folders of brokers that are gone: nobody holds their lock any more.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if !is_own(&entry.path()) {
            continue;
        }
        let Ok(lock) = open_file(&entry.path().join(LOCK), OpenOptions::new().write(true)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            tracing::info!(folder = %entry.path().display(), "erasing what a broker that ended early left behind");
            alephlab_mount::detach_below(&entry.path());
            alephlab_mount::unshare(&entry.path());
            erase(&entry.path());
        }
    }
}

/// Whether only this process's user can have put anything into a folder: others could swap files for links while it
/// is erased.
fn is_own(folder: &Path) -> bool {
    // It belongs to the effective user.
    let own = std::fs::metadata("/proc/self").map(|process| process.uid());
    std::fs::symlink_metadata(folder).is_ok_and(|folder| {
        folder.is_dir() && folder.mode() & 0o077 == 0 && own.is_ok_and(|own| own == folder.uid())
    })
}

/// All files under a folder; links are not followed.
fn files_under(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(BrokerError::io("make the folder", path))
}

/// Whether the kernel says that a memory file system is mounted exactly there.
fn is_memory(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' ').skip(1).take(2));
    fields.any(|mut line| line.next() == path.to_str() && line.next() == Some("tmpfs"))
}

/// A name of letters and figures, at most 40.
fn plain(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(40)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn is_for_its_owner_only_and_gone_when_dropped() {
        let base = tempfile::tempdir().unwrap();
        let root = PrivateRoot::open_in(base.path(), false, "k").unwrap();
        let folder = root.folder("0xAb/../digits cnn").unwrap();
        assert!(folder.path().ends_with("1-digitscnn"));
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let file = folder.path().join("sub/a.csv");
        std::fs::write(&file, "1,2").unwrap();
        folder.make_read_only().unwrap();
        assert_eq!(
            (mode(root.path()), mode(folder.path()), mode(&file)),
            (0o700, 0o700, 0o400)
        );
        let kept = OpenOptions::new().read(true).open(&file).unwrap();
        drop(folder);
        assert!(!file.exists());
        // The file lives on in our handle, and holds nothing of what it held.
        assert_eq!(std::io::read_to_string(kept).unwrap(), "\0\0\0");
        drop(root);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn erases_what_a_dead_broker_left_and_nothing_of_a_living_one() {
        let base = tempfile::tempdir().unwrap();
        let living = PrivateRoot::open_in(base.path(), false, "living").unwrap();
        let dead = base.path().join(format!("{PREFIX}dead-1"));
        // As a broker makes it: whatever this process's umask is.
        make_folder(&dead).unwrap();
        make_folder(&dead.join("1-digits")).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(dead.join("1-digits/a.csv"), "1,2").unwrap();
        let next = PrivateRoot::open_in(base.path(), false, "next").unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && next.path().exists());
    }

    #[test]
    fn follows_no_link_and_waits_at_no_pipe() {
        let base = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (
            base.path().join("a"),
            base.path().join("link"),
            base.path().join("pipe"),
        );
        std::fs::write(&file, "1,2").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for bad in [&link, &pipe] {
            assert!(overwrite(bad).is_err(), "{bad:?}");
            assert!(open_file(bad, OpenOptions::new().write(true)).is_err(), "{bad:?}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1,2");
        // A lock that is a pipe is nobody's: the folder stays, and the next broker starts.
        let planted = base.path().join(format!("{PREFIX}planted-1"));
        make_folder(&planted).unwrap();
        std::fs::rename(&pipe, planted.join(LOCK)).unwrap();
        PrivateRoot::open_in(base.path(), false, "k").unwrap();
        assert!(planted.exists());
    }

    #[test]
    fn refuses_what_does_not_fit_and_says_how_much_is_missing() {
        let base = tempfile::tempdir().unwrap();
        let root = PrivateRoot::open_in(base.path(), false, "k").unwrap();
        root.check_room("digits", [0, 1, 4096].into_iter()).unwrap();
        let error = root.check_room("digits", [u64::MAX, 1].into_iter()).unwrap_err();
        let BrokerError::Space { needed, free, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(error.code(), "broker_space");
        let said = error.to_string();
        assert!(
            said.contains("digits") && said.contains(&needed.to_string()),
            "{said}"
        );
        assert!(said.contains(&free.to_string()) && *free > 0, "{said}");
        assert!(error.hint().is_some());
        let space = Space { free: 0, block: 4096 };
        assert_eq!(taken([0, 1, 4096, 4097].into_iter(), space), 4 * 4096);
        assert_eq!(taken([u64::MAX, u64::MAX].into_iter(), space), u64::MAX);
    }

    #[test]
    fn says_which_place_will_not_do() {
        let error = PrivateRoot::open_in(Path::new("/nowhere"), false, "k").unwrap_err();
        assert_eq!(error.code(), "broker_io");
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
