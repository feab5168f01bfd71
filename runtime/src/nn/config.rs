//! Settings of ready networks as `config.json` beside a model's tensors.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::Model;
use crate::{Error, Result};

/// The file that says what a network's sizes are.
pub const CONFIG_FILE: &str = "config.json";

/// Reads settings from a model's file.
pub(super) fn of_model<C: DeserializeOwned>(model: &Model) -> Result<C> {
    of_json(
        &model.read(CONFIG_FILE)?,
        &format!("{CONFIG_FILE} of {}", model.name()),
    )
}

pub(super) fn of_json<C: DeserializeOwned>(text: &str, what: &str) -> Result<C> {
    serde_json::from_str(text).map_err(|error| Error::Data {
        reason: format!("{what} does not describe such a network: {error}"),
    })
}

/// Refuses sizes that no network has.
pub(super) fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Data { reason: reason() })
    }
}

/// `config.json` with the word by which [`crate::forward_pass`] finds the network, where the settings have no such field.
pub(super) fn to_json(config: &impl Serialize, model_type: Option<&str>) -> String {
    // Numbers, words and lists of them: nothing that JSON has not.
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let (Some(word), Some(fields)) = (model_type, value.as_object_mut()) {
        fields.insert(MODEL_TYPE.to_owned(), word.into());
    }
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// The field of a `config.json` that says which network it is of.
pub(crate) const MODEL_TYPE: &str = "model_type";

/// `to_json`, `from_json` and `of` of settings; with a word, `model_type` says it.
macro_rules! in_files {
    ($config:ty) => {
        $crate::nn::config::in_files!($config, None);
    };
    ($config:ty, $word:literal) => {
        $crate::nn::config::in_files!($config, Some($word));
    };
    ($config:ty, $word:expr) => {
        impl $config {
            /// These settings as the text of `config.json`: `save(&vars, name)?.with_file(CONFIG_FILE, config.to_json())`.
            pub fn to_json(&self) -> String {
                $crate::nn::config::to_json(self, $word)
            }

            /// Settings from the text of a `config.json`. What they do not know is passed over.
            ///
            /// # Errors
            /// `Error::Data` when it is none of such a network.
            pub fn from_json(text: &str) -> $crate::Result<Self> {
                $crate::nn::config::of_json(text, "this text")
            }

            /// Settings from the `config.json` of a model.
            ///
            /// # Errors
            /// `Error::Name` when it has none, `Error::Data` when it is none of such a network.
            pub fn of(model: &$crate::Model) -> $crate::Result<Self> {
                $crate::nn::config::of_model(model)
            }
        }
    };
}

pub(super) use in_files;
