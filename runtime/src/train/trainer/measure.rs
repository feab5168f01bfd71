//! Looks at the examples held out, without learning. Called by the loop.

use candle_core::{ModuleT, Tensor};

use super::super::gradients::read;
use super::super::losses::in_f32;
use super::super::optimizer::Weights;
use super::super::parameters::Parameters;
use super::super::{BatchSource, Examples, Pass};
use super::Trainer;
use crate::device::with_memory;
use crate::interrupt::check_interrupt;
use crate::{Error, Result};

/// Means over all examples held out.
pub(super) struct Measured {
    pub(super) loss: f64,
    /// In the order of the trainer's metrics.
    pub(super) metrics: Vec<f64>,
}

/// Loss and metrics of `network` on `test`.
pub(super) fn measure(
    trainer: &Trainer,
    network: &dyn ModuleT,
    test: &dyn BatchSource,
    placed: impl Fn(&Examples) -> Result<Examples>,
) -> Result<Measured> {
    // Read at the end: the device is waited for once.
    let (mut losses, mut sums, mut examples) = (vec![], vec![vec![]; trainer.metrics.len()], 0);
    for batch in test.pass(&Pass::in_order(trainer.evaluation_batch))? {
        check_interrupt();
        let batch = placed(&batch?)?;
        let (outputs, loss) = with_memory(|| {
            let outputs = in_f32(&network.forward_t(&batch.inputs, false)?.detach())?;
            let loss = (trainer.loss)(&outputs, &batch.labels)?.detach();
            Ok((outputs, loss))
        })?;
        losses.push((loss, batch.len()));
        for (metric, sums) in trainer.metrics.iter().zip(&mut sums) {
            sums.push(metric.sum(&outputs, &batch.labels)?.detach());
        }
        examples += batch.len();
    }
    if examples == 0 {
        return Err(Error::Data {
            reason: "there is no example to measure with".to_owned(),
        });
    }
    let count = examples as f64;
    let mut loss = 0.0;
    for (mean, examples) in &losses {
        loss += read(mean)? * *examples as f64;
    }
    let mean = |sums: &Vec<Tensor>| -> Result<f64> {
        let sums: Result<Vec<f64>> = sums.iter().map(read).collect();
        Ok(sums?.iter().sum::<f64>() / count)
    };
    Ok(Measured {
        loss: loss / count,
        metrics: sums.iter().map(mean).collect::<Result<_>>()?,
    })
}

/// The network shows other weights as long as this lives, also when a cell is interrupted.
pub(super) struct ShowsOther<'a> {
    parameters: &'a Parameters,
    own: Weights,
}

impl<'a> ShowsOther<'a> {
    pub(super) fn new(parameters: &'a Parameters, other: &Weights) -> Result<Self> {
        let own = parameters.shown()?;
        // Made first: should a variable refuse its value, those before it get theirs back.
        let shows = Self { parameters, own };
        parameters.show(other)?;
        Ok(shows)
    }
}

impl Drop for ShowsOther<'_> {
    fn drop(&mut self) {
        // They are copies of what the variables held: there is nothing that could be refused.
        let _ = self.parameters.show(&self.own);
    }
}
