//! What is open now: folders by the hash of their head, with the time when each has to go.
//!
//! A dataset is mounted, so that its files are fetched when they are read; where this machine cannot mount, and for
//! models, which are read whole anyway, the files are written into the folder. The same version opened twice is one
//! folder. What happens at the end of a delegation is a promise of this process, not a cryptographic fact: whoever
//! controls the machine could have kept the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_api::broker::{Access, OpenedStatus, ReadFailure};
use alephlab_mount::{Mounted, Options, mount};
use alephlab_vault::storage::Storage;
use alephlab_vault::{Keys, Reader, SignedHead, VaultError};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::private::{PrivateFolder, PrivateRoot};
use crate::report::Report;
use crate::{Result, now};

/// Longest sleep before the clock is looked at again: it may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct OpenedFolders {
    // Dropped before the root that they lie in.
    folders: Mutex<BTreeMap<[u8; 32], Opened>>,
    root: PrivateRoot,
    changed: Notify,
    /// Whether mounting is tried at all.
    pub(crate) mounts: bool,
}

struct Opened {
    // Dropped before the folder that it covers.
    mounted: Option<Mounted>,
    folder: PrivateFolder,
    name: String,
    version: u64,
    access: Access,
    /// Unix seconds; none for no end.
    expires: Option<u64>,
}

/// How files become readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As a file system where that is possible, else copied.
    Mount,
    /// All of them at once.
    Copy,
}

impl OpenedFolders {
    pub(crate) fn new(root: PrivateRoot, mounts: bool) -> Self {
        Self {
            folders: Mutex::default(),
            root,
            changed: Notify::new(),
            mounts,
        }
    }

    /// Where everything is opened.
    pub(crate) fn place(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.root.is_in_memory()
    }

    /// Makes all files of `reader` readable in a folder of their own, or answers the folder where they are. Nothing is
    /// left when it fails or is dropped half-way.
    pub(crate) async fn open(
        &self,
        reader: &Reader,
        name: &str,
        expires: Option<u64>,
        way: Way,
        report: &Report,
    ) -> Result<(PathBuf, Access)> {
        let key = reader.head().hash();
        if let Some(found) = self.prolong(&key, reader, expires) {
            return Ok(found);
        }
        let folder = self.root.folder(name)?;
        let (mounted, access) = match self.mount(reader, &folder, way) {
            Ok(mounted) => (Some(mounted), Access::Mounted),
            Err(why) => {
                self.copy(reader, &folder, name, report).await?;
                (None, Access::Copied { why })
            }
        };
        Ok(self.keep(
            key,
            Opened {
                mounted,
                folder,
                name: name.to_owned(),
                version: reader.head().head.version,
                access,
                expires,
            },
        ))
    }

    /// Mounts, or says why not.
    fn mount(
        &self,
        reader: &Reader,
        folder: &PrivateFolder,
        way: Way,
    ) -> std::result::Result<Mounted, String> {
        if way == Way::Copy {
            return Err("it is read whole".to_owned());
        }
        if !self.mounts {
            return Err("mounting is switched off".to_owned());
        }
        if let Some(why) = self.root.unseen() {
            return Err(why.to_owned());
        }
        let mounted = mount(
            reader.clone(),
            folder.path(),
            Handle::current(),
            Options::default(),
        );
        mounted.map_err(|error| {
            tracing::info!(%error, "files are copied instead");
            error.to_string()
        })
    }

    async fn copy(&self, reader: &Reader, folder: &PrivateFolder, name: &str, report: &Report) -> Result<()> {
        let sizes = reader.entries().iter().map(|entry| entry.size);
        self.root.check_room(name, sizes)?;
        report.progress("open", 0, reader.bytes(), "bytes");
        let mut progress = |done, total| report.progress("open", done, total, "bytes");
        reader.extract_to(folder.path(), &mut progress).await?;
        folder.make_read_only()
    }

    /// Ends what is over: files that were copied are erased, mounted ones stay in place and can no longer be read, so that
    /// programs which have them open are told so.
    pub(crate) async fn erase_what_expires(&self) {
        loop {
            let now = now();
            self.lock().retain(|_, opened| {
                let is_over = opened.expires.is_some_and(|expires| now > expires);
                match &opened.mounted {
                    Some(mounted) if is_over => {
                        if !mounted.is_closed() {
                            tracing::info!(
                                name = opened.name,
                                "the time is over: its files can no longer be read"
                            );
                            mounted.close();
                        }
                        true
                    }
                    _ => !is_over,
                }
            });
            let future = |opened: &Opened| opened.expires.filter(|expires| *expires >= now);
            let next = self.lock().values().filter_map(future).min();
            let wait = next.map_or(LOOK_AGAIN, |next| {
                Duration::from_secs(next.saturating_sub(now) + 1)
            });
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    pub(crate) fn erase_all(&self) {
        self.lock().clear();
    }

    /// What is open, in no order.
    pub(crate) fn status(&self) -> Vec<OpenedStatus> {
        let folders = self.lock();
        let status = |opened: &Opened| {
            let mounted = opened.mounted.as_ref();
            let failure = mounted.and_then(Mounted::failure);
            OpenedStatus {
                name: opened.name.clone(),
                version: opened.version,
                path: opened.folder.path().to_owned(),
                access: opened.access.clone(),
                expires: opened.expires,
                is_over: mounted.is_some_and(Mounted::is_closed),
                failure: failure.map(|failure| ReadFailure {
                    path: failure.path,
                    code: failure.code.to_owned(),
                    message: failure.message,
                }),
            }
        };
        folders.values().map(status).collect()
    }

    /// The folder of a version that is open already, which now stays at least until `expires`.
    fn prolong(&self, key: &[u8; 32], reader: &Reader, expires: Option<u64>) -> Option<(PathBuf, Access)> {
        let mut folders = self.lock();
        let opened = folders.get_mut(key)?;
        opened.expires = later(opened.expires, expires);
        if let Some(mounted) = opened.mounted.as_ref().filter(|mounted| mounted.is_closed()) {
            mounted.reopen(reader.clone());
        }
        self.changed.notify_one();
        Some((opened.folder.path().to_owned(), opened.access.clone()))
    }

    fn keep(&self, key: [u8; 32], new: Opened) -> (PathBuf, Access) {
        let mut folders = self.lock();
        // Another request may have opened the same meanwhile, and cells know its path: ours goes.
        let expires = new.expires;
        let opened = folders.entry(key).or_insert(new);
        opened.expires = later(opened.expires, expires);
        self.changed.notify_one();
        (opened.folder.path().to_owned(), opened.access.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Opened>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a version, on a thread for work that blocks: a large manifest takes a while to decrypt and check.
pub(crate) async fn open_reader(storage: Arc<dyn Storage>, head: SignedHead, keys: Keys) -> Result<Reader> {
    let here = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || here.block_on(Reader::open(storage, &head, keys)));
    let stopped = |error: tokio::task::JoinError| VaultError::Stopped {
        reason: error.to_string(),
    };
    Ok(opened.await.map_err(stopped)??)
}

/// The later of two ends, where none is the latest.
fn later(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one?.max(other?))
}
