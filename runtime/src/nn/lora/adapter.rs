//! The two matrices beside a layer's weight, and how a layer asks for them.

use alephlab_ops as ops;
use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::nn::Parameters;

/// The matrix that takes inputs to the rank, (rank, inputs), as PEFT calls it.
pub(super) const DOWN: &str = "lora_A.weight";
/// The matrix that takes the rank to outputs, (outputs, rank).
pub(super) const UP: &str = "lora_B.weight";
/// What a layer asks its builder for to learn whether it has an adapter: rank and scale as `f64`. No file has a tensor of this
/// name; [`super::vars`] answers.
pub(super) const SETTINGS: &str = "lora_settings";
/// The same for a layer whose weight lies (inputs, outputs).
pub(super) const SETTINGS_TURNED: &str = "lora_settings_turned";

/// What is learned beside a linear layer: `scale · up · down · x`.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    down: Tensor,
    up: Tensor,
    scale: f64,
}

impl Adapter {
    /// The adapter of the layer that `vars` stands at, if it has one.
    pub(crate) fn of(
        vars: &VarBuilder<'_>,
        [inputs, outputs]: [usize; 2],
        turned: bool,
    ) -> Result<Option<Self>> {
        let settings = if turned { SETTINGS_TURNED } else { SETTINGS };
        if !vars.contains_tensor(settings) {
            return Ok(None);
        }
        let settings: Vec<f64> = vars
            .get_with_hints_dtype(2, settings, Init::Const(0.0), DType::F64)?
            .to_vec1()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was a usize"
        )]
        let rank = settings[0] as usize;
        // As PEFT begins them: what is added is nothing at first.
        let bound = 1.0 / (inputs as f64).sqrt();
        let first = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        Ok(Some(Self {
            down: vars.get_with_hints((rank, inputs), DOWN, first)?,
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

/// What these two add to a weight.
pub(super) fn delta([down, up]: [&Tensor; 2], scale: f64, turned: bool) -> Result<Tensor> {
    let [down, up] = [down.to_dtype(DType::F32)?, up.to_dtype(DType::F32)?];
    let delta = (up.matmul(&down)? * scale)?;
    if turned {
        delta.t()?.contiguous()
    } else {
        Ok(delta)
    }
}

impl Parameters for Adapter {
    fn parameter_count(&self) -> usize {
        self.down.parameter_count() + self.up.parameter_count()
    }
}
