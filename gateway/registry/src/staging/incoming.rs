//! Bytes on their way in: hashed while they are received, with one buffer of 1 MiB in memory.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::model::is_hex;
use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{CallerKey, Result, Staging, failed, private_file, private_folder};
use crate::RegistryError;

/// Bytes that are hashed and written at once, on a thread for such work.
const PIECE: usize = 1 << 20;
/// How long it is waited for the next bytes of a body: a connection that says nothing more must not stay for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What takes bytes and does with them what takes time.
pub(crate) trait Sink: Send + 'static {
    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
}

/// A file that is being received, hashed on the way. Dropped before [`Spool::keep`], it leaves nothing.
pub(crate) struct Spool {
    file: File,
    path: PathBuf,
    hash: Sha256,
    size: u64,
    most: u64,
    staging: Arc<Staging>,
    caller: CallerKey,
    is_kept: bool,
}

impl Spool {
    /// A new file for a caller, of at most this many bytes.
    pub(crate) fn new(staging: &Arc<Staging>, caller: &CallerKey, most: u64) -> Result<Self> {
        let path = staging
            .root
            .join("tmp")
            .join(format!("{:032x}", rand::random::<u128>()));
        Ok(Self {
            file: private_file().create_new(true).open(&path).map_err(failed)?,
            path,
            hash: Sha256::new(),
            size: 0,
            most,
            staging: Arc::clone(staging),
            caller: caller.clone(),
            is_kept: false,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where it is being written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of what was received, in hex.
    pub(crate) fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    /// Makes it the caller's object with the hash that it has.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when another hash or size was announced.
    pub(crate) fn keep_object(self, announced: Option<(&str, u64)>) -> Result<(String, u64)> {
        let (sha256, size) = (self.sha256(), self.size);
        if let Some((announced, expected)) = announced
            && (announced != sha256 || expected != size)
        {
            return Err(RegistryError::invalid(format!(
                "{size} bytes with SHA-256 {sha256} came where {expected} with {announced} were announced"
            )));
        }
        self.keep("objects", &sha256)?;
        Ok((sha256, size))
    }

    /// Makes it a file of this kind and name; one that is there already stays, being the same.
    ///
    /// Returns whether it is new.
    pub(crate) fn keep(mut self, kind: &str, name: &str) -> Result<bool> {
        debug_assert!(is_hex(name, 64), "a name from outside must be checked before");
        let folder = self.staging.root.join(kind).join(self.caller.as_str());
        private_folder(&folder).map_err(failed)?;
        let place = folder.join(name);
        if !place.is_file() {
            self.file.sync_all().map_err(failed)?;
        }
        let is_new = self.staging.settle(&self.caller, &self.path, &place)?;
        if is_new {
            self.is_kept = true;
            sync_folder(&folder)?;
        }
        Ok(is_new)
    }
}

impl Sink for Spool {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let more = bytes.len() as u64;
        if self.size.saturating_add(more) > self.most {
            return Err(too_large(self.most));
        }
        self.staging.take(&self.caller, more)?;
        self.size += more;
        self.file.write_all(bytes).map_err(failed)?;
        self.hash.update(bytes);
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
            self.staging.give_back(&self.caller, self.size);
        }
    }
}

/// A body on its way into a sink.
pub(crate) struct Incoming<S> {
    sink: Option<S>,
    buffer: Vec<u8>,
}

impl<S: Sink> Incoming<S> {
    pub(crate) fn new(sink: S) -> Self {
        Self {
            sink: Some(sink),
            buffer: Vec::new(),
        }
    }

    /// Takes some bytes; returns when they are written or wait in the one buffer.
    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() == PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Takes a whole body.
    pub(crate) async fn body(mut self, body: axum::body::Body) -> Result<S> {
        let mut pieces = body.into_data_stream();
        while let Some(piece) = next_piece(&mut pieces).await? {
            self.push(&piece).await?;
        }
        self.end().await
    }

    /// The sink, after the last byte.
    pub(crate) async fn end(mut self) -> Result<S> {
        self.flush().await?;
        self.sink.ok_or_else(stopped)
    }

    async fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut sink = self.sink.take().ok_or_else(stopped)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let work = move || {
            let written = sink.write(&buffer);
            buffer.clear();
            (sink, buffer, written)
        };
        let (sink, buffer, written) = aside(work).await?;
        self.sink = Some(sink);
        self.buffer = buffer;
        written
    }
}

/// The next bytes of a body, if they come in time.
pub(crate) async fn next_piece(pieces: &mut BodyDataStream) -> Result<Option<Bytes>> {
    let Ok(piece) = tokio::time::timeout(PATIENCE, pieces.next()).await else {
        return Err(RegistryError::Slow {
            seconds: PATIENCE.as_secs(),
        });
    };
    piece.transpose().map_err(|error| cut(&error))
}

/// Work that takes long, off the threads that answer requests.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| stopped())
}

pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

pub(super) fn too_large(most: u64) -> RegistryError {
    RegistryError::TooLarge {
        what: "this upload".to_owned(),
        most: format!("{most} bytes"),
    }
}

/// The client went away, or its body is not what its headers say.
fn cut(error: &axum::Error) -> RegistryError {
    RegistryError::invalid(format!("the body ended early: {error}"))
}

fn stopped() -> RegistryError {
    super::storage("staging_stopped", "the upload was stopped")
}
