//! Functions of single numbers between layers.

use alephlab_ops as ops;
use candle_core::{Module, Result, Tensor};
use serde::{Deserialize, Serialize};

/// A function that is applied to each number, by vector instructions and all threads. Its names in files are those of
/// `transformers`' configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The number itself, or 0 where it is below.
    #[default]
    Relu,
    /// `x · Φ(x)` with the normal distribution's Φ, as in BERT.
    Gelu,
    /// The same by `tanh`, as in GPT-2.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    /// `x` times its logistic function.
    #[serde(alias = "swish")]
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

impl Module for Activation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => ops::relu(x),
            Self::Gelu => ops::gelu_erf(x),
            Self::GeluTanh => ops::gelu(x),
            Self::Silu => ops::silu(x),
            Self::Tanh => ops::tanh(x),
            Self::Sigmoid => ops::sigmoid(x),
        }
    }
}
