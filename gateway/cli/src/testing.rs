//! What the tests of this program share: a folder of their own that goes away.

use std::path::{Path, PathBuf};

/// A folder that is removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Makes a fresh folder.
pub(crate) fn scratch() -> Scratch {
    let path = std::env::temp_dir().join(format!("alephlab-cli-{:016x}", rand::random::<u64>()));
    std::fs::create_dir(&path).unwrap();
    Scratch(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
