//! Going on from checkpoints.

use std::path::Path;

use candle_core::DType;

use super::super::super::Sgd;
use super::*;

/// A training with everything in it that has a state.
fn rich(vars: &VarMap, folder: &Path) -> Trainer {
    Trainer::new(vars)
        .epochs(3)
        .batch_size(7)
        .accumulate(2)
        .learning_rate(0.05)
        .schedule(Schedule::cosine().warm_up(3))
        .clip_norm(0.5)
        .average(0.9)
        .early_stopping(EarlyStopping::after(9))
        .seed(4)
        .checkpoint(folder)
        .every_steps(1)
        .every_epochs(1)
        .keep_last(1_000)
}

fn run(trainer: &Trainer, vars: &VarMap, seed: u64, dtype: DType) -> (History, Weights) {
    let net = Net::new(vars, seed, dtype);
    let history = trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap();
    (history, shown(vars))
}

/// Copies the checkpoint `name`, alone.
fn only(from: &Path, name: &str, to: &Path) {
    for end in ["safetensors", "json"] {
        let file = format!("{name}.{end}");
        std::fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name());
    let mut names: Vec<String> = names
        .filter_map(|name| name.to_str()?.strip_suffix(".safetensors").map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn goes_on_bit_for_bit_from_every_checkpoint() {
    for dtype in [DType::F32, DType::BF16] {
        let folder = tempfile::tempdir().unwrap();
        let vars = VarMap::new();
        let trainer = rich(&vars, folder.path());
        let (history, weights) = run(&trainer, &vars, 1, dtype);
        let learned = trainer.learned_weights().unwrap();
        assert_ne!(bits(&learned), bits(&weights), "the average is shown");
        // 8 batches in 4 steps, 3 epochs; each epoch's end is a checkpoint of its own.
        let names = checkpoints(folder.path());
        assert_eq!(names.len(), 15, "{names:?}");
        for name in names {
            let other = tempfile::tempdir().unwrap();
            only(folder.path(), &name, other.path());
            let vars = VarMap::new();
            let again = rich(&vars, other.path()).resume(true);
            // Other first weights: all that counts is in the checkpoint.
            let (gone_on, found) = run(&again, &vars, 99, dtype);
            assert_eq!(bits(&found), bits(&weights), "{dtype:?} from {name}");
            assert_eq!(
                bits(&again.learned_weights().unwrap()),
                bits(&learned),
                "{dtype:?} from {name}"
            );
            assert_eq!(measured(&gone_on), measured(&history), "{dtype:?} from {name}");
            assert!(
                gone_on.notes[0].starts_with("went on from step"),
                "{:?}",
                gone_on.notes
            );
        }
    }
}

#[test]
fn momentum_is_taken_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = |vars: &VarMap| {
        Trainer::new(vars)
            .epochs(2)
            .batch_size(10)
            .optimizer(Sgd::default().momentum(0.9).nesterov(true))
            .checkpoint(folder.path())
            .every_steps(3)
    };
    let whole = VarMap::new();
    let (_, weights) = run(
        &Trainer {
            checkpoints: Trainer::new(&whole).checkpoints,
            ..trainer(&whole)
        },
        &whole,
        1,
        DType::F32,
    );
    let vars = VarMap::new();
    let stopped = trainer(&vars).on_step(|step| if step.step == 4 { Flow::Stop } else { Flow::Go });
    let (history, _) = run(&stopped, &vars, 1, DType::F32);
    assert_eq!(
        history.stopped.as_deref(),
        Some("a callback ended it after step 4")
    );
    let vars = VarMap::new();
    let (history, found) = run(&trainer(&vars).resume(true), &vars, 2, DType::F32);
    assert_eq!(bits(&found), bits(&weights));
    assert_eq!(history.stopped, None);
}

#[test]
fn a_finished_training_is_taken_up_as_finished_and_can_be_made_longer() {
    let folder = tempfile::tempdir().unwrap();
    let vars = VarMap::new();
    let (history, weights) = run(&rich(&vars, folder.path()), &vars, 1, DType::F32);
    let before = checkpoints(folder.path());
    let vars = VarMap::new();
    let (again, found) = run(&rich(&vars, folder.path()).resume(true), &vars, 2, DType::F32);
    assert_eq!(
        (bits(&found), measured(&again)),
        (bits(&weights), measured(&history))
    );
    assert_eq!(checkpoints(folder.path()), before);
    let kept = History::load(folder.path().join("history.json")).unwrap();
    assert_eq!(measured(&kept), measured(&history));
    let vars = VarMap::new();
    let longer = rich(&vars, folder.path()).resume(true).epochs(5);
    let (longer, _) = run(&longer, &vars, 2, DType::F32);
    assert_eq!(longer.train_loss.len(), 5);
    assert_eq!(longer.train_loss[..3], history.train_loss);
}

#[test]
fn refuses_another_network_another_plan_and_a_folder_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let vars = VarMap::new();
    run(&rich(&vars, folder.path()), &vars, 1, DType::F32);
    let refusal = |change: &dyn Fn(Trainer) -> Trainer, wide: usize| {
        let vars = VarMap::new();
        let builder = seeded_vars(&vars, 1, &Device::Cpu);
        let first = linear(2, wide, builder.pp("first")).unwrap();
        let second = linear(wide, 4, builder.pp("second")).unwrap();
        let before = bits(&shown(&vars));
        let net = candle_nn::seq().add(first).add(second);
        let trainer = change(rich(&vars, folder.path()).resume(true));
        let error = trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap_err();
        assert_eq!(error.code(), "checkpoint");
        assert_eq!(bits(&shown(&vars)), before, "nothing was changed");
        error.to_string()
    };
    let said = [
        (
            refusal(&|trainer| trainer, 9),
            "first.bias has the shape [8], that of this network [9]",
        ),
        (
            refusal(&|trainer| trainer.seed(5), 8),
            "made with seed 4, and now it is 5",
        ),
        (
            refusal(&|trainer| trainer.batch_size(8), 8),
            "batch size 7, and now it is 8",
        ),
        (
            refusal(&|trainer| trainer.accumulate(1), 8),
            "batches in a step: 2",
        ),
        (
            refusal(&|trainer| trainer.optimizer(Sgd::default()), 8),
            "and now it is SGD",
        ),
        (
            refusal(&|trainer| trainer.resume(false), 8),
            "checkpoints of another training",
        ),
    ];
    for (error, words) in said {
        assert!(error.contains(words), "{error}");
    }
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let trainer = rich(&vars, folder.path()).resume(true);
    let error = trainer.fit(&net, &corners(50, 7), &corners(24, 2)).unwrap_err();
    assert!(error.to_string().contains("other examples than these"), "{error}");
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let error = Trainer::new(&vars)
        .resume(true)
        .fit_all(&net, &corners(8, 1))
        .unwrap_err();
    assert!(error.to_string().contains(".checkpoint(folder)"), "{error}");
}

#[test]
fn passes_over_a_damaged_checkpoint_says_so_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let vars = VarMap::new();
    let (_, weights) = run(&rich(&vars, folder.path()), &vars, 1, DType::F32);
    for name in checkpoints(folder.path()).iter().rev().take(5) {
        let path = folder.path().join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let vars = VarMap::new();
    let (history, found) = run(&rich(&vars, folder.path()).resume(true), &vars, 2, DType::F32);
    assert_eq!(bits(&found), bits(&weights));
    assert_eq!(history.notes.len(), 6, "{:?}", history.notes);
    assert!(history.notes[0].contains("cannot be used"), "{:?}", history.notes);
}

#[test]
fn the_last_checkpoints_and_the_best_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    // A metric that is best in the second epoch.
    let mut epochs = 0_u32;
    let calls = Mutex::new(move || {
        epochs += 1;
        if epochs == 2 { 1.0 } else { 0.0 }
    });
    let best = Metric::new("best", move |outputs, _| {
        let value = (calls.lock().unwrap())();
        Tensor::new(value, outputs.device())
    });
    let trainer = Trainer::new(&vars)
        .epochs(6)
        .batch_size(25)
        .metric(best)
        .watch("best")
        .checkpoint(folder.path())
        .keep_last(2);
    let history = trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap();
    assert_eq!(history.best_epoch, Some(1));
    let expected = ["step-00000004-best", "step-00000010-end", "step-00000012-end"];
    assert_eq!(checkpoints(folder.path()), expected);
}

/// A training with settings that `seed` gives.
fn any(vars: &VarMap, folder: &Path, seed: u64) -> Trainer {
    let mut random = SeededRandom::new(seed);
    let trainer = Trainer::new(vars)
        .epochs(2)
        .batch_size(5 + random.below(12))
        .accumulate(1 + random.below(3))
        .learning_rate(0.05)
        .validate_every(1 + random.below(2))
        .read_every(1 + random.below(4))
        .seed(seed)
        .checkpoint(folder)
        .every_steps(1)
        .keep_last(1_000);
    let trainer = match random.below(3) {
        0 => trainer.schedule(Schedule::one_cycle()),
        1 => trainer.schedule(Schedule::steps(2, 0.7).warm_up(2)),
        _ => trainer,
    };
    let trainer = match random.below(3) {
        0 => trainer.optimizer(Sgd::default().momentum(0.8)),
        1 => trainer.optimizer(super::super::super::AdamW::default().decays(0.7, 0.9)),
        _ => trainer.clip_value(0.1),
    };
    match random.below(3) {
        0 => trainer.average(0.8),
        1 => trainer.early_stopping(EarlyStopping::after(1)),
        _ => trainer.decay_only_weights(),
    }
}

#[test]
fn goes_on_bit_for_bit_whatever_it_is_set_to() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let vars = VarMap::new();
        let trainer = any(&vars, folder.path(), seed);
        let (history, weights) = run(&trainer, &vars, 1, DType::F32);
        let names = checkpoints(folder.path());
        let mut random = SeededRandom::named(seed, "cuts");
        for _ in 0..4 {
            let name = &names[random.below(names.len())];
            let other = tempfile::tempdir().unwrap();
            only(folder.path(), name, other.path());
            let vars = VarMap::new();
            let (gone_on, found) = run(
                &any(&vars, other.path(), seed).resume(true),
                &vars,
                99,
                DType::F32,
            );
            assert_eq!(bits(&found), bits(&weights), "{trainer:?} from {name}");
            assert_eq!(measured(&gone_on), measured(&history), "{trainer:?} from {name}");
        }
    }
}
