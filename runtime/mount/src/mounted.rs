//! Mounting, and what ends it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_vault::Reader;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;

use crate::files::{Failure, Files, Shared};
use crate::stale::{SOURCE, detach};
use crate::{MountError, Result};

/// Threads that answer the system. Reads that have to fetch do not hold one up.
const THREADS: usize = 4;

/// How long who closes a mount waits for the system to drop its pages; it goes on doing so afterwards.
const FORGET_WITHIN: Duration = Duration::from_secs(1);

/// How a dataset is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most plaintext that is held, bytes. One object is held in any case.
    pub memory: u64,
}

impl Default for Options {
    /// The smaller of 1 GiB and a tenth of the memory that this process may use.
    fn default() -> Self {
        let tenth = memory().map_or(u64::MAX, |bytes| bytes / 10);
        Self {
            memory: tenth.min(1 << 30),
        }
    }
}

/// A mounted dataset. Unmounted when dropped; what is still open then can no longer be read.
pub struct Mounted {
    path: PathBuf,
    shared: Arc<Shared>,
    session: BackgroundSession,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Mounts at an empty folder, readable by this account only: read-only, without devices, set-uid programs or programs at
/// all. Fetches run on `runtime`.
///
/// # Errors
/// [`MountError::Folder`] for a folder that is not there, is not empty or is not ours; [`MountError::Refused`] where the
/// system does not let this process mount.
pub fn mount(reader: Reader, path: &Path, runtime: Handle, options: Options) -> Result<Mounted> {
    check_folder(path)?;
    let refused = |error: std::io::Error| MountError::refused(path, &error);
    let files = Files::new(reader, runtime, options.memory);
    let shared = Arc::clone(&files.shared);
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(SOURCE.to_owned()),
        MountOption::Subtype("alephlab".to_owned()),
    ];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let session = Session::new(files, path, &config).map_err(refused)?;
    Ok(Mounted {
        path: path.to_owned(),
        shared,
        session: session.spawn().map_err(refused)?,
    })
}

impl Mounted {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stays mounted, but gives nothing any more: opening and reading fail with EACCES ("permission denied"), also in
    /// files that are open, and neither keys nor plaintext are held, here or in the system's page cache.
    pub fn close(&self) {
        self.shared.close();
        let (notifier, touched) = (self.session.notifier(), self.shared.touched());
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        // The system waits here for reads of a page that are under way, whose answers may need this very thread.
        let thread = std::thread::Builder::new().name("forget pages".to_owned());
        let forgetting = thread.spawn(move || {
            for number in touched {
                // One that the system has forgotten already has nothing cached.
                let _ = notifier.inval_inode(number, 0, 0);
            }
            drop(done);
        });
        if forgetting.is_ok() {
            let _ = is_done.recv_timeout(FORGET_WITHIN);
        }
    }

    /// Takes [`Mounted::close`] back, with a reader of the same version. Files that stayed open can be read again.
    pub fn reopen(&self, reader: Reader) {
        self.shared.reopen(reader);
    }

    /// The last read that failed; programs were told no more than "input/output error".
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failure()
    }

    /// Whether it is still mounted: somebody may have unmounted it.
    pub fn is_mounted(&self) -> bool {
        !self.session.guard.is_finished()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.close();
        // Lazily: a file that a cell forgot to close must not keep it in place.
        if let Err(error) = detach(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a dataset could not be unmounted");
        }
    }
}

fn check_folder(path: &Path) -> Result<()> {
    let failed = |source| MountError::Folder {
        path: path.to_owned(),
        source,
    };
    let refused = |reason: &str| failed(std::io::Error::other(reason.to_owned()));
    let meta = path.metadata().map_err(failed)?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refused("the folder belongs to another account"));
    }
    // Unmounting ours could take the other away.
    if path
        .join("..")
        .metadata()
        .is_ok_and(|above| above.dev() != meta.dev())
    {
        return Err(refused("another file system is mounted there"));
    }
    match std::fs::read_dir(path).map_err(failed)?.next() {
        Some(_) => Err(refused("the folder is not empty")),
        None => Ok(()),
    }
}

/// Of the machine, or of the control group where that has less.
fn memory() -> Option<u64> {
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    Some(machine()?.min(group.unwrap_or(u64::MAX)))
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
