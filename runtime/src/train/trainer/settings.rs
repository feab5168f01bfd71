//! Whether a training makes sense as it is set to, and its settings in words. Called by the loop.

use std::collections::BTreeMap;

use super::super::BatchSource;
use super::super::gradients::Clip;
use super::super::parameters::Parameters;
use super::Trainer;
use crate::{Error, Result};

impl Trainer {
    /// Steps of the optimiser in the whole training, where that is known.
    pub(super) fn steps(&self, train: &dyn BatchSource) -> Option<u64> {
        self.total_steps.or_else(|| {
            let steps = train.batch_count(self.batch_size)?.div_ceil(self.accumulate);
            u64::try_from(steps.checked_mul(self.epochs)?).ok()
        })
    }

    /// Refuses what cannot be trained.
    pub(super) fn check(&self, parameters: &Parameters, steps: Option<u64>, has_test: bool) -> Result<()> {
        let refused = |reason: String| Err(Error::Data { reason });
        let above_zero = |value: f64| value > 0.0 && value.is_finite();
        let variables = parameters.all.len();
        if variables == 0 || self.epochs == 0 || !above_zero(self.learning_rate) {
            return refused(format!(
                "there is nothing to train: {variables} variables, {} epochs, learning rate {}",
                self.epochs, self.learning_rate
            ));
        }
        if self.schedule.needs_length() && steps.is_none() {
            return refused(format!(
                "the schedule ({:?}) ends, but nobody knows after how many steps: set `.schedule_steps(1000)`",
                self.schedule
            ));
        }
        if let Some(clip) = self.clip.filter(|clip| !above_zero(clip.most())) {
            return refused(format!(
                "gradients are cut at a number above 0, not {}",
                clip.most()
            ));
        }
        if let Some(decay) = self.average.filter(|decay| !(0.0..1.0).contains(decay)) {
            return refused(format!("an average keeps a part from 0 to below 1, not {decay}"));
        }
        match &self.watch {
            Some(name) if !has_test || !self.metrics.iter().any(|metric| metric.name() == name) => refused(
                format!("`{name}` is to be watched, but is not measured on examples held out"),
            ),
            _ => Ok(()),
        }
    }

    /// What it is set to, for comparisons.
    pub(super) fn settings(&self, parameters: &Parameters) -> BTreeMap<String, String> {
        let numbers: usize = parameters.all.iter().map(|one| one.var.elem_count()).sum();
        let mut all = vec![
            ("epochs", self.epochs.to_string()),
            ("batch size", self.batch_size.to_string()),
            ("learning rate", self.learning_rate.to_string()),
            ("weight decay", self.weight_decay.to_string()),
            ("seed", self.seed.to_string()),
            ("optimiser", self.optimizer.describe()),
            ("schedule", format!("{:?}", self.schedule)),
            ("parameters", numbers.to_string()),
        ];
        if self.accumulate > 1 {
            all.push(("batches in a step", self.accumulate.to_string()));
        }
        match self.clip {
            Some(Clip::Norm(most)) => all.push(("gradients", format!("length at most {most}"))),
            Some(Clip::Value(most)) => all.push(("gradients", format!("each at most {most}"))),
            None => {}
        }
        if let Some(decay) = self.average {
            all.push(("average of weights", decay.to_string()));
        }
        if let Some(dtype) = parameters.float() {
            all.push(("type", dtype.as_str().to_owned()));
        }
        all.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
