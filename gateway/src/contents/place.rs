//! Paths that clients send, and the files that they mean: inside the account's folder, whatever they say.

use std::fs;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;

use crate::error::{GatewayError, Result};

/// Longest path, bytes, and longest component.
const MAX_PATH: usize = 4_096;
const MAX_COMPONENT: usize = 255;

/// A path below an account's folder, checked: no component is hidden, empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    components: Vec<String>,
}

impl Place {
    /// Of what a client sent; slashes around it do not count, an empty one is the folder itself.
    ///
    /// # Errors
    /// 400 `path_bad` with the broken rule. 404 for a hidden one, as for what is not there.
    pub(crate) fn parse(path: &str) -> Result<Self> {
        let bad = |reason: &str| {
            Err(GatewayError::bad_request(
                "path_bad",
                format!("this path {reason}"),
            ))
        };
        if path.len() > MAX_PATH {
            return bad("is longer than 4,096 bytes");
        }
        if path.chars().any(char::is_control) {
            return bad("has a control character in it");
        }
        let mut components = Vec::new();
        for component in path.trim_matches('/').split('/').filter(|part| !part.is_empty()) {
            if component == "." || component == ".." {
                return bad("has a component . or ..");
            }
            if component.len() > MAX_COMPONENT {
                return bad("has a component of more than 255 bytes");
            }
            if component.starts_with('.') {
                return Err(absent(path));
            }
            components.push(component.to_owned());
        }
        Ok(Self { components })
    }

    /// As clients see it, without slashes around it.
    pub(crate) fn path(&self) -> String {
        self.components.join("/")
    }

    /// The last component; empty for the folder itself.
    pub(crate) fn name(&self) -> &str {
        self.components.last().map_or("", String::as_str)
    }

    /// The folder that it is in.
    pub(crate) fn folder(&self) -> Self {
        let count = self.components.len().saturating_sub(1);
        Self {
            components: self.components[..count].to_vec(),
        }
    }

    /// Something in it.
    pub(crate) fn join(&self, name: &str) -> Result<Self> {
        Self::parse(&format!("{}/{name}", self.path()))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    /// Where it is on this machine. The folder that it is in must be below `root` after all links were followed: a link that
    /// leads out is as good as absent.
    ///
    /// # Errors
    /// 404 `file_unknown` when that folder is not there.
    pub(crate) fn on_disk(&self, root: &Path) -> Result<PathBuf> {
        let root = fs::canonicalize(root).map_err(|_| absent(&self.path()))?;
        if self.is_root() {
            return Ok(root);
        }
        let mut path = root.clone();
        path.extend(&self.folder().components);
        let folder = fs::canonicalize(&path).map_err(|_| absent(&self.path()))?;
        let path = folder.join(self.name());
        // The thing itself may be a link, too.
        let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let is_broken_link =
            target == path && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        if !folder.starts_with(&root) || !target.starts_with(&root) || is_broken_link {
            return Err(absent(&self.path()));
        }
        Ok(path)
    }
}

/// The one answer for what is not there, or not to be seen.
pub(crate) fn absent(path: &str) -> GatewayError {
    GatewayError::not_found("file_unknown", format!("there is no file or folder `{path}`"))
}

/// What a file system said.
pub(crate) fn failed(what: &str, path: &str, error: &std::io::Error) -> GatewayError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => absent(path),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => GatewayError::refused(
            StatusCode::INSUFFICIENT_STORAGE,
            "storage_full",
            format!("`{path}` could not be {what}: there is no room left"),
        ),
        ErrorKind::PermissionDenied => GatewayError::refused(
            StatusCode::FORBIDDEN,
            "file_forbidden",
            format!("`{path}` could not be {what}: the system forbids it"),
        ),
        _ => GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "file_failed",
            format!("`{path}` could not be {what}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_paths_as_clients_send_them() {
        for (sent, path) in [
            ("", ""),
            ("/", ""),
            ("/a/b.txt", "a/b.txt"),
            ("a//b/", "a/b"),
            ("ä ö/%41", "ä ö/%41"),
        ] {
            assert_eq!(Place::parse(sent).unwrap().path(), path, "{sent}");
        }
        assert_eq!(Place::parse("a/b").unwrap().folder().path(), "a");
    }

    #[test]
    fn refuses_what_leads_out_and_hides_what_is_hidden() {
        for bad in ["..", "a/../b", "a/..", "./a", "a\0b", "a\nb", &"x".repeat(300)] {
            assert_eq!(Place::parse(bad).unwrap_err().code(), "path_bad", "{bad}");
        }
        for hidden in [".ssh", "a/.hidden/b", ".ipynb_checkpoints/x"] {
            assert_eq!(
                Place::parse(hidden).unwrap_err().code(),
                "file_unknown",
                "{hidden}"
            );
        }
    }

    #[test]
    fn links_that_lead_out_are_absent() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        link(outside.path(), "out");
        link(&outside.path().join("secret"), "file");
        link(&outside.path().join("none"), "broken");
        link(&folder.path().join("in"), "inside");
        let on_disk = |path: &str| Place::parse(path).unwrap().on_disk(folder.path());
        for bad in ["out", "out/secret", "file", "broken", "none/x"] {
            assert_eq!(on_disk(bad).unwrap_err().code(), "file_unknown", "{bad}");
        }
        assert!(on_disk("in/new").is_ok() && on_disk("inside").is_ok() && on_disk("").is_ok());
    }
}
