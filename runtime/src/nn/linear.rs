//! Linear layers, which is also where adapters sit ([`super::Lora`]).

use alephlab_ops as ops;
use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder, init};

use super::Parameters;
use super::lora::Adapter;

/// `x · weightᵀ + bias` along the last dimension, by one fused product: `(…, inputs)` to `(…, outputs)`.
///
/// Its tensors are `weight` of shape (outputs, inputs) and `bias` (outputs), as PyTorch's `nn.Linear`. Those of GPT-2's
/// files lie the other way: see [`Linear::turned`].
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    lies: Lies,
    adapter: Option<Adapter>,
}

/// Which way a weight lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// (outputs, inputs)
    ByOutput,
    /// (inputs, outputs)
    ByInput,
}

/// First numbers within one over the root of the inputs, as PyTorch begins biases.
pub(super) fn uniform_by(inputs: usize) -> Init {
    let bound = 1.0 / (inputs as f64).sqrt();
    Init::Uniform {
        lo: -bound,
        up: bound,
    }
}

/// A linear layer from `inputs` to `outputs` numbers, whose tensors `vars` makes or holds. First weights are those of
/// candle-nn's function of this name.
///
/// # Errors
/// When `vars` holds tensors of other shapes.
pub fn linear(inputs: usize, outputs: usize, vars: VarBuilder<'_>) -> Result<Linear> {
    Linear::build(
        [inputs, outputs],
        init::DEFAULT_KAIMING_NORMAL,
        Some(uniform_by(inputs)),
        Lies::ByOutput,
        &vars,
    )
}

/// [`linear`] without a bias.
///
/// # Errors
/// As [`linear`].
pub fn linear_no_bias(inputs: usize, outputs: usize, vars: VarBuilder<'_>) -> Result<Linear> {
    Linear::build(
        [inputs, outputs],
        init::DEFAULT_KAIMING_NORMAL,
        None,
        Lies::ByOutput,
        &vars,
    )
}

impl Linear {
    /// A layer of these tensors: a weight (outputs, inputs), a bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight,
            bias,
            lies: Lies::ByOutput,
            adapter: None,
        }
    }

    /// A layer whose first weights are drawn from the normal distribution with this standard deviation, and whose biases
    /// begin at 0: as transformers are begun.
    ///
    /// # Errors
    /// As [`linear`].
    pub fn normal(inputs: usize, outputs: usize, spread: f64, vars: VarBuilder<'_>) -> Result<Self> {
        Self::build_normal([inputs, outputs], spread, Lies::ByOutput, &vars)
    }

    /// [`Linear::normal`] whose `weight` has the shape (inputs, outputs), as that of `Conv1D` in GPT-2's files.
    ///
    /// # Errors
    /// As [`linear`].
    pub fn turned(inputs: usize, outputs: usize, spread: f64, vars: VarBuilder<'_>) -> Result<Self> {
        Self::build_normal([inputs, outputs], spread, Lies::ByInput, &vars)
    }

    fn build_normal(size: [usize; 2], spread: f64, lies: Lies, vars: &VarBuilder<'_>) -> Result<Self> {
        let weight = Init::Randn {
            mean: 0.0,
            stdev: spread,
        };
        Self::build(size, weight, Some(Init::Const(0.0)), lies, vars)
    }

    fn build(
        [inputs, outputs]: [usize; 2],
        weight: Init,
        bias: Option<Init>,
        lies: Lies,
        vars: &VarBuilder<'_>,
    ) -> Result<Self> {
        let shape = match lies {
            Lies::ByOutput => (outputs, inputs),
            Lies::ByInput => (inputs, outputs),
        };
        let weight = vars.get_with_hints(shape, "weight", weight)?;
        let bias = bias
            .map(|bias| vars.get_with_hints(outputs, "bias", bias))
            .transpose()?;
        let adapter = Adapter::of(vars, [inputs, outputs], lies)?;
        Ok(Self {
            weight,
            bias,
            lies,
            adapter,
        })
    }

    /// Its weight, (outputs, inputs); (inputs, outputs) if it is [`Linear::turned`].
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Its bias, (outputs).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Whether an adapter is learned beside its weight.
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    fn base(&self, x: &Tensor) -> Result<Tensor> {
        match self.lies {
            Lies::ByOutput => ops::linear(x, &self.weight, self.bias.as_ref()),
            Lies::ByInput => ops::linear_turned(x, &self.weight, self.bias.as_ref()),
        }
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.base(x)?;
        match &self.adapter {
            Some(adapter) => y + adapter.forward(x)?,
            None => Ok(y),
        }
    }
}

impl Parameters for Linear {
    fn parameter_count(&self) -> usize {
        let own = self.weight.parameter_count() + self.bias.parameter_count();
        own + self.adapter.parameter_count()
    }
}
