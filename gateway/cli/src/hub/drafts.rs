//! Repos that were made and have no revision: a name and a wish, on this machine only. Nothing of them is on Aleph until the
//! first commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alephlab_api::model::Visibility;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data::{FileLock, read_json, write_json};
use crate::error::Result;

/// Drafts at a time: a client in a loop must not fill the disk.
const DRAFTS_MAX: usize = 10_000;

/// A repo without a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draft {
    /// Seconds since 1970.
    pub(super) created: u64,
    /// What its first revision will be.
    pub(super) visibility: Visibility,
}

impl Draft {
    /// What clients are told in the place of a commit. It names nothing but this draft, and is gone with it.
    pub(super) fn revision(&self, name: &str) -> String {
        let hash = Sha256::digest(format!("alephlab/draft/v1\0{name}\0{}", self.created));
        hex::encode(&hash[..20])
    }
}

/// The drafts of one account, in a file.
pub(super) struct Drafts {
    path: PathBuf,
}

impl Drafts {
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// All of them by plain name.
    pub(super) fn all(&self) -> Result<BTreeMap<String, Draft>> {
        Ok(read_json(&self.path)?.unwrap_or_default())
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<Draft>> {
        Ok(self.all()?.remove(name))
    }

    /// Makes, changes or removes one; says whether there is room for it.
    pub(super) fn set(&self, name: &str, draft: Option<Draft>) -> Result<bool> {
        let _lock = FileLock::wait(&self.path)?;
        let mut all = self.all()?;
        match draft {
            Some(_) if all.len() >= DRAFTS_MAX && !all.contains_key(name) => return Ok(false),
            Some(draft) => all.insert(name.to_owned(), draft),
            None => all.remove(name),
        };
        write_json(&self.path, &all)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn drafts_are_remembered_until_they_are_published() {
        let folder = scratch();
        let drafts = Drafts::at(&folder.path().join("drafts.json"));
        let draft = Draft {
            created: 7,
            visibility: Visibility::Public,
        };
        assert!(drafts.set("digits", Some(draft.clone())).unwrap());
        assert_eq!(drafts.get("digits").unwrap(), Some(draft.clone()));
        assert_eq!(draft.revision("digits").len(), 40);
        assert_ne!(draft.revision("digits"), draft.revision("letters"));
        drafts.set("digits", None).unwrap();
        assert!(drafts.all().unwrap().is_empty());
    }
}
