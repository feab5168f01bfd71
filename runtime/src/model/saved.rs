//! Saving: tensors and the small files beside them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use alephlab_api::broker::PublishFile;
use alephlab_api::model::{is_name, is_path};
use candle_core::Tensor;
use candle_nn::VarMap;

use super::TENSORS_FILE;
use crate::display::{Bundle, Rich};
use crate::live::{facts_html, facts_text};
use crate::progress::bytes;
use crate::{Error, Result, files};

/// Folder under the kernel's working folder that models are saved in.
pub(crate) const MODELS_FOLDER: &str = "models";

/// Something with named tensors.
pub trait Saveable {
    /// Its tensors by name.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be had.
    fn tensors(&self) -> Result<HashMap<String, Tensor>>;
}

impl Saveable for VarMap {
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let vars = self.data().lock().map_err(|_| Error::Data {
            reason: "another thread panicked while it held these variables".to_owned(),
        })?;
        Ok(vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect())
    }
}

impl Saveable for HashMap<String, Tensor> {
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        Ok(self.clone())
    }
}

impl Saveable for BTreeMap<String, Tensor> {
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        Ok(self.clone().into_iter().collect())
    }
}

/// A model on this kernel's disk: a folder with the files that [`crate::publish`] will publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    name: String,
    folder: PathBuf,
    tensors_file: String,
    /// Paths inside the folder. Only these are published, whatever else lies there.
    files: Vec<String>,
    parameters: usize,
}

/// Writes the tensors of `model` as safetensors into `models/NAME` and answers where.
///
/// # Errors
/// [`Error::Name`] when the name cannot be published, [`Error::Data`] when there is no tensor, [`Error::File`].
pub fn save(model: &impl Saveable, name: &str) -> Result<Saved> {
    save_under(Path::new(MODELS_FOLDER), model, name)
}

fn save_under(models: &Path, model: &impl Saveable, name: &str) -> Result<Saved> {
    save_file(models, TENSORS_FILE, model, name)
}

/// The same below another folder and into a file of another name, for tensors that are no whole model.
pub(crate) fn save_file(models: &Path, file: &str, model: &impl Saveable, name: &str) -> Result<Saved> {
    if !is_name(name) {
        let reason = "a model's name has at most 96 letters, figures and single `-`, `_` or `.` between them";
        return Err(Error::Name {
            name: name.to_owned(),
            reason: reason.to_owned(),
        });
    }
    let tensors = model.tensors()?;
    if tensors.is_empty() {
        return Err(Error::Data {
            reason: format!("there is no tensor to save as {name}"),
        });
    }
    let folder = models.join(name);
    std::fs::create_dir_all(&folder).map_err(|source| Error::file("make the folder", &folder, source))?;
    let folder = folder
        .canonicalize()
        .map_err(|source| Error::file("find", &folder, source))?;
    files::replace(&folder.join(file), |path| {
        Ok(candle_core::safetensors::save(&tensors, path)?)
    })?;
    let parameters = tensors.values().map(Tensor::elem_count).sum();
    Ok(Saved {
        name: name.to_owned(),
        folder,
        tensors_file: file.to_owned(),
        files: vec![file.to_owned()],
        parameters,
    })
}

impl Saved {
    /// The model's name, without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The safetensors file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.tensors_file)
    }

    /// The files that belong to it, in the order they were added.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Adds a file with this text, such as `config.json`, and answers the model for the next.
    ///
    /// # Errors
    /// [`Error::Name`] when it is no plain relative path or is `README.md`, which the card becomes; [`Error::File`].
    pub fn with_file(mut self, name: &str, content: impl AsRef<[u8]>) -> Result<Self> {
        let reason = if !is_path(name) {
            Some("a file of a model has a relative path of plain parts")
        } else if name.eq_ignore_ascii_case("README.md") {
            Some("the card becomes README.md when the model is published")
        } else if name == TENSORS_FILE || name == self.tensors_file {
            Some("the tensors are there")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Error::Name {
                name: name.to_owned(),
                reason: reason.to_owned(),
            });
        }
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| Error::file("make the folder", folder, source))?;
        }
        files::write_whole(&path, content.as_ref())?;
        if !self.files.iter().any(|known| known == name) {
            self.files.push(name.to_owned());
        }
        Ok(self)
    }

    pub(super) fn publish_files(&self) -> Vec<PublishFile> {
        let file = |name: &String| PublishFile {
            name: name.clone(),
            path: self.folder.join(name),
        };
        self.files.iter().map(file).collect()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let size = |name: &String| {
            self.folder
                .join(name)
                .metadata()
                .map(|data| data.len())
                .unwrap_or_default()
        };
        let listed: Vec<String> = self
            .files
            .iter()
            .map(|name| format!("{name} ({})", bytes(size(name))))
            .collect();
        vec![
            ("parameters", self.parameters.to_string()),
            ("files", listed.join(", ")),
            ("folder", self.folder.display().to_string()),
        ]
    }
}

impl Rich for Saved {
    fn bundle(&self) -> Bundle {
        let facts = self.facts();
        Bundle::new()
            .text(facts_text(&self.name, &facts))
            .html(facts_html(&self.name, &facts))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::{DType, Device};

    use super::*;

    pub(crate) fn tensors() -> HashMap<String, Tensor> {
        let tensor = Tensor::arange(0_f32, 6.0, &Device::Cpu)
            .unwrap()
            .reshape((2, 3))
            .unwrap();
        HashMap::from([("fc.weight".to_owned(), tensor)])
    }

    pub(crate) fn saved(folder: &Path) -> Saved {
        save_under(folder, &tensors(), "digits-cnn").unwrap()
    }

    #[test]
    fn writes_tensors_and_the_files_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(folder.path()).with_file("config.json", "{}").unwrap();
        let saved = saved
            .with_file("eval/a.csv", "1")
            .unwrap()
            .with_file("config.json", "{\"a\":1}")
            .unwrap();
        assert_eq!(saved.files(), ["model.safetensors", "config.json", "eval/a.csv"]);
        assert_eq!(
            std::fs::read(saved.folder().join("config.json")).unwrap(),
            b"{\"a\":1}"
        );
        let back = candle_core::safetensors::load(saved.path(), &Device::Cpu).unwrap();
        assert_eq!(
            back["fc.weight"].to_vec2::<f32>().unwrap(),
            [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        );
        assert!(saved.bundle().as_text().unwrap().contains("parameters  6"));
    }

    #[test]
    fn saves_the_same_bytes_for_the_same_variables() {
        let folder = tempfile::tempdir().unwrap();
        let vars = VarMap::new();
        for name in ["b", "a", "c"] {
            vars.get(
                (2, 2),
                name,
                candle_nn::Init::Const(1.0),
                DType::F32,
                &Device::Cpu,
            )
            .unwrap();
        }
        let first = std::fs::read(save_under(folder.path(), &vars, "one").unwrap().path()).unwrap();
        let sorted: BTreeMap<String, Tensor> = vars.tensors().unwrap().into_iter().collect();
        assert_eq!(
            first,
            std::fs::read(save_under(folder.path(), &sorted, "two").unwrap().path()).unwrap()
        );
    }

    #[test]
    fn refuses_names_that_cannot_be_published_and_models_without_tensors() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "a/b", "../x", "-a", "a b", "x.git"] {
            assert_eq!(
                save_under(folder.path(), &tensors(), name).unwrap_err().code(),
                "name",
                "{name}"
            );
        }
        assert_eq!(
            save_under(folder.path(), &VarMap::new(), "a").unwrap_err().code(),
            "data"
        );
        for name in ["../x", "/x", "readme.md", "model.safetensors", ""] {
            assert_eq!(
                saved(folder.path()).with_file(name, "").unwrap_err().code(),
                "name",
                "{name}"
            );
        }
    }
}
