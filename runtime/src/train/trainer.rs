//! The training loop and what it leaves behind.

use std::f64::consts::PI;
use std::time::{Duration, Instant};

use candle_core::{D, ModuleT};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap, loss};

use super::Examples;
use crate::display::{Bundle, Rich};
use crate::interrupt::check_interrupt;
use crate::live::Live;
use crate::plot::LinePlot;
use crate::progress::Bar;
use crate::{Error, Result};

/// Examples that are looked at together when nothing is learned.
const EVALUATION_BATCH: usize = 256;
/// Shortest time between two redraws of the curve: it is much larger than a bar.
const CURVE_EVERY: Duration = Duration::from_millis(500);

/// Trains the variables of a `VarMap` to classify.
///
/// AdamW, softmax cross entropy, a learning rate that falls from its start to nothing along half a cosine. The
/// same seed and data give the same network on the same machine.
#[derive(Clone)]
pub struct Trainer {
    vars: VarMap,
    epochs: usize,
    batch_size: usize,
    learning_rate: f64,
    weight_decay: f64,
    seed: u64,
}

/// What was measured in each epoch of a training; shown as a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Mean loss over the batches of each epoch.
    pub train_loss: Vec<f64>,
    /// Loss on the examples held out, after each epoch.
    pub test_loss: Vec<f64>,
    /// Share of the examples held out that is classified rightly, after each epoch.
    pub test_accuracy: Vec<f64>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Trainer {
    /// Trains the variables in `vars`: 20 epochs, batches of 64, learning rate 0.001, weight decay 0.01, seed 0.
    pub fn new(vars: &VarMap) -> Self {
        let vars = vars.clone();
        Self {
            vars,
            epochs: 20,
            batch_size: 64,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            seed: 0,
        }
    }

    /// How often every example is seen.
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// Examples in one step.
    #[must_use]
    pub fn batch_size(mut self, examples: usize) -> Self {
        self.batch_size = examples;
        self
    }

    /// The learning rate that the first step has.
    #[must_use]
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.learning_rate = rate;
        self
    }

    /// AdamW's weight decay.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// What the order of the examples follows from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Trains `network` on `train` and measures it on `test` after each epoch, which it never learns from.
    ///
    /// # Errors
    /// [`Error::Data`] when there is nothing to train or the loss is no number any more, [`Error::Tensor`]
    /// from candle. An interrupt of the cell stops between two steps; the variables keep what they learned.
    pub fn fit(&self, network: &dyn ModuleT, train: &Examples, test: &Examples) -> Result<History> {
        let mut optimizer = self.optimizer()?;
        let mut history = History {
            train_loss: vec![],
            test_loss: vec![],
            test_accuracy: vec![],
            seconds: 0.0,
        };
        let begun = Instant::now();
        let mut bar = Bar::new("training", u64::try_from(self.epochs).ok(), "epochs");
        let mut curve = Curve {
            live: Live::new(),
            drawn: None,
        };
        for epoch in 0..self.epochs {
            let loss = self.epoch(epoch, network, train, &mut optimizer)?;
            let (test_loss, test_accuracy) = measure(network, test)?;
            history.train_loss.push(loss);
            history.test_loss.push(test_loss);
            history.test_accuracy.push(test_accuracy);
            bar.note(format!("loss {loss:.4}, {:.2} % right", test_accuracy * 100.0));
            bar.set(epoch as u64 + 1);
            curve.show_when_due(&history);
        }
        bar.finish();
        curve.show(&history);
        history.seconds = begun.elapsed().as_secs_f64();
        Ok(history)
    }

    fn optimizer(&self) -> Result<AdamW> {
        let vars = self.vars.all_vars();
        if vars.is_empty()
            || self.epochs == 0
            || !(self.learning_rate > 0.0 && self.learning_rate.is_finite())
        {
            let reason = format!(
                "there is nothing to train: {} variables, {} epochs, learning rate {}",
                vars.len(),
                self.epochs,
                self.learning_rate
            );
            return Err(Error::Data { reason });
        }
        let params = ParamsAdamW {
            lr: self.learning_rate,
            weight_decay: self.weight_decay,
            ..ParamsAdamW::default()
        };
        Ok(AdamW::new(vars, params)?)
    }

    /// One pass over all examples; answers the mean loss.
    fn epoch(
        &self,
        epoch: usize,
        network: &dyn ModuleT,
        train: &Examples,
        optimizer: &mut AdamW,
    ) -> Result<f64> {
        let batches = train.shuffled_batches(self.batch_size, self.seed.wrapping_add(epoch as u64))?;
        let steps = batches.len();
        let mut sum = 0.0;
        for (step, batch) in batches.iter().enumerate() {
            check_interrupt();
            optimizer.set_learning_rate(self.rate_at(epoch * steps + step, self.epochs * steps));
            let loss = loss::cross_entropy(&network.forward_t(&batch.inputs, true)?, &batch.labels)?;
            optimizer.backward_step(&loss)?;
            let loss = f64::from(loss.to_scalar::<f32>()?);
            if !loss.is_finite() {
                let reason = format!(
                    "the loss is {loss} in epoch {}; try a smaller learning rate",
                    epoch + 1
                );
                return Err(Error::Data { reason });
            }
            sum += loss * batch.len() as f64;
        }
        Ok(sum / train.len() as f64)
    }

    fn rate_at(&self, step: usize, steps: usize) -> f64 {
        self.learning_rate * 0.5 * (1.0 + (PI * step as f64 / steps as f64).cos())
    }
}

impl History {
    /// The losses as a chart.
    pub fn plot(&self) -> LinePlot {
        LinePlot::default()
            .title("Loss")
            .x_label("epoch")
            .line("training", &self.train_loss)
            .line("held out", &self.test_loss)
    }

    /// The last measured accuracy, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.test_accuracy.last().copied().unwrap_or(0.0)
    }
}

impl Rich for History {
    fn bundle(&self) -> Bundle {
        self.plot().bundle()
    }
}

/// The class that `network` gives to each example, in their order.
///
/// # Errors
/// [`Error::Tensor`] from candle.
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
/// [`Error::Tensor`] from candle.
pub fn accuracy(network: &dyn ModuleT, examples: &Examples) -> Result<f64> {
    let labels = examples.labels.to_vec1::<u32>()?;
    let right = predict(network, examples)?
        .iter()
        .zip(&labels)
        .filter(|(class, label)| class == label)
        .count();
    Ok(right as f64 / labels.len() as f64)
}

/// Mean loss and accuracy, without learning.
fn measure(network: &dyn ModuleT, examples: &Examples) -> Result<(f64, f64)> {
    let (mut sum, mut right) = (0.0, 0.0);
    for batch in examples.batches(EVALUATION_BATCH)? {
        check_interrupt();
        let scores = network.forward_t(&batch.inputs, false)?.detach();
        let loss = loss::cross_entropy(&scores, &batch.labels)?;
        sum += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
        let hits = scores.argmax(D::Minus1)?.eq(&batch.labels)?;
        right += f64::from(
            hits.to_dtype(candle_core::DType::F32)?
                .sum_all()?
                .to_scalar::<f32>()?,
        );
    }
    let count = examples.len() as f64;
    Ok((sum / count, right / count))
}

/// The curve under the bar.
struct Curve {
    live: Live,
    drawn: Option<Instant>,
}

impl Curve {
    fn show_when_due(&mut self, history: &History) {
        let now = Instant::now();
        if self
            .drawn
            .is_none_or(|drawn| now.duration_since(drawn) >= CURVE_EVERY)
        {
            self.drawn = Some(now);
            self.show(history);
        }
    }

    fn show(&mut self, history: &History) {
        // A terminal's one live line is the bar's.
        if !crate::child::in_terminal() {
            self.live.show(history.plot().bundle());
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Module, Tensor};
    use candle_nn::{Linear, linear};

    use super::super::{SeededRandom, seeded_vars};
    use super::*;

    /// Points around four corners: a task that a linear layer learns in a moment.
    fn corners(count: usize, seed: u64) -> Examples {
        let mut random = SeededRandom::new(seed);
        let (mut inputs, mut labels) = (vec![], vec![]);
        for number in 0..count {
            let class = u32::try_from(number % 4).unwrap();
            let corner = [f64::from(class & 1), f64::from(class >> 1)];
            inputs.extend(corner.map(|side| 4.0 * side - 2.0 + 0.3 * random.normal()));
            labels.push(class);
        }
        let inputs = Tensor::from_vec(inputs, (count, 2), &Device::Cpu)
            .unwrap()
            .to_dtype(candle_core::DType::F32)
            .unwrap();
        Examples::new(inputs, Tensor::new(labels, &Device::Cpu).unwrap()).unwrap()
    }

    fn trained(seed: u64) -> (Linear, History) {
        let vars = VarMap::new();
        let layer = linear(2, 4, seeded_vars(&vars, seed, &Device::Cpu)).unwrap();
        let trainer = Trainer::new(&vars)
            .epochs(8)
            .batch_size(16)
            .learning_rate(0.05)
            .seed(seed);
        let history = trainer.fit(&layer, &corners(200, 1), &corners(80, 2)).unwrap();
        (layer, history)
    }

    #[test]
    fn learns_and_says_what_it_measured() {
        let (layer, history) = trained(1);
        assert_eq!(history.train_loss.len(), 8);
        assert!(history.train_loss[7] < history.train_loss[0] / 2.0, "{history:?}");
        assert!(history.accuracy() >= 0.99, "{history:?}");
        let held_out = corners(80, 2);
        assert_eq!(accuracy(&layer, &held_out).unwrap(), history.accuracy());
        assert!(history.plot().text().starts_with("Loss\n"));
    }

    #[test]
    fn is_the_same_for_the_same_seed() {
        let weights = |layer: &Linear| layer.weight().to_vec2::<f32>().unwrap();
        let ((a, first), (b, second)) = (trained(1), trained(1));
        assert_eq!(weights(&a), weights(&b));
        assert_eq!(first.train_loss, second.train_loss);
        assert_ne!(weights(&a), weights(&trained(2).0));
    }

    #[test]
    fn predicts_in_the_order_of_the_examples() {
        let (layer, _) = trained(1);
        let examples = corners(EVALUATION_BATCH + 3, 3);
        let whole = layer
            .forward(&examples.inputs)
            .unwrap()
            .argmax(1)
            .unwrap()
            .to_vec1::<u32>()
            .unwrap();
        assert_eq!(predict(&layer, &examples).unwrap(), whole);
    }

    #[test]
    fn refuses_to_train_nothing_and_stops_when_the_loss_is_no_number() {
        let vars = VarMap::new();
        let layer = linear(2, 4, seeded_vars(&VarMap::new(), 1, &Device::Cpu)).unwrap();
        let examples = corners(20, 1);
        let error = Trainer::new(&vars).fit(&layer, &examples, &examples).unwrap_err();
        assert!(error.to_string().contains("0 variables"), "{error}");
        let layer = linear(2, 4, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
        let wild = Trainer::new(&vars).learning_rate(1e30);
        let error = wild.fit(&layer, &examples, &examples).unwrap_err();
        assert!(error.to_string().contains("smaller learning rate"), "{error}");
    }
}
