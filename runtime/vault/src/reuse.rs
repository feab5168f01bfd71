//! What a new version takes over from the one before (container section 8): objects all of whose files are still
//! there unchanged. An object that also holds changed files is not taken over, so that bytes outside all files
//! stay zero.

use crate::entry::Entry;
use crate::keys::EpochSecret;
use crate::manifest::Row;
use crate::pack::describe;
use crate::reader::Reader;
use crate::ring::Ring;
use crate::source::SourceFile;
use crate::{Result, VaultError};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Files and objects that need not be sealed again; empty by default.
#[derive(Default)]
pub struct Unchanged {
    rows: Vec<Row>,
    files: HashMap<String, Entry>,
    secrets: BTreeMap<u32, EpochSecret>,
    whole: bool,
}

impl Unchanged {
    /// Compares `files` with an open version, reading each file that has the size of one in it. Blocking.
    ///
    /// # Errors
    /// `E_IO` when a file can not be read, `E_EPOCH` for a reader of scope 2.
    pub fn find(reader: &Reader, files: &[SourceFile]) -> Result<Self> {
        let Ring::Epochs(secrets) = reader.ring() else {
            return Err(VaultError::Epoch {
                reason: "a share can not be continued".into(),
            });
        };
        let mut same: BTreeMap<&str, &SourceFile> = BTreeMap::new();
        let mut equal = 0;
        for file in files.iter().filter(|file| !file.is_directory()) {
            let Some(old) = reader.entry(&file.path).filter(|old| old.is_file()) else {
                continue;
            };
            if old.size == file.size()? && old.sha256 == file.digest()? {
                same.insert(&file.path, file);
                equal += usize::from(alike(old, file));
            }
        }
        let whole = is_all(reader, files, equal)?;
        Ok(Self::keep(reader, same.into_keys().collect(), secrets, whole))
    }

    /// Every file and object of an open version.
    ///
    /// # Errors
    /// `E_EPOCH` for a reader of scope 2.
    pub(crate) fn all(reader: &Reader) -> Result<Self> {
        let Ring::Epochs(secrets) = reader.ring() else {
            return Err(VaultError::Epoch {
                reason: "a share can not be continued".into(),
            });
        };
        let files = reader.entries().iter().filter(|entry| entry.is_file());
        let all = files.map(|entry| entry.path.as_str()).collect();
        Ok(Self::keep(reader, all, secrets, true))
    }

    /// Whether nothing changed at all, so that a new version would say the same as the old one.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The entry for `file` if its bytes need not be sealed again.
    pub(crate) fn entry(&self, file: &SourceFile) -> Option<Entry> {
        let old = self.files.get(&file.path)?;
        Some(describe(file, old.extents.clone(), old.size, old.sha256))
    }

    /// Secrets of the version before, by epoch.
    pub(crate) fn secrets(&self) -> &BTreeMap<u32, EpochSecret> {
        &self.secrets
    }

    fn keep(
        reader: &Reader,
        mut kept: BTreeSet<&str>,
        secrets: &BTreeMap<u32, EpochSecret>,
        whole: bool,
    ) -> Self {
        // A file spoils its objects when it changed; a spoiled object spoils its other files; and so on.
        let mut spoiled: BTreeSet<u32> = BTreeSet::new();
        loop {
            let before = spoiled.len();
            for entry in reader.entries() {
                let touches = entry
                    .extents
                    .iter()
                    .any(|extent| spoiled.contains(&extent.object));
                if touches || !kept.contains(entry.path.as_str()) {
                    kept.remove(entry.path.as_str());
                    spoiled.extend(entry.extents.iter().map(|extent| extent.object));
                }
            }
            if spoiled.len() == before {
                break;
            }
        }
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        let mut rows = Vec::new();
        let mut files = HashMap::new();
        for entry in reader
            .entries()
            .iter()
            .filter(|entry| entry.is_file() && kept.contains(entry.path.as_str()))
        {
            let mut entry = entry.clone();
            for extent in &mut entry.extents {
                extent.object = *numbers.entry(extent.object).or_insert_with(|| {
                    let mut row = reader.rows()[extent.object as usize].clone();
                    // The leaf table stays with the version that it was sealed for.
                    row.leaves = None;
                    rows.push(row);
                    // There are no more rows here than in the old table, whose numbers are u32.
                    u32::try_from(rows.len() - 1).unwrap_or(u32::MAX)
                });
            }
            files.insert(entry.path.clone(), entry);
        }
        let secrets = secrets
            .iter()
            .map(|(epoch, secret)| (*epoch, secret.duplicate()))
            .collect();
        Self {
            rows,
            files,
            secrets,
            whole,
        }
    }
}

/// Whether the version holds nothing but these files and their folders, so many of which are in it unchanged.
pub(crate) fn is_all(reader: &Reader, files: &[SourceFile], equal: usize) -> Result<bool> {
    let directories = |entry: &&Entry| !entry.is_file();
    let tree = crate::seal::tree(files)?;
    let folders = tree.values().filter(|directory| **directory).count();
    let file_count = tree.len() - folders;
    let mut old = reader.entries().iter().filter(directories);
    let old_folders = reader.entries().iter().filter(directories).count();
    Ok(equal == file_count
        && reader.entries().len() == file_count + old_folders
        && folders == old_folders
        && old.all(|entry| tree.get(entry.path.as_str()) == Some(&true)))
}

/// Whether the manifest would say the same of `file`, its time of change apart.
pub(crate) fn alike(old: &Entry, file: &SourceFile) -> bool {
    old.mime == file.mime_or_guess() && old.executable == file.executable && old.attributes == file.attributes
}
