//! Trainings that are killed or interrupted, in processes of their own: this program starts itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use alephlab::candle_nn::{Linear, linear};
use alephlab::prelude::*;
use alephlab::train::{Dropout, SeededRandom, StepReport, Weights};

/// Where the process that is started keeps its checkpoints. Without it, the tests that are for it do nothing.
const FOLDER: &str = "ALEPHLAB_TEST_TRAINING";
/// The step that this process does not go beyond.
const LAST: &str = "ALEPHLAB_TEST_TRAINING_LAST";
/// 40 batches of 5 in each of three epochs, two in a step.
const STEPS: u64 = 60;

/// Two layers with dropout between them.
struct Net {
    first: Linear,
    second: Linear,
    dropout: Dropout,
}

impl ModuleT for Net {
    fn forward_t(&self, inputs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let hidden = self.first.forward(inputs)?.relu()?;
        self.second.forward(&self.dropout.forward_t(&hidden, train)?)
    }
}

/// Noise around three classes.
fn examples(count: usize, seed: u64) -> Examples {
    let mut random = SeededRandom::new(seed);
    let (mut inputs, mut labels) = (vec![], vec![]);
    for number in 0..count {
        let class = u32::try_from(number % 3).unwrap();
        inputs.extend((0..4).map(|at| f64::from(class) * f64::from(at) + random.normal()));
        labels.push(class);
    }
    let inputs = Tensor::from_vec(inputs, (count, 4), &Device::Cpu).unwrap();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    Examples::new(inputs.to_dtype(DType::F32).unwrap(), labels).unwrap()
}

/// Trains with everything that has a state; answers what was learned and what the variables hold.
fn train(
    folder: &Path,
    on_step: impl FnMut(&StepReport) -> Flow + Send + 'static,
) -> (History, Weights, Vec<u8>) {
    let vars = VarMap::new();
    // What a killed process began with must not matter: each begins elsewhere.
    let seed = if folder.join("started").exists() {
        u64::from(std::process::id())
    } else {
        1
    };
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("started"), "").unwrap();
    let builder = seeded_vars(&vars, seed, &Device::Cpu);
    let net = Net {
        first: linear(4, 32, builder.pp("first")).unwrap(),
        second: linear(32, 3, builder.pp("second")).unwrap(),
        dropout: Dropout::new(0.2).unwrap(),
    };
    let trainer = Trainer::new(&vars)
        .epochs(3)
        .batch_size(5)
        .accumulate(2)
        .learning_rate(0.02)
        .schedule(Schedule::cosine().warm_up(5))
        .clip_norm(1.0)
        .average(0.99)
        .early_stopping(EarlyStopping::after(50))
        .seed(3)
        .checkpoint(folder)
        .every_steps(1)
        .keep_last(2)
        .resume(true)
        .on_step(on_step);
    let history = trainer.fit(&net, &examples(200, 1), &examples(60, 2)).unwrap();
    let file = folder.join("shown.safetensors");
    vars.save(&file).unwrap();
    (
        history,
        trainer.learned_weights().unwrap(),
        std::fs::read(file).unwrap(),
    )
}

fn bits(weights: &Weights) -> Vec<Vec<u32>> {
    let of = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights
        .values()
        .map(|tensor| of(tensor).into_iter().map(f32::to_bits).collect())
        .collect()
}

/// Not a test of its own: what [`a_training_that_is_killed_ends_with_the_same_bits`] starts and kills.
#[test]
fn started_by_another_test_it_trains_and_says_each_step() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let last: u64 = std::env::var(LAST).unwrap().parse().unwrap();
    train(Path::new(&folder), move |step| {
        // Its own line, whatever the harness wrote before.
        println!("\nSTEP {}", step.step);
        if step.step == last {
            // Until it is killed: it must not end before.
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        Flow::Go
    });
    println!("\nDONE");
}

/// Starts this program and kills it without a warning in the three steps after `step`, wherever it is by then.
fn kill_at(folder: &Path, step: u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "started_by_another_test_it_trains_and_says_each_step",
            "--exact",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .env(LAST, (step + 3).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wanted = format!("STEP {step}");
    assert!(
        lines.any(|line| line.is_ok_and(|line| line == wanted)),
        "it never came to step {step}"
    );
    // SIGKILL: nothing of it is run any more.
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_training_that_is_killed_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let (history, learned, shown) = train(&whole, |_| Flow::Go);
    assert_eq!(history.step_loss.len() as u64, STEPS);
    // At step 2 the checkpoint of step 1 is there.
    for kills in [vec![2], vec![13], vec![20, 21], vec![7, 29, 41, 55]] {
        let killed = folder.path().join(format!("killed-{kills:?}"));
        for step in kills {
            kill_at(&killed, step);
        }
        let (again, weights, bytes) = train(&killed, |_| Flow::Go);
        assert!(
            again
                .notes
                .iter()
                .any(|note| note.starts_with("went on from step")),
            "{:?}",
            again.notes
        );
        assert_eq!(bits(&weights), bits(&learned), "{}", killed.display());
        assert_eq!(bytes, shown, "{}", killed.display());
        assert_eq!(again.step_loss, history.step_loss);
        assert_eq!(
            (again.train_loss, again.test_loss),
            (history.train_loss.clone(), history.test_loss.clone())
        );
    }
}

/// Not a test of its own: interrupts are of a whole process, so this one has one.
#[test]
fn started_by_another_test_it_is_interrupted() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let interrupted = std::panic::catch_unwind(|| {
        train(folder, |step| {
            if step.step == 30 {
                // What the kernel does when the person asks.
                alephlab_cell::interrupt::set(true);
            }
            Flow::Go
        })
    });
    assert!(interrupted.is_err());
    let runs = runs().histories;
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].stopped.as_deref(), Some("the cell was interrupted"));
    assert_eq!(runs[0].step_loss.len(), 30);
    println!("\nDONE");
}

#[test]
fn a_training_that_is_interrupted_keeps_what_it_learned_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, interrupted) = (folder.path().join("whole"), folder.path().join("interrupted"));
    let (_, learned, shown) = train(&whole, |_| Flow::Go);
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "started_by_another_test_it_is_interrupted",
            "--exact",
            "--nocapture",
        ])
        .env(FOLDER, &interrupted)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("\nDONE"), "{said}");
    let (history, weights, bytes) = train(&interrupted, |_| Flow::Go);
    assert_eq!(history.notes, ["went on from step 30, epoch 2, batch 20"]);
    assert_eq!(bits(&weights), bits(&learned));
    assert_eq!(bytes, shown);
}
