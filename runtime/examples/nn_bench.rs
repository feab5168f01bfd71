//! Ready networks beside PyTorch's: `cargo run --release --package alephlab --example nn_bench -- [MODEL SENTENCES]`, and
//! `tests/bench/torch_networks.py` with the same arguments. MODEL is a folder with all-MiniLM-L6-v2, SENTENCES a file with
//! one on each line. Says the best of several runs each.

use std::error::Error;
use std::time::Instant;

use alephlab::nn::{Gpt, GptConfig, ResNet, ResNetConfig, SentenceEncoder};
use alephlab::ops;
use alephlab::prelude::*;
use alephlab::train::SeededRandom;

type Done<T> = Result<T, Box<dyn Error>>;

const RUNS: usize = 5;

fn main() -> Done<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [model, sentences] = arguments.as_slice() {
        sentences_of(model, &std::fs::read_to_string(sentences)?)?;
    }
    gpt_step()?;
    writing()?;
    pictures()
}

/// Seconds of the fastest run.
fn best(mut run: impl FnMut() -> Done<()>) -> Done<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        run()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn sentences_of(model: &str, text: &str) -> Done<()> {
    let encoder = SentenceEncoder::from_model(&load(model)?, &Device::Cpu)?.cut_at(256);
    let sentences: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let seconds = best(|| {
        encoder.encode(&sentences)?;
        Ok(())
    })?;
    let count = sentences.len();
    println!(
        "MiniLM, {count} sentences: {:.0} a second",
        count as f64 / seconds
    );
    let seconds = best(|| {
        for sentence in sentences.iter().take(50) {
            encoder.encode(&[sentence])?;
        }
        Ok(())
    })?;
    println!("MiniLM, one by one: {:.2} ms each", seconds * 20.0);
    let first = encoder
        .encode(&sentences[..1])?
        .narrow(1, 0, 4)?
        .to_vec2::<f32>()?;
    println!("  the first begins {first:?}");
    Ok(())
}

fn tokens(rows: usize, places: usize, below: usize) -> Done<Tensor> {
    let mut random = SeededRandom::new(1);
    let ids: Result<Vec<u32>, _> = (0..rows * places)
        .map(|_| u32::try_from(random.below(below)))
        .collect();
    Ok(Tensor::from_vec(ids?, (rows, places), &Device::Cpu)?)
}

/// One step of training of a small GPT: 6 blocks of 6 heads on 192 numbers, 8 rows of 128 tokens.
fn gpt_step() -> Done<()> {
    let vars = VarMap::new();
    let config = GptConfig {
        n_embd: 192,
        n_layer: 6,
        n_head: 6,
        ..GptConfig::small(257)
    };
    let network = Gpt::new(&config, seeded_vars(&vars, 1, &Device::Cpu))?;
    let all = vars.all_vars();
    let mut moments = all.iter().map(ops::Moments::new).collect::<Result<Vec<_>, _>>()?;
    let (inputs, labels) = (tokens(8, 128, 257)?, tokens(8, 128, 257)?);
    let forward = best(|| {
        network.forward_t(&inputs, false)?;
        Ok(())
    })?;
    let step = best(|| {
        let loss = losses::cross_entropy(&network.forward_t(&inputs, true)?, &labels)?;
        let gradients = loss.backward()?;
        for (var, moments) in all.iter().zip(&mut moments) {
            if let Some(gradient) = gradients.get(var) {
                ops::adamw_step(var, gradient, moments, &ops::AdamW::default())?;
            }
        }
        Ok(())
    })?;
    println!(
        "GPT, 8 x 128 tokens, forward: {:.1} ms, step of training: {:.1} ms",
        forward * 1e3,
        step * 1e3
    );
    Ok(())
}

/// Tokens of GPT-2's smallest, with weights of no meaning.
fn writing() -> Done<()> {
    let network = Gpt::new(
        &GptConfig::default(),
        seeded_vars(&VarMap::new(), 1, &Device::Cpu),
    )?;
    let settings = generate(&network, &Tokenizer::bytes(), "x".repeat(64))
        .temperature(0.0)
        .stop([])
        .max_tokens(40);
    let seconds = best(|| {
        settings.tokens()?.last().transpose()?;
        Ok(())
    })?;
    println!(
        "GPT-2 small, 64 tokens given, 40 made: {:.1} a second",
        40.0 / seconds
    );
    Ok(())
}

fn pictures() -> Done<()> {
    let vars = VarMap::new();
    let network = ResNet::new(&ResNetConfig::resnet18(), seeded_vars(&vars, 1, &Device::Cpu))?;
    let pictures = Tensor::rand(0f32, 1.0, (8, 3, 128, 128), &Device::Cpu)?;
    let labels = Tensor::zeros(8, DType::U32, &Device::Cpu)?;
    let forward = best(|| {
        network.forward_t(&pictures, false)?;
        Ok(())
    })?;
    let back = best(|| {
        losses::cross_entropy(&network.forward_t(&pictures, true)?, &labels)?.backward()?;
        Ok(())
    })?;
    println!(
        "ResNet-18, 8 of 128 x 128, forward: {:.0} ms, and back: {:.0} ms",
        forward * 1e3,
        back * 1e3
    );
    Ok(())
}
