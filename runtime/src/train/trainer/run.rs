//! One training from its beginning, or from a checkpoint, to its end.
//!
//! Not here: making and taking up checkpoints, which is [`super::keeping`].

use std::sync::PoisonError;
use std::time::Instant;

use candle_core::{DType, Device, ModuleT, Tensor};

use super::super::average::Average;
use super::super::checkpoint::{Moment, Plan, Position, Store, Sums};
use super::super::dropout::begin_batch;
use super::super::gradients::{Gradients, read};
use super::super::losses::in_f32;
use super::super::optimizer::Weights;
use super::super::parameters::Parameters;
use super::super::runs::remember;
use super::super::stopping::Watched;
use super::super::{BatchSource, EpochReport, Examples, Flow, History, Optimizer, Pass, StepReport};
use super::measure::{Measured, ShowsOther, measure};
use super::shown::Shown;
use super::{Callback, Trainer};
use crate::device::with_memory;
use crate::interrupt::{check_interrupt, requested};
use crate::{Error, Result};

/// Steps whose losses are read together where reading waits for a device.
const READ_EVERY: usize = 16;

/// What is known while it runs.
pub(super) struct Run<'a> {
    pub(super) trainer: &'a Trainer,
    pub(super) network: &'a dyn ModuleT,
    pub(super) train: &'a dyn BatchSource,
    pub(super) test: Option<&'a dyn BatchSource>,
    pub(super) parameters: Parameters,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) average: Option<Average>,
    pub(super) best: Option<Weights>,
    pub(super) watched: Watched,
    pub(super) at: Position,
    pub(super) sums: Sums,
    pub(super) history: History,
    /// Losses of the batches that the next step is made from.
    pub(super) group: Vec<(Tensor, usize)>,
    /// Steps whose losses nobody has read.
    pub(super) unread: Vec<Unread>,
    pub(super) read_every: usize,
    pub(super) steps: Option<u64>,
    pub(super) device: Device,
    pub(super) inputs_as: Option<DType>,
    /// Where checkpoints are kept, and what must be as it is now for one to be gone on from.
    pub(super) store: Option<(Store, Plan)>,
    pub(super) shown: Shown,
    pub(super) begun: Instant,
    pub(super) seconds_before: f64,
    pub(super) stopped: Option<String>,
    pub(super) is_handed_over: bool,
}

/// A step whose losses nobody has read.
pub(super) struct Unread {
    losses: Vec<(Tensor, usize)>,
    norm: Option<Tensor>,
}

impl<'a> Run<'a> {
    /// Looks whether it can be done, and takes up the newest checkpoint where that is wanted.
    pub(super) fn new(
        trainer: &'a Trainer,
        network: &'a dyn ModuleT,
        train: &'a dyn BatchSource,
        test: Option<&'a dyn BatchSource>,
    ) -> Result<Self> {
        let parameters = Parameters::of(&trainer.vars, trainer.grouping.as_ref())?;
        let steps = trainer.steps(train);
        trainer.check(&parameters, steps, test.is_some())?;
        let first = parameters.all.first();
        let device = first.map_or(Device::Cpu, |one| one.var.device().clone());
        let average = trainer.average.map(|decay| Average::new(decay, &parameters));
        let mut run = Self {
            trainer,
            network,
            train,
            test,
            optimizer: trainer.optimizer.fresh(),
            average: average.transpose()?,
            best: None,
            watched: Watched::default(),
            at: Position::default(),
            sums: Sums::default(),
            history: History::default(),
            group: vec![],
            unread: vec![],
            read_every: trainer
                .read_every
                .unwrap_or(if device.is_cpu() { 1 } else { READ_EVERY }),
            steps,
            device,
            inputs_as: trainer.inputs_as.or(parameters.float()),
            store: None,
            shown: Shown::new(steps, trainer.epochs, trainer.is_quiet),
            begun: Instant::now(),
            seconds_before: 0.0,
            stopped: None,
            is_handed_over: false,
            parameters,
        };
        run.open_store()?;
        run.history.name.clone_from(&trainer.name);
        run.history.settings = trainer.settings(&run.parameters);
        Ok(run)
    }

    /// Runs to the end.
    pub(super) fn finish(mut self) -> Result<History> {
        while self.at.epoch < self.trainer.epochs && !self.is_over() {
            self.epoch()?;
            if self.stopped.is_none() {
                self.end_of_epoch()?;
            }
        }
        self.read_losses()?;
        self.show_final_weights()?;
        self.history.stopped = self.stopped.take();
        self.history.seconds = self.seconds();
        self.shown.finish(self.at.step, &self.history);
        if let Some((store, _)) = &self.store {
            store.write_history(&self.history)?;
        }
        remember(&self.history);
        Ok(std::mem::take(&mut self.history))
    }

    /// Steps of one pass over the data, or of the rest of it.
    fn epoch(&mut self) -> Result<()> {
        let pass = Pass {
            batch_size: self.trainer.batch_size,
            seed: Some(self.trainer.seed),
            epoch: self.at.epoch,
            first: self.at.batch,
        };
        let mut gradients = Gradients::new(self.parameters.all.len());
        let mut taken = self.at.batch;
        for batch in self.train.pass_for(&pass, &self.device)? {
            self.leave_if_interrupted(&gradients)?;
            self.learn(&batch?, taken, &mut gradients)?;
            taken += 1;
            if gradients.batches() == self.trainer.accumulate {
                self.step(&mut gradients, taken)?;
                if self.stopped.is_some() {
                    return Ok(());
                }
            }
        }
        if gradients.batches() > 0 {
            self.step(&mut gradients, taken)?;
        }
        Ok(())
    }

    /// Forward and back through one batch.
    fn learn(&mut self, batch: &Examples, number: usize, gradients: &mut Gradients) -> Result<()> {
        let batch = self.placed(batch)?;
        // A GPU without memory may have some after it is given back what is kept there: what is dropped is the same then.
        let (loss, back) = with_memory(|| {
            begin_batch(self.trainer.seed, self.at.epoch, number);
            let outputs = self.network.forward_t(&batch.inputs, true)?;
            let loss = (self.trainer.loss)(&in_f32(&outputs)?, &batch.labels)?;
            let back = loss.backward()?;
            Ok((loss, back))
        })?;
        if self.read_every == 1 {
            // Before it moves anything: the variables keep what they learned.
            self.ensure_number(read(&loss)?)?;
        }
        gradients.add(back, &self.parameters, batch.len())?;
        self.group.push((loss.detach(), batch.len()));
        Ok(())
    }

    /// One step of the optimiser, from the batches until number `taken`.
    fn step(&mut self, gradients: &mut Gradients, taken: usize) -> Result<()> {
        let trainer = self.trainer;
        let mut gradients = gradients.take()?;
        if gradients.iter().all(Option::is_none) {
            return Err(Error::Data {
                reason: "no variable had a part in the loss: was the network made with these variables?"
                    .to_owned(),
            });
        }
        let norm = match trainer.clip {
            Some(clip) => clip.apply(&mut gradients)?,
            None => None,
        };
        let rate = trainer.learning_rate * trainer.schedule.factor(self.at.step, self.steps.unwrap_or(0));
        self.parameters
            .step(self.optimizer.as_mut(), &gradients, rate, trainer.weight_decay)?;
        if let Some(average) = &mut self.average {
            average.add(&self.parameters)?;
        }
        self.at.step += 1;
        self.at.batch = taken;
        self.history.learning_rate.push(rate);
        let losses = std::mem::take(&mut self.group);
        self.unread.push(Unread { losses, norm });
        if self.unread.len() >= self.read_every {
            self.read_losses()?;
        }
        self.shown.update(self.at.step, &self.history);
        self.after_step(rate)
    }

    /// Callbacks and checkpoints of a step.
    fn after_step(&mut self, rate: f64) -> Result<()> {
        let report = StepReport {
            epoch: self.at.epoch,
            step: self.at.step,
            steps: self.steps,
            rate,
            loss: self.history.step_loss.last().copied(),
        };
        if stops(&self.trainer.on_step, &report) {
            self.stopped = Some(format!("a callback ended it after step {}", self.at.step));
        }
        let every = self.trainer.checkpoints.every_steps;
        if self.stopped.is_some() || every.is_some_and(|every| self.at.step.is_multiple_of(every)) {
            self.keep(Moment::Step)?;
        }
        Ok(())
    }

    /// Measures, and decides what is best and whether that was the end.
    fn end_of_epoch(&mut self) -> Result<()> {
        self.read_losses()?;
        if self.sums.examples == 0 {
            return Err(Error::Data {
                reason: format!("the source gave no batch in epoch {}", self.at.epoch + 1),
            });
        }
        let epoch = self.at.epoch;
        let train_loss = self.sums.loss / self.sums.examples as f64;
        let measured = self.measure_when_due()?;
        let report = self.note_epoch(train_loss, measured);
        let is_best = self.is_best(&report)?;
        self.at = Position {
            epoch: epoch + 1,
            batch: 0,
            step: self.at.step,
        };
        self.sums = Sums::default();
        self.shown.update(self.at.step, &self.history);
        if stops(&self.trainer.on_epoch, &report) {
            self.stopped = Some(format!("a callback ended it after epoch {}", epoch + 1));
        }
        if is_best {
            return self.keep(Moment::Best);
        }
        let every = match self.trainer.checkpoints {
            super::Checkpoints {
                every_steps: Some(_),
                every_epochs: None,
                ..
            } => usize::MAX,
            super::Checkpoints { every_epochs, .. } => every_epochs.unwrap_or(1),
        };
        let is_end = self.stopped.is_some() || self.is_over() || epoch + 1 == self.trainer.epochs;
        if is_end || (epoch + 1).is_multiple_of(every) {
            self.keep(Moment::End)?;
        }
        Ok(())
    }

    fn measure_when_due(&self) -> Result<Option<Measured>> {
        let epoch = self.at.epoch + 1;
        let Some(test) = self
            .test
            .filter(|_| epoch == self.trainer.epochs || epoch.is_multiple_of(self.trainer.validate_every))
        else {
            return Ok(None);
        };
        let average = self.average.as_ref();
        let _shows = average
            .map(|average| ShowsOther::new(&self.parameters, &average.weights))
            .transpose()?;
        measure(self.trainer, self.network, test, |batch| self.placed(batch)).map(Some)
    }

    fn note_epoch(&mut self, train_loss: f64, measured: Option<Measured>) -> EpochReport {
        self.history.train_loss.push(train_loss);
        let mut report = EpochReport {
            epoch: self.at.epoch,
            train_loss,
            test_loss: None,
            metrics: vec![],
        };
        if let Some(measured) = measured {
            self.history.test_loss.push(measured.loss);
            self.history.measured_epochs.push(self.at.epoch);
            report.test_loss = Some(measured.loss);
            for (metric, value) in self.trainer.metrics.iter().zip(measured.metrics) {
                report.metrics.push((metric.name().to_owned(), value));
                if metric.name() == "accuracy" {
                    self.history.test_accuracy.push(value);
                } else {
                    let values = self.history.metrics.entry(metric.name().to_owned());
                    values.or_default().push(value);
                }
            }
        }
        report
    }

    /// Whether this epoch is the best so far; keeps its weights where they may be put back.
    fn is_best(&mut self, report: &EpochReport) -> Result<bool> {
        let named = self.trainer.watch.as_deref();
        let metric = named.and_then(|name| self.trainer.metrics.iter().find(|metric| metric.name() == name));
        let value = match named {
            Some(name) => report
                .metrics
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| *value),
            None if self.test.is_some() => report.test_loss,
            None => Some(report.train_loss),
        };
        // An epoch that was not measured says nothing.
        let Some(value) = value else {
            return Ok(false);
        };
        let is_higher_better = metric.is_some_and(super::Metric::is_higher_better);
        let least = self.trainer.early_stopping.map_or(0.0, |rule| rule.least_gain());
        let is_best = self.watched.see(value, report.epoch, is_higher_better, least);
        if is_best {
            self.history.best_epoch = Some(report.epoch);
            if self
                .trainer
                .early_stopping
                .is_some_and(|rule| rule.restores_best())
            {
                self.best = Some(match &self.average {
                    Some(average) => average.weights.clone(),
                    None => self.parameters.weights()?,
                });
            }
        }
        Ok(is_best)
    }

    /// Whether it ends before its last epoch.
    fn is_over(&mut self) -> bool {
        let rule = self.trainer.early_stopping;
        if self.stopped.is_none() && rule.is_some_and(|rule| self.watched.is_over(&rule)) {
            let since = self.watched.since;
            self.stopped = Some(format!("it got no better in {since} measurements"));
        }
        self.stopped.is_some()
    }

    /// Losses of the steps that nobody has read yet.
    pub(super) fn read_losses(&mut self) -> Result<()> {
        for Unread { losses, norm } in std::mem::take(&mut self.unread) {
            let (mut sum, mut examples) = (0.0, 0);
            for (loss, count) in losses {
                let loss = read(&loss)?;
                self.ensure_number(loss)?;
                sum += loss * count as f64;
                examples += count;
            }
            self.sums.loss += sum;
            self.sums.examples += examples;
            self.history.step_loss.push(sum / examples.max(1) as f64);
            if let Some(norm) = norm {
                self.history.gradient_norm.push(read(&norm)?);
            }
        }
        Ok(())
    }

    fn ensure_number(&self, loss: f64) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let epoch = self.at.epoch + 1;
        Err(Error::Data {
            reason: format!("the loss is {loss} in epoch {epoch}; try a smaller learning rate"),
        })
    }

    /// The batch where the network is, with inputs of its type.
    fn placed(&self, batch: &Examples) -> Result<Examples> {
        let inputs = batch.inputs.to_device(&self.device)?;
        let inputs = match self.inputs_as {
            Some(dtype) if inputs.dtype().is_float() => inputs.to_dtype(dtype)?,
            _ => inputs,
        };
        let labels = batch.labels.to_device(&self.device)?;
        Ok(Examples { inputs, labels })
    }

    /// Ends the cell if it was interrupted. In the middle of a step no checkpoint is made: layers may know already of
    /// batches that would be learned from again.
    fn leave_if_interrupted(&mut self, gradients: &Gradients) -> Result<()> {
        if requested() {
            if gradients.batches() == 0 {
                self.keep(Moment::Step)?;
            }
            self.read_losses()?;
            self.history.stopped = Some("the cell was interrupted".to_owned());
            self.history.seconds = self.seconds();
            remember(&self.history);
            check_interrupt();
        }
        Ok(())
    }

    /// The best weights or the average, where they are wanted in place of the last.
    fn show_final_weights(&mut self) -> Result<()> {
        let average = self.average.as_ref().map(|average| &average.weights);
        let covers = self.best.as_ref().or(average);
        let learned = match covers {
            // Copied before they are covered.
            Some(_) => self.parameters.weights()?,
            None => self.parameters.live_weights(),
        };
        if let Some(weights) = covers {
            self.parameters.show(weights)?;
        }
        self.hand_over(learned);
        Ok(())
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }
}

impl Drop for Run<'_> {
    /// However it ends: what was learned is what the trainer hands out.
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.hand_over(self.parameters.live_weights());
        }
    }
}

fn stops<T>(callbacks: &[Callback<T>], report: &T) -> bool {
    let mut stops = false;
    for callback in callbacks {
        // All are called, also behind one that ends the training.
        let mut call = callback.lock().unwrap_or_else(PoisonError::into_inner);
        stops |= call(report) == Flow::Stop;
    }
    stops
}
