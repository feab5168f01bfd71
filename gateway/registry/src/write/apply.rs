//! What a commit makes of the files of the revision before.

use std::collections::BTreeMap;

use alephlab_api::model::RecordFile;

use super::{Change, NewCommit, Result};
use crate::RegistryError;

/// Files of one revision.
const FILES_MAX: usize = 100_000;

impl NewCommit {
    /// The files of the new revision, sorted by path, made of those of the one before, which is named `head`.
    ///
    /// # Errors
    /// [`RegistryError::EntryNotFound`] for a path that cannot be deleted; for a path that would be a file and a folder, and
    /// for too many files.
    pub fn apply(&self, before: &[RecordFile], head: &str) -> Result<Vec<RecordFile>> {
        let mut files: BTreeMap<String, RecordFile> = before
            .iter()
            .map(|file| (file.path.clone(), file.clone()))
            .collect();
        let missing = |path: &str| RegistryError::EntryNotFound {
            path: path.to_owned(),
            commit: head.to_owned(),
        };
        for change in &self.changes {
            match change {
                Change::Put { path, content } => {
                    let file = RecordFile {
                        path: path.clone(),
                        size: content.size,
                        sha256: content.sha256.clone(),
                    };
                    files.insert(path.clone(), file);
                }
                Change::DeleteFile { path } => {
                    files.remove(path).ok_or_else(|| missing(path))?;
                }
                Change::DeleteFolder { path } if path.is_empty() => files.clear(),
                Change::DeleteFolder { path } => {
                    let below = format!("{path}/");
                    // Only what goes is looked at: a commit may have thousands of these.
                    let within = files.range(below.clone()..).map(|(file, _)| file.clone());
                    let gone: Vec<_> = within.take_while(|file| file.starts_with(&below)).collect();
                    if gone.is_empty() {
                        return Err(missing(path));
                    }
                    for file in gone {
                        files.remove(&file);
                    }
                }
            }
        }
        let folder_too = |path: &String| {
            let below = format!("{path}/");
            let next = files.range(below.clone()..).next();
            next.is_some_and(|(next, _)| next.starts_with(&below))
        };
        if let Some(path) = files.keys().find(|path| folder_too(path)) {
            return Err(RegistryError::invalid(format!(
                "`{path}` would be a file and a folder"
            )));
        }
        if files.len() > FILES_MAX {
            return Err(RegistryError::TooLarge {
                what: format!("a revision of {} files", files.len()),
                most: format!("{FILES_MAX} files"),
            });
        }
        Ok(files.into_values().collect())
    }
}
