//! Uploading from a cell: [`upload`] makes a folder or a file the next version of a dataset of one's own.

use std::path::{Path, PathBuf};

use alephlab_api::broker::{Op, Uploaded};

use crate::display::{Bundle, Rich};
use crate::live::{facts_html, facts_text};
use crate::progress::{bytes, counted_files};
use crate::{Error, Result, broker};

/// A folder or file on its way to become a version of a dataset; [`upload`] begins one where more is to be said than where the
/// files are.
#[derive(Debug, Clone)]
pub struct Upload {
    path: PathBuf,
    name: Option<String>,
    description: Option<String>,
    licence: Option<String>,
}

/// Encrypts a folder or a file and uploads it: as the first version of a dataset that is called like the folder, or as its next
/// one. The machine with the account's keys is asked (`alephlab keys`), and signs. All files are sealed anew, under a new key;
/// whoever could read the version before can read this one. Description and licence are those that are said this time.
///
/// ```no_run
/// # use alephlab::prelude::*;
/// # fn main() -> alephlab::Result<()> {
/// upload("measures")?;
/// Upload::of("measures").name("rain").description("mm a day").licence("CC0-1.0").send()?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::File`] when there is nothing at the path, [`Error::NoBroker`], [`Error::BrokerGone`], or [`Error::Broker`] with
/// the broker's own words.
pub fn upload(path: impl AsRef<Path>) -> Result<UploadedDataset> {
    Upload::of(path).send()
}

impl Upload {
    /// Of a folder with all that is in it, or of one file.
    pub fn of(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            name: None,
            description: None,
            licence: None,
        }
    }

    /// The dataset's name; that of the folder or file when it is not said.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What it is, for people who may read it.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Its licence, such as `CC-BY-4.0`.
    #[must_use]
    pub fn licence(mut self, licence: impl Into<String>) -> Self {
        self.licence = Some(licence.into());
        self
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`upload`].
    pub fn send(self) -> Result<UploadedDataset> {
        let path = self.path.canonicalize();
        let path = path.map_err(|source| Error::file("read", &self.path, source))?;
        let name = match self.name {
            Some(name) => name,
            None => path
                .file_name()
                .and_then(|name| name.to_str())
                .map(str::to_owned)
                .ok_or_else(|| Error::Data {
                    reason: format!(
                        "{} has no name that a dataset could have: say one",
                        path.display()
                    ),
                })?,
        };
        let op = Op::Upload {
            name: name.clone(),
            path,
            description: self.description,
            licence: self.licence,
        };
        let uploaded = broker::ask(&format!("upload {name}"), op, |uploaded: &Uploaded| {
            let Uploaded {
                version,
                files,
                bytes: size,
                ..
            } = uploaded;
            format!(
                "{name} is uploaded: version {version}, {}, {}",
                counted_files(*files),
                bytes(*size)
            )
        })?;
        Ok(UploadedDataset { uploaded })
    }
}

/// A version that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedDataset {
    uploaded: Uploaded,
}

impl UploadedDataset {
    /// The dataset's name.
    pub fn name(&self) -> &str {
        &self.uploaded.name
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.uploaded.version
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Uploaded {
            name,
            dataset_id,
            version,
            files,
            bytes: size,
            without_key,
        } = &self.uploaded;
        let mut facts = vec![
            ("name", format!("{name}, version {version}")),
            ("content", format!("{}, {}", counted_files(*files), bytes(*size))),
            ("id", dataset_id.clone()),
            ("open it", format!("mount(\"{name}@{version}\")?")),
            ("share it", format!("alephlab dataset grant {name} ADDRESS")),
        ];
        if !without_key.is_empty() {
            let shut_out = format!("{}: they have registered no key", without_key.join(", "));
            facts.push(("cannot read it", shut_out));
        }
        facts
    }
}

impl Rich for UploadedDataset {
    fn bundle(&self) -> Bundle {
        let title = &self.uploaded.name;
        Bundle::new()
            .text(facts_text(title, &self.facts()))
            .html(facts_html(title, &self.facts()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_uploaded_says_how_to_open_and_share_it() {
        let uploaded = UploadedDataset {
            uploaded: Uploaded {
                name: "rain".into(),
                dataset_id: "ab".repeat(32),
                version: 2,
                files: 3,
                bytes: 4096,
                without_key: vec!["0xAb".into()],
            },
        };
        let text = uploaded.bundle().as_text().unwrap().to_owned();
        for expected in [
            "rain, version 2",
            "mount(\"rain@2\")?",
            "dataset grant rain",
            "0xAb: they have",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn a_path_with_nothing_there_is_named() {
        let error = upload("/nowhere/at/all").unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
