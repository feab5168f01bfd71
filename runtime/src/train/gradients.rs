//! Gradients of one step: collected over several batches, and kept from being too large. Called by the trainer, and by
//! loops of one's own ([`clip_gradients`]).

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use candle_nn::VarMap;

use super::losses::in_f32;
use super::parameters::Parameters;
use crate::{Error, Result};

/// Keeps the division finite where all gradients are 0; as PyTorch's `clip_grad_norm_`.
const NORM_AIR: f64 = 1e-6;

/// Gradients of all variables, in their order: the mean over the examples of all batches that were added.
pub(super) struct Gradients {
    sums: Vec<Option<Tensor>>,
    examples: usize,
    batches: usize,
}

impl Gradients {
    pub(super) fn new(variables: usize) -> Self {
        Self {
            sums: vec![None; variables],
            examples: 0,
            batches: 0,
        }
    }

    /// Batches that were added.
    pub(super) fn batches(&self) -> usize {
        self.batches
    }

    /// Adds the gradients of the mean loss over so many examples.
    ///
    /// One batch alone is kept as it is. From the second on each counts by its examples, so that the mean is that of
    /// one large batch although the last is shorter.
    pub(super) fn add(
        &mut self,
        mut store: GradStore,
        parameters: &Parameters,
        examples: usize,
    ) -> Result<()> {
        if self.batches == 1 {
            let before = self.examples as f64;
            for sum in self.sums.iter_mut().flatten() {
                *sum = (&*sum * before)?;
            }
        }
        for (one, sum) in parameters.all.iter().zip(&mut self.sums) {
            let Some(gradient) = store.remove(one.var.as_tensor()).filter(|_| one.learns()) else {
                continue;
            };
            let gradient = in_f32(&gradient.detach())?;
            *sum = Some(match sum.take() {
                _ if self.batches == 0 => gradient,
                Some(sum) => (sum + (gradient * examples as f64)?)?,
                None => (gradient * examples as f64)?,
            });
        }
        self.batches += 1;
        self.examples += examples;
        Ok(())
    }

    /// The mean over all examples; begins anew.
    pub(super) fn take(&mut self) -> Result<Vec<Option<Tensor>>> {
        let variables = self.sums.len();
        let Self {
            mut sums,
            examples,
            batches,
        } = std::mem::replace(self, Self::new(variables));
        if batches > 1 {
            for sum in sums.iter_mut().flatten() {
                *sum = (&*sum / examples as f64)?;
            }
        }
        Ok(sums)
    }
}

/// What is done to gradients that are large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Clip {
    /// All are made smaller by one factor, so that the length of all together is at most this (Pascanu et al., 2013).
    Norm(f64),
    /// Each number is kept between this and its negative.
    Value(f64),
}

impl Clip {
    pub(super) fn most(self) -> f64 {
        match self {
            Self::Norm(most) | Self::Value(most) => most,
        }
    }

    /// Answers the length of all gradients together before, where it had to be known: a scalar that nobody has read.
    pub(super) fn apply(self, gradients: &mut [Option<Tensor>]) -> Result<Option<Tensor>> {
        match self {
            Self::Norm(most) => {
                let Some(norm) = global_norm(gradients.iter().flatten())? else {
                    return Ok(None);
                };
                // The factor stays on the device: reading it would wait for it in each step.
                let factor = (norm.affine(1.0, NORM_AIR)?.recip()? * most)?.minimum(1.0)?;
                for gradient in gradients.iter_mut().flatten() {
                    let factor = factor.to_dtype(gradient.dtype())?.to_device(gradient.device())?;
                    *gradient = gradient.broadcast_mul(&factor)?;
                }
                Ok(Some(norm))
            }
            Self::Value(most) => {
                for gradient in gradients.iter_mut().flatten() {
                    *gradient = gradient.clamp(-most, most)?;
                }
                Ok(None)
            }
        }
    }
}

/// Makes the gradients of all variables in `vars` smaller by one factor, so that their length together is at most
/// `most`; answers their length before. For training loops of one's own.
///
/// # Errors
/// [`Error::Tensor`] from candle.
pub fn clip_gradients(gradients: &mut GradStore, vars: &VarMap, most: f64) -> Result<f64> {
    let parameters = Parameters::of(vars, None)?;
    let mut found: Vec<Option<Tensor>> = parameters
        .all
        .iter()
        .map(|one| gradients.get(one.var.as_tensor()).cloned())
        .collect();
    let norm = Clip::Norm(most).apply(&mut found)?;
    for (one, gradient) in parameters.all.iter().zip(found) {
        if let Some(gradient) = gradient {
            gradients.insert(one.var.as_tensor(), gradient);
        }
    }
    norm.map_or(Ok(0.0), |norm| read(&norm))
}

/// Reads a scalar of any number type; waits for the device.
pub(super) fn read(scalar: &Tensor) -> Result<f64> {
    if scalar.elem_count() != 1 {
        return Err(Error::Data {
            reason: format!(
                "a loss or metric is one number, not a tensor of shape {:?}",
                scalar.dims()
            ),
        });
    }
    let scalar = scalar.flatten_all()?;
    Ok(match scalar.dtype() {
        DType::F64 => scalar.to_vec1::<f64>()?[0],
        _ => f64::from(scalar.to_dtype(DType::F32)?.to_vec1::<f32>()?[0]),
    })
}

/// Length of all gradients together, in `f32` or better.
fn global_norm<'a>(gradients: impl Iterator<Item = &'a Tensor>) -> Result<Option<Tensor>> {
    let mut squares = Vec::new();
    for gradient in gradients {
        squares.push(in_f32(gradient)?.sqr()?.sum_all()?);
    }
    let Some(first) = squares.first() else {
        return Ok(None);
    };
    let (dtype, device) = (first.dtype(), first.device().clone());
    let squares: candle_core::Result<Vec<Tensor>> = squares
        .iter()
        .map(|square| square.to_dtype(dtype)?.to_device(&device))
        .collect();
    Ok(Some(Tensor::stack(&squares?, 0)?.sum_all()?.sqrt()?))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn some(values: &[f64]) -> Option<Tensor> {
        Some(Tensor::new(values, &Device::Cpu).unwrap())
    }

    fn numbers(gradients: &[Option<Tensor>]) -> Vec<f64> {
        let all = gradients.iter().flatten();
        all.flat_map(|tensor| tensor.to_vec1::<f64>().unwrap()).collect()
    }

    #[test]
    fn a_norm_that_is_too_large_is_cut_to_the_length_and_keeps_its_direction() {
        let mut gradients = vec![some(&[3.0, 0.0]), None, some(&[0.0, -4.0])];
        let norm = Clip::Norm(1.0).apply(&mut gradients).unwrap().unwrap();
        assert_eq!(read(&norm).unwrap(), 5.0);
        for (found, expected) in numbers(&gradients).iter().zip([0.6, 0.0, 0.0, -0.8]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        let mut small = vec![some(&[0.3, 0.4])];
        Clip::Norm(1.0).apply(&mut small).unwrap();
        assert_eq!(numbers(&small), [0.3, 0.4]);
        let mut none = vec![some(&[0.0, 0.0])];
        Clip::Norm(1.0).apply(&mut none).unwrap();
        assert_eq!(numbers(&none), [0.0, 0.0]);
        assert!(Clip::Norm(1.0).apply(&mut [None]).unwrap().is_none());
    }

    #[test]
    fn values_are_cut_one_by_one() {
        let mut gradients = vec![some(&[3.0, -0.25]), some(&[-7.0])];
        assert!(Clip::Value(0.5).apply(&mut gradients).unwrap().is_none());
        assert_eq!(numbers(&gradients), [0.5, -0.25, -0.5]);
    }

    #[test]
    fn gradients_of_ones_own_loop_are_cut_too() {
        let vars = VarMap::new();
        let weight = Var::new(&[3_f64, 4.0], &Device::Cpu).unwrap();
        vars.data().lock().unwrap().insert("w".to_owned(), weight.clone());
        let mut gradients = weight.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let norm = clip_gradients(&mut gradients, &vars, 1.0).unwrap();
        assert!((norm - 10.0).abs() < 1e-12, "{norm}");
        let found = gradients.get(&weight).unwrap().to_vec1::<f64>().unwrap();
        assert!(
            (found[0] - 0.6).abs() < 1e-6 && (found[1] - 0.8).abs() < 1e-6,
            "{found:?}"
        );
    }

    #[test]
    fn batches_add_up_to_the_mean_of_one_large_batch() {
        let vars = VarMap::new();
        let weight = Var::new(&[2_f64], &Device::Cpu).unwrap();
        vars.data().lock().unwrap().insert("w".to_owned(), weight.clone());
        let parameters = Parameters::of(&vars, None).unwrap();
        let store = |values: &[f64]| {
            let inputs = Tensor::new(values, &Device::Cpu).unwrap();
            let outputs = inputs.broadcast_mul(weight.as_tensor()).unwrap();
            outputs.sqr().unwrap().mean_all().unwrap().backward().unwrap()
        };
        let mut whole = Gradients::new(1);
        whole
            .add(store(&[1.0, 2.0, 3.0, 4.0, 5.0]), &parameters, 5)
            .unwrap();
        let mut parts = Gradients::new(1);
        for (values, count) in [(&[1.0, 2.0][..], 2), (&[3.0, 4.0], 2), (&[5.0], 1)] {
            parts.add(store(values), &parameters, count).unwrap();
        }
        assert_eq!(parts.batches(), 3);
        let (whole, parts) = (whole.take().unwrap(), parts.take().unwrap());
        assert!((numbers(&whole)[0] - numbers(&parts)[0]).abs() < 1e-12);
        assert_eq!(numbers(&whole), [44.0]);
    }
}
