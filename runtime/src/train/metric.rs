//! What a network is measured by, beside its loss. Called by the trainer and by notebooks.

use std::fmt;
use std::sync::Arc;

use candle_core::{D, DType, ModuleT, Tensor};

use super::Examples;
use super::losses::LossFn;
use crate::Result;
use crate::interrupt::check_interrupt;

/// Examples that are looked at together when nothing is learned.
pub(super) const EVALUATION_BATCH: usize = 256;

/// A number that says how good outputs are, as a mean over the examples.
#[derive(Clone)]
pub struct Metric {
    name: String,
    higher_is_better: bool,
    /// Sum over the examples of a batch, so that batches of different sizes add up.
    sum: Arc<LossFn>,
}

impl Metric {
    /// A metric whose value is the mean over all examples of what `mean` answers for a batch: a scalar from outputs and
    /// labels. It ought to be higher the better; else see [`Metric::lower_is_better`].
    pub fn new(
        name: impl Into<String>,
        mean: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        let sum = move |outputs: &Tensor, labels: &Tensor| {
            let examples = labels.dims().first().copied().unwrap_or(1);
            mean(outputs, labels)? * examples as f64
        };
        Self {
            name: name.into(),
            higher_is_better: true,
            sum: Arc::new(sum),
        }
    }

    /// Share of places whose highest score is the right class, 0 to 1: logits (..., classes), classes (...).
    pub fn accuracy() -> Self {
        let sum = |scores: &Tensor, classes: &Tensor| {
            let hits = scores.argmax(D::Minus1)?.eq(&classes.to_dtype(DType::U32)?)?;
            let hits = hits.to_dtype(DType::F32)?;
            // Examples with several places count once, by the mean over their places.
            let places = hits.elem_count() / classes.dims().first().copied().unwrap_or(1).max(1);
            hits.sum_all()? / places.max(1) as f64
        };
        Self {
            name: "accuracy".to_owned(),
            higher_is_better: true,
            sum: Arc::new(sum),
        }
    }

    /// Mean of the absolute differences, for regression.
    pub fn mean_absolute_error() -> Self {
        Self::new("mean absolute error", super::losses::l1).lower_is_better()
    }

    /// Says that smaller values are better.
    #[must_use]
    pub fn lower_is_better(mut self) -> Self {
        self.higher_is_better = false;
        self
    }

    /// Its name in a [`super::History`].
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_higher_better(&self) -> bool {
        self.higher_is_better
    }

    /// Sum over the examples of this batch; not read yet.
    pub(super) fn sum(&self, outputs: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
        (self.sum)(outputs, labels)
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// The class that `network` gives to each example, in their order.
///
/// # Errors
/// [`crate::Error::Tensor`] from candle.
pub fn predict(network: &dyn ModuleT, examples: &Examples) -> Result<Vec<u32>> {
    let mut classes = Vec::with_capacity(examples.len());
    for batch in examples.batches(EVALUATION_BATCH)? {
        check_interrupt();
        let scores = network.forward_t(&batch.inputs, false)?;
        classes.extend(scores.argmax(D::Minus1)?.to_vec1::<u32>()?);
    }
    Ok(classes)
}

/// The share of `examples` that `network` classifies rightly, 0 to 1.
///
/// # Errors
/// [`crate::Error::Tensor`] from candle.
pub fn accuracy(network: &dyn ModuleT, examples: &Examples) -> Result<f64> {
    let labels = examples.labels.to_vec1::<u32>()?;
    let right = predict(network, examples)?
        .iter()
        .zip(&labels)
        .filter(|(class, label)| class == label)
        .count();
    Ok(right as f64 / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::gradients::read;
    use super::*;

    #[test]
    fn accuracy_counts_places_and_examples() {
        let scores = Tensor::new(&[[1_f32, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]], &Device::Cpu).unwrap();
        let classes = Tensor::new(&[1_u32, 0, 0, 0], &Device::Cpu).unwrap();
        let metric = Metric::accuracy();
        assert_eq!(read(&metric.sum(&scores, &classes).unwrap()).unwrap(), 3.0);
        let (deep, places) = (
            scores.reshape((2, 2, 2)).unwrap(),
            classes.reshape((2, 2)).unwrap(),
        );
        assert_eq!(read(&metric.sum(&deep, &places).unwrap()).unwrap(), 1.5);
    }

    #[test]
    fn a_metric_of_ones_own_is_a_mean_over_examples() {
        let ones = Tensor::ones((4, 1), DType::F32, &Device::Cpu).unwrap();
        let metric = Metric::mean_absolute_error();
        assert!(!metric.is_higher_better());
        let sum = metric.sum(&ones, &ones.affine(3.0, 0.0).unwrap()).unwrap();
        assert_eq!(read(&sum).unwrap(), 8.0);
    }
}
