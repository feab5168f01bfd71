//! Stored files: one file on disk for each hash, written whole or not at all.
//!
//! Bytes arrive in a temporary file that is hashed on the way, synced and renamed to its hash,
//! so a stop at any time leaves either the whole file or none. Not here: who may store (that is
//! `http::upload`) and which file is still needed (that is `tasks::sweep`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::error::{Error, Result};

/// The folder of stored files.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    temporary: PathBuf,
    next: AtomicU64,
}

/// A file on its way in; dropped before [`Files::keep`] it leaves nothing.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
}

impl Files {
    /// Opens the folder under `data` and clears what an earlier run left half-written.
    pub(crate) async fn open(data: &Path) -> Result<Self> {
        let root = data.join("files");
        let temporary = data.join("incoming");
        let refuse = |path: &Path, cause| Error::Folder {
            path: path.to_owned(),
            cause,
        };
        match tokio::fs::remove_dir_all(&temporary).await {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(refuse(&temporary, cause)),
            _ => {}
        }
        for folder in [&root, &temporary] {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|cause| refuse(folder, cause))?;
        }
        Ok(Self {
            root,
            temporary,
            next: AtomicU64::new(0),
        })
    }

    /// Begins a file.
    pub(crate) async fn begin(&self) -> Result<Incoming> {
        let path = self
            .temporary
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::create_new(&path).await.map_err(|cause| Error::File {
            path: path.clone(),
            cause,
        })?;
        Ok(Incoming {
            path,
            file,
            hasher: Sha256::new(),
            size: 0,
        })
    }

    /// Ends a file: it is on disk under its hash when this returns.
    pub(crate) async fn keep(&self, mut incoming: Incoming) -> Result<()> {
        let hash = incoming.hash();
        let target = self.path(&hash);
        let refuse = |cause| Error::File {
            path: target.clone(),
            cause,
        };
        incoming.file.flush().await.map_err(refuse)?;
        incoming.file.sync_all().await.map_err(refuse)?;
        tokio::fs::rename(&incoming.path, &target).await.map_err(refuse)?;
        let folder = File::open(&self.root).await.map_err(refuse)?;
        folder.sync_all().await.map_err(refuse)
    }

    /// Opens a stored file with its size on disk; `None` when it is not there.
    pub(crate) async fn read(&self, hash: &str) -> Result<Option<(File, u64)>> {
        let path = self.path(hash);
        let opened = match File::open(&path).await {
            Ok(file) => file.metadata().await.map(|metadata| Some((file, metadata.len()))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        };
        opened.map_err(|cause| Error::File { path, cause })
    }

    /// Removes a stored file; one that is gone already is no error.
    pub(crate) async fn remove(&self, hash: &str) -> Result<()> {
        let path = self.path(hash);
        match tokio::fs::remove_file(&path).await {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::File { path, cause }),
            _ => Ok(()),
        }
    }

    /// Callers pass only hashes that [`crate::envelope::parse_hash`] took or that this module made.
    fn path(&self, hash: &str) -> PathBuf {
        self.root.join(hash)
    }
}

impl Incoming {
    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).await.map_err(|cause| Error::File {
            path: self.path.clone(),
            cause,
        })
    }

    /// SHA-256 of what has arrived, in lowercase hexadecimal.
    pub(crate) fn hash(&self) -> String {
        hex::encode(self.hasher.clone().finalize())
    }

    /// Bytes that have arrived.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `keep` the name is gone; a failure leaves a file that the next start clears.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_kept_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).await.unwrap();
        let mut dropped = files.begin().await.unwrap();
        dropped.write(b"dropped").await.unwrap();
        let dropped_hash = dropped.hash();
        drop(dropped);
        let mut kept = files.begin().await.unwrap();
        kept.write(b"he").await.unwrap();
        kept.write(b"llo").await.unwrap();
        let hash = kept.hash();
        assert_eq!(
            (hash.as_str(), kept.size()),
            (
                "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
                5
            )
        );
        files.keep(kept).await.unwrap();
        assert_eq!(files.read(&hash).await.unwrap().unwrap().1, 5);
        assert!(files.read(&dropped_hash).await.unwrap().is_none());
        assert_eq!(
            std::fs::read_dir(folder.path().join("incoming")).unwrap().count(),
            0
        );
    }
}
