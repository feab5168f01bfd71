//! The trainer on small networks, whole.

mod ends;
mod resume;
mod settings;

use candle_core::{Device, Module, Tensor};
use candle_nn::{Linear, Optimizer as _, linear};

use super::super::metric::EVALUATION_BATCH;
use super::super::{Examples, SeededRandom, accuracy, predict, seeded_vars};
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

/// The loop that this library had before it had others, with candle's own optimiser.
#[test]
fn learns_as_candles_own_optimiser_would() {
    let vars = VarMap::new();
    let layer = linear(2, 4, seeded_vars(&vars, 3, &Device::Cpu)).unwrap();
    let (examples, epochs) = (corners(50, 1), 4_u32);
    let mut optimizer = candle_nn::AdamW::new(vars.all_vars(), candle_nn::ParamsAdamW::default()).unwrap();
    let (mut step, steps) = (0.0, f64::from(epochs) * 4.0);
    for epoch in 0..u64::from(epochs) {
        for batch in examples.shuffled_batches(16, 7 + epoch).unwrap() {
            let rate = 0.05 * 0.5 * (1.0 + (std::f64::consts::PI * step / steps).cos());
            optimizer.set_learning_rate(rate);
            let scores = layer.forward(&batch.inputs).unwrap();
            let loss = candle_nn::loss::cross_entropy(&scores, &batch.labels).unwrap();
            optimizer.backward_step(&loss).unwrap();
            step += 1.0;
        }
    }
    let ours = VarMap::new();
    let layer = linear(2, 4, seeded_vars(&ours, 3, &Device::Cpu)).unwrap();
    let trainer = Trainer::new(&ours)
        .epochs(4)
        .batch_size(16)
        .learning_rate(0.05)
        .seed(7);
    trainer.fit_all(&layer, &examples).unwrap();
    // The fused step rounds in another order.
    for (ours, theirs) in shown(&ours).values().zip(shown(&vars).values()) {
        let distance = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
        let distance: f32 = distance.to_scalar().unwrap();
        assert!(distance < 1e-5, "{distance}");
    }
}

/// Two layers with dropout between them.
struct Net {
    first: Linear,
    second: Linear,
    dropout: super::super::Dropout,
}

impl Net {
    fn new(vars: &VarMap, seed: u64, dtype: DType) -> Self {
        let builder = seeded_vars(vars, seed, &Device::Cpu).to_dtype(dtype);
        Self {
            first: linear(2, 8, builder.pp("first")).unwrap(),
            second: linear(8, 4, builder.pp("second")).unwrap(),
            dropout: super::super::Dropout::new(0.25).unwrap(),
        }
    }
}

impl ModuleT for Net {
    fn forward_t(&self, inputs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let hidden = self.first.forward(inputs)?.relu()?;
        self.second.forward(&self.dropout.forward_t(&hidden, train)?)
    }
}

/// All weights as bits, so that equality is of every bit.
fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let of = |tensor: &Tensor| -> Vec<u32> {
        let flat = tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
        flat.to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect()
    };
    weights
        .iter()
        .map(|(name, tensor)| (name.clone(), of(tensor)))
        .collect()
}

fn shown(vars: &VarMap) -> Weights {
    let vars = vars.data().lock().unwrap();
    let copy = |(name, var): (&String, &candle_core::Var)| (name.clone(), var.as_tensor().copy().unwrap());
    vars.iter().map(copy).collect()
}

/// A history without what no two runs have alike.
fn measured(history: &History) -> History {
    History {
        seconds: 0.0,
        notes: vec![],
        ..history.clone()
    }
}
