//! A training from a loader: it goes on in the middle of an epoch as if it had not stopped, and an interrupt ends waiting.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use alephlab::candle_nn::{Conv2d, Conv2dConfig, Linear, conv2d, linear};
use alephlab::prelude::*;
use alephlab::train::SeededRandom;

/// Set in the process that is interrupted: interrupts are of a whole process.
const INTERRUPTED: &str = "ALEPHLAB_TEST_LOADING";

struct Net {
    edges: Conv2d,
    classes: Linear,
}

impl Module for Net {
    fn forward(&self, inputs: &Tensor) -> candle_core::Result<Tensor> {
        self.classes
            .forward(&self.edges.forward(inputs)?.relu()?.mean((2, 3))?)
    }
}

/// A grey picture of noise, as numpy writes it.
fn write_picture(path: &Path, side: u32, random: &mut SeededRandom) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let array: Vec<u8> = (0..side * side)
        .map(|_| random.next_u64().to_le_bytes()[0])
        .collect();
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {side}, {side}), }}\n");
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array);
    std::fs::File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// 46 files of two classes, cut and turned at random.
fn loader(folder: &Path, threads: usize) -> Loader {
    let mut random = SeededRandom::new(2);
    let files: Vec<_> = (0..46)
        .map(|number| folder.join(format!("{}/{number}.npy", number % 2)))
        .collect();
    for file in files.iter().filter(|file| !file.exists()) {
        write_picture(file, 10, &mut random);
    }
    let source = Files::new(files, |path| {
        let input = (read_npy(path)?.to_dtype(DType::F32)? / 255.0)?;
        Sample::of_class(
            input,
            u32::from(path.parent().is_some_and(|parent| parent.ends_with("1"))),
        )
    });
    Loader::new(source)
        .augment(random_crop(8, 8, 1))
        .augment(random_flip())
        .augment(random_rotation(15.0))
        .map(normalise([0.5], [0.25]))
        .drop_last(true)
        .threads(threads)
}

/// What the variables hold in the end, when the process stopped after each of these steps and went on.
fn train(files: &Path, folder: &Path, stops: &[u64], threads: usize) -> Vec<u8> {
    for stop in stops.iter().copied().chain([u64::MAX]) {
        let vars = VarMap::new();
        let builder = seeded_vars(&vars, 1, &Device::Cpu);
        let net = Net {
            edges: conv2d(1, 4, 3, Conv2dConfig::default(), builder.pp("edges")).unwrap(),
            classes: linear(4, 2, builder.pp("classes")).unwrap(),
        };
        let trainer = Trainer::new(&vars)
            .epochs(3)
            .batch_size(4)
            .learning_rate(0.01)
            .seed(5)
            .checkpoint(folder)
            .every_steps(1)
            .resume(true)
            .on_step(move |step| if step.step == stop { Flow::Stop } else { Flow::Go });
        // What is measured is not cut, and is 10 x 10.
        let history = trainer
            .fit(&net, &loader(files, threads), &loader(files, 1))
            .unwrap();
        if stop == u64::MAX {
            // 11 batches of 4 from 46 files, the last two of which are left out.
            assert_eq!(history.step_loss.len(), 33);
            let shown = folder.join("shown.safetensors");
            vars.save(&shown).unwrap();
            return std::fs::read(shown).unwrap();
        }
    }
    vec![]
}

#[test]
fn a_training_that_stops_amid_an_epoch_ends_with_the_same_bits_however_many_threads_load() {
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let whole = train(&own("files"), &own("whole"), &[], 1);
    for (threads, stops) in [(3, vec![]), (1, vec![5]), (4, vec![1, 13, 30])] {
        let again = train(&own("files"), &own(&format!("{stops:?}")), &stops, threads);
        assert_eq!(again, whole, "{threads} threads, stopped after {stops:?}");
    }
}

/// Not a test of its own: what [`an_interrupt_ends_waiting_for_a_batch`] starts.
#[test]
fn started_by_another_test_it_waits_for_a_batch() {
    if std::env::var_os(INTERRUPTED).is_none() {
        return;
    }
    let inputs = Tensor::zeros((4, 1), DType::F32, &Device::Cpu).unwrap();
    let examples = Examples::new(inputs, Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap()).unwrap();
    let never = std::sync::Mutex::new(());
    let held = std::sync::Arc::new(never);
    let (lock, inside) = (held.clone(), held);
    let guard = lock.lock().unwrap();
    let loader = Loader::new(examples).map(move |sample| {
        // What the kernel does when the person asks, then a file that never comes.
        alephlab_cell::interrupt::set(true);
        drop(inside.lock());
        Ok(sample)
    });
    let mut batches = loader.batches(2, None).unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batches.next())).is_err());
    drop(guard);
    println!("\nDONE");
}

#[test]
fn an_interrupt_ends_waiting_for_a_batch() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "started_by_another_test_it_waits_for_a_batch",
        "--exact",
        "--nocapture",
    ]);
    let output = command.env(INTERRUPTED, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("\nDONE"), "{said}");
}
