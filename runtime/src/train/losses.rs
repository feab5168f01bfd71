//! How far outputs are from what they ought to be, as one number to make smaller.
//!
//! Each takes outputs and targets and answers a scalar, the mean over the batch, that `backward` can be called on.
//! They answer candle's `Result`, so that they can stand in a network as well as in [`super::Trainer::loss`].
//! `f16` and `bf16` outputs are taken to `f32` first. Called by the trainer and by notebooks.

use candle_core::{DType, Result, Tensor, bail};

/// A scalar from outputs and labels.
pub(super) type LossFn = dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync;

/// Softmax cross entropy with settings: `CrossEntropy::default().label_smoothing(0.1)`.
#[derive(Debug, Clone, Default)]
pub struct CrossEntropy {
    smoothing: f64,
    weights: Option<Tensor>,
    ignored: Option<u32>,
}

/// Softmax cross entropy (natural logarithm), the mean over all rows.
///
/// `scores` are logits of shape (..., classes), `classes` their `u32` targets of shape (...): a row for an example
/// of a classifier, (batch, time, classes) and (batch, time) for a language model.
///
/// # Errors
/// When shapes do not belong together, and from candle.
pub fn cross_entropy(scores: &Tensor, classes: &Tensor) -> Result<Tensor> {
    CrossEntropy::default().of(scores, classes)
}

impl CrossEntropy {
    /// Part of the target that is spread evenly over all classes, 0 to 1 (Szegedy et al., 2016, section 7).
    #[must_use]
    pub fn label_smoothing(mut self, part: f64) -> Self {
        self.smoothing = part;
        self
    }

    /// How much each class counts, of shape (classes): rows of rare classes can be given more. The mean is then the
    /// weighted one, as in PyTorch.
    #[must_use]
    pub fn class_weights(mut self, weights: &Tensor) -> Self {
        self.weights = Some(weights.clone());
        self
    }

    /// A class whose rows do not count, such as padding.
    #[must_use]
    pub fn ignore(mut self, class: u32) -> Self {
        self.ignored = Some(class);
        self
    }

    /// The loss of these logits (..., classes) for these `u32` targets (...).
    ///
    /// # Errors
    /// When shapes do not belong together or the smoothing is not from 0 to 1, and from candle.
    pub fn of(&self, scores: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let Some((&count, rows)) = scores.dims().split_last() else {
            bail!("cross entropy takes logits of shape (..., classes), not a scalar");
        };
        if rows != classes.dims() {
            bail!(
                "logits of shape {:?} want classes of shape {rows:?}, not {:?}",
                scores.dims(),
                classes.dims()
            );
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            bail!("label smoothing is a part from 0 to 1, not {}", self.smoothing);
        }
        let fused = alephlab_ops::CrossEntropy {
            #[expect(clippy::cast_possible_truncation, reason = "a part of what is f32")]
            label_smoothing: self.smoothing as f32,
            ignore_label: self.ignored,
            class_weights: match &self.weights {
                Some(weights) => Some(weights.to_dtype(DType::F32)?.to_vec1()?),
                None => None,
            },
        };
        fused.of(&in_f32(scores)?.reshape(((), count))?, &classes.flatten_all()?)
    }
}

/// Binary cross entropy of logits, mean over all values; targets are 0 to 1 and of the same shape, of any number type.
///
/// Written as `max(x, 0) - x·t + ln(1 + e^-|x|)`, which overflows for no logit.
///
/// # Errors
/// When shapes differ, and from candle.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (logits, targets) = pair(logits, targets)?;
    let above = logits.relu()?;
    // |x| as 2·relu(x) - x: at 0 its derivative fits that of relu, and the sum has the right one, 1/2 - t.
    let size = ((&above * 2.0)? - &logits)?;
    let rest = (size.neg()?.exp()? + 1.0)?.log()?;
    ((above - (&logits * &targets)?)? + rest)?.mean_all()
}

/// Mean of the squared differences; both of one shape.
///
/// # Errors
/// When shapes differ, and from candle.
pub fn mse(outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (outputs, targets) = pair(outputs, targets)?;
    (outputs - targets)?.sqr()?.mean_all()
}

/// Mean of the absolute differences; both of one shape.
///
/// # Errors
/// When shapes differ, and from candle.
pub fn l1(outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (outputs, targets) = pair(outputs, targets)?;
    (outputs - targets)?.abs()?.mean_all()
}

/// Squared where the difference `d` is smaller than `delta`, linear beyond (Huber, 1964): `d²/2`, then
/// `delta·(|d| - delta/2)`; the mean over all values.
///
/// # Errors
/// When shapes differ or `delta` is not above 0, and from candle.
pub fn huber(outputs: &Tensor, targets: &Tensor, delta: f64) -> Result<Tensor> {
    if !(delta > 0.0 && delta.is_finite()) {
        bail!("huber's delta is a number above 0, not {delta}");
    }
    let (outputs, targets) = pair(outputs, targets)?;
    let size = (outputs - targets)?.abs()?;
    let near = size.minimum(delta)?;
    // near²/2 + delta·(size - near): both halves in one form, with the right derivative in each.
    ((near.sqr()? * 0.5)? + ((size - near)? * delta)?)?.mean_all()
}

/// [`huber`] divided by `beta` (Girshick, 2015): as PyTorch's `smooth_l1_loss`.
///
/// # Errors
/// As [`huber`].
pub fn smooth_l1(outputs: &Tensor, targets: &Tensor, beta: f64) -> Result<Tensor> {
    huber(outputs, targets, beta)? / beta
}

pub(super) fn in_f32(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(tensor.clone()),
        _ => tensor.to_dtype(DType::F32),
    }
}

/// Both in one type; a target never broadcasts, which would hide a wrong shape.
fn pair(outputs: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    if outputs.dims() != targets.dims() {
        bail!(
            "outputs of shape {:?} want targets of the same shape, not {:?}",
            outputs.dims(),
            targets.dims()
        );
    }
    let outputs = in_f32(outputs)?;
    let targets = targets.to_dtype(outputs.dtype())?;
    Ok((outputs, targets))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn classes(values: &[u32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn close(loss: &Tensor, expected: f64) {
        within(1e-12, loss, expected);
    }

    fn within(bound: f64, loss: &Tensor, expected: f64) {
        let loss: f64 = loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap();
        assert!((loss - expected).abs() < bound, "{loss} in place of {expected}");
    }

    const SCORES: [[f64; 3]; 4] = [
        [0.5, -1.0, 2.0],
        [1.5, 0.0, -0.5],
        [0.1, 0.2, 0.3],
        [-2.0, 3.0, 0.7],
    ];

    /// PyTorch's definition, one row after another.
    fn reference(targets: &[u32], weights: [f64; 3], ignored: Option<u32>, smoothing: f64) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (row, &target) in SCORES.iter().zip(targets) {
            if Some(target) == ignored {
                continue;
            }
            let norm = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let target = target as usize;
            sum += (1.0 - smoothing) * weights[target] * (norm - row[target]);
            let even = row.iter().zip(weights).map(|(x, weight)| weight * (norm - x));
            sum += smoothing / 3.0 * even.sum::<f64>();
            total += weights[target];
        }
        sum / total
    }

    #[test]
    fn cross_entropy_is_its_formula_with_smoothing_weights_and_rows_that_do_not_count() {
        let scores = tensor(SCORES.as_flattened(), &[4, 3]);
        let weights = [0.2, 1.0, 3.0];
        let targets = [2, 0, 1, 1];
        let all = classes(&targets);
        close(
            &cross_entropy(&scores, &all).unwrap(),
            reference(&targets, [1.0; 3], None, 0.0),
        );
        // Parts and weights are `f32`.
        const F32: f64 = 1e-7;
        for smoothing in [0.0, 0.1, 1.0] {
            let plain = CrossEntropy::default().label_smoothing(smoothing);
            within(
                F32,
                &plain.of(&scores, &all).unwrap(),
                reference(&targets, [1.0; 3], None, smoothing),
            );
            let weighted = plain.class_weights(&tensor(&weights, &[3]));
            within(
                F32,
                &weighted.of(&scores, &all).unwrap(),
                reference(&targets, weights, None, smoothing),
            );
            // 99 is no class: padding need not be one.
            let padded = [2, 99, 1, 99];
            within(
                F32,
                &weighted.ignore(99).of(&scores, &classes(&padded)).unwrap(),
                reference(&padded, weights, Some(99), smoothing),
            );
        }
    }

    #[test]
    fn cross_entropy_takes_a_class_for_each_place() {
        let flat = tensor(SCORES.as_flattened(), &[4, 3]);
        let deep = flat.reshape((2, 2, 3)).unwrap();
        let targets = classes(&[2, 0, 1, 1]);
        let loss: f64 = cross_entropy(&flat, &targets).unwrap().to_scalar().unwrap();
        close(
            &cross_entropy(&deep, &targets.reshape((2, 2)).unwrap()).unwrap(),
            loss,
        );
        assert!(cross_entropy(&deep, &targets).is_err());
        let half = flat.to_dtype(DType::BF16).unwrap();
        assert_eq!(cross_entropy(&half, &targets).unwrap().dtype(), DType::F32);
    }

    #[test]
    fn binary_cross_entropy_is_its_formula_and_survives_large_logits() {
        let (logits, targets) = ([0.5, -1.5, 3.0, 0.0], [1.0, 0.0, 0.25, 1.0]);
        let expected = logits.iter().zip(targets).map(|(x, t)| {
            let chance = 1.0 / (1.0 + f64::exp(-x));
            -(t * chance.ln() + (1.0 - t) * (1.0 - chance).ln())
        });
        let loss = binary_cross_entropy(&tensor(&logits, &[4]), &tensor(&targets, &[4]));
        close(&loss.unwrap(), expected.sum::<f64>() / 4.0);
        let large = tensor(&[1000.0, -1000.0], &[2]);
        close(
            &binary_cross_entropy(&large, &tensor(&[0.0, 0.0], &[2])).unwrap(),
            500.0,
        );
        close(&binary_cross_entropy(&large, &classes(&[1, 0])).unwrap(), 0.0);
    }

    #[test]
    fn regression_losses_are_their_formulas() {
        let (outputs, targets) = ([0.0, 1.0, 5.0, -4.0], [0.5, 1.0, 2.0, -3.5]);
        let differences = [0.5, 0.0, 3.0, 0.5];
        let mean = |of: &dyn Fn(f64) -> f64| differences.iter().map(|d| of(*d)).sum::<f64>() / 4.0;
        let (o, t) = (tensor(&outputs, &[4]), tensor(&targets, &[4]));
        close(&mse(&o, &t).unwrap(), mean(&|d| d * d));
        close(&l1(&o, &t).unwrap(), mean(&|d| d));
        let bend = |d: f64, delta: f64| {
            if d < delta {
                d * d / 2.0
            } else {
                delta * (d - delta / 2.0)
            }
        };
        for delta in [0.3, 0.5, 2.0] {
            close(&huber(&o, &t, delta).unwrap(), mean(&|d| bend(d, delta)));
            close(
                &smooth_l1(&o, &t, delta).unwrap(),
                mean(&|d| bend(d, delta) / delta),
            );
        }
        assert!(huber(&o, &t, 0.0).is_err());
        let error = mse(&o, &t.reshape((4, 1)).unwrap()).unwrap_err().to_string();
        assert!(error.contains("same shape"), "{error}");
    }

    /// Central differences against `backward`.
    fn check_gradient(outputs: &[f64], shape: &[usize], loss: &dyn Fn(&Tensor) -> Result<Tensor>) {
        let at = |values: &[f64]| loss(&tensor(values, shape)).unwrap().to_scalar::<f64>().unwrap();
        let var = Var::from_tensor(&tensor(outputs, shape)).unwrap();
        let gradients = loss(var.as_tensor()).unwrap().backward().unwrap();
        let gradient = gradients.get(&var).unwrap().flatten_all().unwrap();
        for (place, found) in gradient.to_vec1::<f64>().unwrap().into_iter().enumerate() {
            let moved = |by: f64| {
                let mut values = outputs.to_vec();
                values[place] += by;
                at(&values)
            };
            let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((found - expected).abs() < 1e-7, "{found} in place of {expected}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let targets = classes(&[2, 0, 1, 1]);
        let settings = CrossEntropy::default()
            .label_smoothing(0.1)
            .class_weights(&tensor(&[0.2, 1.0, 3.0], &[3]))
            .ignore(0);
        let scores = SCORES.as_flattened();
        check_gradient(scores, &[4, 3], &|x| cross_entropy(x, &targets));
        check_gradient(scores, &[4, 3], &|x| settings.of(x, &targets));
        let values = tensor(&[0.4, 0.9, 0.1, 0.0], &[4]);
        let outputs = [0.0, 1.0, 5.0, -4.0];
        check_gradient(&outputs, &[4], &|x| binary_cross_entropy(x, &values));
        check_gradient(&outputs, &[4], &|x| mse(x, &values));
        check_gradient(&outputs, &[4], &|x| l1(x, &values));
        check_gradient(&outputs, &[4], &|x| huber(x, &values, 1.0));
    }
}
