//! What a trainer can be set to, and that it does that.

use candle_core::Var;

use super::super::super::{Dropout, Sgd};
use super::*;

#[test]
fn learns_to_predict_values() {
    let mut random = SeededRandom::new(3);
    let inputs: Vec<f64> = (0..200).map(|_| random.uniform()).collect();
    let values: Vec<f64> = inputs.iter().map(|x| 3.0 * x - 1.0).collect();
    // Inputs are taken to the type of the network, and targets to that of its outputs.
    let column = |values: &[f64]| Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap();
    let train = Examples::new(column(&inputs[..150]), column(&values[..150])).unwrap();
    let test = Examples::new(column(&inputs[150..]), column(&values[150..])).unwrap();
    let vars = VarMap::new();
    let layer = linear(1, 1, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let history = Trainer::new(&vars)
        .loss(losses::mse)
        .metric(Metric::mean_absolute_error())
        .watch("mean absolute error")
        .optimizer(Sgd::default().momentum(0.9))
        .learning_rate(0.1)
        .weight_decay(0.0)
        .epochs(40)
        .batch_size(25)
        .fit(&layer, &train, &test)
        .unwrap();
    assert!(history.test_accuracy.is_empty());
    let error = history.metric("mean absolute error").unwrap();
    assert!(error.len() == 40 && error[39] < 0.01, "{error:?}");
    let weight = layer.weight().to_vec2::<f32>().unwrap()[0][0];
    assert!((weight - 3.0).abs() < 0.05, "{weight}");
}

/// The weights after a training of plain layers, in f64.
fn plain(change: impl Fn(Trainer) -> Trainer) -> Weights {
    let vars = VarMap::new();
    let builder = seeded_vars(&vars, 1, &Device::Cpu).to_dtype(DType::F64);
    let first = linear(2, 8, builder.pp("first")).unwrap();
    let second = linear(8, 4, builder.pp("second")).unwrap();
    let net = candle_nn::seq()
        .add(first)
        .add(candle_nn::Activation::Silu)
        .add(second);
    let trainer = Trainer::new(&vars).epochs(2).learning_rate(0.05);
    change(trainer).fit_all(&net, &corners(50, 1)).unwrap();
    shown(&vars)
}

fn farthest(a: &Weights, b: &Weights) -> f64 {
    let apart = |(name, tensor): (&String, &Tensor)| {
        let apart = (tensor - &b[name]).unwrap().abs().unwrap();
        apart
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    a.iter().map(apart).fold(0.0, f64::max)
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let large = plain(|trainer| trainer.batch_size(20));
    // 50 examples: steps of 20, 20 and 10, and the last batch of the parts is full, or shorter.
    for (size, batches) in [(10, 2), (4, 5), (5, 4)] {
        let parts = plain(|trainer| trainer.batch_size(size).accumulate(batches));
        assert!(farthest(&large, &parts) < 1e-12, "{size} times {batches}");
    }
    assert!(farthest(&large, &plain(|trainer| trainer.batch_size(10))) > 1e-4);
}

#[test]
fn clipping_keeps_steps_small_and_a_bound_that_is_never_met_changes_nothing() {
    let sgd = |trainer: Trainer| trainer.optimizer(Sgd::default()).weight_decay(0.0);
    let free = plain(sgd);
    assert_eq!(farthest(&free, &plain(|t| sgd(t).clip_norm(1e9))), 0.0);
    assert_eq!(farthest(&free, &plain(|t| sgd(t).clip_value(1e9))), 0.0);
    let still = plain(|t| sgd(t).learning_rate(1e-12));
    // Two epochs of one step each, each of a length of at most 0.05 · 0.001.
    let near = farthest(&still, &plain(|t| sgd(t).clip_norm(1e-3)));
    assert!(near > 0.0 && near < 1.1e-4, "{near}");
    let near = farthest(&still, &plain(|t| sgd(t).clip_value(1e-3)));
    assert!(near > 0.0 && near < 1.1e-4, "{near}");
}

#[test]
fn groups_keep_variables_and_decay_only_weights() {
    let start = plain(|trainer| trainer.learning_rate(1e-300));
    let frozen = plain(|trainer| {
        trainer.groups(|name, _| Group {
            rate: if name.starts_with("first") { 0.0 } else { 1.0 },
            ..Group::default()
        })
    });
    for (name, tensor) in &frozen {
        let same = Weights::from([(name.clone(), tensor.clone())]);
        assert_eq!(
            farthest(&same, &start) == 0.0,
            name.starts_with("first"),
            "{name}"
        );
    }
    let all = plain(|trainer| trainer.weight_decay(5.0));
    let weights = plain(|trainer| trainer.weight_decay(5.0).decay_only_weights());
    assert!(farthest(&all, &weights) > 1e-3);
}

#[test]
fn the_average_is_measured_and_ends_in_the_variables() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let trainer = Trainer::new(&vars)
        .epochs(3)
        .batch_size(10)
        .learning_rate(0.05)
        .average(0.9);
    let history = trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap();
    assert_eq!(accuracy(&net, &corners(24, 2)).unwrap(), history.accuracy());
    assert_eq!(bits(&trainer.average_weights().unwrap()), bits(&shown(&vars)));
    assert_ne!(bits(&trainer.learned_weights().unwrap()), bits(&shown(&vars)));
    // What is learned does not depend on whether an average is kept.
    let other = VarMap::new();
    let net = Net::new(&other, 1, DType::F32);
    let plain = Trainer::new(&other).epochs(3).batch_size(10).learning_rate(0.05);
    plain.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap();
    assert_eq!(bits(&trainer.learned_weights().unwrap()), bits(&shown(&other)));
    assert!(plain.average_weights().is_err() && plain.best_weights().is_err());
}

#[test]
fn a_network_in_bf16_learns_with_masters_in_f32() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::BF16);
    let trainer = Trainer::new(&vars).epochs(10).batch_size(10).learning_rate(0.03);
    let history = trainer.fit(&net, &corners(200, 1), &corners(80, 2)).unwrap();
    assert!(history.accuracy() >= 0.99, "{history:?}");
    assert!(vars.all_vars().iter().all(|var| var.dtype() == DType::BF16));
    let masters = trainer.learned_weights().unwrap();
    assert!(masters.values().all(|tensor| tensor.dtype() == DType::F32));
    let rounded: Weights = masters
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(DType::BF16).unwrap()))
        .collect();
    assert_eq!(bits(&rounded), bits(&shown(&vars)));
    let test = corners(80, 2).inputs_as(DType::BF16).unwrap();
    assert_eq!(accuracy(&net, &test).unwrap(), history.accuracy());
    assert_eq!(history.settings["type"], "bf16");
}

#[test]
fn masters_learn_what_the_networks_type_alone_would_lose() {
    // bf16 has no number between 256 and 258: 20 steps of 0.25 are one of 5, or nothing.
    let vars = VarMap::new();
    let far = Tensor::new(&[256_f32], &Device::Cpu)
        .unwrap()
        .to_dtype(DType::BF16)
        .unwrap();
    let weight = Var::from_tensor(&far).unwrap();
    vars.data().lock().unwrap().insert("w".to_owned(), weight.clone());
    let tensor = weight.as_tensor().clone();
    let net = candle_nn::func(move |inputs| inputs.broadcast_mul(&tensor));
    let ones = Tensor::ones((20, 1), DType::F32, &Device::Cpu).unwrap();
    Trainer::new(&vars)
        .loss(|outputs, _| outputs.mean_all()?.neg())
        .optimizer(Sgd::default())
        .schedule(Schedule::constant())
        .learning_rate(0.25)
        .weight_decay(0.0)
        .batch_size(1)
        .epochs(1)
        .fit_all(&net, &Examples::new(ones.clone(), ones).unwrap())
        .unwrap();
    let value = weight.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()[0];
    assert!((260.0..=262.0).contains(&value), "{value}");
}

#[test]
fn rates_follow_the_schedule_over_all_steps() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let schedule = Schedule::one_cycle();
    let trainer = Trainer::new(&vars)
        .epochs(2)
        .batch_size(10)
        .accumulate(2)
        .learning_rate(0.5)
        .schedule(schedule.clone());
    let history = trainer.fit_all(&net, &corners(50, 1)).unwrap();
    let expected: Vec<f64> = (0..6).map(|step| 0.5 * schedule.factor(step, 6)).collect();
    assert_eq!(history.learning_rate, expected);
    assert!(history.test_loss.is_empty() && history.best_epoch.is_some());
}

/// A source that knows no length.
struct Stream(Examples);

impl BatchSource for Stream {
    fn pass(&self, pass: &super::super::super::Pass) -> Result<super::super::super::BatchIter<'_>> {
        self.0.pass(pass)
    }

    fn example_count(&self) -> Option<usize> {
        None
    }
}

#[test]
fn a_source_without_a_length_wants_a_schedule_without_an_end() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let stream = Stream(corners(50, 1));
    let error = Trainer::new(&vars)
        .fit_all(&net, &stream)
        .unwrap_err()
        .to_string();
    assert!(error.contains("schedule_steps"), "{error}");
    let constant = Trainer::new(&vars).epochs(1).schedule(Schedule::constant());
    assert_eq!(constant.fit_all(&net, &stream).unwrap().step_loss.len(), 1);
    let told = Trainer::new(&vars).epochs(1).schedule_steps(10);
    assert_eq!(told.fit_all(&net, &stream).unwrap().learning_rate, [1e-3]);
}

#[test]
fn refuses_settings_that_mean_nothing() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let refusal = |change: &dyn Fn(Trainer) -> Trainer| {
        let error = change(Trainer::new(&vars)).fit(&net, &corners(8, 1), &corners(8, 1));
        error.unwrap_err().to_string()
    };
    let said = [
        (refusal(&|trainer| trainer.clip_norm(0.0)), "above 0, not 0"),
        (refusal(&|trainer| trainer.average(1.0)), "to below 1, not 1"),
        (refusal(&|trainer| trainer.watch("f1")), "`f1` is to be watched"),
        (
            refusal(&|trainer| trainer.learning_rate(f64::NAN)),
            "learning rate NaN",
        ),
        (
            refusal(&|trainer| trainer.loss(|outputs, _| Ok(outputs.clone()))),
            "one number, not a tensor of shape",
        ),
    ];
    for (error, words) in said {
        assert!(error.contains(words), "{error}");
    }
    let other = linear(2, 4, seeded_vars(&VarMap::new(), 1, &Device::Cpu)).unwrap();
    let error = Trainer::new(&vars)
        .fit_all(&other, &corners(8, 1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no variable had a part"), "{error}");
}

#[test]
fn dropout_repeats_with_the_seed() {
    let run = |seed| {
        let vars = VarMap::new();
        let net = Net::new(&vars, 1, DType::F32);
        Trainer::new(&vars)
            .epochs(2)
            .seed(seed)
            .fit_all(&net, &corners(50, 1))
            .unwrap();
        bits(&shown(&vars))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(Dropout::new(0.5).is_ok());
}
