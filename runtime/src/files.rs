//! Files of datasets and models: listing a folder, staying inside it, and writing so that a reader never sees half
//! of a file. Called by [`crate::dataset`], [`crate::model`], [`crate::table`] and
//! [`crate::train`].

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Most files that a folder is listed with, and the deepest folder that is looked into.
const FILES_MAX: usize = 100_000;
const DEPTH_MAX: usize = 64;

/// All files under `root`, relative to it, sorted. Links are not followed.
pub(crate) fn list(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let failed = |source| Error::file("read", &folder, source);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && found.len() < FILES_MAX {
                found.extend(entry.path().strip_prefix(root).map(Path::to_owned));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The path of the file `relative` under `root`; `owner` is what a person calls the root.
pub(crate) fn inside(root: &Path, relative: &Path, owner: &str) -> Result<PathBuf> {
    let refused = |reason| Error::Name {
        name: relative.display().to_string(),
        reason,
    };
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain || relative.as_os_str().is_empty() {
        return Err(refused(format!(
            "a path inside {owner} has no `..` and no `/` in front"
        )));
    }
    let path = root.join(relative);
    if path.is_file() {
        return Ok(path);
    }
    let known: Vec<String> = list(root)?
        .iter()
        .take(12)
        .map(|file| file.display().to_string())
        .collect();
    Err(refused(format!(
        "{owner} has no such file; it has {}",
        known.join(", ")
    )))
}

/// Writes a file beside `path` and renames it over `path`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |unfinished| {
        std::fs::write(unfinished, bytes).map_err(|source| Error::file("write", path, source))
    })
}

/// Lets `write` make a file beside `path` and renames it over `path` when that succeeded.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let written = write(&unfinished).and_then(|()| {
        std::fs::rename(&unfinished, path).map_err(|source| Error::file("write", path, source))
    });
    if written.is_err() {
        // What is left of a failed attempt is of no use to anybody.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

/// As [`replace`], and when it answers the file is there even after the machine lost its power.
pub(crate) fn replace_durably(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let synced = |path: &Path| {
        let opened = std::fs::File::open(path);
        opened
            .and_then(|file| file.sync_all())
            .map_err(|source| Error::file("write", path, source))
    };
    replace(path, |unfinished| {
        write(unfinished)?;
        synced(unfinished)
    })?;
    // The new name is in the folder, which has to reach the disk as well.
    path.parent().map_or(Ok(()), synced)
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

    #[test]
    fn lists_files_of_inner_folders_but_no_links() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [PathBuf::from("a/b/c")]);
    }
}
