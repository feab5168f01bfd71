//! Checkpoints: for each file the one copy that Jupyter keeps, in `.ipynb_checkpoints` beside it.

use std::fs;
use std::path::PathBuf;

use alephlab_api::time;
use serde::Serialize;

use super::Files;
use super::model::is_there;
use super::place::{Place, failed};
use super::room::bytes_of;
use super::save::copy_over;
use crate::error::{GatewayError, Result};

pub(super) const FOLDER: &str = ".ipynb_checkpoints";
/// The one id that there is.
const ID: &str = "checkpoint";

/// A checkpoint, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Checkpoint {
    pub(crate) id: &'static str,
    pub(crate) last_modified: String,
}

impl Files {
    fn checkpoint_path(&self, place: &Place) -> Result<PathBuf> {
        let folder = place.folder().on_disk(&self.root)?.join(FOLDER);
        let name = place.name();
        let (stem, extension) = match name.rfind('.') {
            Some(at) if at > 0 => name.split_at(at),
            _ => (name, ""),
        };
        Ok(folder.join(format!("{stem}-checkpoint{extension}")))
    }

    /// Those of a file: one or none.
    pub(crate) fn checkpoints(&self, place: &Place) -> Result<Vec<Checkpoint>> {
        is_there(place, &place.on_disk(&self.root)?)?;
        let modified = fs::metadata(self.checkpoint_path(place)?).and_then(|meta| meta.modified());
        let checkpoint = modified.map(|modified| Checkpoint {
            id: ID,
            last_modified: time::format(modified),
        });
        Ok(checkpoint.into_iter().collect())
    }

    /// Keeps the file as it is now.
    pub(crate) fn make_checkpoint(&self, place: &Place) -> Result<Checkpoint> {
        let _one = self.change();
        let (from, to) = (self.file(place)?, self.checkpoint_path(place)?);
        let (before, after) = (bytes_of(&to), bytes_of(&from));
        self.has_room(place, before, after)?;
        let error = |error: std::io::Error| failed("kept", &place.path(), &error);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(error)?;
        }
        copy_over(&from, &to).map_err(error)?;
        self.moved(before, after);
        let modified = fs::metadata(&to)
            .and_then(|meta| meta.modified())
            .map_err(error)?;
        Ok(Checkpoint {
            id: ID,
            last_modified: time::format(modified),
        })
    }

    /// Puts the file back as it was kept.
    pub(crate) fn restore_checkpoint(&self, place: &Place, id: &str) -> Result<()> {
        let _one = self.change();
        let from = self.known(place, id)?;
        let to = place.on_disk(&self.root)?;
        let (before, after) = (bytes_of(&to), bytes_of(&from));
        self.has_room(place, before, after)?;
        copy_over(&from, &to).map_err(|error| failed("put back", &place.path(), &error))?;
        self.moved(before, after);
        Ok(())
    }

    /// Forgets what was kept.
    pub(crate) fn delete_checkpoint(&self, place: &Place, id: &str) -> Result<()> {
        let _one = self.change();
        let path = self.known(place, id)?;
        let before = bytes_of(&path);
        fs::remove_file(path).map_err(|error| failed("deleted", &place.path(), &error))?;
        self.moved(before, 0);
        Ok(())
    }

    fn known(&self, place: &Place, id: &str) -> Result<PathBuf> {
        let path = self.checkpoint_path(place)?;
        match id == ID && path.is_file() {
            true => Ok(path),
            false => {
                let message = format!("`{}` has no checkpoint `{id}`", place.path());
                Err(GatewayError::not_found("checkpoint_unknown", message))
            }
        }
    }

    /// The checkpoint follows its file. What is kept is not worth an error.
    pub(super) fn move_checkpoint(&self, from: &Place, to: &Place) {
        if let (Ok(from), Ok(to)) = (self.checkpoint_path(from), self.checkpoint_path(to))
            && from.is_file()
        {
            let _ = to.parent().map(fs::create_dir_all);
            let _ = fs::rename(from, to);
        }
    }

    pub(super) fn forget_checkpoint(&self, place: &Place) {
        if let Ok(path) = self.checkpoint_path(place) {
            let before = bytes_of(&path);
            if fs::remove_file(path).is_ok() {
                self.moved(before, 0);
            }
        }
    }
}
