//! The runtime template: a folder with the runtime built once, which every kernel copies in a blink.
//!
//! `stamp.json` (written last: no stamp, no template), `source/` (trimmed sources and our Cargo.lock), `evcxr/`
//! (evcxr's build folder with everything compiled), `libalephlab_zygote.so` (makes rustc a compile server), `kernels/`
//! (private copies of running kernels), `compiled/` (cells and items of all kernels), `bundles/` (crates of `:dep`); and the last
//! three once more for each account whose kernels run in sandboxes, in `accounts/`.
//! [`build`] makes one, [`stamp`] checks one, [`private`] copies one. Called by the program and the evaluator.

pub mod build;
pub(crate) mod metadata;
pub(crate) mod private;
mod source;
pub mod stamp;

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where things lie in a template folder.
#[derive(Debug, Clone)]
pub struct Template {
    root: PathBuf,
}

impl Template {
    /// The template in `root`, which need not exist yet.
    ///
    /// # Errors
    /// [`Error::File`] when the current folder is gone and `root` is relative.
    pub fn new(root: &Path) -> Result<Self> {
        Ok(Self {
            root: std::path::absolute(root).map_err(Error::file("find", root))?,
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    pub(crate) fn evcxr(&self) -> PathBuf {
        self.root.join("evcxr")
    }

    pub(crate) fn stamp(&self) -> PathBuf {
        self.root.join("stamp.json")
    }

    pub(crate) fn zygote(&self) -> PathBuf {
        self.root.join("libalephlab_zygote.so")
    }

    pub(crate) fn compiled(&self) -> PathBuf {
        self.root.join("compiled")
    }

    pub(crate) fn bundles(&self) -> PathBuf {
        self.root.join("bundles")
    }

    /// Those of all, and of accounts whose kernels the agent keeps apart: they find their own in the place of these.
    pub(crate) fn all_bundles(&self) -> Vec<PathBuf> {
        let accounts = std::fs::read_dir(self.root.join("accounts"));
        let accounts = accounts.into_iter().flatten().flatten();
        let of_accounts = accounts.map(|account| account.path().join("bundles"));
        std::iter::once(self.bundles()).chain(of_accounts).collect()
    }

    pub(crate) fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// The `:dep` line that brings in the runtime.
    pub(crate) fn dependency(&self) -> String {
        format!(":dep alephlab = {{ path = {:?} }}", self.source().join("runtime"))
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text).map_err(Error::file("write", &part))?;
    std::fs::rename(&part, path).map_err(Error::file("write", path))
}
