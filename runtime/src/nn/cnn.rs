//! A small convolutional network, for pictures of a few dozen pixels.

use alephlab_ops as ops;
use candle_core::{Device, Module, ModuleT, Result, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder};
use serde::{Deserialize, Serialize};

use super::config::{ensure, in_files};
use super::{BatchNorm2d, Conv2d, Linear, Parameters, batch_norm, conv2d, linear};
use crate::model::Model;
use crate::train::Dropout;

/// Sizes of a [`Cnn`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CnnConfig {
    /// Channels of a picture: 1 for grey, 3 for colours.
    pub channels: usize,
    /// Height and width of a picture in pixels.
    pub size: [usize; 2],
    /// What pixels are divided by first: their largest value, so that they reach from 0 to 1.
    pub pixel_max: f64,
    /// Channels of each convolution, from the first on.
    pub filters: Vec<usize>,
    /// Numbers of the hidden linear layer.
    pub hidden: usize,
    /// Classes.
    pub outputs: usize,
    /// Whether each convolution is followed by a batch norm.
    pub batch_norm: bool,
    /// Share of the hidden numbers that are dropped in training.
    pub dropout: f64,
}

impl Default for CnnConfig {
    fn default() -> Self {
        Self {
            channels: 1,
            size: [8, 8],
            pixel_max: 1.0,
            filters: vec![16, 32],
            hidden: 64,
            outputs: 10,
            batch_norm: false,
            dropout: 0.0,
        }
    }
}

in_files!(CnnConfig, "alephlab-cnn");

/// Pictures with sides of fewer pixels are not halved any more.
const HALVED_FROM: usize = 8;

/// Convolutions of 3 × 3, each followed by the larger of 0 and the number, and by halving both sides as long as they have 8
/// pixels or more; then two linear layers. (batch, channels, height, width), or pixels in a row, to (batch, outputs).
///
/// Tensors are `conv1.weight`, `conv1.bias`, `bn1.weight` and so on where there are batch norms, `conv2…`, `fc1…` and `fc2…`.
#[derive(Debug, Clone)]
pub struct Cnn {
    config: CnnConfig,
    stages: Vec<(Conv2d, Option<BatchNorm2d>)>,
    hidden: Linear,
    scores: Linear,
    dropout: Dropout,
}

impl Cnn {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for sizes of 0, [`crate::Error::Tensor`] when `vars` holds tensors of other shapes.
    pub fn new(config: &CnnConfig, vars: VarBuilder<'_>) -> crate::Result<Self> {
        let sizes = [
            config.channels,
            config.size[0],
            config.size[1],
            config.hidden,
            config.outputs,
        ];
        let fits = !sizes.contains(&0) && !config.filters.contains(&0) && !config.filters.is_empty();
        ensure(fits && config.pixel_max != 0.0, || {
            format!(
                "a network of {config:?} cannot be: each size needs 1 or more, and there is one convolution or more"
            )
        })?;
        let same_size = Conv2dConfig {
            padding: 1,
            ..Conv2dConfig::default()
        };
        let (mut channels, mut size, mut stages) = (config.channels, config.size, vec![]);
        for (number, filters) in (1..).zip(&config.filters) {
            let conv = conv2d(channels, *filters, 3, same_size, vars.pp(format!("conv{number}")))?;
            let norm = config
                .batch_norm
                .then(|| batch_norm(*filters, 1e-5, vars.pp(format!("bn{number}"))));
            stages.push((conv, norm.transpose()?));
            channels = *filters;
            if is_halved(size) {
                size = size.map(|side| side / 2);
            }
        }
        Ok(Self {
            config: config.clone(),
            stages,
            hidden: linear(channels * size[0] * size[1], config.hidden, vars.pp("fc1"))?,
            scores: linear(config.hidden, config.outputs, vars.pp("fc2"))?,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    /// The network of a model that was saved with its `config.json`.
    ///
    /// # Errors
    /// As [`CnnConfig::of`], [`Model::vars`] and [`Cnn::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        Self::new(&CnnConfig::of(model)?, model.vars(device)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &CnnConfig {
        &self.config
    }
}

impl ModuleT for Cnn {
    fn forward_t(&self, pixels: &Tensor, train: bool) -> Result<Tensor> {
        let CnnConfig {
            channels,
            size: [height, width],
            pixel_max,
            ..
        } = self.config;
        let mut x = pixels.reshape(((), channels, height, width))?;
        if pixel_max != 1.0 {
            x = (x / pixel_max)?;
        }
        for (conv, norm) in &self.stages {
            x = conv.forward(&x)?;
            if let Some(norm) = norm {
                x = norm.forward_t(&x, train)?;
            }
            x = ops::relu(&x)?;
            let (_, _, height, width) = x.dims4()?;
            if is_halved([height, width]) {
                x = ops::max_pool2d(&x, 2, 2)?;
            }
        }
        let hidden = ops::relu(&self.hidden.forward(&x.flatten_from(1)?)?)?;
        self.scores.forward(&self.dropout.forward_t(&hidden, train)?)
    }
}

fn is_halved(size: [usize; 2]) -> bool {
    size.iter().all(|side| *side >= HALVED_FROM)
}

impl Parameters for Cnn {
    fn parameter_count(&self) -> usize {
        self.stages.parameter_count() + self.hidden.parameter_count() + self.scores.parameter_count()
    }
}
