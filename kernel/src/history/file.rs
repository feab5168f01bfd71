//! The history's file: a line of JSON for each cell, shared by all kernels of a person.
//!
//! Lines are only appended, each with one write, under a lock. A kernel that starts takes the next session's number,
//! and replaces the file by a shorter one when it has grown; kernels that run see that it is another, and go on there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Entry, MAX_ENTRIES};
use crate::{Error, Result};

/// How often a kernel tries to get the lock for one line, and how long it waits between: half a second in all.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A file that is longer than this many times the entries kept is shortened.
const SLACK: usize = 2;

/// The file, open to be added to.
pub(super) struct HistoryFile {
    path: PathBuf,
    file: File,
    /// Of the file beside it: held while the file is read, added to or replaced.
    lock: File,
}

impl HistoryFile {
    /// Opens or makes the file: it, the number of a new session, and the newest entries.
    pub(super) fn open(path: &Path) -> Result<(Self, i64, Vec<Entry>)> {
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(Error::file("make", folder))?;
        }
        let lock = open(&path.with_extension("lock"))?;
        lock.lock().map_err(Error::file("lock", path))?;
        let mut file = open(path)?;
        let text = fs::read(path).map_err(Error::file("read", path))?;
        let lines = text.split(|byte| *byte == b'\n');
        let mut entries: Vec<Entry> = lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let is_long = entries.len() > SLACK * MAX_ENTRIES;
        // The number is taken by an entry without text.
        let session = entries.iter().map(|entry| entry.session).max().unwrap_or(0) + 1;
        entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
        if is_long {
            shorten(path, &entries)?;
            file = open(path)?;
        }
        let path_of_file = path.to_owned();
        let mut history = Self {
            path: path_of_file,
            file,
            lock,
        };
        if !is_long && text.last().is_some_and(|last| *last != b'\n') {
            // A line that was cut: the next one is its own.
            history
                .file
                .write_all(b"\n")
                .map_err(Error::file("write", path))?;
        }
        let taken = Entry {
            session,
            line: 0,
            input: String::new(),
            output: None,
        };
        history.write(&taken).map_err(Error::file("write", path))?;
        history.lock.unlock().map_err(Error::file("unlock", path))?;
        entries.retain(|entry| entry.line > 0);
        Ok((history, session, entries))
    }

    /// Adds a line, whole or not at all as far as other kernels see.
    pub(super) fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        // Another kernel holds it for a moment; one that was stopped meanwhile must not hold up the cells of all. A line
        // is one write and whole also without.
        let is_locked = (0..LOCK_TRIES).any(|_| {
            let locked = self.lock.try_lock().is_ok();
            if !locked {
                std::thread::park_timeout(LOCK_PAUSE);
            }
            locked
        });
        let written = self.reopen().and_then(|()| self.write(entry));
        if is_locked {
            self.lock.unlock()?;
        }
        written
    }

    /// Opens the file again when another kernel has put a shorter one in its place.
    fn reopen(&mut self) -> std::io::Result<()> {
        let now = fs::metadata(&self.path).map(|meta| (meta.dev(), meta.ino())).ok();
        let ours = self.file.metadata()?;
        if now != Some((ours.dev(), ours.ino())) {
            self.file = options().open(&self.path)?;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> std::io::Result<()> {
        write(&mut self.file, entry)
    }
}

fn write(file: &mut File, entry: &Entry) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options
}

fn open(path: &Path) -> Result<File> {
    options().open(path).map_err(Error::file("open", path))
}

fn shorten(path: &Path, entries: &[Entry]) -> Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut short = open(&new)?;
    for entry in entries {
        write(&mut short, entry).map_err(Error::file("write", &new))?;
    }
    fs::rename(&new, path).map_err(Error::file("replace", path))
}
