//! Writing files so that a reader never sees half of one. Called by [`crate::table`] and [`crate::model`].

use std::path::Path;

use crate::{Error, Result};

/// Writes a file beside `path` and renames it over `path`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = unfinished(path);
    let written = std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
    written.map_err(|source| {
        // What is left of a failed attempt is of no use to anybody.
        let _ = std::fs::remove_file(&unfinished);
        Error::file("write", path, source)
    })
}

/// The name under which `path` is written before it is whole.
pub(crate) fn unfinished(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_whole(&folder.path().join("no/folder.csv"), b"x").unwrap_err();
        assert!(error.to_string().contains("no/folder.csv"), "{error}");
    }
}
