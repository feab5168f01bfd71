//! When a training is over before its last epoch: it gets no better, or somebody says so.
//!
//! Called by the trainer.

use serde::{Deserialize, Serialize};

/// What a callback answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Go,
    /// End the training here, as if it had been the last epoch.
    Stop,
}

/// What a training looks like after a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Epoch that the step was in, from 0.
    pub epoch: usize,
    /// Steps that are done, from 1.
    pub step: u64,
    /// Steps there will be, where it is known.
    pub steps: Option<u64>,
    /// Learning rate that the step had.
    pub rate: f64,
    /// The last loss that was read. On a device other than the CPU it is that of an earlier step.
    pub loss: Option<f64>,
}

/// What a training looks like after an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochReport {
    /// Epoch that has ended, from 0.
    pub epoch: usize,
    /// Mean loss over its examples, as they were learned from.
    pub train_loss: f64,
    /// Loss on the examples held out, where they were looked at.
    pub test_loss: Option<f64>,
    /// What was measured on them beside, by name.
    pub metrics: Vec<(String, f64)>,
}

/// Ends a training whose loss on the examples held out gets no better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    patience: usize,
    min_delta: f64,
    restores_best: bool,
}

impl EarlyStopping {
    /// Ends it when so many measurements one after another were no better than the best before. At the end the best
    /// weights are put back.
    pub fn after(patience: usize) -> Self {
        Self {
            patience: patience.max(1),
            min_delta: 0.0,
            restores_best: true,
        }
    }

    /// By how much a value must be better to count as better.
    #[must_use]
    pub fn min_delta(mut self, least: f64) -> Self {
        self.min_delta = least;
        self
    }

    /// Whether the best weights are put back at the end, in place of the last.
    #[must_use]
    pub fn restore_best(mut self, restores: bool) -> Self {
        self.restores_best = restores;
        self
    }

    pub(super) fn least_gain(&self) -> f64 {
        self.min_delta
    }

    pub(super) fn restores_best(&self) -> bool {
        self.restores_best
    }
}

/// The best value until now, and how long ago it was. Kept in checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) best: Option<f64>,
    /// Epoch of the best, from 0.
    pub(super) best_epoch: usize,
    /// Measurements since one that was better by enough.
    pub(super) since: usize,
}

impl Watched {
    /// Takes up a value; answers whether it is the best.
    pub(super) fn see(&mut self, value: f64, epoch: usize, higher_is_better: bool, min_delta: f64) -> bool {
        // A value that is no number is no improvement, whatever it is compared with.
        let gain = |best: f64| {
            if higher_is_better {
                value - best
            } else {
                best - value
            }
        };
        let is_better = value.is_finite() && self.best.is_none_or(|best| gain(best) > min_delta);
        if is_better {
            self.best = Some(value);
            self.best_epoch = epoch;
            self.since = 0;
        } else {
            self.since += 1;
        }
        is_better
    }

    pub(super) fn is_over(&self, rule: &EarlyStopping) -> bool {
        self.since >= rule.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_after_so_many_values_that_are_no_better() {
        let rule = EarlyStopping::after(2).min_delta(0.1);
        let mut watched = Watched::default();
        let seen = [1.0, 0.95, 0.8, f64::NAN, 0.75];
        let better: Vec<bool> = seen
            .iter()
            .enumerate()
            .map(|(epoch, value)| {
                assert!(!watched.is_over(&rule), "before {epoch}");
                watched.see(*value, epoch, false, 0.1)
            })
            .collect();
        assert_eq!(better, [true, false, true, false, false]);
        assert!(watched.is_over(&rule));
        assert_eq!((watched.best, watched.best_epoch), (Some(0.8), 2));
    }

    #[test]
    fn knows_metrics_that_grow() {
        let mut watched = Watched::default();
        assert!(!watched.see(f64::NAN, 0, true, 0.0));
        assert!(watched.see(0.5, 1, true, 0.0));
        assert!(!watched.see(0.5, 2, true, 0.0));
        assert!(watched.see(0.6, 3, true, 0.0));
    }
}
