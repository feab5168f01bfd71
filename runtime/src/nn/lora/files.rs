//! Adapters in files as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`, whose tensors are
//! named `base_model.model.` and then as in the network.

use std::collections::HashMap;
use std::path::Path;
use std::sync::MutexGuard;

use candle_core::{DType, Device, Var};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Lora, adapter};
use crate::model::{ADAPTERS_FILE, MODELS_FOLDER, Model, Saved, save_file};
use crate::nn::config::of_json;
use crate::nn::linear::Lies;
use crate::train::Weights;
use crate::{Error, Result};

const CONFIG_FILE: &str = "adapter_config.json";
/// Before each name.
const PREFIX: &str = "base_model.model.";

/// What is written of `adapter_config.json`. PEFT fills in the rest.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'a str,
    base_model_name_or_path: Option<&'a str>,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    target_modules: Vec<String>,
    modules_to_save: Option<&'a [String]>,
    fan_in_fan_out: bool,
    bias: &'a str,
    inference_mode: bool,
}

/// What is read of it.
#[derive(Deserialize)]
struct Read {
    peft_type: String,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    use_rslora: bool,
    modules_to_save: Option<Vec<String>>,
    /// The rest, where what cannot be done is looked for.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Lora {
    /// Writes the adapters into `models/NAME`, as PEFT's `PeftModel.from_pretrained` reads them; the answer can be published.
    ///
    /// # Errors
    /// [`Error::Data`] when no network was built or its layers lie in two ways; [`Error::Name`] and [`Error::File`] as
    /// [`crate::save`].
    pub fn save(&self, name: &str) -> Result<Saved> {
        self.save_in(Path::new(MODELS_FOLDER), name)
    }

    /// The same into `FOLDER/NAME`.
    ///
    /// # Errors
    /// As [`Lora::save`].
    pub fn save_in(&self, folder: impl AsRef<Path>, name: &str) -> Result<Saved> {
        self.ensure_built()?;
        let fan_in_fan_out = self.lies()? == Lies::ByInput;
        let whole = (!self.also.is_empty()).then_some(self.also.as_slice());
        let config = Written {
            peft_type: "LORA",
            base_model_name_or_path: self.base.as_deref(),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: 0.0,
            // By their whole names: PEFT knows no `*`, and more layers of the network might end like these.
            target_modules: self.adapted(),
            modules_to_save: whole,
            fan_in_fan_out,
            bias: "none",
            inference_mode: true,
        };
        let config = serde_json::to_string_pretty(&config).unwrap_or_default();
        let learned = self.learned()?.into_iter();
        let named: Weights = learned
            .map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor))
            .collect();
        save_file(folder.as_ref(), ADAPTERS_FILE, &named, name)?.with_file(CONFIG_FILE, config)
    }

    /// Adapters from a model's files, ours or PEFT's. The network is built as for learning, with [`Lora::vars`] of the model
    /// that they are for; they can be merged then, used, and learned further. Where the model's names have another prefix
    /// than theirs (`h.0…` beside `transformer.h.0…`, `encoder…` beside `bert.encoder…`) they take on the model's.
    ///
    /// # Errors
    /// [`Error::Name`] when there are no such files, [`Error::Data`] when they hold something else or what cannot be done here
    /// (`use_dora`, ranks by layer, learned biases), [`Error::Tensor`] when the tensors are broken.
    pub fn from_model(model: &Model, device: &Device) -> Result<Self> {
        let read: Read = of_json(&model.read(CONFIG_FILE)?, CONFIG_FILE)?;
        read.check()?;
        let mut tensors = Weights::new();
        for (name, tensor) in candle_core::safetensors::load(model.file(ADAPTERS_FILE)?, device)? {
            let name = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
            // As the model's own: `Model::vars` gives those in `f32`.
            tensors.insert(name, tensor.to_dtype(DType::F32)?);
        }
        let layers = read.layers(&tensors)?;
        let mut lora = Self::new(read.r)
            .alpha(read.lora_alpha)
            .targets(layers.iter().cloned())
            .train_also(read.modules_to_save.unwrap_or_default());
        if read.use_rslora {
            // By the root of the rank: the same number for alpha over the rank.
            lora.alpha = read.lora_alpha * (read.r as f64).sqrt();
        }
        lora.base = read.base_model_name_or_path;
        let lies = if read.fan_in_fan_out {
            Lies::ByInput
        } else {
            Lies::ByOutput
        };
        lora.known().extend(layers.into_iter().map(|layer| (layer, lies)));
        lora.take_up(tensors)?;
        lora.is_read = true;
        Ok(lora)
    }

    /// Variables of these values.
    fn take_up(&self, tensors: Weights) -> Result<()> {
        let mut known = self.variables()?;
        for (name, tensor) in tensors {
            known.insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(())
    }

    pub(super) fn variables(&self) -> Result<MutexGuard<'_, HashMap<String, Var>>> {
        self.vars.data().lock().map_err(|_| Error::Data {
            reason: "another thread panicked while it held these variables".to_owned(),
        })
    }

    /// What the adapters are for, as it stands in their file: `owner/name` of the model.
    #[must_use]
    pub fn base(mut self, reference: impl Into<String>) -> Self {
        self.base = Some(reference.into());
        self
    }
}

impl Read {
    /// Refuses what would be calculated in another way.
    fn check(&self) -> Result<()> {
        let refused = |reason: String| Err(Error::Data { reason });
        if !self.peft_type.eq_ignore_ascii_case("lora") || self.r == 0 {
            return refused(format!(
                "{CONFIG_FILE} is of `{}` with rank {}, and this reads LoRA of rank 1 or more",
                self.peft_type, self.r
            ));
        }
        let says = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(word) => word != "none",
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        let known = [
            "rank_pattern",
            "alpha_pattern",
            "bias",
            "lora_bias",
            "layer_replication",
        ];
        // Variants have a switch each, and new ones will: `use_dora`, `use_qalora`, …
        let changes = |name: &str| name.starts_with("use_") || known.contains(&name);
        match self
            .rest
            .iter()
            .find(|(name, value)| changes(name) && says(value))
        {
            Some((name, _)) => refused(format!("these adapters have `{name}`, which cannot be done here")),
            None => Ok(()),
        }
    }

    /// The layers that the tensors are for, each with both matrices of the rank.
    fn layers(&self, tensors: &Weights) -> Result<Vec<String>> {
        let mut layers = vec![];
        for (name, down) in tensors {
            let Some(layer) = name
                .strip_suffix(adapter::DOWN)
                .and_then(|name| name.strip_suffix('.'))
            else {
                continue;
            };
            let up = tensors.get(&format!("{layer}.{}", adapter::UP));
            let ranks = [
                down.dims().first().copied(),
                up.and_then(|up| up.dims().get(1).copied()),
            ];
            if ranks != [Some(self.r); 2] {
                return Err(Error::Data {
                    reason: format!("the adapter of {layer} has not two matrices of rank {}", self.r),
                });
            }
            layers.push(layer.to_owned());
        }
        if layers.is_empty() {
            return Err(Error::Data {
                reason: format!("{ADAPTERS_FILE} has no tensor that ends with {}", adapter::DOWN),
            });
        }
        Ok(layers)
    }
}
