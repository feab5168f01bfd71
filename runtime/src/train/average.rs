//! A slow average of the weights, which is often better than the last of them (Polyak and Juditsky, 1992).
//!
//! Called by the trainer.

use super::optimizer::Weights;
use super::parameters::Parameters;
use crate::Result;

/// An exponential moving average of all variables.
pub(super) struct Average {
    decay: f64,
    /// Steps that went into it.
    pub(super) steps: u64,
    pub(super) weights: Weights,
}

impl Average {
    /// Begins with the weights as they are.
    pub(super) fn new(decay: f64, parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            decay,
            steps: 0,
            weights: parameters.weights()?,
        })
    }

    /// Takes up an average that was kept.
    pub(super) fn restored(decay: f64, steps: u64, weights: Weights) -> Self {
        Self {
            decay,
            steps,
            weights,
        }
    }

    /// Adds the weights as they are now. The first steps count more, `(1 + step) / (10 + step)`, so that the average
    /// does not remember the random weights of the beginning.
    pub(super) fn add(&mut self, parameters: &Parameters) -> Result<()> {
        self.steps += 1;
        let steps = self.steps as f64;
        let kept = self.decay.min((1.0 + steps) / (10.0 + steps));
        for one in &parameters.all {
            let value = one.value().as_tensor();
            let next = match self.weights.get(&one.name) {
                Some(mean) if value.dtype().is_float() => {
                    // A master in f32 may have come since the average began.
                    let mean = mean.to_dtype(value.dtype())?;
                    ((mean * kept)? + (value * (1.0 - kept))?)?.detach()
                }
                _ => value.copy()?.detach(),
            };
            self.weights.insert(one.name.clone(), next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};
    use candle_nn::VarMap;

    use super::*;

    #[test]
    fn follows_its_formula_and_is_not_moved_with_the_weights() {
        let vars = VarMap::new();
        let weight = Var::new(&[8_f64], &Device::Cpu).unwrap();
        vars.data().lock().unwrap().insert("w".to_owned(), weight.clone());
        let parameters = Parameters::of(&vars, None).unwrap();
        let mut average = Average::new(0.3, &parameters).unwrap();
        let mut expected = 8.0;
        for step in 1..=20_u8 {
            let value = 1.0 / f64::from(step);
            weight.set(&Tensor::new(&[value], &Device::Cpu).unwrap()).unwrap();
            average.add(&parameters).unwrap();
            let kept = f64::min(0.3, (1.0 + f64::from(step)) / (10.0 + f64::from(step)));
            expected = kept * expected + (1.0 - kept) * value;
            let found = average.weights["w"].to_vec1::<f64>().unwrap()[0];
            assert!((found - expected).abs() < 1e-15, "{found} in place of {expected}");
        }
    }
}
