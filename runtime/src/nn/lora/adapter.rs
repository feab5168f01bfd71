//! The two matrices beside a layer's weight, and how a layer asks for them.

use alephlab_ops as ops;
use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::nn::Parameters;
use crate::nn::linear::{Lies, uniform_by};

/// The matrix that takes inputs to the rank, (rank, inputs), as PEFT calls it.
pub(super) const DOWN: &str = "lora_A.weight";
/// The matrix that takes the rank to outputs, (outputs, rank).
pub(super) const UP: &str = "lora_B.weight";
/// What a layer asks its builder for to learn whether it has an adapter: rank and scale as `f64`. No file has a tensor of this
/// name; [`super::vars`] answers, and learns by the first value that is asked for which way the weight lies.
pub(super) const SETTINGS: &str = "lora_settings";

/// What is learned beside a linear layer: `scale · up · down · x`.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    down: Tensor,
    up: Tensor,
    scale: f64,
}

impl Adapter {
    /// The adapter of the layer that `vars` stands at, if it has one.
    pub(in crate::nn) fn of(
        vars: &VarBuilder<'_>,
        [inputs, outputs]: [usize; 2],
        lies: Lies,
    ) -> Result<Option<Self>> {
        if !vars.contains_tensor(SETTINGS) {
            return Ok(None);
        }
        let settings: Vec<f64> = vars
            .get_with_hints_dtype(2, SETTINGS, asked_by(lies), DType::F64)?
            .to_vec1()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was a usize"
        )]
        let rank = settings[0] as usize;
        // As PEFT begins them: what is added is nothing at first.
        Ok(Some(Self {
            down: vars.get_with_hints((rank, inputs), DOWN, uniform_by(inputs))?,
            up: vars.get_with_hints((outputs, rank), UP, Init::Const(0.0))?,
            scale: settings[1],
        }))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let within = ops::linear(x, &self.down, None)?;
        let added = ops::linear(&within, &self.up, None)?;
        if self.scale == 1.0 {
            Ok(added)
        } else {
            added * self.scale
        }
    }
}

/// Whether this is the name of one of the two matrices.
pub(super) fn is_part(name: &str) -> bool {
    [DOWN, UP].iter().any(|part| name.ends_with(part))
}

/// The first value that a layer whose weight lies so asks for.
fn asked_by(lies: Lies) -> Init {
    Init::Const(if lies == Lies::ByInput { 1.0 } else { 0.0 })
}

/// Which way the weight lies of a layer that asks for this first value.
pub(super) fn lies_of(asked: Init) -> Lies {
    match asked {
        Init::Const(value) if value > 0.0 => Lies::ByInput,
        _ => Lies::ByOutput,
    }
}

/// What these two add to a weight.
pub(super) fn delta([down, up]: [&Tensor; 2], scale: f64, lies: Lies) -> Result<Tensor> {
    let [down, up] = [down.to_dtype(DType::F32)?, up.to_dtype(DType::F32)?];
    let delta = (up.matmul(&down)? * scale)?;
    match lies {
        Lies::ByOutput => Ok(delta),
        Lies::ByInput => delta.t()?.contiguous(),
    }
}

impl Parameters for Adapter {
    fn parameter_count(&self) -> usize {
        self.down.parameter_count() + self.up.parameter_count()
    }
}
