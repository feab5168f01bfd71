//! Checkpoints of a running training: making them, and going on from one. What they hold on the disk is
//! [`super::super::checkpoint`]'s.

use std::sync::PoisonError;

use super::super::average::Average;
use super::super::checkpoint::{Moment, Plan, Snapshot, State, Store, refused};
use super::super::optimizer::Weights;
use super::run::Run;
use crate::{Error, Result};

impl Run<'_> {
    /// Makes a checkpoint, where they are kept.
    pub(super) fn keep(&mut self, moment: Moment) -> Result<()> {
        let Some((store, plan)) = self.store.clone() else {
            return Ok(());
        };
        self.read_losses()?;
        self.history.seconds = self.seconds();
        let mut tensors = Weights::new();
        let mut add = |part: &str, weights: Weights| {
            tensors.extend(
                weights
                    .into_iter()
                    .map(|(name, tensor)| (format!("{part}/{name}"), tensor)),
            );
        };
        // Written before anything moves on: nothing has to be copied first.
        add("weights", self.parameters.live_weights());
        add("optimizer", self.optimizer.state()?);
        if let Some(average) = &self.average {
            add("average", average.weights.clone());
        }
        if let Some(best) = &self.best {
            add("best", best.clone());
        }
        let state = State {
            plan,
            at: self.at,
            sums: self.sums,
            watched: self.watched.clone(),
            average_steps: self.average.as_ref().map_or(0, |average| average.steps),
            history: self.history.clone(),
        };
        store.write(&Snapshot { state, tensors }, moment)
    }

    fn plan(&self) -> Result<Plan> {
        let trainer = self.trainer;
        Ok(Plan {
            seed: trainer.seed,
            batch_size: trainer.batch_size,
            accumulate: trainer.accumulate,
            optimizer: trainer.optimizer.describe(),
            average: trainer.average,
            examples: self.train.example_count(),
            data: self.train.fingerprint()?,
        })
    }

    pub(super) fn open_store(&mut self) -> Result<()> {
        let settings = &self.trainer.checkpoints;
        let Some(folder) = &settings.folder else {
            if settings.resume {
                return Err(Error::Data {
                    reason: "there is no folder to go on from; name it with `.checkpoint(folder)`".to_owned(),
                });
            }
            return Ok(());
        };
        let store = Store::open(folder, settings.keep)?;
        // Once: a source may have much to look at for its fingerprint.
        let plan = self.plan()?;
        match store.newest() {
            Ok(None) => {}
            Ok(Some((snapshot, told))) if settings.resume => self.take_up(snapshot, told, &store, &plan)?,
            Err(error) if settings.resume => return Err(error),
            // Begun anew among them, it would sooner or later go on from one of theirs.
            Ok(Some(_)) | Err(_) => {
                let reason = "there are checkpoints of another training; `.resume(true)` goes on with that";
                return Err(refused(folder.clone(), reason.to_owned()));
            }
        }
        self.store = Some((store, plan));
        Ok(())
    }

    /// Goes on from a checkpoint. Nothing is changed when it does not fit.
    fn take_up(&mut self, snapshot: Snapshot, told: Vec<String>, store: &Store, plan: &Plan) -> Result<()> {
        let misfit = |reason: String| refused(store.folder().to_owned(), reason);
        if let Some(difference) = snapshot.state.plan.difference(plan) {
            return Err(misfit(difference));
        }
        let in_words = |error: Error| match error {
            Error::Data { reason } => misfit(reason),
            other => other,
        };
        self.parameters
            .set_weights(&snapshot.part("weights"))
            .map_err(in_words)?;
        let values = self.parameters.values();
        self.optimizer
            .set_state(&snapshot.part("optimizer"), &values)
            .map_err(in_words)?;
        let to_device = |weights: Weights| self.parameters.on_their_devices(weights);
        let best = to_device(snapshot.part("best"))?;
        if let Some(decay) = self.trainer.average {
            let weights = to_device(snapshot.part("average"))?;
            self.average = Some(Average::restored(decay, snapshot.state.average_steps, weights));
        }
        self.best = (!best.is_empty()).then_some(best);
        let State {
            plan: _,
            at,
            sums,
            watched,
            average_steps: _,
            history,
        } = snapshot.state;
        (self.at, self.sums, self.watched, self.history) = (at, sums, watched, history);
        self.seconds_before = self.history.seconds;
        let place = format!(
            "went on from step {}, epoch {}, batch {}",
            at.step,
            at.epoch + 1,
            at.batch
        );
        for note in told.into_iter().chain([place]) {
            println!("{note}");
            self.history.notes.push(note);
        }
        Ok(())
    }

    /// Leaves the weights where the trainer's `..._weights` find them.
    pub(super) fn hand_over(&mut self, learned: Weights) {
        self.is_handed_over = true;
        let mut kept = self.trainer.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.learned = Some(learned);
        kept.average = self.average.as_ref().map(|average| average.weights.clone());
        kept.best.clone_from(&self.best);
    }
}
