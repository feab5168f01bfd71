//! Publishing, pulling and loading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use alephlab_api::broker::{Op, PublishFile, Published, Pulled};
use alephlab_api::{Card, Secret};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use uuid::Uuid;

use super::saved::Saved;
use super::{ADAPTERS_FILE, Saveable, TENSORS_FILE};
use crate::display::{Bundle, Rich};
use crate::live::{facts_html, facts_text};
use crate::progress::{bytes, counted_files};
use crate::{Error, Result, broker, files};

/// A model that can be read here: pulled, published or loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    name: String,
    path: PathBuf,
    files: Vec<String>,
    revision: Option<String>,
    uuid: Option<Uuid>,
    card: Option<Card>,
}

/// Something whose files can be published.
pub trait Publishable {
    /// Name of the model, without its owner.
    fn publish_name(&self) -> &str;
    /// Its files.
    fn publish_files(&self) -> Vec<PublishFile>;
}

/// Publishes a saved model, or one that was pulled under one's own name, as a new revision, and answers it.
///
/// The broker seals the files under a fresh key; the owner's machine signs (`alephlab keys`). Names, sizes and
/// hashes of the files and the card are public, their bytes are not.
///
/// # Errors
/// [`Error::NoBroker`], [`Error::BrokerGone`], or [`Error::Broker`] with the broker's own words.
pub fn publish(model: &impl Publishable, card: Card) -> Result<Model> {
    let (name, listed) = (model.publish_name().to_owned(), model.publish_files());
    let folder = folder_of(&listed)?;
    let mut names: Vec<String> = listed.iter().map(|file| file.name.clone()).collect();
    names.sort();
    let op = Op::Publish {
        name: name.clone(),
        card: card.clone(),
        files: listed,
    };
    let published = broker::ask(&format!("publish {name}"), op, |published: &Published| {
        let Published {
            name,
            revision,
            bytes: size,
            ..
        } = published;
        format!(
            "{name} is published: revision {}, {}",
            &revision[..12.min(revision.len())],
            bytes(*size)
        )
    })?;
    Ok(Model {
        name: published.name,
        path: folder,
        files: names,
        revision: Some(published.revision),
        uuid: Some(published.uuid),
        card: Some(card),
    })
}

/// Fetches and opens a model: `pull("owner/name@revision", None)`, or a share's UUID with its token. The token may stay
/// with `alephlab keys` (`alephlab share accept UUID`); then a UUID alone is enough, and the token is in no notebook.
///
/// # Errors
/// [`Error::NoBroker`], [`Error::BrokerGone`], or
/// [`Error::Broker`] with the broker's own words.
pub fn pull(reference: impl Into<String>, token: Option<&str>) -> Result<Model> {
    let reference = reference.into();
    let token = token.map(Secret::new);
    // A share's UUID says nothing to people; its beginning is enough to tell two apart.
    let what = if token.is_some() {
        format!("pull share {:.8}", reference)
    } else {
        format!("pull {reference}")
    };
    let Pulled {
        path,
        name,
        revision,
        files,
        card,
    } = broker::ask(&what, Op::Pull { reference, token }, |pulled: &Pulled| {
        let Pulled {
            name,
            revision,
            files,
            ..
        } = pulled;
        format!(
            "{name} is here: revision {}, {}",
            &revision[..12.min(revision.len())],
            counted_files(files.len() as u64)
        )
    })?;
    Ok(Model {
        name,
        path,
        files,
        revision: Some(revision),
        uuid: None,
        card,
    })
}

/// Opens a model, or adapters for one, on this kernel's disk: the name it was saved under, or the path of its folder.
///
/// # Errors
/// [`Error::Name`] when there is no such model.
pub fn load(reference: impl AsRef<Path>) -> Result<Model> {
    let reference = reference.as_ref();
    let saved = Path::new("models").join(reference);
    let folder = [saved.as_path(), reference].into_iter().find(|folder| {
        [TENSORS_FILE, ADAPTERS_FILE]
            .iter()
            .any(|file| folder.join(file).is_file())
    });
    let Some(path) = folder.and_then(|folder| folder.canonicalize().ok()) else {
        let reason = format!("there is no {TENSORS_FILE} in it, nor in {}", saved.display());
        return Err(Error::Name {
            name: reference.display().to_string(),
            reason,
        });
    };
    let files = files::list(&path)?
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Model {
        name,
        path,
        files,
        revision: None,
        uuid: None,
        card: None,
    })
}

impl Model {
    /// `owner/name`, or the name it was saved under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with its files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files relative to [`Model::path`], sorted.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// 40 hex digits that name exactly this content; none before it is published.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Identity of the model across revisions, where it is known here.
    pub fn uuid(&self) -> Option<String> {
        self.uuid.map(|uuid| uuid.to_string())
    }

    /// What its publisher says about it.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// The path of one file.
    ///
    /// # Errors
    /// [`Error::Name`] when it leads out of the model or is not there.
    pub fn file(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        files::inside(&self.path, relative.as_ref(), "the model")
    }

    /// The text of one file.
    ///
    /// # Errors
    /// As [`Model::file`], and [`Error::File`] when it is no text.
    pub fn read(&self, relative: impl AsRef<Path>) -> Result<String> {
        let path = self.file(relative)?;
        std::fs::read_to_string(&path).map_err(|source| Error::file("read", &path, source))
    }

    /// Its tensors by name.
    ///
    /// # Errors
    /// [`Error::Name`] when it has none, [`Error::Tensor`] when the file is broken.
    pub fn tensors(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        Ok(candle_core::safetensors::load(self.file(TENSORS_FILE)?, device)?)
    }

    /// Its tensors as `f32`, for the function that builds the network.
    ///
    /// # Errors
    /// As [`Model::tensors`].
    pub fn vars(&self, device: &Device) -> Result<VarBuilder<'static>> {
        Ok(VarBuilder::from_tensors(
            self.tensors(device)?,
            DType::F32,
            device,
        ))
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if let Some(revision) = &self.revision {
            facts.push(("revision", revision.clone()));
        }
        if let Some(card) = &self.card {
            let metrics: Vec<String> = card
                .metrics
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            facts.push(("metrics", metrics.join(", ")));
            facts.push(("licence", card.licence.clone()));
        }
        facts.push(("files", self.files.join(", ")));
        facts.push(("path", self.path.display().to_string()));
        facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

impl Publishable for Saved {
    fn publish_name(&self) -> &str {
        self.name()
    }

    fn publish_files(&self) -> Vec<PublishFile> {
        Saved::publish_files(self)
    }
}

impl Publishable for Model {
    fn publish_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    fn publish_files(&self) -> Vec<PublishFile> {
        let content = self.files.iter().filter(|name| *name != "README.md");
        content
            .map(|name| PublishFile {
                name: name.clone(),
                path: self.path.join(name),
            })
            .collect()
    }
}

impl Saveable for Model {
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        Model::tensors(self, &Device::Cpu)
    }
}

impl Rich for Model {
    fn bundle(&self) -> Bundle {
        let facts = self.facts();
        Bundle::new()
            .text(facts_text(&self.name, &facts))
            .html(facts_html(&self.name, &facts))
    }
}

fn folder_of(listed: &[PublishFile]) -> Result<PathBuf> {
    let folder = listed.first().and_then(|file| {
        let depth = Path::new(&file.name).components().count();
        file.path.ancestors().nth(depth).map(Path::to_owned)
    });
    folder.ok_or_else(|| Error::Data {
        reason: "there is no file to publish".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::saved::tests::saved;
    use super::*;

    #[test]
    fn loads_what_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(folder.path()).with_file("config.json", "{}").unwrap();
        let model = load(saved.folder()).unwrap();
        assert_eq!(
            (model.name(), model.files().len(), model.revision()),
            ("digits-cnn", 2, None)
        );
        assert_eq!(model.tensors(&Device::Cpu).unwrap()["fc.weight"].dims(), [2, 3]);
        let weight = model
            .vars(&Device::Cpu)
            .unwrap()
            .get((2, 3), "fc.weight")
            .unwrap();
        assert_eq!(weight.to_vec2::<f32>().unwrap()[1], [3.0, 4.0, 5.0]);
        assert_eq!(model.read("config.json").unwrap(), "{}");
        assert_eq!(model.read("../x").unwrap_err().code(), "name");
        let missing = load(folder.path().join("nothing")).unwrap_err().to_string();
        assert!(missing.contains("model.safetensors"), "{missing}");
    }

    #[test]
    fn a_broken_file_of_tensors_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(folder.path());
        std::fs::write(saved.path(), b"not tensors").unwrap();
        assert_eq!(
            load(saved.folder())
                .unwrap()
                .tensors(&Device::Cpu)
                .unwrap_err()
                .code(),
            "tensor"
        );
    }

    #[test]
    fn publishes_every_file_but_the_card() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(folder.path()).with_file("eval/a.csv", "1").unwrap();
        assert_eq!(folder_of(&Saved::publish_files(&saved)).unwrap(), saved.folder());
        std::fs::write(saved.folder().join("README.md"), "# Card").unwrap();
        let model = load(saved.folder()).unwrap();
        let names: Vec<String> = model.publish_files().into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["eval/a.csv", "model.safetensors"]);
        assert_eq!(folder_of(&model.publish_files()).unwrap(), saved.folder());
        assert_eq!(publish(&saved, Card::default()).unwrap_err().code(), "no_broker");
    }

    #[test]
    fn without_a_broker_nothing_is_pulled() {
        let share = "6f2c3c7e-6d2b-4a53-9a3e-4b1f3a0c7d11";
        assert_eq!(pull(share, None).unwrap_err().code(), "no_broker");
        assert_eq!(pull("owner/name", None).unwrap_err().code(), "no_broker");
    }

    #[test]
    fn is_shown_with_revision_metrics_and_files() {
        let model = Model {
            name: "0xAb/digits-cnn".into(),
            path: "/dev/shm/x".into(),
            files: vec!["model.safetensors".into()],
            revision: Some("a".repeat(40)),
            uuid: None,
            card: Some(Card {
                metrics: [("accuracy".to_owned(), 0.9889)].into(),
                ..Card::default()
            }),
        };
        let text = model.bundle().as_text().unwrap().to_owned();
        assert!(text.starts_with("0xAb/digits-cnn\n  revision  aaaa"), "{text}");
        assert!(
            text.contains("metrics   accuracy 0.9889") && !text.contains("licence"),
            "{text}"
        );
        assert_eq!(model.publish_name(), "digits-cnn");
    }
}
