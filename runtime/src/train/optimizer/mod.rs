//! What moves the weights against their gradients.
//!
//! candle's optimisers keep their state to themselves, so that a training cannot be taken up again with them. These
//! show theirs as named tensors. Learning rate and weight decay come with each step: they are the trainer's, follow a
//! schedule and differ between groups. Not here: fused kernels; the arithmetic of one tensor is one function in each
//! optimiser, which they can replace. Called by [`super::Trainer`] and by loops of one's own.

mod adamw;
mod sgd;

use std::collections::BTreeMap;
use std::fmt::Debug;

use candle_core::{DType, Tensor, Var};

pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::{Error, Result};

/// Tensors by name.
pub type Weights = BTreeMap<String, Tensor>;

/// One variable that a step moves.
#[derive(Debug)]
pub struct Update<'a> {
    /// Its name, which its state is kept under.
    pub name: &'a str,
    /// What is moved: `f32` or `f64`, contiguous.
    pub value: &'a Var,
    /// Derivative of the loss by it: same shape, type and device.
    pub gradient: &'a Tensor,
    /// Learning rate of this step for this variable.
    pub rate: f64,
    /// Weight decay for this variable, decoupled or not as the optimiser has it.
    pub weight_decay: f64,
}

/// A rule that moves variables against their gradients, with a state that can be kept.
pub trait Optimizer: Debug + Send + Sync {
    /// Its name in checkpoints, with whatever must be equal for its state to mean the same.
    fn describe(&self) -> String;

    /// The same rule without a state.
    fn fresh(&self) -> Box<dyn Optimizer>;

    /// Moves each variable once. Variables that are not among `updates` keep their value and state.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    fn step(&mut self, updates: &[Update<'_>]) -> Result<()>;

    /// Its state, as tensors named `VARIABLE/WHAT`. They share its memory, so that a checkpoint needs it once: the next
    /// step may change them.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    fn state(&self) -> Result<Weights>;

    /// Takes up a state that [`Optimizer::state`] gave, for these variables.
    ///
    /// # Errors
    /// [`Error::Data`] when a tensor is missing or has another shape.
    fn set_state(&mut self, state: &Weights, variables: &BTreeMap<String, Var>) -> Result<()>;
}

/// The tensor `NAME/WHAT` of a state as a variable like `value`.
fn restored(state: &Weights, name: &str, what: &str, value: &Var) -> Result<Option<Var>> {
    let Some(tensor) = state.get(&format!("{name}/{what}")) else {
        return Ok(None);
    };
    if tensor.shape() != value.shape() {
        return Err(Error::Data {
            reason: format!(
                "the optimiser's {what} of {name} has the shape {:?}, the variable {:?}",
                tensor.dims(),
                value.dims()
            ),
        });
    }
    let dtype = if tensor.dtype() == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let tensor = tensor.to_dtype(dtype)?.to_device(value.device())?;
    // A variable of its own: the next step must not change what was handed in.
    Ok(Some(Var::from_tensor(&tensor.copy()?)?))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    pub(super) const START: [f64; 3] = [0.5, -1.25, 3.0];

    /// Gradients that change sign and size from step to step.
    pub(super) fn gradient(step: usize) -> [f64; 3] {
        let turn = step as f64;
        [(turn * 1.3).sin(), 0.01 * (turn - 2.0), 10.0 / (turn + 1.0)]
    }

    /// Where `optimizer` moves the three numbers, step by step.
    pub(super) fn path(
        optimizer: &mut dyn Optimizer,
        steps: std::ops::Range<usize>,
        value: &Var,
        decay: f64,
    ) {
        for step in steps {
            let gradient = Tensor::new(&gradient(step), &Device::Cpu).unwrap();
            let rate = 0.1 / (1.0 + step as f64);
            let update = Update {
                name: "w",
                value,
                gradient: &gradient,
                rate,
                weight_decay: decay,
            };
            optimizer.step(&[update]).unwrap();
        }
    }

    pub(super) fn start() -> Var {
        Var::new(&START, &Device::Cpu).unwrap()
    }

    pub(super) fn numbers(value: &Var) -> Vec<f64> {
        value.to_vec1().unwrap()
    }

    pub(super) fn close(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} in place of {expected}");
        }
    }

    #[test]
    fn a_state_that_was_kept_goes_on_as_if_nothing_had_been() {
        let rules: [Box<dyn Optimizer>; 4] = [
            Box::new(AdamW::default()),
            Box::new(Sgd::default()),
            Box::new(Sgd::default().momentum(0.9)),
            Box::new(Sgd::default().momentum(0.8).nesterov(true)),
        ];
        for rule in rules {
            for cut in 0..8 {
                let (mut whole, value) = (rule.fresh(), start());
                path(whole.as_mut(), 0..8, &value, 0.1);
                let (mut first, half) = (rule.fresh(), start());
                path(first.as_mut(), 0..cut, &half, 0.1);
                let state = first.state().unwrap();
                let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
                let state: Weights = state.into_iter().map(copy).collect();
                path(first.as_mut(), cut..8, &start(), 0.1);
                let mut second = rule.fresh();
                let variables = BTreeMap::from([("w".to_owned(), half.clone())]);
                second.set_state(&state, &variables).unwrap();
                path(second.as_mut(), cut..8, &half, 0.1);
                assert_eq!(numbers(&half), numbers(&value), "{} at {cut}", rule.describe());
            }
        }
    }

    #[test]
    fn refuses_the_state_of_another_shape_and_half_a_state() {
        let (mut rule, value) = (AdamW::default(), start());
        path(&mut rule, 0..1, &value, 0.0);
        let mut state = rule.state().unwrap();
        let other = Var::new(&[1_f64, 2.0], &Device::Cpu).unwrap();
        let variables = BTreeMap::from([("w".to_owned(), other)]);
        let error = rule.set_state(&state, &variables).unwrap_err().to_string();
        assert!(error.contains("has the shape [3], the variable [2]"), "{error}");
        state.remove("w/second");
        let variables = BTreeMap::from([("w".to_owned(), value)]);
        assert!(rule.set_state(&state, &variables).is_err());
    }
}
