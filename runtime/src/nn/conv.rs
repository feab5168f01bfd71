//! Convolution of images.

use alephlab_ops as ops;
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder, init};

use super::linear::uniform_by;

use super::Parameters;

/// A two-dimensional convolution by fused products, forward and back: (batch, inputs, height, width) to
/// (batch, outputs, …, …).
///
/// Its tensors are `weight` of shape (outputs, inputs / groups, kernel, kernel) and `bias` (outputs), as PyTorch's
/// `nn.Conv2d`. More than one group goes by candle's ops.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
}

/// A convolution whose tensors `vars` makes or holds. First weights are those of candle-nn's function of this name.
///
/// # Errors
/// When `vars` holds tensors of other shapes, or `config` has no group.
pub fn conv2d(
    inputs: usize,
    outputs: usize,
    kernel: usize,
    config: Conv2dConfig,
    vars: VarBuilder<'_>,
) -> Result<Conv2d> {
    let mut made = conv2d_no_bias(inputs, outputs, kernel, config, vars.clone())?;
    made.bias = Some(vars.get_with_hints(outputs, "bias", uniform_by(inputs))?);
    Ok(made)
}

/// [`conv2d`] without a bias, as in front of a normalisation.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_no_bias(
    inputs: usize,
    outputs: usize,
    kernel: usize,
    config: Conv2dConfig,
    vars: VarBuilder<'_>,
) -> Result<Conv2d> {
    if config.groups == 0 {
        candle_core::bail!("a convolution has one group of channels or more, not 0");
    }
    let shape = (outputs, inputs / config.groups, kernel, kernel);
    let weight = vars.get_with_hints(shape, "weight", init::DEFAULT_KAIMING_NORMAL)?;
    Ok(Conv2d::new(weight, None, config))
}

impl Conv2d {
    /// A layer of these tensors.
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv2dConfig) -> Self {
        Self { weight, bias, config }
    }

    /// Its weight, (outputs, inputs / groups, kernel, kernel).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Its bias, (outputs).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let how = ops::Conv2d {
            stride: self.config.stride,
            padding: self.config.padding,
            dilation: self.config.dilation,
            groups: self.config.groups,
        };
        ops::conv2d(x, &self.weight, self.bias.as_ref(), &how)
    }
}

impl Parameters for Conv2d {
    fn parameter_count(&self) -> usize {
        self.weight.parameter_count() + self.bias.parameter_count()
    }
}
