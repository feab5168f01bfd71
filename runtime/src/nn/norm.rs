//! Normalisations: of each row ([`LayerNorm`], [`RmsNorm`]) and of each channel over a batch ([`BatchNorm2d`]).

use alephlab_ops as ops;
use candle_core::{Module, ModuleT, Result, Tensor, Var, bail};
use candle_nn::{BatchNormConfig, Init, LayerNormConfig, VarBuilder};

use super::Parameters;

/// Each row of the last dimension less its mean, over its spread, times `weight` plus `bias`; in one pass, forward and back.
///
/// Tensors are `weight` and `bias` of shape (size), as PyTorch's `nn.LayerNorm`; `gamma` and `beta` in old files of BERT.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

/// A layer norm over `size` numbers. `config` is the number that keeps the division finite, such as `1e-5`.
///
/// # Errors
/// When `vars` holds tensors of other shapes, or `config` is for another normalisation: candle-nn's functions make one
/// without mean or bias.
pub fn layer_norm(
    size: usize,
    config: impl Into<LayerNormConfig>,
    vars: VarBuilder<'_>,
) -> Result<LayerNorm> {
    let config = config.into();
    if !config.remove_mean || !config.affine {
        bail!("this layer norm takes away the mean and has a bias; use rms_norm, or candle_nn::layer_norm");
    }
    let named = |name: &'static str, old: &'static str| match vars.contains_tensor(old) {
        true => old,
        false => name,
    };
    let weight = vars.get_with_hints(size, named("weight", "gamma"), Init::Const(1.0))?;
    let bias = vars.get_with_hints(size, named("bias", "beta"), Init::Const(0.0))?;
    Ok(LayerNorm::new(weight, bias, config.eps))
}

impl LayerNorm {
    /// A layer of these tensors.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self {
            weight,
            bias,
            eps: narrow(eps),
        }
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Each row of the last dimension over the root of its mean square, times `weight` (size), in one pass.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

/// A root-mean-square norm over `size` numbers.
///
/// # Errors
/// When `vars` holds a tensor of another shape.
pub fn rms_norm(size: usize, eps: f64, vars: VarBuilder<'_>) -> Result<RmsNorm> {
    let weight = vars.get_with_hints(size, "weight", Init::Const(1.0))?;
    Ok(RmsNorm::new(weight, eps))
}

impl RmsNorm {
    /// A layer of this tensor.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self {
            weight,
            eps: narrow(eps),
        }
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// Each channel of images less its mean, over its spread, times `weight` plus `bias`; x is (batch, channels, …).
///
/// In training mean and spread are those of the batch, and the running ones move towards them; afterwards the running ones
/// hold. These are variables like `weight` and `bias`, named `running_mean` and `running_var` as PyTorch's
/// `nn.BatchNorm2d`: they are saved, loaded, kept in checkpoints and averaged with the others, but get no gradient. A file's
/// `num_batches_tracked` is not needed.
///
/// Running ones that are no variables are not learned: made from a model's plain tensors, as under [`crate::nn::Lora`], the
/// layer uses them as they are, in training too.
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    /// The same two where they are learned: what they learn is what is saved.
    learned: Option<[Var; 2]>,
    momentum: f64,
    eps: f32,
}

/// A batch norm over `channels`. `config` is the number that keeps the division finite, such as `1e-5`.
///
/// # Errors
/// When `vars` holds tensors of other shapes, or `config` makes no sense.
pub fn batch_norm(
    channels: usize,
    config: impl Into<BatchNormConfig>,
    vars: VarBuilder<'_>,
) -> Result<BatchNorm2d> {
    let config = config.into();
    if !config.remove_mean || !config.affine {
        bail!("this batch norm takes away the mean and has weight and bias; use candle_nn::batch_norm");
    }
    if config.eps < 0.0 || !(0.0..=1.0).contains(&config.momentum) {
        bail!(
            "batch norm takes an eps of 0 or more and a momentum from 0 to 1, not {} and {}",
            config.eps,
            config.momentum
        );
    }
    let get = |name, first| vars.get_with_hints(channels, name, Init::Const(first));
    let [running_mean, running_var] = [get("running_mean", 0.0)?, get("running_var", 1.0)?];
    let learned = if running_mean.is_variable() && running_var.is_variable() {
        Some([Var::from_tensor(&running_mean)?, Var::from_tensor(&running_var)?])
    } else {
        None
    };
    Ok(BatchNorm2d {
        weight: get("weight", 1.0)?,
        bias: get("bias", 0.0)?,
        running_mean,
        running_var,
        learned,
        momentum: config.momentum,
        eps: narrow(config.eps),
    })
}

impl BatchNorm2d {
    /// The mean that holds after training, (channels).
    pub fn running_mean(&self) -> &Tensor {
        &self.running_mean
    }

    /// The variance that holds after training, over n - 1, (channels).
    pub fn running_var(&self) -> &Tensor {
        &self.running_var
    }

    fn learn(&self, [mean, variance]: &[Var; 2], made: &ops::BatchNormed, numbers: usize) -> Result<()> {
        // The variance of a sample tells that of all by n - 1; of one number it tells nothing.
        let unbiased = numbers as f64 / (numbers.max(2) - 1) as f64;
        self.move_to(mean, &made.mean, 1.0)?;
        self.move_to(variance, &made.variance, unbiased)
    }

    fn move_to(&self, running: &Var, seen: &Tensor, factor: f64) -> Result<()> {
        let old = (running.as_detached_tensor() * (1.0 - self.momentum))?;
        running.set(&(old + (seen * (self.momentum * factor))?)?)
    }
}

impl ModuleT for BatchNorm2d {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if let Some(learned) = self.learned.as_ref().filter(|_| train) {
            let made = ops::batch_norm(x, &self.weight, &self.bias, self.eps)?;
            self.learn(learned, &made, x.elem_count() / self.weight.elem_count().max(1))?;
            Ok(made.y)
        } else {
            let statistics = [&self.running_mean.detach(), &self.running_var.detach()];
            ops::batch_norm_by(x, statistics, [&self.weight, &self.bias], self.eps)
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the ops calculate in f32")]
fn narrow(eps: f64) -> f32 {
    eps as f32
}

impl Parameters for LayerNorm {
    fn parameter_count(&self) -> usize {
        self.weight.parameter_count() + self.bias.parameter_count()
    }
}

impl Parameters for RmsNorm {
    fn parameter_count(&self) -> usize {
        self.weight.parameter_count()
    }
}

impl Parameters for BatchNorm2d {
    fn parameter_count(&self) -> usize {
        self.weight.parameter_count() + self.bias.parameter_count()
    }
}
