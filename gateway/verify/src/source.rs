//! Where the bytes of a revision come from: ranged reads of named files.
//!
//! Callers implement [`Source`] over what they have: a mount, an opened model, memory. [`Folder`] is the one for a
//! folder of the file system. Nothing here looks into files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Result, VerifyError};

/// More files than this are no model revision, and each costs several reads.
pub const FILES_MAX: usize = 20_000;
/// Deepest folder in a revision.
const DEPTH_MAX: usize = 32;

/// What an entry of a revision is, before anybody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Bytes.
    File,
    /// Points elsewhere; never followed.
    Symlink,
    /// A device, socket or pipe; never opened.
    Other,
}

/// One entry of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path with `/`.
    pub path: String,
    /// Bytes; 0 for what is not a file.
    pub size: u64,
    /// What it is.
    pub kind: EntryKind,
}

impl Entry {
    /// A plain file.
    pub fn file(path: impl Into<String>, size: u64) -> Self {
        Self {
            path: path.into(),
            size,
            kind: EntryKind::File,
        }
    }
}

/// The files of one revision. They must not change while they are checked: the checks read them several times.
pub trait Source: Sync {
    /// Every entry, in any order.
    fn entries(&self) -> &[Entry];

    /// Reads bytes of entry number `entry` from `offset` into `buffer`; how many, 0 only at the end.
    ///
    /// # Errors
    /// When the bytes cannot be had.
    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A folder of the file system.
pub struct Folder {
    root: PathBuf,
    entries: Vec<Entry>,
}

impl Folder {
    /// Lists `root`; links are listed and not followed. Its `.git` and `.cache` (of the Hub's client) are not part of a
    /// revision; a manifest that has files there fails V1.
    ///
    /// # Errors
    /// When a folder cannot be listed, or there is too much in it.
    pub fn open(root: &Path) -> Result<Self> {
        let mut entries = Vec::new();
        list(root, "", 0, &mut entries)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            root: root.to_owned(),
            entries,
        })
    }
}

fn list(folder: &Path, prefix: &str, depth: usize, entries: &mut Vec<Entry>) -> Result<()> {
    let failed = |source| VerifyError::Folder {
        path: folder.display().to_string(),
        source,
    };
    if depth > DEPTH_MAX {
        return Err(VerifyError::TooMany {
            what: "deeper folders",
            limit: DEPTH_MAX,
        });
    }
    for item in fs::read_dir(folder).map_err(failed)? {
        let item = item.map_err(failed)?;
        let name = item.file_name().to_string_lossy().into_owned();
        if depth == 0 && matches!(name.as_str(), ".git" | ".cache") {
            continue;
        }
        let kind = item.file_type().map_err(failed)?;
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            list(&item.path(), &format!("{path}/"), depth + 1, entries)?;
            continue;
        }
        let size = if kind.is_file() {
            item.metadata().map_err(failed)?.len()
        } else {
            0
        };
        let kind = match () {
            () if kind.is_file() => EntryKind::File,
            () if kind.is_symlink() => EntryKind::Symlink,
            () => EntryKind::Other,
        };
        entries.push(Entry { path, size, kind });
        if entries.len() > FILES_MAX {
            return Err(VerifyError::TooMany {
                what: "more files",
                limit: FILES_MAX,
            });
        }
    }
    Ok(())
}

impl Source for Folder {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let entry = self.entries.get(entry).ok_or(io::ErrorKind::NotFound)?;
        let path = self.root.join(&entry.path);
        // Opening a pipe that took the file's place would wait for ever.
        if entry.kind != EntryKind::File || !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a plain file",
            ));
        }
        std::os::unix::fs::FileExt::read_at(&File::open(path)?, buffer, offset)
    }
}

/// Files in memory, for tests and small things.
#[derive(Default)]
pub struct Memory {
    entries: Vec<Entry>,
    contents: Vec<Vec<u8>>,
}

impl Memory {
    /// The same with one file more.
    #[must_use]
    pub fn with(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        self.entries.push(Entry::file(path, content.len() as u64));
        self.contents.push(content);
        self
    }
}

impl Source for Memory {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.contents.get(entry).ok_or(io::ErrorKind::NotFound)?;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| content.get(at..))
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(count)
    }
}
