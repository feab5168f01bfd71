//! Which files of the host a cell may name to be sealed: those that it sees itself.
//!
//! Cells run in a sandbox, the broker does not. It would read the gateway's keys for a cell that names them, or that puts a
//! link to them in the place of a file while it is looked at. So what counts is where a file lies that is open.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use alephlab_vault::{Bounds, Source, SourceFile, open_within};

use crate::{BrokerError, Result};

/// The folders of cells; none where cells see what the broker sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach(Option<Arc<Bounds>>);

impl Reach {
    /// Only within these bounds. Their folders are taken by the names that they have: looked up now, a name could lead where
    /// a cell just put a link to.
    pub(crate) fn within(bounds: Bounds) -> Self {
        Self(Some(Arc::new(bounds)))
    }

    /// Refuses early, and in words, what lies elsewhere.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let Some(bounds) = &self.0 else { return Ok(()) };
        if path.canonicalize().is_ok_and(|real| bounds.hold(&real)) {
            return Ok(());
        }
        let place = bounds
            .shown
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
        if let (Some(bounds), Source::Path(path)) = (&self.0, &file.source) {
            file.source = Source::Within {
                path: path.clone(),
                bounds: Arc::clone(bounds),
            };
        }
        file
    }

    pub(crate) fn open(&self, path: &Path) -> std::io::Result<File> {
        match &self.0 {
            Some(bounds) => open_within(path, bounds),
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
        let reach = Reach::within(Bounds {
            shown: vec![home.path().canonicalize().unwrap()],
            ..Bounds::default()
        });
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

    #[test]
    fn a_folder_that_became_a_link_is_not_followed_and_what_is_hidden_in_one_stays_so() {
        let all = tempfile::tempdir().unwrap();
        let all = all.path().canonicalize().unwrap();
        let (work, data) = (all.join("work"), all.join("work/data"));
        std::fs::create_dir_all(&data).unwrap();
        let (own, key) = (work.join("a.csv"), data.join("wallet.key"));
        for file in [&own, &key] {
            std::fs::write(file, "1").unwrap();
        }
        let within = |shown: &Path, hidden: &Path| {
            Reach::within(Bounds {
                shown: vec![shown.to_owned()],
                hidden: vec![hidden.to_owned()],
            })
        };
        let reach = within(&work, &data);
        assert!(reach.check(&own).is_ok() && reach.open(&own).is_ok());
        assert!(reach.check(&key).is_err() && reach.open(&key).is_err());
        let swapped = all.join("swapped");
        std::os::unix::fs::symlink(&data, &swapped).unwrap();
        let (reach, key) = (
            within(&swapped, Path::new("/nowhere")),
            swapped.join("wallet.key"),
        );
        assert!(reach.check(&key).is_err() && reach.open(&key).is_err());
    }
}
