//! Puts the files of an open revision into a folder: verified, resumable, and without touching what somebody has changed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use alephlab_api::model::RecordFile;
use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::open::Opened;
use super::{refuse, vault};
use crate::error::{CliError, Result};

/// Folder within the target for what is half there; removed when all is.
const PARTS: &str = ".alephlab-parts";
/// Objects that are kept open: the one that is read, and one that the next file shares with it.
const KEPT_BYTES: u64 = 64 << 20;
const WHAT: &str = "the model was not downloaded whole";

/// What came of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// Files that were fetched now.
    pub(crate) fetched: u64,
    /// Files that were there already.
    pub(crate) kept: u64,
    /// Bytes fetched now.
    pub(crate) bytes: u64,
}

/// Fetches into `folder`, which may hold the same files already; `progress` gets bytes done and in all.
///
/// # Errors
/// Before anything is written when a file there has other content, or a link leads out of the folder; when bytes are not
/// what was signed. What was fetched until then is gone on with.
pub(crate) async fn into_folder(
    opened: &Opened,
    folder: &Path,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Pulled> {
    make_folder(folder)?;
    let missing = missing(&opened.files, folder).await?;
    let total: u64 = opened.files.iter().map(|file| file.size).sum();
    let wanted: u64 = missing.iter().map(|file| file.size).sum();
    let mut pulled = Pulled {
        kept: (opened.files.len() - missing.len()) as u64,
        ..Pulled::default()
    };
    let parts = folder.join(PARTS);
    if !missing.is_empty() {
        make_folder(&parts)?;
    }
    opened.reader.keep(KEPT_BYTES);
    let mut done = total - wanted;
    for file in &missing {
        progress(done, total);
        let mut shown = |bytes: u64| progress(done + bytes, total);
        pulled.bytes += fetch(opened, file, (folder, &parts), &mut shown).await?;
        pulled.fetched += 1;
        done += file.size;
    }
    progress(total, total);
    // Parts of another revision may lie there: those stay.
    let _ = fs::remove_dir(&parts);
    Ok(pulled)
}

/// The files that are not there yet. Looks at all of them before anything is written.
async fn missing(files: &[RecordFile], folder: &Path) -> Result<Vec<RecordFile>> {
    let (files, folder) = (files.to_vec(), folder.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let (mut missing, mut changed) = (Vec::new(), Vec::new());
        for file in files {
            let place = folder.join(&file.path);
            stays_within(&folder, &file.path)?;
            match fs::symlink_metadata(&place) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(file),
                Err(source) => return Err(CliError::file("read", &place, source)),
                Ok(meta) if meta.is_file() && meta.len() == file.size => {
                    let (_, found) = hash(&place)?;
                    if hex::encode(found.finalize()) != file.sha256 {
                        changed.push(file.path);
                    }
                }
                Ok(_) => changed.push(file.path),
            }
        }
        match changed.first() {
            None => Ok(missing),
            Some(first) => {
                let more = match changed.len() {
                    1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                Err(CliError::Usage {
                    message: format!(
                        "{} has {first}{more} with other content, and nothing is overwritten",
                        folder.display()
                    ),
                    hint: "name another folder with --to, or move those files away".to_owned(),
                })
            }
        }
    });
    looked.await.map_err(|error| stopped(&error))?
}

/// No folder on the way to a file may be a link, which could lead anywhere.
fn stays_within(folder: &Path, path: &str) -> Result<()> {
    let mut place = folder.to_owned();
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in parts {
        place.push(part);
        if fs::symlink_metadata(&place).is_ok_and(|meta| !meta.is_dir()) {
            return Err(CliError::Usage {
                message: format!("{} is in the way: it is no folder", place.display()),
                hint: "name another folder with --to, or move it away".to_owned(),
            });
        }
    }
    Ok(())
}

/// Fetches one file, going on where it was cut; returns the bytes that were fetched now.
async fn fetch(
    opened: &Opened,
    file: &RecordFile,
    (folder, parts): (&Path, &Path),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<u64> {
    let part = parts.join(&file.sha256);
    let (start, hasher) = match fs::symlink_metadata(&part) {
        Ok(meta) if meta.is_file() && meta.len() <= file.size => {
            let path = part.clone();
            let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
            hashed.map_err(|error| stopped(&error))??
        }
        Ok(_) => {
            fs::remove_file(&part).map_err(|source| CliError::file("remove", &part, source))?;
            (0, Sha256::new())
        }
        Err(_) => (0, Sha256::new()),
    };
    let mut options = OpenOptions::new();
    let opening = options.append(true).create(true).mode(0o600).open(&part);
    let mut sink = Sink {
        file: opening.map_err(|source| CliError::file("write", &part, source))?,
        hasher,
        path: part.clone(),
    };
    let mut at = start;
    let mut pieces = opened
        .reader
        .stream(&file.path, start..file.size)
        .map_err(vault(WHAT))?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(vault(WHAT))?;
        at += piece.len() as u64;
        let written = tokio::task::spawn_blocking(move || sink.take(&piece)).await;
        sink = written.map_err(|error| stopped(&error))??;
        progress(at);
    }
    let found = hex::encode(sink.hasher.finalize());
    if at != file.size || found != file.sha256 {
        // Not gone on with: what is wrong in it stays wrong.
        let _ = fs::remove_file(&part);
        let message = format!(
            "{} has SHA-256 {found} and {at} bytes, not what was signed",
            file.path
        );
        return Err(refuse("file_mismatch", message, "pull again"));
    }
    let failed = |source| CliError::file("write", &part, source);
    sink.file.sync_all().map_err(failed)?;
    let place = folder.join(&file.path);
    if let Some(above) = place.parent() {
        make_folder(above)?;
    }
    put(&part, &place).map_err(|source| CliError::file("make", &place, source))?;
    Ok(file.size - start)
}

/// Moves a file to a place where none is. Not by `rename` alone, which would replace what somebody has put there meanwhile.
fn put(part: &Path, place: &Path) -> std::io::Result<()> {
    match fs::hard_link(part, place) {
        Ok(()) => fs::remove_file(part),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(error),
        // A file system without links.
        Err(_) if fs::symlink_metadata(place).is_err() => fs::rename(part, place),
        Err(error) => Err(error),
    }
}

/// A file that is being written, and the hash of what is in it.
struct Sink {
    file: File,
    hasher: Sha256,
    path: PathBuf,
}

impl Sink {
    fn take(mut self, bytes: &Bytes) -> Result<Self> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|source| CliError::file("write", &self.path, source))?;
        Ok(self)
    }
}

/// SHA-256 of a file in hex, read on a thread of its own.
pub(crate) async fn hash_of(path: &Path) -> Result<String> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
    let (_, hashed) = hashed.map_err(|error| stopped(&error))??;
    Ok(hex::encode(hashed.finalize()))
}

/// Length and hash of what a file holds.
pub(super) fn hash(path: &Path) -> Result<(u64, Sha256)> {
    let failed = |source| CliError::file("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok((length, hasher)),
            read => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| CliError::file("make the folder", path, source))
}

pub(super) fn stopped(error: &tokio::task::JoinError) -> CliError {
    CliError::Stopped {
        doing: format!("working with files ({error})"),
    }
}
