//! Datasets: [`mount`] makes one readable as files, [`upload`] makes files a version of one, both through the broker.
//!
//! Not here: decryption and keys (the broker) and what the files mean ([`crate::table`] reads numbers). Called by
//! notebooks.

mod images;
mod mounts;
mod pixels;
mod upload;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::broker::{Access, Mounted, Op};
use candle_core::{Device, Tensor};

use crate::data::{read_npy, read_npz, read_parquet};
use crate::display::{Bundle, Rich};
use crate::files;
use crate::live::{escaped, facts_html, facts_text};
use crate::progress::{bytes, counted_files};
use crate::table::{Table, read_csv};
use crate::train::SeededRandom;
use crate::{Error, Result, broker};

pub use crate::data::Batches;
pub use images::{Images, read_images};
pub use mounts::{Mounts, mounts};
pub use upload::{Upload, UploadedDataset, upload};

/// Files listed when a dataset is shown.
const FILES_SHOWN_MAX: usize = 20;

/// A dataset that is readable in this kernel. Cloning one is cheap.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    mounted: Arc<Mounted>,
}

/// Mounts a dataset: its files can be read until its time is over or the kernel stops. By name (`digits`, `owner/digits`),
/// by id, or as it was in one version (`digits@3`). Mounting it again prolongs the time.
///
/// Waits up to five minutes for the machine that holds the key (`alephlab keys`).
///
/// # Errors
/// [`Error::NoBroker`], [`Error::BrokerGone`], or [`Error::Broker`] with the broker's own words.
pub fn mount(reference: impl Into<String>) -> Result<Dataset> {
    let reference = reference.into();
    let what = format!("mount {reference}");
    let mounted = broker::ask(&what, Op::Mount { reference }, |mounted: &Mounted| {
        let Mounted {
            name,
            version,
            files,
            bytes: size,
            ..
        } = mounted;
        format!(
            "{name} is mounted: version {version}, {}, {}",
            counted_files(*files),
            bytes(*size)
        )
    })?;
    mounts::watch(&mounted);
    Ok(Dataset {
        mounted: Arc::new(mounted),
    })
}

impl Dataset {
    /// The folder with its files.
    pub fn path(&self) -> &Path {
        &self.mounted.path
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.mounted.name
    }

    /// Its title, for people.
    pub fn title(&self) -> &str {
        &self.mounted.title
    }

    /// The version that is mounted; a later one does not appear by itself.
    pub fn version(&self) -> u64 {
        self.mounted.version
    }

    /// Who signed it: the account's address.
    pub fn owner(&self) -> &str {
        &self.mounted.owner
    }

    /// Its licence.
    pub fn licence(&self) -> &str {
        &self.mounted.licence
    }

    /// Its files relative to [`Dataset::path`], sorted.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        files::list(self.path())
    }

    /// The path of one file.
    ///
    /// # Errors
    /// [`Error::Name`] when it leads out of the dataset or is not there.
    pub fn file(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        files::inside(self.path(), relative.as_ref(), "the dataset")
    }

    /// Opens one file for reading.
    ///
    /// # Errors
    /// As [`Dataset::file`], and [`Error::File`] when it cannot be opened.
    pub fn open(&self, relative: impl AsRef<Path>) -> Result<File> {
        let path = self.file(relative)?;
        File::open(&path).map_err(|source| Error::file("open", &path, source))
    }

    /// Reads one CSV file as a table of numbers, see [`crate::read_csv`], or a `.parquet` file, see [`crate::read_parquet`].
    ///
    /// # Errors
    /// As [`Dataset::file`], [`crate::read_csv`] and [`crate::read_parquet`].
    pub fn table(&self, relative: impl AsRef<Path>) -> Result<Table> {
        let path = self.file(relative)?;
        match path.extension().and_then(|end| end.to_str()) {
            Some(end) if end.eq_ignore_ascii_case("parquet") => read_parquet(path),
            _ => read_csv(path),
        }
    }

    /// Reads the tensors of one file onto the CPU, by their names: `.safetensors`, `.npz`, or `.npy`, whose tensor is called
    /// as the file is.
    ///
    /// # Errors
    /// As [`Dataset::file`] and [`read_npy`]; [`Error::Data`] for another kind of file, [`Error::Tensor`] for a broken
    /// `.safetensors`.
    pub fn tensors(&self, relative: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
        let path = self.file(relative)?;
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        match end.to_ascii_lowercase().as_str() {
            "safetensors" => Ok(candle_core::safetensors::load(&path, &Device::Cpu)?
                .into_iter()
                .collect()),
            "npz" => read_npz(&path),
            "npy" => {
                let name = path
                    .file_stem()
                    .and_then(|stem| stem.to_str())
                    .unwrap_or("tensor");
                Ok(BTreeMap::from([(name.to_owned(), read_npy(&path)?)]))
            }
            _ => Err(Error::Data {
                reason: format!(
                    "{} holds no tensors that can be read (.safetensors, .npz, .npy)",
                    path.display()
                ),
            }),
        }
    }

    /// The pictures (PNG, JPEG) in a folder of it and below, `""` for all; their folders are their classes.
    ///
    /// # Errors
    /// [`Error::Data`] when there is none, [`Error::File`] when the folder cannot be read.
    pub fn images(&self, folder: &str) -> Result<Images> {
        Images::of(self.path(), self.files()?, folder.trim_end_matches('/'))
    }

    /// Batches of up to `size` rows of one CSV or Parquet file: the column `label` holds classes, all others are inputs. With a seed in
    /// the random order that it gives, else in the file's. For pictures see [`Images::batches`].
    ///
    /// # Errors
    /// As [`Dataset::table`]; what is wrong with a label comes with its batch.
    pub fn batches(
        &self,
        relative: impl AsRef<Path>,
        label: &str,
        size: usize,
        seed: Option<u64>,
    ) -> Result<Batches> {
        let (table, label, size) = (self.table(relative)?, label.to_owned(), size.max(1));
        let order = match seed {
            Some(seed) => SeededRandom::new(seed).permutation(table.len()),
            None => (0..table.len()).collect(),
        };
        Ok(Batches::new(order.len().div_ceil(size), move |number| {
            let from = number * size;
            let rows = table.rows(&order[from..order.len().min(from + size)])?;
            rows.examples(&label, &Device::Cpu)
        }))
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Mounted {
            name,
            version,
            licence,
            files,
            bytes: size,
            path,
            trust,
            owner,
            expires,
            access,
            ..
        } = &*self.mounted;
        let until = match expires.checked_sub(mounts::now()) {
            Some(seconds) => format!("for {}", mounts::left(seconds)),
            None => "its time is over: mount it again".to_owned(),
        };
        let access = match access {
            Access::Mounted => until,
            Access::Copied { why } => format!("{until}; copied whole: {why}"),
        };
        let facts = [
            ("name", format!("{name}, version {version}")),
            ("content", format!("{}, {}", counted_files(*files), bytes(*size))),
            ("licence", licence.clone()),
            ("owner", owner.clone()),
            ("path", path.display().to_string()),
            ("readable", access),
            ("trust", trust.clone()),
        ];
        facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

impl Rich for Dataset {
    fn bundle(&self) -> Bundle {
        let title = if self.title().is_empty() {
            self.name()
        } else {
            self.title()
        };
        let facts = self.facts();
        let listed = self.files().unwrap_or_default();
        let sizes: Vec<(String, String)> = listed
            .iter()
            .take(FILES_SHOWN_MAX)
            .map(|file| (file.display().to_string(), size_of(&self.path().join(file))))
            .collect();
        let width = sizes
            .iter()
            .map(|(file, _)| file.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = facts_text(title, &facts);
        let mut rows = String::new();
        for (file, size) in &sizes {
            text.push_str(&format!("\n    {file:width$}  {size}"));
            rows.push_str(&format!(
                "<tr><td style=\"text-align:left\"><code>{}</code></td><td>{size}</td></tr>",
                escaped(file)
            ));
        }
        if listed.len() > sizes.len() {
            let more = format!("and {} more", listed.len() - sizes.len());
            text.push_str(&format!("\n    {more}"));
            rows.push_str(&format!(
                "<tr><td style=\"text-align:left\">{more}</td><td></td></tr>"
            ));
        }
        Bundle::new()
            .text(text)
            .html(format!("{}<table>{rows}</table>", facts_html(title, &facts)))
    }
}

fn size_of(path: &Path) -> String {
    path.metadata().map(|data| bytes(data.len())).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;

    pub(crate) fn dataset(path: &Path) -> Dataset {
        Dataset {
            mounted: Arc::new(Mounted {
                path: path.to_owned(),
                dataset_id: "00".repeat(32),
                name: "digits".into(),
                version: 3,
                title: "Digits <8 x 8>".into(),
                description: String::new(),
                licence: "CC-BY-4.0".into(),
                files: 2,
                bytes: 264_712,
                trust: String::new(),
                owner: String::new(),
                expires: mounts::now() + 7200,
                access: Access::Mounted,
            }),
        }
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("train")).unwrap();
        std::fs::write(folder.path().join("train/a.csv"), "1,2").unwrap();
        std::fs::write(folder.path().join("README.md"), "# Digits").unwrap();
        folder
    }

    #[test]
    fn lists_and_opens_its_files() {
        let folder = folder();
        let dataset = dataset(folder.path());
        assert_eq!(
            dataset.files().unwrap(),
            [PathBuf::from("README.md"), PathBuf::from("train/a.csv")]
        );
        let mut text = String::new();
        dataset
            .open("train/a.csv")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "1,2");
        assert_eq!(dataset.table("train/a.csv").unwrap().row(0).unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn refuses_a_path_that_leads_out_or_nowhere() {
        let folder = folder();
        let dataset = dataset(folder.path());
        for path in ["../etc/passwd", "/etc/passwd", "train/../../x", "", "."] {
            assert_eq!(dataset.file(path).unwrap_err().code(), "name", "{path}");
        }
        let error = dataset.open("digits.csv").unwrap_err().to_string();
        assert!(
            error.contains("`digits.csv`") && error.contains("README.md"),
            "{error}"
        );
    }

    #[test]
    fn is_shown_as_a_table_with_its_files() {
        let folder = folder();
        let bundle = dataset(folder.path()).bundle();
        let text = bundle.as_text().unwrap().to_owned();
        assert!(
            text.starts_with("Digits <8 x 8>\n  name      digits, version 3\n  content   2 files, 264.7 kB"),
            "{text}"
        );
        assert!(
            text.ends_with("    README.md    8 B\n    train/a.csv  3 B"),
            "{text}"
        );
        let html = bundle.into_parts().0["text/html"].to_string();
        assert!(
            html.contains("Digits &lt;8 x 8&gt;") && html.contains("train/a.csv"),
            "{html}"
        );
    }

    #[test]
    fn mount_without_a_broker_says_what_to_do() {
        let error = mount("digits").unwrap_err();
        assert_eq!(error.code(), "no_broker");
        assert!(error.to_string().contains("alephlab up"));
    }
}
