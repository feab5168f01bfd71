//! Times of this crate's ops and of stock candle's, side by side in one run.
//!
//! `ops_bench [word]` prints a line for each case whose name has the word: name, median of ours in ms, median of candle's, ours
//! over candle's, and the same of the best of each. Both sides take turns, a few runs each, so that what else the machine does
//! falls on both. With `--side ours` or `--side candle` only that side runs, and with `--case name` only that case, which
//! `tests/bench/torch_ops.py` asks for.

mod models;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use alephlab_ops as ops;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::Optimizer as _;
use models::{Convolutional, Perceptron, Side, Transformer};

type Work<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// A case: how the ops of this crate do it, and how candle does.
struct Case<'a> {
    name: &'static str,
    ours: Work<'a>,
    candle: Work<'a>,
}

/// How long a case is measured, and how often one side runs in a row.
const TIME_MAX: Duration = Duration::from_millis(1500);
const RUNS: usize = 4;

fn case<'a, T, U>(
    name: &'static str,
    ours: impl Fn() -> Result<T> + 'a,
    candle: impl Fn() -> Result<U> + 'a,
) -> Case<'a> {
    Case {
        name,
        ours: Box::new(move || ours().map(|result| drop(black_box(result)))),
        candle: Box::new(move || candle().map(|result| drop(black_box(result)))),
    }
}

fn timed(work: &Work<'_>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        words
            .iter()
            .position(|word| word == name)
            .and_then(|at| words.get(at + 1))
            .cloned()
    };
    let (side, exact) = (option("--side"), option("--case"));
    let word = words
        .first()
        .filter(|word| !word.starts_with("--"))
        .cloned()
        .unwrap_or_default();
    let wanted = |name: &str| name.contains(&word) && exact.as_ref().is_none_or(|exact| exact == name);
    println!(
        "{:34} {:>10} {:>10} {:>6} {:>6}",
        "case", "ours ms", "candle ms", "ratio", "best"
    );
    let data = Data::new()?;
    for case in cases(&data)?.iter().filter(|case| wanted(case.name)) {
        let [ours, candle] = measured(case, side.as_deref())?;
        let best = |times: &[f64]| times.iter().copied().fold(f64::NAN, f64::min);
        let ratio = best(&ours) / best(&candle);
        let [ours, candle] = [ours, candle].map(median);
        println!(
            "{:34} {ours:10.4} {candle:10.4} {:6.2} {ratio:6.2}",
            case.name,
            ours / candle
        );
    }
    Ok(())
}

/// Times of ours and of candle's.
fn measured(case: &Case<'_>, side: Option<&str>) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    for (index, (name, work)) in [("ours", &case.ours), ("candle", &case.candle)]
        .iter()
        .enumerate()
        .cycle()
    {
        if side.is_none_or(|side| side == *name) {
            // One run to warm up: threads of the other side spin for a while.
            timed(work)?;
            for _ in 0..RUNS {
                times[index].push(timed(work)?);
            }
        }
        if index == 1 && start.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(times)
}

/// The tensors that cases share.
struct Data {
    four: Tensor,
    four_grad: Tensor,
    square: Tensor,
    rows: Tensor,
    small: Tensor,
    logits: Tensor,
    labels: Tensor,
    tokens: Tensor,
    vector: Tensor,
}

fn normal(dims: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1f32, dims, &Device::Cpu)
}

impl Data {
    fn new() -> Result<Self> {
        Ok(Self {
            four: normal(&[4 << 20])?,
            four_grad: normal(&[4 << 20])?,
            square: normal(&[2048, 2048])?,
            rows: normal(&[4096, 1024])?,
            small: normal(&[8, 8])?,
            logits: normal(&[4096, 1000])?,
            labels: (Tensor::rand(0f32, 999f32, 4096, &Device::Cpu)?).to_dtype(DType::U32)?,
            tokens: normal(&[1024, 256])?,
            vector: normal(&[256])?,
        })
    }
}

fn slow_layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let less = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let scale = (less.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
    less.broadcast_div(&scale)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

/// Forward, and backward from a gradient of ones; by our sum on both sides, since that of candle gives a gradient that is spread
/// out from one number, which its own ops take ten times as long over.
fn back(var: &Var, op: impl Fn(&Tensor) -> Result<Tensor>) -> Result<candle_core::backprop::GradStore> {
    ops::sum_all(&op(var.as_tensor())?)?.backward()
}

fn cases(data: &Data) -> Result<Vec<Case<'_>>> {
    let mut cases = elementwise(data)?;
    cases.extend(rowwise(data)?);
    cases.extend(products(data)?);
    cases.extend(images()?);
    cases.extend(steps(data)?);
    cases.extend(training(data)?);
    Ok(cases)
}

fn elementwise(data: &Data) -> Result<Vec<Case<'_>>> {
    let Data {
        four, square, small, ..
    } = data;
    let var = Var::from_tensor(four)?;
    let again = var.clone();
    let permuted = square.reshape((16, 128, 32, 64))?;
    let same = permuted.clone();
    Ok(vec![
        case("exp 4M", || ops::exp(four), || four.exp()),
        case("gelu 4M", || ops::gelu(four), || four.gelu()),
        case("gelu_erf 4M", || ops::gelu_erf(four), || four.gelu_erf()),
        case("silu 4M", || ops::silu(four), || four.silu()),
        case("relu 4M", || ops::relu(four), || four.relu()),
        case("tanh 4M", || ops::tanh(four), || four.tanh()),
        case(
            "sigmoid 4M",
            || ops::sigmoid(four),
            || candle_nn::ops::sigmoid(four),
        ),
        case("sum_all 4M", || ops::sum_all(four), || four.sum_all()),
        case(
            "dropout 4M",
            || ops::dropout(four, 0.1, 1),
            || candle_nn::ops::dropout(four, 0.1),
        ),
        case("gelu 8x8", || ops::gelu(small), || small.gelu()),
        case(
            "gelu 4M forward+backward",
            move || back(&var, ops::gelu),
            move || back(&again, Tensor::gelu),
        ),
        case(
            "transpose+contiguous 4M",
            || ops::transpose_copy(square, 0, 1),
            || square.t()?.contiguous(),
        ),
        case(
            "heads permute 4M",
            move || ops::transpose_copy(&permuted, 1, 2),
            move || same.transpose(1, 2)?.contiguous(),
        ),
    ])
}

fn rowwise(data: &Data) -> Result<Vec<Case<'_>>> {
    let Data {
        rows,
        logits,
        labels,
        tokens,
        vector,
        ..
    } = data;
    let var = Var::from_tensor(tokens)?;
    let again = var.clone();
    let wide = Var::from_tensor(rows)?;
    let also = wide.clone();
    let loss = Var::from_tensor(logits)?;
    let same = loss.clone();
    Ok(vec![
        case(
            "softmax last 4096x1024",
            || ops::softmax_last_dim(rows),
            || candle_nn::ops::softmax_last_dim(rows),
        ),
        case(
            "softmax forward+backward",
            move || back(&wide, ops::softmax_last_dim),
            move || back(&also, |x| candle_nn::ops::softmax(x, D::Minus1)),
        ),
        case(
            "layer_norm 1024x256",
            || ops::layer_norm(tokens, vector, vector, 1e-5),
            || candle_nn::ops::layer_norm(tokens, vector, vector, 1e-5),
        ),
        case(
            "layer_norm forward+backward",
            move || back(&var, |x| ops::layer_norm(x, vector, vector, 1e-5)),
            move || back(&again, |x| slow_layer_norm(x, vector, vector)),
        ),
        case(
            "cross_entropy forward+backward",
            move || ops::cross_entropy(&loss, labels)?.backward(),
            move || candle_nn::loss::cross_entropy(&same, labels)?.backward(),
        ),
    ])
}

/// Cases that are candle's on both sides: what this crate changes about them is the instructions that products run on.
fn products(data: &Data) -> Result<Vec<Case<'_>>> {
    let mut cases = Vec::new();
    for (name, size) in [("matmul 512", 512), ("matmul 1024", 1024), ("matmul 2048", 2048)] {
        let a = normal(&[size, size])?;
        let b = a.clone();
        cases.push(case(name, move || a.matmul(&a), move || b.matmul(&b)));
    }
    let Data {
        four,
        four_grad,
        rows,
        small,
        ..
    } = data;
    let column = normal(&[1024])?;
    let again = column.clone();
    cases.push(case(
        "add 4M",
        move || ops::add(four, four_grad),
        move || four + four_grad,
    ));
    cases.push(case(
        "broadcast add 4M",
        move || ops::add(rows, &column),
        move || rows.broadcast_add(&again),
    ));
    cases.push(case(
        "8x8 add",
        move || ops::add(small, small),
        move || small + small,
    ));
    Ok(cases)
}

fn training(data: &Data) -> Result<Vec<Case<'_>>> {
    let mut cases = Vec::new();
    let (digits, digit_labels) = (normal(&[6000, 784])?, models::labels(6000)?);
    let (images, image_labels) = (normal(&[64, 1, 28, 28])?, models::labels(64)?);
    let tokens = data.tokens.reshape((8, 128, 256))?;

    let [ours, candle] = [Side::Ours, Side::Candle].map(Perceptron::new);
    let (ours, candle) = (RefCell::new(ours?), RefCell::new(candle?));
    let (x, y) = ((digits.clone(), digit_labels.clone()), (digits, digit_labels));
    cases.push(case(
        "MLP epoch 6000",
        move || ours.borrow_mut().epoch(&x.0, &x.1),
        move || candle.borrow_mut().epoch(&y.0, &y.1),
    ));

    let [ours, candle] = [Convolutional::new(Side::Ours)?, Convolutional::new(Side::Candle)?];
    let (x, y) = (images.clone(), images.clone());
    cases.push(case(
        "CNN forward b64",
        move || ours.forward(&x),
        move || candle.forward(&y),
    ));
    let [ours, candle] = [Side::Ours, Side::Candle].map(Convolutional::new);
    let (ours, candle) = (RefCell::new(ours?), RefCell::new(candle?));
    let (x, y) = ((images.clone(), image_labels.clone()), (images, image_labels));
    cases.push(case(
        "CNN training step b64",
        move || ours.borrow_mut().step(&x.0, &x.1),
        move || candle.borrow_mut().step(&y.0, &y.1),
    ));

    let [ours, candle] = [Transformer::new(Side::Ours)?, Transformer::new(Side::Candle)?];
    let (x, y) = (tokens.clone(), tokens.clone());
    cases.push(case(
        "transformer forward",
        move || ours.forward(&x),
        move || candle.forward(&y),
    ));
    let [ours, candle] = [Transformer::new(Side::Ours)?, Transformer::new(Side::Candle)?];
    let (x, y) = (tokens.clone(), tokens.clone());
    cases.push(case(
        "transformer forward+backward",
        move || ours.backward(&x),
        move || candle.backward(&y),
    ));
    let [ours, candle] = [Side::Ours, Side::Candle].map(Transformer::new);
    let (ours, candle) = (RefCell::new(ours?), RefCell::new(candle?));
    let (x, y) = (tokens.clone(), tokens);
    cases.push(case(
        "transformer training step",
        move || ours.borrow_mut().step(&x),
        move || candle.borrow_mut().step(&y),
    ));
    Ok(cases)
}

/// What a residual net is made of.
fn images<'a>() -> Result<Vec<Case<'a>>> {
    let [var, again] = [
        Var::from_tensor(&normal(&[8, 64, 56, 56])?)?,
        Var::from_tensor(&normal(&[8, 64, 56, 56])?)?,
    ];
    let (x, y) = (var.clone(), again.clone());
    let (weight, same) = (
        Var::from_tensor(&normal(&[64, 64, 3, 3])?)?,
        Var::from_tensor(&normal(&[64, 64, 3, 3])?)?,
    );
    let [scale, shift] = [
        Var::from_tensor(&normal(&[64])?)?,
        Var::from_tensor(&normal(&[64])?)?,
    ];
    let norm = candle_nn::BatchNorm::new(
        64,
        normal(&[64])?,
        normal(&[64])?,
        scale.as_tensor().clone(),
        shift.as_tensor().clone(),
        1e-5,
    )?;
    let how = ops::Conv2d {
        padding: 1,
        ..ops::Conv2d::default()
    };
    Ok(vec![
        case(
            "conv3x3 forward+backward",
            move || back(&var, |x| ops::conv2d(x, &weight, None, &how)),
            move || back(&again, |x| x.conv2d(&same, 1, 1, 1, 1)),
        ),
        case(
            "batch_norm forward+backward",
            move || back(&x, |x| Ok(ops::batch_norm(x, &scale, &shift, 1e-5)?.y)),
            move || back(&y, |y| candle_nn::ModuleT::forward_t(&norm, y, true)),
        ),
    ])
}

fn steps(data: &Data) -> Result<Vec<Case<'_>>> {
    let [ours, theirs] = [Var::from_tensor(&data.four)?, Var::from_tensor(&data.four_grad)?];
    let moments = RefCell::new(ops::Moments::new(&ours)?);
    let optimiser = RefCell::new(candle_nn::AdamW::new(
        vec![theirs.clone()],
        candle_nn::ParamsAdamW::default(),
    )?);
    let mut grads = ops::sum_all(&theirs)?.backward()?;
    grads.insert(&theirs, data.four_grad.clone());
    Ok(vec![case(
        "AdamW step 4M",
        move || {
            ops::adamw_step(
                &ours,
                &data.four_grad,
                &mut moments.borrow_mut(),
                &ops::AdamW::default(),
            )
        },
        move || optimiser.borrow_mut().step(&grads),
    )])
}
