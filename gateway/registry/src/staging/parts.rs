//! Uploads in parts: one file of the whole size, and a file for each part that is in it.
//!
//! A part counts when its own file is there, which is made after its bytes were synced. The object gets its name when
//! the whole was hashed, and nobody may write a part while that is done: so no verified object changes any more.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alephlab_api::model::is_hex;
use sha2::{Digest as _, Sha256};

use super::incoming::{sync_folder, too_large};
use super::{CallerKey, Result, Sink, Staging, failed, private_file, private_folder};
use crate::RegistryError;

/// The most parts of one upload.
pub(crate) const PARTS_MAX: u64 = 10_000;

/// Uploads that somebody works on: how many write parts, or that one finishes it.
#[derive(Default)]
pub(super) struct Uploads(Mutex<HashMap<PathBuf, Busy>>);

enum Busy {
    Writing(usize),
    Finishing,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Busy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let mut busy = self.lock();
        match busy.entry(folder.to_owned()).or_insert(Busy::Writing(0)) {
            Busy::Writing(count) => *count += 1,
            Busy::Finishing => return Err(RegistryError::invalid("this upload is being finished")),
        }
        Ok(())
    }

    fn finish(&self, folder: &Path) -> Result<()> {
        let mut busy = self.lock();
        if busy.contains_key(folder) {
            return Err(RegistryError::invalid(
                "parts of this upload are still being received",
            ));
        }
        busy.insert(folder.to_owned(), Busy::Finishing);
        Ok(())
    }

    fn leave(&self, folder: &Path) {
        let mut busy = self.lock();
        match busy.get_mut(folder) {
            Some(Busy::Writing(count)) if *count > 1 => *count -= 1,
            _ => {
                busy.remove(folder);
            }
        }
    }
}

/// Takes itself off the list of those that work on an upload.
struct Turn {
    staging: Arc<Staging>,
    folder: PathBuf,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.staging.uploads.leave(&self.folder);
    }
}

/// One object that is uploaded in parts.
#[derive(Debug, Clone)]
pub(crate) struct Parted {
    pub(crate) sha256: String,
    pub(crate) size: u64,
    /// Bytes of each part but the last.
    pub(crate) part: u64,
}

impl Parted {
    pub(crate) fn count(&self) -> u64 {
        self.size.div_ceil(self.part.max(1))
    }

    /// Bytes of part `number`, counted from one.
    fn span(&self, number: u64) -> Option<std::ops::Range<u64>> {
        let start = number.checked_sub(1)?.checked_mul(self.part)?;
        (start < self.size).then(|| start..start.saturating_add(self.part).min(self.size))
    }
}

/// One part on its way in.
pub(crate) struct PartSink {
    file: File,
    marker: PathBuf,
    at: u64,
    end: u64,
    hash: Sha256,
    turn: Turn,
}

impl PartSink {
    /// Part `number` of an upload, which this begins if it is the first.
    pub(crate) fn new(
        staging: &Arc<Staging>,
        caller: &CallerKey,
        whole: &Parted,
        number: u64,
    ) -> Result<Self> {
        let span = whole.span(number);
        let span = span.ok_or_else(|| RegistryError::invalid("the upload has no such part"))?;
        let folder = staging.parts_of(caller, whole)?;
        staging.uploads.write(&folder)?;
        let turn = Turn {
            staging: Arc::clone(staging),
            folder: folder.clone(),
        };
        let file = staging.data(caller, &folder, whole.size)?;
        let marker = folder.join(number.to_string());
        // Until it is whole again, it is not there.
        let _ = fs::remove_file(&marker);
        Ok(Self {
            file,
            marker,
            at: span.start,
            end: span.end,
            hash: Sha256::new(),
            turn,
        })
    }

    /// Counts the part as there; returns its tag.
    pub(crate) fn keep(self) -> Result<String> {
        if self.at != self.end {
            return Err(RegistryError::invalid("the part is too short"));
        }
        self.file.sync_data().map_err(failed)?;
        let tag = hex::encode(self.hash.finalize());
        fs::write(&self.marker, &tag).map_err(failed)?;
        sync_folder(&self.turn.folder)?;
        Ok(tag)
    }
}

impl Sink for PartSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let next = self.at.saturating_add(bytes.len() as u64);
        if next > self.end {
            return Err(too_large(self.end - self.at));
        }
        self.file.write_all_at(bytes, self.at).map_err(failed)?;
        self.hash.update(bytes);
        self.at = next;
        Ok(())
    }
}

impl Staging {
    /// Folder of an upload, which need not be there.
    fn parts_place(&self, caller: &CallerKey, whole: &Parted) -> Result<PathBuf> {
        if !is_hex(&whole.sha256, 64) || whole.count() > PARTS_MAX {
            return Err(RegistryError::invalid(
                "no upload in parts has this hash and size",
            ));
        }
        let name = format!("{}-{}-{}", whole.sha256, whole.size, whole.part);
        Ok(self.place("parts", caller, &name))
    }

    fn parts_of(&self, caller: &CallerKey, whole: &Parted) -> Result<PathBuf> {
        let folder = self.parts_place(caller, whole)?;
        private_folder(&folder).map_err(failed)?;
        Ok(folder)
    }

    /// Removes an upload that nobody works on.
    pub(super) fn drop_parts(&self, caller: &CallerKey, folder: &Path) {
        if self.uploads.finish(folder).is_err() {
            return;
        }
        self.clear_parts(caller, folder);
        self.uploads.leave(folder);
    }

    fn clear_parts(&self, caller: &CallerKey, folder: &Path) {
        let size = super::size(&folder.join("data"));
        if fs::remove_dir_all(folder).is_ok() {
            self.give_back(caller, size.unwrap_or(0));
        }
    }

    /// The file for the whole, charged for in full when it is made.
    fn data(&self, caller: &CallerKey, folder: &Path, size: u64) -> Result<File> {
        let path = folder.join("data");
        let options = private_file();
        match options.clone().create_new(true).open(&path) {
            Ok(file) => {
                if let Err(error) = self.take(caller, size) {
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
                file.set_len(size).map_err(failed)?;
                Ok(file)
            }
            Err(_) => options.open(&path).map_err(failed),
        }
    }

    /// Makes an object of all parts. Asked again after it was done, it says yes again.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when a part is missing or the hash is another; the parts stay.
    pub(crate) fn finish_parts(self: &Arc<Self>, caller: &CallerKey, whole: &Parted) -> Result<()> {
        if self.object(caller, &whole.sha256).is_some() {
            self.drop_parts(caller, &self.parts_place(caller, whole)?);
            return Ok(());
        }
        let folder = self.parts_of(caller, whole)?;
        self.uploads.finish(&folder)?;
        let turn = Turn {
            staging: Arc::clone(self),
            folder,
        };
        for number in 1..=whole.count() {
            if !turn.folder.join(number.to_string()).is_file() {
                return Err(RegistryError::invalid(format!("part {number} is missing")));
            }
        }
        let data = turn.folder.join("data");
        let found = hash(&data)?;
        if found != whole.sha256 {
            return Err(RegistryError::invalid(format!(
                "the parts have SHA-256 {found} together, not {}",
                whole.sha256
            )));
        }
        let objects = self.root.join("objects").join(caller.as_str());
        private_folder(&objects).map_err(failed)?;
        self.settle(caller, &data, &objects.join(&whole.sha256))?;
        sync_folder(&objects)?;
        // What is left of it is charged for only if the object was there already.
        self.clear_parts(caller, &turn.folder);
        Ok(())
    }
}

fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}
