//! What is open now: folders by the hash of their head, with the time when each has to go.
//!
//! The same version opened twice is one folder. Erasing at the end of a delegation is a promise of this process,
//! not a cryptographic fact: whoever controls the machine could have kept the key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_vault::storage::Storage;
use alephlab_vault::{Keys, Reader, SignedHead, VaultError};
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
}

struct Opened {
    folder: PrivateFolder,
    /// Unix seconds; none for no end.
    expires: Option<u64>,
}

impl OpenedFolders {
    pub(crate) fn new(root: PrivateRoot) -> Self {
        Self {
            folders: Mutex::default(),
            root,
            changed: Notify::new(),
        }
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.root.is_in_memory()
    }

    /// Writes all files of `reader` into a folder of their own, or answers the folder where they are. Nothing is left
    /// when it fails or is dropped half-way.
    pub(crate) async fn open(
        &self,
        reader: &Reader,
        name: &str,
        expires: Option<u64>,
        report: &Report,
    ) -> Result<PathBuf> {
        let key = reader.head().hash();
        if let Some(path) = self.prolong(&key, expires) {
            return Ok(path);
        }
        let sizes = reader.entries().iter().map(|entry| entry.size);
        self.root.check_room(name, sizes)?;
        let folder = self.root.folder(name)?;
        report.progress("open", 0, reader.bytes(), "bytes");
        let mut progress = |done, total| report.progress("open", done, total, "bytes");
        reader.extract_to(folder.path(), &mut progress).await?;
        folder.make_read_only()?;
        Ok(self.keep(key, Opened { folder, expires }))
    }

    pub(crate) async fn erase_what_expires(&self) {
        loop {
            let now = now();
            self.lock()
                .retain(|_, opened| opened.expires.is_none_or(|expires| now <= expires));
            let next = self.lock().values().filter_map(|opened| opened.expires).min();
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

    /// The folder of a version that is open already, which now stays at least until `expires`.
    fn prolong(&self, key: &[u8; 32], expires: Option<u64>) -> Option<PathBuf> {
        let mut folders = self.lock();
        let opened = folders.get_mut(key)?;
        opened.expires = later(opened.expires, expires);
        Some(opened.folder.path().to_owned())
    }

    fn keep(&self, key: [u8; 32], new: Opened) -> PathBuf {
        let mut folders = self.lock();
        // Another request may have opened the same meanwhile, and cells know its path: ours goes.
        let expires = new.expires;
        let opened = folders.entry(key).or_insert(new);
        opened.expires = later(opened.expires, expires);
        self.changed.notify_one();
        opened.folder.path().to_owned()
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
