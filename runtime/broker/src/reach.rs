//! Which files of the host a cell may name to be sealed: those that it sees itself.
//!
//! Cells run in a sandbox, the broker does not. It would read the gateway's keys for a cell that names them, or that puts a
//! link to them in the place of a file while it is looked at. So what counts is where a file lies that is open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_vault::{Source, SourceFile, open_within};

use crate::{BrokerError, Result};

/// The folders of cells; none where cells see what the broker sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach(Option<Arc<[PathBuf]>>);

impl Reach {
    /// Only these folders. One that is not there holds no file.
    pub(crate) fn within<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Self {
        let real = folders
            .into_iter()
            .filter_map(|folder| folder.canonicalize().ok());
        Self(Some(real.collect()))
    }

    /// Refuses early, and in words, what lies elsewhere.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let Some(folders) = &self.0 else { return Ok(()) };
        let is_in = |real: &PathBuf| folders.iter().any(|folder| real.starts_with(folder));
        if path.canonicalize().is_ok_and(|real| is_in(&real)) {
            return Ok(());
        }
        let place = folders
            .first()
            .map_or_else(String::new, |folder| folder.display().to_string());
        Err(BrokerError::Request {
            reason: format!(
                "{} is not there outside of this kernel's sandbox: put it into {place}",
                path.display()
            ),
        })
    }

    /// The same file, to be read only where it lies in reach when it is opened.
    pub(crate) fn bound(&self, mut file: SourceFile) -> SourceFile {
        if let (Some(folders), Source::Path(path)) = (&self.0, &file.source) {
            file.source = Source::Within {
                path: path.clone(),
                folders: Arc::clone(folders),
            };
        }
        file
    }

    pub(crate) fn open(&self, path: &Path) -> std::io::Result<File> {
        match &self.0 {
            Some(folders) => open_within(path, folders),
            None => File::open(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_is_refused_also_through_a_link() {
        let (home, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = data.path().join("wallet.key");
        std::fs::write(&key, "canary").unwrap();
        let own = home.path().join("a.csv");
        std::fs::write(&own, "1").unwrap();
        let reach = Reach::within([home.path()]);
        assert!(reach.check(&own).is_ok() && reach.open(&own).is_ok());
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&key, &link).unwrap();
        for bad in [&key, &link, &home.path().join("../x")] {
            assert_eq!(reach.check(bad).unwrap_err().code(), "broker_request", "{bad:?}");
            assert!(reach.open(bad).is_err(), "{bad:?}");
        }
        // Looked at as a file, and a link when it is sealed.
        let bound = reach.bound(SourceFile::file("a.csv", &own));
        assert_eq!(bound.size().unwrap(), 1);
        std::fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(&key, &own).unwrap();
        assert!(bound.size().is_err());
        assert!(
            Reach::default().open(&own).is_ok(),
            "without a sandbox cells see it anyway"
        );
    }
}
