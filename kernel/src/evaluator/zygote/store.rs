//! What was compiled before, on disk, shared by all kernels of a person.
//!
//! Everything lies under a hash of all that it was made from: text, types of variables, crates, compiler, flags. So
//! nothing is ever out of date, and who finds a name finds the right thing. A folder is made elsewhere and then renamed.
//! The oldest go when there is too much.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes that compiled cells and items may take.
const MAX_BYTES: u64 = 512 * 1024 * 1024;
/// What was used since then is in use, perhaps.
const KEEP_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Begins the name of a folder that is not finished.
const NEW: &str = ".new-";
/// The library of a cell or crate.
const LIBRARY: &str = "lib.so";
const FACTS: &str = "facts.json";

/// The folder of compiled things.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
}

/// What a cell does with variables beside using and making them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moves {
    /// Variables of earlier cells that its body moves.
    pub(super) taken: BTreeMap<String, Fate>,
    /// Variables that it makes and moves away again.
    pub(super) made: BTreeSet<String>,
}

/// What becomes of a variable that a cell moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fate {
    /// It is gone.
    UsedUp,
    /// It has another value when the cell ends well.
    Remade,
}

/// What is known about a compiled cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Type by variable that it stores.
    pub(super) types: BTreeMap<String, String>,
    /// Variables that it moves.
    pub(super) moves: Moves,
    /// The scope was found too small, so this is the cell with the runtime.
    pub(super) full: bool,
    /// So was its body: a macro made a `?`.
    pub(super) fails: bool,
}

impl Store {
    /// In `root`, else in `private`.
    pub(super) fn open(root: &Path, private: &Path) -> Result<Self> {
        for folder in [root, private] {
            let mut builder = fs::DirBuilder::new();
            // 0700: a cell's library holds what the person wrote.
            let made = builder.recursive(true).mode(0o700).create(folder);
            let probe = folder.join(format!("{NEW}{}", uuid::Uuid::new_v4()));
            if made.is_ok() && fs::create_dir(&probe).is_ok() {
                let _ = fs::remove_dir(&probe);
                return Ok(Self {
                    root: folder.to_owned(),
                });
            }
        }
        Err(Error::file("make", private)(
            std::io::ErrorKind::PermissionDenied.into(),
        ))
    }

    /// A finished folder, and notes that it is in use.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.root.join(name);
        let library = File::open(folder.join(LIBRARY)).ok()?;
        let _ = library.set_modified(SystemTime::now());
        Some(folder)
    }

    /// A folder to work in; the files that stay go under their name by [`Store::keep`].
    pub(super) fn begin(&self) -> Result<PathBuf> {
        let folder = self.root.join(format!("{NEW}{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).map_err(Error::file("make", &folder))?;
        Ok(folder)
    }

    /// Gives a finished folder its name. Where another kernel was faster its folder is taken: it is the same.
    pub(super) fn keep(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let target = self.root.join(name);
        if fs::rename(folder, &target).is_err() {
            let _ = fs::remove_dir_all(folder);
            if !target.join(LIBRARY).exists() {
                return Err(Error::file("make", &target)(
                    std::io::ErrorKind::AlreadyExists.into(),
                ));
            }
        }
        Ok(target)
    }

    /// Removes what has not been used for longest, when there is too much. Takes its time: for a thread of its own.
    pub(super) fn sweep(&self) {
        let mut all: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let folder = entry.path();
                let used = fs::metadata(folder.join(LIBRARY)).or_else(|_| fs::metadata(&folder));
                Some((used.ok()?.modified().ok()?, size(&folder), folder))
            })
            .collect();
        all.sort();
        let mut total: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (used, bytes, folder) in all {
            let is_old = used.elapsed().is_ok_and(|age| age > KEEP_FOR);
            let is_left_over = is_old && name_of(&folder).starts_with(NEW);
            if is_left_over || (is_old && total > MAX_BYTES) {
                let _ = fs::remove_dir_all(&folder);
                total -= bytes;
            }
        }
    }
}

/// The library in a folder.
pub(super) fn library(folder: &Path) -> PathBuf {
    folder.join(LIBRARY)
}

pub(super) fn write_facts(folder: &Path, facts: &Facts) -> Result<()> {
    let path = folder.join(FACTS);
    let text = serde_json::to_vec(facts).unwrap_or_default();
    fs::write(&path, text).map_err(Error::file("write", path))
}

/// None when the file is damaged: then the cell is compiled again.
pub(super) fn read_facts(folder: &Path) -> Option<Facts> {
    serde_json::from_slice(&fs::read(folder.join(FACTS)).ok()?).ok()
}

/// Hash of some texts, as a name.
pub(super) fn name<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(32);
    digits
}

fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_a_second_one_of_the_name_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a"), folder.path()).unwrap();
        assert_eq!(store.find("x"), None);
        let facts = Facts {
            moves: Moves {
                taken: BTreeMap::from([("v".to_owned(), Fate::UsedUp)]),
                ..Moves::default()
            },
            ..Facts::default()
        };
        for _ in 0..2 {
            let new = store.begin().unwrap();
            fs::write(library(&new), "so").unwrap();
            write_facts(&new, &facts).unwrap();
            store.keep(&new, "x").unwrap();
        }
        let found = store.find("x").unwrap();
        assert_eq!(read_facts(&found), Some(facts));
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn only_what_is_old_goes_and_only_when_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), folder.path()).unwrap();
        let old = SystemTime::now() - 2 * KEEP_FOR;
        for (name, time) in [("old", old), ("new", SystemTime::now())] {
            let made = store.begin().unwrap();
            let file = File::create(library(&made)).unwrap();
            // Sparse: no disk is filled.
            file.set_len(MAX_BYTES).unwrap();
            file.set_modified(time).unwrap();
            store.keep(&made, name).unwrap();
        }
        store.sweep();
        assert!(store.find("old").is_none() && store.find("new").is_some());
    }
}
