//! Files as samples: whatever a closure makes of each.

use std::path::{Path, PathBuf};

use super::{Sample, Samples};
use crate::Result;
use crate::train::fingerprint_of;

/// Files, each of which a closure makes a sample of, when its turn comes and on a thread of the loader's.
///
/// ```no_run
/// # use alephlab::prelude::*;
/// # fn main() -> alephlab::Result<()> {
/// let data = mount("sounds")?;
/// let files = data.files()?.into_iter().map(|file| data.path().join(file));
/// let loader = Loader::new(Files::new(files, |path| {
///     let loud = path.to_string_lossy().contains("loud");
///     Sample::of_class(read_npy(path)?, u32::from(loud))
/// }));
/// # Ok(()) }
/// ```
pub struct Files {
    paths: Vec<PathBuf>,
    read: Box<Read>,
}

type Read = dyn Fn(&Path) -> Result<Sample> + Send + Sync;

impl Files {
    /// These files, in this order, each made a sample by `read`.
    pub fn new<P: Into<PathBuf>>(
        paths: impl IntoIterator<Item = P>,
        read: impl Fn(&Path) -> Result<Sample> + Send + Sync + 'static,
    ) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            read: Box::new(read),
        }
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Files")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl Samples for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        match self.paths.get(index) {
            Some(path) => (self.read)(path),
            None => Err(crate::Error::Data {
                reason: format!("there is no file {index}: there are {}", self.paths.len()),
            }),
        }
    }

    fn name(&self, index: usize) -> String {
        self.paths
            .get(index)
            .map_or_else(|| format!("file {index}"), |path| path.display().to_string())
    }

    /// Of the names, not of what the files hold: that would be to read them all.
    fn fingerprint(&self) -> Result<Option<u64>> {
        Ok(Some(fingerprint_of(&format!("{:?}", self.paths))))
    }
}
