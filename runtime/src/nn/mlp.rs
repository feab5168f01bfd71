//! A perceptron with hidden layers, for tables.

use candle_core::{DType, Device, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::config::{ensure, in_files};
use super::{Activation, Linear, Parameters, linear};
use crate::model::Model;
use crate::train::Dropout;

/// Sizes of an [`Mlp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MlpConfig {
    /// Numbers of one example.
    pub inputs: usize,
    /// Numbers of each hidden layer, from the first on.
    pub hidden: Vec<usize>,
    /// Numbers that come out: classes, or quantities.
    pub outputs: usize,
    /// Between layers.
    pub activation: Activation,
    /// Share of the hidden numbers that are dropped in training.
    pub dropout: f64,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            inputs: 1,
            hidden: vec![64, 64],
            outputs: 1,
            activation: Activation::Relu,
            dropout: 0.0,
        }
    }
}

in_files!(MlpConfig, "alephlab-mlp");

/// Linear layers with a function and dropout between them: (batch, …) to (batch, outputs), where the dimensions behind the
/// first are laid in a row.
///
/// Tensors are `layers.0.weight`, `layers.0.bias`, `layers.1.weight` and so on.
#[derive(Debug, Clone)]
pub struct Mlp {
    config: MlpConfig,
    layers: Vec<Linear>,
    dropout: Dropout,
}

impl Mlp {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for sizes of 0, [`crate::Error::Tensor`] when `vars` holds tensors of other shapes.
    pub fn new(config: &MlpConfig, vars: VarBuilder<'_>) -> crate::Result<Self> {
        let mut sizes = vec![config.inputs];
        sizes.extend(&config.hidden);
        sizes.push(config.outputs);
        ensure(!sizes.contains(&0), || {
            format!("a network with layers of {sizes:?} numbers cannot be: each needs 1 or more")
        })?;
        let layers = sizes
            .windows(2)
            .enumerate()
            .map(|(number, size)| linear(size[0], size[1], vars.pp(format!("layers.{number}"))));
        Ok(Self {
            config: config.clone(),
            layers: layers.collect::<Result<_>>()?,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    /// The network of a model that was saved with its `config.json`.
    ///
    /// # Errors
    /// As [`MlpConfig::of`], [`Model::vars`] and [`Mlp::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        Self::new(&MlpConfig::of(model)?, model.vars(device)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }
}

impl ModuleT for Mlp {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = if x.dtype().is_float() {
            x.clone()
        } else {
            x.to_dtype(DType::F32)?
        };
        let mut x = if x.rank() > 2 { x.flatten_from(1)? } else { x };
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                x = self
                    .dropout
                    .forward_t(&x.apply(&self.config.activation)?, train)?;
            }
            x = x.apply(layer)?;
        }
        Ok(x)
    }
}

impl Parameters for Mlp {
    fn parameter_count(&self) -> usize {
        self.layers.parameter_count()
    }
}
