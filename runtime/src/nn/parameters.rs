//! How many numbers a network has.
//!
//! Each layer and network counts its own, where its fields are; here are the trait, and variables that are not in a network yet.

use candle_core::Tensor;
use candle_nn::{Embedding, VarMap};

/// Something with numbers that are learned.
///
/// ```
/// use alephlab::nn::{Mlp, MlpConfig};
/// use alephlab::prelude::*;
///
/// # fn main() -> alephlab::Result<()> {
/// let vars: VarMap = VarMap::new();
/// let config: MlpConfig = MlpConfig { inputs: 64, hidden: vec![32], outputs: 10, ..MlpConfig::default() };
/// let network: Mlp = Mlp::new(&config, seeded_vars(&vars, 1, &Device::Cpu))?;
/// assert_eq!(network.parameter_count(), 64 * 32 + 32 + 32 * 10 + 10);
/// assert_eq!(vars.parameter_count(), network.parameter_count());
/// # Ok(()) }
/// ```
pub trait Parameters {
    /// How many numbers it has that are learned, or were: weights and biases, also those that a training holds fast. Not the
    /// running means and variances of batch norms, as PyTorch counts.
    fn parameter_count(&self) -> usize;
}

/// What the variables of a batch norm are called that no step moves.
const NOT_LEARNED: [&str; 2] = ["running_mean", "running_var"];

impl Parameters for VarMap {
    fn parameter_count(&self) -> usize {
        // What another thread did when it panicked does not change how many there are.
        let vars = self
            .data()
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let learned = vars.iter().filter(|(name, _)| {
            let last = name.rsplit('.').next().unwrap_or_default();
            !NOT_LEARNED.contains(&last)
        });
        learned.map(|(_, var)| var.elem_count()).sum()
    }
}

impl Parameters for Embedding {
    fn parameter_count(&self) -> usize {
        self.embeddings().elem_count()
    }
}

impl<P: Parameters> Parameters for Option<P> {
    fn parameter_count(&self) -> usize {
        self.as_ref().map_or(0, Parameters::parameter_count)
    }
}

impl<P: Parameters> Parameters for [P] {
    fn parameter_count(&self) -> usize {
        self.iter().map(Parameters::parameter_count).sum()
    }
}

impl<A: Parameters, B: Parameters> Parameters for (A, B) {
    fn parameter_count(&self) -> usize {
        self.0.parameter_count() + self.1.parameter_count()
    }
}

impl Parameters for Tensor {
    fn parameter_count(&self) -> usize {
        self.elem_count()
    }
}
