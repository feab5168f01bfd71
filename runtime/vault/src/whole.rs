//! Reading all of a dataset once, front to back: written to a folder, or only checked. The next objects are fetched and
//! opened while one is hashed and written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::digest::Sha256;
use crate::entry::Entry;
use crate::reader::{Inner, Reader, check_digest, whole};
use crate::source::io;
use crate::{Result, VaultError};

/// Objects that are on their way while one is read; each is 32 MiB in memory, of foreign datasets up to 64. One hides a node's delay at 1 Gbit/s, two
/// keep a second processor busy as well.
const AHEAD: usize = 2;
/// From here on a piece is hashed and written on another thread; for less it is not worth the way there.
const ELSEWHERE: usize = 256 << 10;

impl Reader {
    /// Writes all files under `dir`, which must not have them yet: folders with mode 0700, files with 0600.
    /// `progress` gets bytes done and in all.
    ///
    /// # Errors
    /// `E_IO` for the folder, else as [`Reader::read`]; a file that failed is removed again.
    pub async fn extract_to(&self, dir: &Path, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<()> {
        make_folder(dir)?;
        let mut reading = Reading::new(self, progress);
        for entry in self.entries() {
            let target = dir.join(&entry.path);
            if !entry.is_file() {
                make_folder(&target)?;
                continue;
            }
            if let Err(error) = reading.file(entry, Some(&target)).await {
                // The first error is the one to tell.
                if !matches!(error, VaultError::Io { action: "make", .. }) {
                    let _ = tokio::fs::remove_file(&target).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Fetches and checks every byte of every file, and keeps none. `progress` gets bytes done and in all.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn verify(&self, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<()> {
        let mut reading = Reading::new(self, progress);
        for entry in self.entries().iter().filter(|entry| entry.is_file()) {
            reading.file(entry, None).await?;
        }
        Ok(())
    }
}

/// How far a dataset has been read.
struct Reading<'a> {
    objects: Ahead,
    done: u64,
    total: u64,
    progress: &'a mut (dyn FnMut(u64, u64) + Send),
}

impl<'a> Reading<'a> {
    fn new(reader: &Reader, progress: &'a mut (dyn FnMut(u64, u64) + Send)) -> Self {
        let extents = reader.entries().iter().flat_map(|entry| &entry.extents);
        let mut numbers: Vec<u32> = extents.map(|extent| extent.object).collect();
        numbers.dedup();
        Self {
            objects: Ahead {
                inner: Arc::clone(&reader.inner),
                coming: numbers.into(),
                fetching: VecDeque::new(),
                current: None,
            },
            done: 0,
            total: reader.bytes(),
            progress,
        }
    }

    /// Reads a file to its end, into `target` if there is one, and checks its SHA-256.
    async fn file(&mut self, entry: &Entry, target: Option<&Path>) -> Result<()> {
        let mut sink = Sink {
            hasher: Sha256::new(),
            file: target.map(make_file).transpose()?,
        };
        for piece in whole(entry) {
            let bytes = piece.of(&self.objects.get(piece.object).await?);
            let length = bytes.len() as u64;
            sink = sink.take(bytes).await?;
            self.done += length;
            (self.progress)(self.done, self.total);
        }
        check_digest(entry, sink.hasher.finalize())
    }
}

/// Where the bytes of one file go.
struct Sink {
    hasher: Sha256,
    file: Option<(File, PathBuf)>,
}

impl Sink {
    /// Hashes and writes the next bytes.
    async fn take(self, bytes: Bytes) -> Result<Self> {
        if bytes.len() < ELSEWHERE {
            return self.write(&bytes);
        }
        let written = tokio::task::spawn_blocking(move || self.write(&bytes)).await;
        written.map_err(|error| VaultError::Stopped {
            reason: error.to_string(),
        })?
    }

    fn write(mut self, bytes: &[u8]) -> Result<Self> {
        self.hasher.update(bytes);
        if let Some((file, path)) = &mut self.file {
            file.write_all(bytes).map_err(io("write", path))?;
        }
        Ok(self)
    }
}

/// Objects in the order in which they are read, some of them before it is their turn.
struct Ahead {
    inner: Arc<Inner>,
    coming: VecDeque<u32>,
    fetching: VecDeque<(u32, Fetching)>,
    current: Option<(u32, Bytes)>,
}

/// Ends with who waits for it.
struct Fetching(JoinHandle<Result<Bytes>>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ahead {
    /// One object, which is the current one or a later one.
    async fn get(&mut self, number: u32) -> Result<Bytes> {
        if let Some((current, bytes)) = &self.current
            && *current == number
        {
            return Ok(bytes.clone());
        }
        // Before the next one is waited for, so that there is room for it.
        self.current = None;
        loop {
            self.fill();
            let Some((next, mut fetching)) = self.fetching.pop_front() else {
                // Not in the list, which holds every object of every file.
                return self.inner.object(number).await;
            };
            if next != number {
                continue;
            }
            self.fill();
            let bytes = (&mut fetching.0).await.map_err(|error| VaultError::Stopped {
                reason: error.to_string(),
            })??;
            self.current = Some((number, bytes.clone()));
            return Ok(bytes);
        }
    }

    fn fill(&mut self) {
        while self.fetching.len() < AHEAD
            && let Some(number) = self.coming.pop_front()
        {
            let inner = Arc::clone(&self.inner);
            let task = tokio::spawn(async move { inner.object(number).await });
            self.fetching.push_back((number, Fetching(task)));
        }
    }
}

/// On this thread: what tokio has begun elsewhere goes on when an extraction is dropped, and would make the folder anew behind the
/// back of who is removing it.
fn make_folder(path: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(io("make the folder", path))
}

/// Makes a file that is not there yet; on this thread, as [`make_folder`].
fn make_file(path: &Path) -> Result<(File, PathBuf)> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(io("make", path))?;
    Ok((file, path.to_owned()))
}
