//! Notebooks and files of accounts, as the Jupyter Server's contents API has them: one folder for each account.
//!
//! Everything here blocks; routes call it on threads for that. A file is written beside the old one and put in its place, so
//! that whoever reads sees one or the other. Not here: HTTP.

mod checkpoints;
mod model;
mod outputs;
mod place;
mod room;
mod save;
mod trust;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use crate::error::{GatewayError, Result};

pub(crate) use model::{Asked, Kind, Model};
pub(crate) use outputs::Rewritten;
pub(crate) use place::Place;
pub(crate) use room::size;
pub(crate) use save::Sent;
pub(crate) use trust::mark as mark_trusted;

use model::describe;
use place::{absent, failed};
use room::{Total, bytes_of};

/// Folders of all accounts.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    root: PathBuf,
    /// Bytes that an account's files may take; none is no limit.
    limit: Option<u64>,
    accounts: Arc<Mutex<HashMap<String, Arc<OfAccount>>>>,
}

/// What is shared by all that uses one account's files.
#[derive(Debug, Default)]
struct OfAccount {
    /// Held by whoever changes something: what is read, changed and written must not cross what a page saves.
    writing: Mutex<()>,
    total: Total,
}

/// One account's files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    root: PathBuf,
    limit: Option<u64>,
    account: Arc<OfAccount>,
}

impl Contents {
    /// In folders below `root`, of so many bytes each.
    pub(crate) fn new(root: PathBuf, limit: Option<u64>) -> Self {
        Self {
            root,
            limit,
            accounts: Arc::default(),
        }
    }

    /// Bytes that an account's files may take; none is no limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The files of an account, in a folder that is made where there is none.
    pub(crate) fn of(&self, account: &str) -> Result<Files> {
        use std::os::unix::fs::DirBuilderExt as _;
        let root = self.root.join(folder_of(account));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(|error| failed("made", "", &error))?;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = Arc::clone(accounts.entry(folder_of(account)).or_default());
        Ok(Files {
            root,
            limit: self.limit,
            account,
        })
    }

    /// The name of an account's folder below the root of all.
    ///
    /// # Errors
    /// `host_unavailable` when it cannot be made: nothing of the account may be started then, because agents take no name for
    /// a host of one account, whose kernels see all folders.
    pub(crate) fn home_of(&self, account: &str) -> Result<String> {
        match self.of(account) {
            Ok(_) => Ok(folder_of(account)),
            Err(error) => Err(GatewayError::Host {
                reason: format!("the account's folder cannot be made: {error}"),
            }),
        }
    }

    /// The folder of a document below the root of all, for the kernel that serves it; none when there is no such folder.
    pub(crate) fn working_folder(&self, account: &str, document: &str) -> Option<String> {
        self.below_root(account, &Place::parse(document).ok()?.folder())
    }

    /// The same for a folder that a terminal is to be opened in; where there is none, the account's own.
    pub(crate) fn terminals_folder(&self, account: &str, asked: &str) -> Option<String> {
        let asked = Place::parse(asked).ok();
        let own = || self.below_root(account, &Place::parse("").ok()?);
        asked
            .and_then(|asked| self.below_root(account, &asked))
            .or_else(own)
    }

    fn below_root(&self, account: &str, folder: &Place) -> Option<String> {
        let files = self.of(account).ok()?;
        let is_there = folder.on_disk(&files.root).is_ok_and(|path| path.is_dir());
        is_there.then(|| format!("{}/{}", folder_of(account), folder.path()))
    }
}

/// An address is a name that every file system takes; in lower case, however it was spelled.
fn folder_of(account: &str) -> String {
    account.to_ascii_lowercase()
}

impl Files {
    fn change(&self) -> MutexGuard<'_, ()> {
        self.account
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A file or folder; its content only if that is asked for.
    pub(crate) fn get(&self, place: &Place, asked: &Asked) -> Result<Model> {
        let path = place.on_disk(&self.root)?;
        describe(place, &path, asked)
    }

    /// The file itself, for a download.
    pub(crate) fn file(&self, place: &Place) -> Result<PathBuf> {
        let path = place.on_disk(&self.root)?;
        if path.is_file() {
            return Ok(path);
        }
        Err(absent(&place.path()))
    }

    /// A new file, notebook or folder in `folder`, under a name that is free.
    pub(crate) fn create(&self, folder: &Place, kind: Kind, extension: &str) -> Result<Model> {
        let (stem, extension, gap) = match kind {
            Kind::Notebook => ("Untitled", ".ipynb", ""),
            Kind::Directory => ("Untitled Folder", "", " "),
            Kind::File => ("untitled", extension, ""),
        };
        let extension = match extension.starts_with('.') || extension.is_empty() {
            true => extension.to_owned(),
            false => format!(".{extension}"),
        };
        let place = self.free(folder, stem, gap, &extension)?;
        let sent = match kind {
            Kind::Directory => Sent::directory(),
            Kind::File => Sent::text(String::new()),
            Kind::Notebook => Sent::empty_notebook(),
        };
        self.save(&place, &sent).map(|(model, _)| model)
    }

    /// A copy of a file in `folder`.
    pub(crate) fn copy(&self, folder: &Place, from: &Place) -> Result<Model> {
        let _one = self.change();
        let source = self.file(from)?;
        let name = from.name();
        let (stem, extension) = match name.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => (stem, format!(".{extension}")),
            _ => (name, String::new()),
        };
        // A copy of a copy is the next copy of the same.
        let stem = match stem.rsplit_once("-Copy") {
            Some((first, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => first,
            _ => stem,
        };
        let place = self.numbered(folder, 1.., |number| format!("{stem}-Copy{number}{extension}"))?;
        let path = place.on_disk(&self.root)?;
        self.has_room(&place, 0, bytes_of(&source))?;
        let copied = fs::copy(source, &path).map_err(|error| failed("copied", &from.path(), &error))?;
        self.moved(0, copied);
        describe(&place, &path, &Asked::default())
    }

    /// Another name or folder; what is there already stays.
    pub(crate) fn rename(&self, from: &Place, to: &Place) -> Result<Model> {
        let _one = self.change();
        let (source, target) = (from.on_disk(&self.root)?, to.on_disk(&self.root)?);
        if from.is_root() || to.is_root() {
            return Err(GatewayError::bad_request(
                "path_bad",
                "the folder of all files keeps its name",
            ));
        }
        if source != target {
            rename_new(&source, &target).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => exists(to),
                _ => failed("renamed", &from.path(), &error),
            })?;
            self.move_checkpoint(from, to);
        }
        describe(to, &target, &Asked::default())
    }

    /// Deletes a file, or a folder with nothing in it but checkpoints.
    pub(crate) fn delete(&self, place: &Place) -> Result<()> {
        let _one = self.change();
        let path = place.on_disk(&self.root)?;
        let error = |error: std::io::Error| failed("deleted", &place.path(), &error);
        if place.is_root() {
            return Err(GatewayError::bad_request(
                "path_bad",
                "the folder of all files stays",
            ));
        }
        let meta = fs::symlink_metadata(&path).map_err(error)?;
        if !meta.is_dir() {
            fs::remove_file(&path).map_err(error)?;
            self.moved(if meta.is_file() { meta.len() } else { 0 }, 0);
            self.forget_checkpoint(place);
            return Ok(());
        }
        let mut entries = fs::read_dir(&path).map_err(error)?.flatten();
        if entries.any(|entry| entry.file_name() != checkpoints::FOLDER) {
            let message = format!("the folder `{}` is not empty", place.path());
            return Err(GatewayError::bad_request("folder_not_empty", message)
                .with_hint("delete what is in it first"));
        }
        let kept = room::bytes_below(&path);
        fs::remove_dir_all(&path).map_err(error)?;
        self.moved(kept, 0);
        Ok(())
    }

    /// A name in `folder` that begins with `stem` and that nothing has.
    pub(crate) fn free_name(&self, folder: &Place, stem: &str, extension: &str) -> Result<Place> {
        self.free(folder, stem, "", extension)
    }

    fn free(&self, folder: &Place, stem: &str, gap: &str, extension: &str) -> Result<Place> {
        self.numbered(folder, 0.., |number| match number {
            0 => format!("{stem}{extension}"),
            _ => format!("{stem}{gap}{number}{extension}"),
        })
    }

    /// The first name that is free.
    fn numbered(
        &self,
        folder: &Place,
        numbers: impl Iterator<Item = u32>,
        name: impl Fn(u32) -> String,
    ) -> Result<Place> {
        if !folder.on_disk(&self.root)?.is_dir() {
            return Err(absent(&folder.path()));
        }
        for number in numbers {
            let place = folder.join(&name(number))?;
            if fs::symlink_metadata(place.on_disk(&self.root)?).is_err() {
                return Ok(place);
            }
        }
        Err(exists(folder))
    }
}

fn exists(place: &Place) -> GatewayError {
    let message = format!("there is already a file or folder `{}`", place.path());
    GatewayError::refused(StatusCode::CONFLICT, "file_exists", message)
}

/// Renames without replacing anything.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot; then what is there is looked for.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        renamed => renamed.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests;
