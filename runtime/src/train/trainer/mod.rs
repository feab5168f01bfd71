//! What a training is set to. The loop is [`run`], its checkpoints [`keeping`], measuring [`measure`], what is seen of it
//! [`shown`], and whether the settings make sense [`settings`].

mod keeping;
mod measure;
mod run;
mod settings;
mod shown;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, ModuleT, Tensor};
use candle_nn::VarMap;

use super::gradients::Clip;
use super::losses::LossFn;
use super::metric::EVALUATION_BATCH;
use super::parameters::Grouping;
use super::{
    AdamW, BatchSource, EarlyStopping, EpochReport, Flow, Group, History, Metric, Optimizer, Schedule,
    StepReport, Weights, losses,
};
use crate::{Error, Result};

type Callback<T> = Arc<Mutex<dyn FnMut(&T) -> Flow + Send>>;

/// Trains the variables of a `VarMap`.
///
/// As it is made: to classify, by AdamW on the softmax cross entropy, with a learning rate that falls from its start to
/// nothing along half a cosine, measured by its accuracy. The same seed and data give the same network on the same
/// machine, bit for bit on the CPU; where it was killed in between, too, if it keeps checkpoints.
///
/// A network of `bf16` variables (`seeded_vars(..).to_dtype(DType::BF16)`) is trained in mixed precision: inputs are
/// taken to its type, losses are calculated in `f32`, and steps are made on copies of its variables in `f32`.
///
/// ```no_run
/// use alephlab::prelude::*;
///
/// # fn cell(network: &dyn ModuleT, vars: &VarMap, train: &Examples, test: &Examples) -> Result<(), alephlab::Error> {
/// let trainer = Trainer::new(vars)
///     .learning_rate(0.003)
///     .schedule(Schedule::cosine().warm_up(100))
///     .early_stopping(EarlyStopping::after(5))
///     .checkpoint("runs/digits")
///     .resume(true);
/// let history: History = trainer.fit(network, train, test)?;
/// let saved: Saved = save(&trainer.best_weights()?, "digits-cnn")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Trainer {
    vars: VarMap,
    name: String,
    epochs: usize,
    batch_size: usize,
    learning_rate: f64,
    weight_decay: f64,
    seed: u64,
    loss: Arc<LossFn>,
    metrics: Vec<Metric>,
    optimizer: Arc<dyn Optimizer>,
    schedule: Schedule,
    total_steps: Option<u64>,
    clip: Option<Clip>,
    accumulate: usize,
    average: Option<f64>,
    grouping: Option<Grouping>,
    inputs_as: Option<DType>,
    on_step: Vec<Callback<StepReport>>,
    on_epoch: Vec<Callback<EpochReport>>,
    early_stopping: Option<EarlyStopping>,
    watch: Option<String>,
    validate_every: usize,
    evaluation_batch: usize,
    read_every: Option<usize>,
    is_quiet: bool,
    checkpoints: Checkpoints,
    kept: Arc<Mutex<Kept>>,
}

/// Where and when checkpoints are made.
#[derive(Debug, Clone)]
struct Checkpoints {
    folder: Option<PathBuf>,
    every_steps: Option<u64>,
    every_epochs: Option<usize>,
    keep: usize,
    resume: bool,
}

/// Weights of the last training, in full precision.
#[derive(Debug, Default)]
struct Kept {
    learned: Option<Weights>,
    average: Option<Weights>,
    best: Option<Weights>,
}

impl Trainer {
    /// Trains the variables in `vars`: 20 epochs, batches of 64, learning rate 0.001, weight decay 0.01, seed 0.
    pub fn new(vars: &VarMap) -> Self {
        Self {
            vars: vars.clone(),
            name: String::new(),
            epochs: 20,
            batch_size: 64,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            seed: 0,
            loss: Arc::new(losses::cross_entropy),
            metrics: vec![Metric::accuracy()],
            optimizer: Arc::new(AdamW::default()),
            schedule: Schedule::cosine(),
            total_steps: None,
            clip: None,
            accumulate: 1,
            average: None,
            grouping: None,
            inputs_as: None,
            on_step: vec![],
            on_epoch: vec![],
            early_stopping: None,
            watch: None,
            validate_every: 1,
            evaluation_batch: EVALUATION_BATCH,
            read_every: None,
            is_quiet: false,
            checkpoints: Checkpoints {
                folder: None,
                every_steps: None,
                every_epochs: None,
                keep: 3,
                resume: false,
            },
            kept: Arc::default(),
        }
    }

    /// What this training is called in comparisons.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How often every example is seen.
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// Examples in one batch.
    #[must_use]
    pub fn batch_size(mut self, examples: usize) -> Self {
        self.batch_size = examples.max(1);
        self
    }

    /// The learning rate that the schedule's factors are of: the highest, for those that are here.
    #[must_use]
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.learning_rate = rate;
        self
    }

    /// The optimiser's weight decay.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// What the order of the examples and the masks of [`super::Dropout`] follow from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What is made smaller: a scalar, the mean over a batch, from outputs and labels. `f16` and `bf16` outputs come in
    /// `f32`. Takes the accuracy away, which may mean nothing; [`Trainer::metric`] puts it back.
    #[must_use]
    pub fn loss(
        mut self,
        loss: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        self.loss = Arc::new(loss);
        self.metrics.clear();
        self
    }

    /// Measures this, too, on the examples held out.
    #[must_use]
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metrics.retain(|known| known.name() != metric.name());
        self.metrics.push(metric);
        self
    }

    /// What moves the weights, in place of AdamW. Learning rate and weight decay stay the trainer's.
    #[must_use]
    pub fn optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.optimizer = Arc::new(optimizer);
        self
    }

    /// How the learning rate changes from step to step, in place of the cosine.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// How many steps the schedule is spread over, where that is not all of them, or the source does not know its
    /// length.
    #[must_use]
    pub fn schedule_steps(mut self, steps: u64) -> Self {
        self.total_steps = Some(steps);
        self
    }

    /// Makes all gradients of a step smaller by one factor where their length together is larger than this.
    #[must_use]
    pub fn clip_norm(mut self, most: f64) -> Self {
        self.clip = Some(Clip::Norm(most));
        self
    }

    /// Keeps each number of the gradients between this and its negative.
    #[must_use]
    pub fn clip_value(mut self, most: f64) -> Self {
        self.clip = Some(Clip::Value(most));
        self
    }

    /// Makes one step from so many batches, as if they were one: for batches that are too large for the memory. Equal
    /// to that but for rounding, and for layers that look at a whole batch, such as batch normalisation.
    #[must_use]
    pub fn accumulate(mut self, batches: usize) -> Self {
        self.accumulate = batches.max(1);
        self
    }

    /// Keeps an exponential moving average of the weights, such as 0.999 of the old and 0.001 of the new in each step.
    /// The examples held out are measured with it, and at the end the variables hold it. [`Trainer::learned_weights`]
    /// has the others.
    #[must_use]
    pub fn average(mut self, decay: f64) -> Self {
        self.average = Some(decay);
        self
    }

    /// Factors of learning rate and weight decay for each variable, by its name (`conv1.weight`) and value.
    #[must_use]
    pub fn groups(mut self, group: impl Fn(&str, &Tensor) -> Group + Send + Sync + 'static) -> Self {
        self.grouping = Some(Arc::new(group));
        self
    }

    /// Lets only weights of layers decay, not biases and normalisations ([`super::is_bias_or_norm`]): what most recipes
    /// for transformers want.
    #[must_use]
    pub fn decay_only_weights(self) -> Self {
        self.groups(|name, value| {
            let decays = !super::is_bias_or_norm(name, value);
            Group {
                weight_decay: f64::from(u8::from(decays)),
                ..Group::default()
            }
        })
    }

    /// The type that inputs with fractions are taken to. Without it, that of the network's variables if all have one.
    #[must_use]
    pub fn inputs_as(mut self, dtype: DType) -> Self {
        self.inputs_as = Some(dtype);
        self
    }

    /// Calls this after each step.
    #[must_use]
    pub fn on_step(mut self, call: impl FnMut(&StepReport) -> Flow + Send + 'static) -> Self {
        self.on_step.push(Arc::new(Mutex::new(call)));
        self
    }

    /// Calls this after each epoch.
    #[must_use]
    pub fn on_epoch(mut self, call: impl FnMut(&EpochReport) -> Flow + Send + 'static) -> Self {
        self.on_epoch.push(Arc::new(Mutex::new(call)));
        self
    }

    /// Ends the training when it gets no better.
    #[must_use]
    pub fn early_stopping(mut self, rule: EarlyStopping) -> Self {
        self.early_stopping = Some(rule);
        self
    }

    /// The metric that says what is best, by its name, in place of the loss on the examples held out.
    #[must_use]
    pub fn watch(mut self, metric: impl Into<String>) -> Self {
        self.watch = Some(metric.into());
        self
    }

    /// Looks at the examples held out only after each so many epochs, and after the last.
    #[must_use]
    pub fn validate_every(mut self, epochs: usize) -> Self {
        self.validate_every = epochs.max(1);
        self
    }

    /// Examples that are measured together: 256 unless set.
    #[must_use]
    pub fn evaluation_batch(mut self, examples: usize) -> Self {
        self.evaluation_batch = examples.max(1);
        self
    }

    /// Reads the loss of so many steps together, in each of which the device need not be waited for. Without it, each
    /// step's at once on the CPU, and of 16 elsewhere. A loss that is no number is found then, and only with 1 before
    /// it has moved the weights.
    #[must_use]
    pub fn read_every(mut self, steps: usize) -> Self {
        self.read_every = Some(steps.max(1));
        self
    }

    /// Shows neither bar nor curve: for many short trainings one after another, as in cross-validation.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Keeps checkpoints in this folder: weights, state of the optimiser, averages, history, and the place in the data.
    /// After each epoch, unless [`Trainer::every_steps`] or [`Trainer::every_epochs`] say more. One process at a time.
    #[must_use]
    pub fn checkpoint(mut self, folder: impl Into<PathBuf>) -> Self {
        self.checkpoints.folder = Some(folder.into());
        self
    }

    /// Makes a checkpoint after each so many steps.
    #[must_use]
    pub fn every_steps(mut self, steps: u64) -> Self {
        self.checkpoints.every_steps = Some(steps.max(1));
        self
    }

    /// Makes a checkpoint after each so many epochs.
    #[must_use]
    pub fn every_epochs(mut self, epochs: usize) -> Self {
        self.checkpoints.every_epochs = Some(epochs.max(1));
        self
    }

    /// How many of the newest checkpoints are kept, beside the best: 3 unless set.
    #[must_use]
    pub fn keep_last(mut self, checkpoints: usize) -> Self {
        self.checkpoints.keep = checkpoints.max(1);
        self
    }

    /// Goes on from the newest checkpoint in the folder, where there is one. Learning rate, schedule and number of
    /// epochs may have changed; what the order of the data follows from may not.
    #[must_use]
    pub fn resume(mut self, resumes: bool) -> Self {
        self.checkpoints.resume = resumes;
        self
    }

    /// Trains `network` on `train` and measures it on `test` after each epoch, which it never learns from.
    ///
    /// # Errors
    /// [`Error::Data`] when there is nothing to train or the loss is no number any more, [`Error::Checkpoint`] when it
    /// cannot go on from what is in the folder, [`Error::File`] when a checkpoint cannot be written, [`Error::Tensor`]
    /// from candle. An interrupt of the cell stops between two steps; the variables keep what they learned, and a
    /// checkpoint is made where they are kept.
    pub fn fit(
        &self,
        network: &dyn ModuleT,
        train: &dyn BatchSource,
        test: &dyn BatchSource,
    ) -> Result<History> {
        run::Run::new(self, network, train, Some(test))?.finish()
    }

    /// As [`Trainer::fit`], with nothing held out: what is best is told by the loss of the training.
    ///
    /// # Errors
    /// As [`Trainer::fit`].
    pub fn fit_all(&self, network: &dyn ModuleT, train: &dyn BatchSource) -> Result<History> {
        run::Run::new(self, network, train, None)?.finish()
    }

    /// The weights that the last training ended with, in full precision: to be saved with [`crate::save`]. Without
    /// average and early stopping they are those of the variables, and share their memory.
    ///
    /// # Errors
    /// [`Error::Data`] when nothing was trained.
    pub fn learned_weights(&self) -> Result<Weights> {
        self.kept(|kept| kept.learned.clone(), "nothing was trained yet")
    }

    /// The moving average of the weights at the end of the last training.
    ///
    /// # Errors
    /// [`Error::Data`] when none was kept.
    pub fn average_weights(&self) -> Result<Weights> {
        self.kept(
            |kept| kept.average.clone(),
            "no average was kept; set `.average(0.999)`",
        )
    }

    /// The weights that were the best in the last training.
    ///
    /// # Errors
    /// [`Error::Data`] when they were not kept: early stopping does.
    pub fn best_weights(&self) -> Result<Weights> {
        let reason = "the best weights were not kept; set `.early_stopping(EarlyStopping::after(5))`";
        self.kept(|kept| kept.best.clone(), reason)
    }

    fn kept(&self, which: impl FnOnce(&Kept) -> Option<Weights>, reason: &str) -> Result<Weights> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        which(&kept).ok_or_else(|| Error::Data {
            reason: reason.to_owned(),
        })
    }
}

impl fmt::Debug for Trainer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trainer")
            .field("epochs", &self.epochs)
            .field("batch_size", &self.batch_size)
            .field("learning_rate", &self.learning_rate)
            .field("optimizer", &self.optimizer.describe())
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
