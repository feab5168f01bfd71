//! How much of a training's time is waiting for its loader, and how many samples a second the loader alone makes.
//!
//! `cargo run --release --package alephlab --example loader_bench -- [PICTURES] [SIDE]`: writes so many PNG files (2000 of
//! 64 x 64) to a temporary folder, then goes through them with a convolutional network, and without one.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use alephlab::candle_nn::{
    Conv2d, Conv2dConfig, Linear, Optimizer as _, SGD, conv2d, linear, loss::cross_entropy,
};
use alephlab::prelude::*;
use alephlab::train::{Pass, SeededRandom};

type Done<T> = Result<T, Box<dyn Error>>;

const BATCH: usize = 64;

/// Two convolutions, one linear layer.
struct Net {
    first: Conv2d,
    second: Conv2d,
    classes: Linear,
}

impl Net {
    fn new(vars: &VarMap) -> candle_core::Result<Self> {
        let builder = seeded_vars(vars, 1, &Device::Cpu);
        let halving = Conv2dConfig {
            padding: 1,
            stride: 2,
            ..Conv2dConfig::default()
        };
        Ok(Self {
            first: conv2d(3, 16, 3, halving, builder.pp("first"))?,
            second: conv2d(16, 32, 3, halving, builder.pp("second"))?,
            classes: linear(32, 10, builder.pp("classes"))?,
        })
    }
}

impl Module for Net {
    fn forward(&self, inputs: &Tensor) -> candle_core::Result<Tensor> {
        let edges = self.first.forward(inputs)?.relu()?;
        let parts = self.second.forward(&edges)?.relu()?;
        self.classes.forward(&parts.mean((2, 3))?)
    }
}

/// Pictures as a camera has them: areas that change slowly, and noise.
fn write_pictures(folder: &Path, count: usize, side: usize) -> Done<()> {
    let mut random = SeededRandom::new(1);
    for number in 0..count {
        let path = folder.join(format!("class-{}", number % 10));
        std::fs::create_dir_all(&path)?;
        let file = BufWriter::new(File::create(path.join(format!("{number}.png")))?);
        let mut encoder = png::Encoder::new(file, u32::try_from(side)?, u32::try_from(side)?);
        encoder.set_color(png::ColorType::Rgb);
        let [red, green, blue, ..] = random.next_u64().to_le_bytes();
        let mut bytes = Vec::with_capacity(side * side * 3);
        for place in 0..side * side {
            let slope = (place / side + place % side).to_le_bytes()[0];
            let noise = random.next_u64().to_le_bytes()[0] % 16;
            bytes.extend([red, green, blue].map(|base| base.wrapping_add(slope).wrapping_add(noise)));
        }
        encoder.write_header()?.write_image_data(&bytes)?;
    }
    Ok(())
}

/// Time of one pass and the part of it that was waiting, after the first batch: that one nobody can make ahead.
fn pass(loader: &Loader, network: Option<(&Net, &mut SGD)>, epoch: usize) -> Done<(Duration, Duration)> {
    let mut network = network;
    let mut batches = loader.of_pass(&Pass {
        seed: Some(3),
        epoch,
        ..Pass::in_order(BATCH)
    })?;
    let mut first = batches.next().transpose()?;
    let (begun, waited) = (Instant::now(), loader.waited());
    while let Some(batch) = first
        .take()
        .map_or_else(|| batches.next().transpose(), |batch| Ok(Some(batch)))?
    {
        if let Some((net, optimizer)) = &mut network {
            let loss = cross_entropy(&net.forward(&batch.inputs)?, &batch.labels)?;
            optimizer.backward_step(&loss)?;
        }
    }
    Ok((begun.elapsed(), loader.waited().saturating_sub(waited)))
}

fn row(name: &str, loader: &Loader) -> Done<()> {
    let vars = VarMap::new();
    let net = Net::new(&vars)?;
    let mut optimizer = SGD::new(vars.all_vars(), 0.01)?;
    // The files are in the system's cache after the first pass.
    pass(loader, None, 0)?;
    let (alone, _) = pass(loader, None, 1)?;
    let (training, waited) = pass(loader, Some((&net, &mut optimizer)), 2)?;
    let rate = loader.len().saturating_sub(BATCH) as f64;
    println!(
        "{name:<44} {:>10.0} {:>10.0} {:>8.1} %",
        rate / alone.as_secs_f64(),
        rate / training.as_secs_f64(),
        100.0 * waited.as_secs_f64() / training.as_secs_f64()
    );
    Ok(())
}

fn main() -> Done<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: usize| arguments.next().map_or(Ok(otherwise), |word| word.parse());
    let (count, side) = (number(2000)?.max(2 * BATCH), number(64)?.max(8));
    let folder = tempfile::tempdir()?;
    write_pictures(folder.path(), count, side)?;
    let images = read_images(folder.path())?;
    println!("{count} pictures of {side} x {side}, batches of {BATCH}");
    println!(
        "{:<44} {:>10} {:>10} {:>10}",
        "", "alone /s", "train /s", "waiting"
    );
    let whole = images.batches(count, None).next().ok_or("no batch")??;
    row("rows in memory, 1 thread", &Loader::new(whole).threads(1))?;
    for threads in [1, 2, 4] {
        let decoded = Loader::new(images.clone()).threads(threads);
        row(&format!("decoded, threads: {threads}"), &decoded)?;
        let changed = decoded
            .augment(random_crop(side, side, side / 8))
            .augment(random_flip())
            .augment(random_rotation(10.0))
            .map(normalise([0.5; 3], [0.25; 3]));
        row(
            &format!("decoded, cut, turned, normalised, threads: {threads}"),
            &changed,
        )?;
    }
    Ok(())
}
