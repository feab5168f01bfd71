//! First weights of a network from a seed.
//!
//! candle draws first weights on the CPU from a generator that cannot be seeded. [`seeded_vars`] gives a
//! `VarBuilder` that makes the same kinds of numbers from [`SeededRandom`], one sequence for each variable's
//! name, so that the weights don't depend on the order in which layers are made. Called by notebooks.

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::init::{Init, NormalOrUniform};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{VarBuilder, VarMap};

use super::SeededRandom;

/// A builder of `f32` variables that are kept in `vars` and whose first values follow from `seed`.
///
/// Variables that `vars` has already are used as they are.
pub fn seeded_vars(vars: &VarMap, seed: u64, device: &Device) -> VarBuilder<'static> {
    let backend = SeededVars {
        vars: vars.clone(),
        seed,
    };
    VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
}

struct SeededVars {
    vars: VarMap,
    seed: u64,
}

impl SimpleBackend for SeededVars {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if !SimpleBackend::contains_tensor(&self.vars, name) {
            let values = first_values(&shape, init, SeededRandom::named(self.seed, name));
            let tensor = Tensor::from_vec(values, &shape, device)?.to_dtype(dtype)?;
            let mut known = self.vars.data().lock().map_err(|_| poisoned())?;
            known.insert(name.to_owned(), Var::from_tensor(&tensor)?);
        }
        SimpleBackend::get(&self.vars, shape, name, init, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        SimpleBackend::get_unchecked(&self.vars, name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        SimpleBackend::contains_tensor(&self.vars, name)
    }
}

fn poisoned() -> candle_core::Error {
    candle_core::Error::Msg("another thread panicked while it held these variables".to_owned())
}

/// The same distributions as `candle_nn::Init::var`.
fn first_values(shape: &Shape, init: Init, mut random: SeededRandom) -> Vec<f64> {
    let mut uniform = |low: f64, high: f64| random.uniform() * (high - low) + low;
    let count = shape.elem_count();
    match init {
        Init::Const(value) => vec![value; count],
        Init::Uniform { lo, up } => (0..count).map(|_| uniform(lo, up)).collect(),
        Init::Randn { mean, stdev } => (0..count).map(|_| random.normal() * stdev + mean).collect(),
        Init::Kaiming {
            dist,
            fan,
            non_linearity,
        } => {
            let spread = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => {
                    let bound = 3_f64.sqrt() * spread;
                    (0..count).map(|_| uniform(-bound, bound)).collect()
                }
                NormalOrUniform::Normal => (0..count).map(|_| random.normal() * spread).collect(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::{Linear, linear};

    use super::*;

    fn weights(layer: &Linear) -> Vec<Vec<f32>> {
        layer.weight().to_vec2().unwrap()
    }

    #[test]
    fn gives_the_same_weights_for_the_same_seed_in_any_order() {
        let device = Device::Cpu;
        let first = VarMap::new();
        let builder = seeded_vars(&first, 1, &device);
        let a = linear(3, 4, builder.pp("a")).unwrap();
        let b = linear(3, 4, builder.pp("b")).unwrap();
        let second = seeded_vars(&VarMap::new(), 1, &device);
        let b_again = linear(3, 4, second.pp("b")).unwrap();
        let a_again = linear(3, 4, second.pp("a")).unwrap();
        assert_eq!((weights(&a), weights(&b)), (weights(&a_again), weights(&b_again)));
        assert_ne!(weights(&a), weights(&b));
        assert_eq!(first.all_vars().len(), 4);
        let other = linear(3, 4, seeded_vars(&VarMap::new(), 2, &device).pp("a")).unwrap();
        assert_ne!(weights(&a), weights(&other));
    }

    #[test]
    fn keeps_variables_that_exist_and_refuses_another_shape() {
        let vars = VarMap::new();
        let builder = seeded_vars(&vars, 1, &Device::Cpu);
        let once = linear(3, 4, builder.pp("a")).unwrap();
        let twice = linear(3, 4, builder.pp("a")).unwrap();
        assert_eq!(weights(&once), weights(&twice));
        assert!(linear(5, 4, builder.pp("a")).is_err());
    }
}
