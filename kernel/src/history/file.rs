//! The history's file: a line of JSON for each cell, shared by all kernels of a person.
//!
//! Lines are only appended, each with one write. A kernel that starts takes the next session's number under a lock,
//! and shortens the file when it has grown.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{Entry, MAX_ENTRIES};
use crate::{Error, Result};

/// A file that is longer than this many times the entries kept is shortened.
const SLACK: usize = 2;

/// The file, open to be added to.
pub(super) struct HistoryFile {
    file: File,
}

impl HistoryFile {
    /// Opens or makes the file: it, the number of a new session, and the newest entries.
    pub(super) fn open(path: &Path) -> Result<(Self, i64, Vec<Entry>)> {
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(Error::file("make", folder))?;
        }
        let lock = path.with_extension("lock");
        let lock = open(&lock)?;
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
        let mut history = Self { file };
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
        history.append(&taken).map_err(Error::file("write", path))?;
        entries.retain(|entry| entry.line > 0);
        Ok((history, session, entries))
    }

    /// Adds a line, whole or not at all as far as other kernels see.
    pub(super) fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.open(path).map_err(Error::file("open", path))
}

fn shorten(path: &Path, entries: &[Entry]) -> Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut short = HistoryFile { file: open(&new)? };
    for entry in entries {
        short.append(entry).map_err(Error::file("write", &new))?;
    }
    fs::rename(&new, path).map_err(Error::file("replace", path))
}
