//! Files of a folder library: a repo's state, its revisions, and writing them so that a half one is never read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use alephlab_api::Card;
use alephlab_api::model::RecordFile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Gated;

/// `repo.json`: what may change of a repo. Replacing it is what makes a commit count.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) private: bool,
    /// `auto`, `manual`, or nothing.
    #[serde(default)]
    pub(super) gated: Option<String>,
    pub(super) branches: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
}

impl State {
    pub(super) fn gated(&self) -> Gated {
        match self.gated.as_deref() {
            None => Gated::No,
            Some("auto") => Gated::Auto,
            Some(_) => Gated::Manual,
        }
    }

    /// The commit that a name stands for; a commit stands for itself.
    pub(super) fn resolve(&self, name: &str) -> Option<String> {
        let branch = |name: &str| self.branches.get(name).cloned();
        let tag = |name: &str| self.tags.get(name).cloned();
        if let Some(name) = name.strip_prefix("refs/heads/") {
            return branch(name);
        }
        if let Some(name) = name.strip_prefix("refs/tags/") {
            return tag(name);
        }
        branch(name)
            .or_else(|| tag(name))
            .or_else(|| alephlab_api::model::is_hex(name, 40).then(|| name.to_owned()))
    }
}

/// `revisions/COMMIT.json`: one revision, never changed. Its name is a hash over this text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) parent: Option<String>,
    pub(super) title: String,
    pub(super) message: String,
    pub(super) author: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) card: Card,
    /// Sorted by path.
    pub(super) files: Vec<RecordFile>,
}

impl Manifest {
    /// Stores it; returns the commit.
    pub(super) fn store(&self, repo: &Path) -> io::Result<String> {
        let text = serde_json::to_vec(self)?;
        let commit = hex::encode(&Sha256::digest(&text)[..20]);
        replace(&repo.join("revisions").join(format!("{commit}.json")), &text)?;
        Ok(commit)
    }

    /// Reads one, if the repo has it.
    pub(super) fn load(repo: &Path, commit: &str) -> io::Result<Option<Self>> {
        load(&repo.join("revisions").join(format!("{commit}.json")))
    }
}

pub(super) fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file beside its place, then puts it there.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let mut file = File::create_new(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Puts a copy of a file at a place, sharing its bytes where the file system can.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    if to.is_file() || fs::hard_link(from, to).is_ok() {
        return sync_parent(to);
    }
    let beside = to.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    fs::copy(from, &beside)?;
    File::open(&beside)?.sync_all()?;
    fs::rename(&beside, to)?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
