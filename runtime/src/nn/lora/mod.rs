//! Fine-tuning by low-rank adapters (Hu et al., 2021): a published network stays as it is, and beside some of its linear
//! layers two small matrices are learned.
//!
//! A network is built from [`Lora::vars`] in place of its model's own `vars`; every [`crate::nn::Linear`] in it, also one of
//! a network written in a cell, that a pattern names then has an adapter. All other tensors are plain ones without gradients:
//! no optimiser has state for them, and no step changes a bit of them. The trainer is given [`Lora::var_map`].
//!
//! ```no_run
//! use alephlab::nn::{Gpt, GptConfig, Lora};
//! use alephlab::prelude::*;
//!
//! # fn cell(train: &Examples) -> Result<(), alephlab::Error> {
//! let model: Model = pull("owner/name@rev", None)?;
//! let lora: Lora = Lora::new(8).targets(["c_attn"]).seed(1);
//! let network: Gpt = Gpt::new(&GptConfig::of(&model)?, lora.vars(&model, &device()?)?)?;
//! Trainer::new(lora.var_map()).fit_all(&network, train)?;
//! let adapters: Saved = lora.save("name-of-mine")?;
//! let merged: Saved = save(&lora.merge(&model)?, "whole")?;
//! # Ok(())
//! # }
//! ```

mod adapter;
mod files;
mod prefix;
mod vars;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor};
use candle_nn::{VarBuilder, VarMap};

pub(super) use adapter::Adapter;

use super::linear::Lies;
use crate::model::Model;
use crate::train::Weights;
use crate::{Error, Result};

/// Adapters of a network: how they are made, their variables, and the layers that have one.
///
/// A clone is of the same adapters.
#[derive(Clone)]
pub struct Lora {
    rank: usize,
    alpha: f64,
    targets: Vec<String>,
    also: Vec<String>,
    seed: u64,
    base: Option<String>,
    vars: VarMap,
    layers: Arc<Mutex<Layers>>,
    /// Whether the layers come from files, and their names may differ from the model's.
    is_read: bool,
}

/// Which way the weight of each layer that has an adapter lies.
type Layers = BTreeMap<String, Lies>;

impl Lora {
    /// Adapters of this rank, whose result is taken as it is (`alpha` is the rank), on the layers that [`Lora::targets`]
    /// names.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: rank as f64,
            targets: vec![],
            also: vec![],
            seed: 0,
            base: None,
            vars: VarMap::new(),
            layers: Arc::default(),
            is_read: false,
        }
    }

    /// What adapters add is multiplied by this over the rank.
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The layers that get an adapter: those whose name is one of these or ends with it behind a dot (`c_attn`,
    /// `attention.self.query`), as in PEFT; `*` stands for all linear layers.
    #[must_use]
    pub fn targets<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.targets = names.into_iter().map(Into::into).collect();
        self
    }

    /// Layers that are learned whole beside the adapters, named in the same way: such as a new layer of scores
    /// (`classifier`). They are saved with the adapters.
    #[must_use]
    pub fn train_also<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.also = names.into_iter().map(Into::into).collect();
        self
    }

    /// What the first weights follow from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The variables that are learned: for [`crate::Trainer::new`]. Filled when a network is built.
    pub fn var_map(&self) -> &VarMap {
        &self.vars
    }

    /// Tensors for building the network: those of `model`, without gradients, and the adapters' variables.
    ///
    /// # Errors
    /// As [`Model::tensors`], and [`Error::Data`] when the settings make no sense.
    pub fn vars(&self, model: &Model, device: &Device) -> Result<VarBuilder<'static>> {
        self.vars_over(model.vars(device)?)
    }

    /// The same over tensors that come from elsewhere; they get no gradients either.
    ///
    /// # Errors
    /// [`Error::Data`] when the settings make no sense, or adapters from files are for layers that are not there.
    pub fn vars_over(&self, base: VarBuilder<'static>) -> Result<VarBuilder<'static>> {
        if self.rank == 0 || !self.alpha.is_finite() || self.targets.is_empty() {
            let (rank, alpha, targets) = (self.rank, self.alpha, self.targets.len());
            return Err(Error::Data {
                reason: format!(
                    "adapters of rank {rank} and alpha {alpha} for {targets} names of layers: take a rank of 1 or more and \
                     name layers with `.targets([..])`"
                ),
            });
        }
        self.fit_to(|name| base.contains_tensor(name))?;
        Ok(vars::over(self, base))
    }

    /// Names of the layers that have an adapter, sorted; none before a network is built.
    pub fn adapted(&self) -> Vec<String> {
        self.known().keys().cloned().collect()
    }

    /// The tensors of `model` with what the adapters learned added to its weights, and layers that were learned whole in
    /// their place: a network of its own, to be saved, used and published without adapters.
    ///
    /// # Errors
    /// As [`Model::tensors`], and [`Error::Data`] when an adapter's layer is not in the model.
    pub fn merge(&self, model: &Model) -> Result<Weights> {
        self.merge_into(model.tensors(&Device::Cpu)?.into_iter().collect())
    }

    /// The same for tensors that come from elsewhere.
    ///
    /// # Errors
    /// [`Error::Data`] when an adapter's layer is not among them, [`Error::Tensor`] when its shape differs.
    pub fn merge_into(&self, mut tensors: Weights) -> Result<Weights> {
        self.ensure_built()?;
        self.fit_to(|name| tensors.contains_key(name))?;
        let learned = self.learned()?;
        let layers = self.known().clone();
        for (layer, lies) in &layers {
            let name = format!("{layer}.weight");
            let base = tensors.get(&name).ok_or_else(|| Error::Data {
                reason: format!("the model has no {name}, which an adapter is for"),
            })?;
            let part = |part: &str| -> Result<&Tensor> {
                learned
                    .get(&format!("{layer}.{part}"))
                    .ok_or_else(|| Error::Data {
                        reason: format!("the adapter of {layer} has no {part}"),
                    })
            };
            let delta = adapter::delta([part(adapter::DOWN)?, part(adapter::UP)?], self.scale(), *lies)?;
            let merged = (base.to_dtype(delta.dtype())? + delta.to_device(base.device())?)?;
            let merged = merged.to_dtype(base.dtype())?;
            tensors.insert(name, merged);
        }
        let whole = |name: &String| !adapter::is_part(name);
        tensors.extend(learned.into_iter().filter(|(name, _)| whole(name)));
        Ok(tensors)
    }

    /// What is learned, by name.
    fn learned(&self) -> Result<Weights> {
        Ok(crate::model::Saveable::tensors(&self.vars)?.into_iter().collect())
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn known(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_built(&self) -> Result<()> {
        if !self.known().is_empty() {
            return Ok(());
        }
        let targets = self.targets.join(", ");
        Err(Error::Data {
            reason: format!(
                "no layer has an adapter: build the network with `lora.vars(..)` first, from layers of `alephlab::nn` whose \
                 names end with one of {targets}"
            ),
        })
    }

    /// Which way all weights lie, which PEFT has one word for.
    fn lies(&self) -> Result<Lies> {
        let layers = self.known();
        let by_input = layers.values().filter(|lies| **lies == Lies::ByInput).count();
        match by_input {
            0 => Ok(Lies::ByOutput),
            _ if by_input == layers.len() => Ok(Lies::ByInput),
            _ => Err(Error::Data {
                reason: "some layers with adapters lie (inputs, outputs) and some do not: the files of adapters have one word \
                         for all"
                    .to_owned(),
            }),
        }
    }
}

impl std::fmt::Debug for Lora {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Lora")
            .field("rank", &self.rank)
            .field("alpha", &self.alpha)
            .field("targets", &self.targets)
            .field("adapted", &self.adapted())
            .finish_non_exhaustive()
    }
}

/// Whether a pattern of [`Lora::targets`] names this layer.
fn names(pattern: &str, layer: &str) -> bool {
    let ending = layer.strip_suffix(pattern);
    pattern == "*" || ending.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
