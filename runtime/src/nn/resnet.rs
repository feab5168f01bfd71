//! Residual networks for pictures (He et al., 2015), with torchvision's names.

use alephlab_ops as ops;
use candle_core::{Device, Module, ModuleT, Result, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder};
use serde::{Deserialize, Serialize};

use super::config::{ensure, in_files};
use super::{BatchNorm2d, Conv2d, Linear, Parameters, batch_norm, conv2d_no_bias, linear};
use crate::model::Model;

/// What comes before the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A convolution of 7 × 7 and a pooling, which halve the sides twice: for pictures of about 224 pixels.
    #[default]
    Large,
    /// A convolution of 3 × 3 that keeps the sides: for pictures of about 32 pixels.
    Small,
}

/// Sizes of a [`ResNet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResNetConfig {
    /// Blocks of each stage; from the second on a stage halves the sides and doubles the channels.
    pub blocks: Vec<usize>,
    /// Blocks of three convolutions (1 × 1, 3 × 3, 1 × 1) in place of two.
    pub bottleneck: bool,
    /// Channels of the first stage.
    pub width: usize,
    /// What comes before the blocks.
    pub stem: Stem,
    /// Channels of a picture.
    pub channels: usize,
    /// Classes.
    pub outputs: usize,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            blocks: vec![2, 2, 2, 2],
            bottleneck: false,
            width: 64,
            stem: Stem::Large,
            channels: 3,
            outputs: 1000,
        }
    }
}

impl ResNetConfig {
    /// torchvision's `resnet18`.
    pub fn resnet18() -> Self {
        Self::default()
    }

    /// torchvision's `resnet34`.
    pub fn resnet34() -> Self {
        Self {
            blocks: vec![3, 4, 6, 3],
            ..Self::default()
        }
    }

    /// torchvision's `resnet50`.
    pub fn resnet50() -> Self {
        Self {
            bottleneck: true,
            ..Self::resnet34()
        }
    }
}

in_files!(ResNetConfig, "alephlab-resnet");

/// Channels that come out of a block of three convolutions, for each that its middle has.
const EXPANSION: usize = 4;

/// A residual network: (batch, channels, height, width) to (batch, outputs).
///
/// Tensors have the names that torchvision's `resnet18`, `34` and `50` give theirs (`conv1`, `bn1`, `layer1.0.conv1`, …,
/// `layer2.0.downsample.0`, …, `fc`), so that published weights load. Those want pictures of 224 × 224 with ImageNet's mean
/// and spread taken away.
#[derive(Debug, Clone)]
pub struct ResNet {
    config: ResNetConfig,
    conv1: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Block>,
    fc: Linear,
}

impl ResNet {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for sizes of 0, [`crate::Error::Tensor`] when `vars` holds tensors of other shapes.
    pub fn new(config: &ResNetConfig, vars: VarBuilder<'_>) -> crate::Result<Self> {
        let sizes = [config.width, config.channels, config.outputs, config.blocks.len()];
        ensure(!sizes.contains(&0) && !config.blocks.contains(&0), || {
            format!("a network of {config:?} cannot be: each size needs 1 or more")
        })?;
        let (kernel, how) = match config.stem {
            Stem::Large => (7, moved_by(2, 3)),
            Stem::Small => (3, moved_by(1, 1)),
        };
        let mut blocks = vec![];
        let mut inputs = config.width;
        for (stage, &count) in config.blocks.iter().enumerate() {
            let width = config.width << stage;
            for number in 0..count {
                let vars = vars.pp(format!("layer{}.{number}", stage + 1));
                let stride = if stage > 0 && number == 0 { 2 } else { 1 };
                let block = Block::new(inputs, width, stride, config.bottleneck, &vars)?;
                inputs = block.outputs;
                blocks.push(block);
            }
        }
        Ok(Self {
            config: config.clone(),
            conv1: conv2d_no_bias(config.channels, config.width, kernel, how, vars.pp("conv1"))?,
            bn1: batch_norm(config.width, 1e-5, vars.pp("bn1"))?,
            blocks,
            fc: linear(inputs, config.outputs, vars.pp("fc"))?,
        })
    }

    /// The network of a model that was saved with its `config.json`.
    ///
    /// # Errors
    /// As [`ResNetConfig::of`], [`Model::vars`] and [`ResNet::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        Self::new(&ResNetConfig::of(model)?, model.vars(device)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// What the last stage sees, averaged over the picture: (batch, channels, height, width) to (batch, numbers), for
    /// another layer in place of the last.
    ///
    /// # Errors
    /// Other shapes.
    pub fn features(&self, pictures: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.bn1.forward_t(&self.conv1.forward(pictures)?, train)?;
        let mut x = ops::relu(&x)?;
        if self.config.stem == Stem::Large {
            // Nothing is below 0 here, so that a border of zeros is never the largest alone.
            let bordered = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
            x = ops::max_pool2d(&bordered, 3, 2)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, train)?;
        }
        x.mean((2, 3))
    }
}

impl ModuleT for ResNet {
    fn forward_t(&self, pictures: &Tensor, train: bool) -> Result<Tensor> {
        self.fc.forward(&self.features(pictures, train)?)
    }
}

/// Convolutions, each with a batch norm, whose result is added to what came in.
#[derive(Debug, Clone)]
struct Block {
    layers: Vec<(Conv2d, BatchNorm2d)>,
    /// Brings what came in to the shape of the result.
    shortcut: Option<(Conv2d, BatchNorm2d)>,
    outputs: usize,
}

impl Block {
    fn new(
        inputs: usize,
        width: usize,
        stride: usize,
        bottleneck: bool,
        vars: &VarBuilder<'_>,
    ) -> Result<Self> {
        let layer = |number: usize, from: usize, to: usize, kernel: usize, stride: usize| {
            let conv = vars.pp(format!("conv{number}"));
            let norm = vars.pp(format!("bn{number}"));
            Self::layer([from, to], kernel, stride, conv, norm)
        };
        let (layers, outputs) = if bottleneck {
            let outputs = width * EXPANSION;
            // The stride is in the middle, as torchvision has it.
            let layers = vec![
                layer(1, inputs, width, 1, 1)?,
                layer(2, width, width, 3, stride)?,
                layer(3, width, outputs, 1, 1)?,
            ];
            (layers, outputs)
        } else {
            let layers = vec![layer(1, inputs, width, 3, stride)?, layer(2, width, width, 3, 1)?];
            (layers, width)
        };
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            let [conv, norm] = ["downsample.0", "downsample.1"].map(|name| vars.pp(name));
            Self::layer([inputs, outputs], 1, stride, conv, norm)
        });
        Ok(Self {
            layers,
            shortcut: shortcut.transpose()?,
            outputs,
        })
    }

    fn layer(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        conv: VarBuilder<'_>,
        norm: VarBuilder<'_>,
    ) -> Result<(Conv2d, BatchNorm2d)> {
        let how = moved_by(stride, kernel / 2);
        Ok((
            conv2d_no_bias(inputs, outputs, kernel, how, conv)?,
            batch_norm(outputs, 1e-5, norm)?,
        ))
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let through =
            |(conv, norm): &(Conv2d, BatchNorm2d), x: &Tensor| norm.forward_t(&conv.forward(x)?, train);
        let mut y = x.clone();
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                y = ops::relu(&y)?;
            }
            y = through(layer, &y)?;
        }
        let past = match &self.shortcut {
            Some(shortcut) => through(shortcut, x)?,
            None => x.clone(),
        };
        ops::relu(&ops::add(&y, &past)?)
    }
}

fn moved_by(stride: usize, padding: usize) -> Conv2dConfig {
    Conv2dConfig {
        stride,
        padding,
        ..Conv2dConfig::default()
    }
}

impl Parameters for Block {
    fn parameter_count(&self) -> usize {
        self.layers.parameter_count() + self.shortcut.parameter_count()
    }
}

impl Parameters for ResNet {
    fn parameter_count(&self) -> usize {
        let first = self.conv1.parameter_count() + self.bn1.parameter_count();
        first + self.blocks.parameter_count() + self.fc.parameter_count()
    }
}
