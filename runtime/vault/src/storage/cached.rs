//! A disk cache in front of another storage: objects as the nodes store them, that is ciphertext, in a bounded folder that
//! several processes may share.
//!
//! Nothing here is trusted: whoever opens an object checks its hash and seal, and tells [`Storage::distrust`] when that
//! failed; then the file goes and the next `get` asks a node again. Messages are never kept: they can be superseded.

use super::{BoxFuture, Hashed, PostQuery, Quote, Storage, StoredPost};
use crate::message::SignedMessage;
use crate::source::io;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use bytes::Bytes;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// Objects that are written at a time. What comes while the disk lags behind is not kept, so that it takes no memory.
const WRITES_MAX: usize = 4;
/// The folder is measured again when this part of its room was written since.
const MEASURED_AFTER: u64 = 16;
/// How much of its room stays used when it was full.
const KEPT_OF_16: u64 = 14;
/// Ending of files that are being written.
const PART: &str = "part";

/// A storage whose objects are kept on the disk.
pub struct CachedStorage {
    inner: Arc<dyn Storage>,
    files: Arc<Files>,
    writes: Arc<Semaphore>,
}

/// The folder.
struct Files {
    folder: PathBuf,
    bytes_max: u64,
    /// Bytes written since the folder was measured.
    written: AtomicU64,
    /// For names of files that are being written.
    next: AtomicU64,
}

impl CachedStorage {
    /// Keeps at most about `bytes_max` of what `inner` gives in `folder`, which is made for its owner only.
    ///
    /// # Errors
    /// `E_IO` when the folder cannot be made or made private: others could learn what is read.
    pub fn new(inner: Arc<dyn Storage>, folder: &Path, bytes_max: u64) -> Result<Self> {
        let builder = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        builder.map_err(io("make the folder", folder))?;
        let own = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, own).map_err(io("protect the folder", folder))?;
        let files = Arc::new(Files {
            folder: folder.to_owned(),
            bytes_max,
            written: AtomicU64::new(0),
            next: AtomicU64::new(0),
        });
        files.make_room();
        Ok(Self {
            inner,
            files,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        })
    }

    /// [`CachedStorage::new`], or `inner` itself where the folder cannot be had: a cache is worth no failure.
    pub fn over(inner: Arc<dyn Storage>, folder: &Path, bytes_max: u64) -> Arc<dyn Storage> {
        match Self::new(inner.clone(), folder, bytes_max) {
            Ok(cached) => Arc::new(cached),
            Err(error) => {
                tracing::warn!(%error, "objects are not kept on the disk");
                inner
            }
        }
    }

    /// Keeps an object without making anybody wait for the disk.
    fn keep(&self, item_hash: &str, bytes: Bytes) {
        let (Some(path), Ok(permit)) = (
            self.files.path(item_hash),
            self.writes.clone().try_acquire_owned(),
        ) else {
            return;
        };
        let files = self.files.clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = files.write(&path, &bytes) {
                tracing::warn!(%error, path = %path.display(), "an object is not kept on the disk");
                // The disk is full, most likely: others need it more.
                files.shrink();
            }
            drop(permit);
        }));
    }
}

impl Files {
    /// Where an object lies; none for a name that makes no file name.
    fn path(&self, item_hash: &str) -> Option<PathBuf> {
        let plain = (16..=128).contains(&item_hash.len())
            && item_hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        plain.then(|| self.folder.join(item_hash))
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let bytes = std::fs::read(path).ok()?;
        // What is read stays longest; a file that cannot be marked is only put out sooner.
        let marked = File::options()
            .append(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        drop(marked);
        Some(bytes)
    }

    /// Whole or not at all, also for other processes.
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let length = bytes.len() as u64;
        if length > self.bytes_max / 2 {
            return Ok(());
        }
        if self.written.load(Ordering::Relaxed) + length > self.bytes_max / MEASURED_AFTER {
            self.make_room();
        }
        self.written.fetch_add(length, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let part = self
            .folder
            .join(format!("{}-{number}.{PART}", std::process::id()));
        let written = File::create_new(&part).and_then(|mut file| file.write_all(bytes));
        let kept = written.and_then(|()| std::fs::rename(&part, path));
        if kept.is_err() {
            drop(std::fs::remove_file(&part));
        }
        kept
    }

    /// Removes what was not read for longest, when there is more than fits, and what killed processes left half written.
    fn make_room(&self) {
        // Until the next time it may grow by what is written in between.
        let most = self.bytes_max - self.bytes_max / MEASURED_AFTER;
        self.remove_above(most, |_| self.bytes_max / 16 * KEPT_OF_16);
    }

    /// Gives half of what it takes back.
    fn shrink(&self) {
        self.remove_above(0, |total| total / 2);
    }

    /// When there are more than `most` bytes, removes what was not read for longest down to what `kept` says.
    fn remove_above(&self, most: u64, kept: impl Fn(u64) -> u64) {
        self.written.store(0, Ordering::Relaxed);
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == PART) && !is_written(&path) {
                drop(std::fs::remove_file(&path));
                continue;
            }
            found.push(((meta.mtime(), meta.mtime_nsec()), meta.len(), path));
        }
        let mut total: u64 = found.iter().map(|(_, length, _)| length).sum();
        if total <= most {
            return;
        }
        let kept = kept(total);
        found.sort_unstable();
        for (_, length, path) in found {
            if total <= kept {
                return;
            }
            // Another process may have been quicker.
            if !path.exists() || std::fs::remove_file(&path).is_ok() {
                total -= length;
            }
        }
    }
}

/// Whether the process that a file half written is named after still lives.
fn is_written(part: &Path) -> bool {
    let name = part.file_name().and_then(std::ffi::OsStr::to_str);
    let pid = name.and_then(|name| name.split_once('-')?.0.parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

impl Storage for CachedStorage {
    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move { Ok(self.get_hashed(item_hash).await?.0) })
    }

    fn get_hashed<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Hashed> {
        Box::pin(async move {
            if let Some(path) = self.files.path(item_hash) {
                let files = self.files.clone();
                let read = tokio::task::spawn_blocking(move || files.read(&path)).await;
                let read = read.map_err(|error| VaultError::Stopped {
                    reason: error.to_string(),
                })?;
                if let Some(bytes) = read {
                    return Ok((bytes.into(), None));
                }
            }
            let (bytes, sha256) = self.inner.get_hashed(item_hash).await?;
            self.keep(item_hash, bytes.clone());
            Ok((bytes, sha256))
        })
    }

    fn distrust(&self, item_hash: &str) -> bool {
        let kept = self
            .files
            .path(item_hash)
            .is_some_and(|path| std::fs::remove_file(path).is_ok());
        self.inner.distrust(item_hash) || kept
    }

    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.inner.put(bytes, store)
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.inner.stores(owner, objects)
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.inner.publish(message)
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.inner.post(item_hash)
    }

    fn knows<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bool> {
        self.inner.knows(item_hash)
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        self.inner.posts(query)
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        self.inner.aggregate(address, key)
    }

    fn has<'a>(&'a self, store: &'a SignedMessage) -> BoxFuture<'a, bool> {
        self.inner.has(store)
    }

    fn quote<'a>(&'a self, wallet: &'a Wallet, size: u64) -> BoxFuture<'a, Option<Quote>> {
        self.inner.quote(wallet, size)
    }
}
