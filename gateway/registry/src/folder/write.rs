//! Changes to a folder library.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use alephlab_api::Card;
use alephlab_api::Secret;
use alephlab_api::model::{RecordFile, is_hex, is_name};
use alephlab_api::time::unix_now;
use futures_util::FutureExt as _;

use super::state::{Manifest, State, link, replace};
use super::{FolderLibrary, GONE, Inner, Result, failed, revision_of};
use crate::write::{Caller, Change, Committed, Content, NewCommit, NewRepo, RefKind, Settings, Writer};
use crate::{Answer, Gated, RegistryError, card};

impl Inner {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards files, each replaced whole.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A repo that this caller may change.
    fn owned(&self, caller: &Caller, id: &str) -> Result<(PathBuf, State)> {
        let seen = self.seen(id, Some(&caller.account))?;
        let found = seen.ok_or(RegistryError::RepoNotFound)?;
        owns(caller, id)?;
        Ok(found)
    }

    fn save(folder: &Path, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
        replace(&folder.join("repo.json"), &text).map_err(failed)
    }

    fn create(&self, caller: &Caller, new: &NewRepo) -> Result<()> {
        owns(caller, &new.id)?;
        let folder = self.folder(&new.id).ok_or(RegistryError::RepoNotFound)?;
        let _changing = self.lock();
        if folder.join("repo.json").is_file() {
            return Err(RegistryError::Exists {
                what: format!("the repository {}", new.id),
                url: None,
            });
        }
        // An interrupted beginning, which nobody sees.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(failed)?;
        }
        for below in ["revisions", "objects"] {
            fs::create_dir_all(folder.join(below)).map_err(failed)?;
        }
        let created = unix_now();
        let first = Manifest {
            parent: None,
            title: "initial commit".to_owned(),
            message: String::new(),
            author: caller.account.clone(),
            created,
            card: Card::default(),
            files: Vec::new(),
        };
        let commit = first.store(&folder).map_err(failed)?;
        let state = State {
            created,
            private: new.private.unwrap_or(false),
            gated: None,
            branches: BTreeMap::from([("main".to_owned(), commit)]),
            tags: BTreeMap::new(),
        };
        Self::save(&folder, &state)
    }

    fn delete(&self, caller: &Caller, id: &str) -> Result<()> {
        let _changing = self.lock();
        let (folder, _) = self.owned(caller, id)?;
        // First out of the way, at once: an interrupted removal leaves none that is half there.
        let gone = self.root.join(format!("{GONE}{:032x}", rand::random::<u128>()));
        fs::rename(folder, &gone).map_err(failed)?;
        fs::remove_dir_all(gone).map_err(failed)
    }

    fn rename(&self, caller: &Caller, from: &str, to: &str) -> Result<()> {
        owns(caller, to)?;
        let target = self.folder(to).ok_or(RegistryError::RepoNotFound)?;
        let _changing = self.lock();
        let (folder, _) = self.owned(caller, from)?;
        if target.exists() {
            return Err(RegistryError::Exists {
                what: format!("the repository {to}"),
                url: None,
            });
        }
        if let Some(owner) = target.parent() {
            fs::create_dir_all(owner).map_err(failed)?;
        }
        fs::rename(folder, target).map_err(failed)
    }

    fn change(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&Path, &mut State) -> Result<()>,
    ) -> Result<()> {
        let _changing = self.lock();
        let (folder, mut state) = self.owned(caller, id)?;
        change(&folder, &mut state)?;
        Self::save(&folder, &state)
    }

    /// Where content lies that this caller may read: in this repo, or in another one that is open to it.
    fn content(&self, caller: &Caller, id: &str, sha256: &str) -> Result<Option<PathBuf>> {
        if !is_hex(sha256, 64) {
            return Ok(None);
        }
        let (folder, _) = self.owned(caller, id)?;
        let own = folder.join("objects").join(sha256);
        if own.is_file() {
            return Ok(Some(own));
        }
        let folders = self.readable(caller)?;
        let mut places = folders.iter().map(|folder| folder.join("objects").join(sha256));
        Ok(places.find(|path| path.is_file()))
    }

    /// Folders of all repos whose files this caller may read.
    fn readable(&self, caller: &Caller) -> Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for id in self.ids() {
            let seen = self.seen(&id, Some(&caller.account))?;
            let is_open = |state: &State| state.gated() == Gated::No || owns(caller, &id).is_ok();
            folders.extend(seen.filter(|(_, state)| is_open(state)).map(|(folder, _)| folder));
        }
        Ok(folders)
    }

    /// Where content lies that a commit names and the repo has not: one look at all other repos for all of it.
    fn elsewhere(
        &self,
        caller: &Caller,
        folder: &Path,
        commit: &NewCommit,
    ) -> Result<HashMap<String, PathBuf>> {
        let contents = commit.changes.iter().filter_map(|change| match change {
            Change::Put { content, .. } if content.staged.is_none() => Some(content.sha256.as_str()),
            _ => None,
        });
        let missing = |sha256: &&str| is_hex(sha256, 64) && !folder.join("objects").join(sha256).is_file();
        let missing: HashSet<&str> = contents.filter(missing).collect();
        let mut found = HashMap::new();
        if missing.is_empty() {
            return Ok(found);
        }
        for other in self.readable(caller)? {
            for entry in fs::read_dir(other.join("objects")).map_err(failed)?.flatten() {
                if let Some(name) = entry.file_name().to_str().filter(|name| missing.contains(name)) {
                    found.insert(name.to_owned(), entry.path());
                }
            }
        }
        Ok(found)
    }

    fn commit(&self, caller: &Caller, id: &str, commit: &NewCommit) -> Result<String> {
        let _changing = self.lock();
        let (folder, mut state) = self.owned(caller, id)?;
        let branch = commit
            .branch
            .strip_prefix("refs/heads/")
            .unwrap_or(&commit.branch);
        let head = state.branches.get(branch).cloned();
        let head = head.ok_or_else(|| RegistryError::RevisionNotFound {
            revision: branch.to_owned(),
        })?;
        if commit.parent.as_ref().is_some_and(|parent| *parent != head) {
            return Err(RegistryError::StaleParent { head });
        }
        let (_, before) = revision_of(&folder, &state, &head)?;
        let files = commit.apply(&before.files, &head)?;
        if files == before.files {
            return Ok(head);
        }
        let elsewhere = self.elsewhere(caller, &folder, commit)?;
        for change in &commit.changes {
            if let Change::Put { path, content } = change {
                take(&folder, path, content, &elsewhere)?;
            }
        }
        let manifest = Manifest {
            parent: Some(head),
            title: commit.title.clone(),
            message: commit.message.clone(),
            author: caller.account.clone(),
            created: unix_now(),
            card: card_of(&folder, &files),
            files,
        };
        let made = manifest.store(&folder).map_err(failed)?;
        state.branches.insert(branch.to_owned(), made.clone());
        Self::save(&folder, &state)?;
        Ok(made)
    }
}

/// Has the bytes of a file among the repo's objects.
fn take(folder: &Path, path: &str, content: &Content, elsewhere: &HashMap<String, PathBuf>) -> Result<()> {
    let place = folder.join("objects").join(&content.sha256);
    if content.staged.is_none() && place.is_file() {
        return Ok(());
    }
    let from = content.staged.as_ref().or_else(|| elsewhere.get(&content.sha256));
    let from = from.ok_or_else(|| RegistryError::NotUploaded {
        path: path.to_owned(),
        sha256: content.sha256.clone(),
    })?;
    link(from, &place).map_err(failed)
}

fn card_of(folder: &Path, files: &[RecordFile]) -> Card {
    let readme = files
        .iter()
        .find(|file| file.path == "README.md" && file.size <= card::README_MAX);
    let text = readme.and_then(|file| fs::read_to_string(folder.join("objects").join(&file.sha256)).ok());
    text.map_or_else(Card::default, |text| card::read(&text))
}

/// # Errors
/// [`RegistryError::Forbidden`] for another's namespace.
fn owns(caller: &Caller, id: &str) -> Result<()> {
    if id.split('/').next() == Some(&caller.account) {
        return Ok(());
    }
    Err(RegistryError::Forbidden {
        reason: format!("this token may write below {} only", caller.account),
    })
}

impl Writer for FolderLibrary {
    fn caller<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<Caller>> {
        let caller = self.inner.account(bearer).map(|account| Caller {
            account: account.name.clone(),
            may_write: account.may_write && is_name(&account.name),
        });
        async move { Ok(caller) }.boxed()
    }

    fn may_write<'a>(&'a self, caller: &'a Caller, id: &'a str) -> Answer<'a, ()> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.run(move |inner| inner.owned(&caller, &id).map(|_| ()))
    }

    fn create<'a>(&'a self, caller: &'a Caller, new: &'a NewRepo) -> Answer<'a, ()> {
        let (caller, new) = (caller.clone(), new.clone());
        self.run(move |inner| inner.create(&caller, &new))
    }

    fn delete<'a>(&'a self, caller: &'a Caller, id: &'a str) -> Answer<'a, ()> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.run(move |inner| inner.delete(&caller, &id))
    }

    fn rename<'a>(&'a self, caller: &'a Caller, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        let (caller, from, to) = (caller.clone(), from.to_owned(), to.to_owned());
        self.run(move |inner| inner.rename(&caller, &from, &to))
    }

    fn set<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        settings: &'a Settings,
    ) -> Answer<'a, Option<String>> {
        let (caller, id, settings) = (caller.clone(), id.to_owned(), settings.clone());
        self.run(move |inner| {
            inner.change(&caller, &id, |_, state| {
                if let Some(private) = settings.private {
                    state.private = private;
                }
                match settings.gated {
                    None => {}
                    Some(Gated::No) => state.gated = None,
                    Some(Gated::Auto) => state.gated = Some("auto".to_owned()),
                    Some(Gated::Manual) => state.gated = Some("manual".to_owned()),
                }
                Ok(())
            })?;
            Ok(None)
        })
    }

    fn holds<'a>(&'a self, caller: &'a Caller, id: &'a str, sha256: &'a str) -> Answer<'a, Option<u64>> {
        let (caller, id, sha256) = (caller.clone(), id.to_owned(), sha256.to_owned());
        self.run(move |inner| {
            let path = inner.content(&caller, &id, &sha256)?;
            Ok(path
                .and_then(|path| fs::metadata(path).ok())
                .map(|found| found.len()))
        })
    }

    fn commit<'a>(&'a self, caller: &'a Caller, id: &'a str, commit: NewCommit) -> Answer<'a, Committed> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.run(move |inner| {
            let revision = inner.commit(&caller, &id, &commit)?;
            Ok(Committed { revision, told: None })
        })
    }

    fn set_ref<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        kind: RefKind,
        name: &'a str,
        revision: &'a str,
    ) -> Answer<'a, ()> {
        let (caller, id) = (caller.clone(), id.to_owned());
        let (name, revision) = (name.to_owned(), revision.to_owned());
        self.run(move |inner| {
            inner.change(&caller, &id, |folder, state| {
                let (commit, _) = revision_of(folder, state, &revision)?;
                let names = names(state, kind);
                if names.contains_key(&name) {
                    return Err(RegistryError::Exists {
                        what: format!("the name {name}"),
                        url: None,
                    });
                }
                names.insert(name, commit);
                Ok(())
            })
        })
    }

    fn remove_ref<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        kind: RefKind,
        name: &'a str,
    ) -> Answer<'a, ()> {
        let (caller, id, name) = (caller.clone(), id.to_owned(), name.to_owned());
        self.run(move |inner| {
            inner.change(&caller, &id, |_, state| {
                let removed = names(state, kind).remove(&name);
                removed
                    .map(|_| ())
                    .ok_or(RegistryError::RevisionNotFound { revision: name })
            })
        })
    }
}

fn names(state: &mut State, kind: RefKind) -> &mut BTreeMap<String, String> {
    match kind {
        RefKind::Branch => &mut state.branches,
        RefKind::Tag => &mut state.tags,
    }
}
