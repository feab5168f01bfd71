//! Activations, softmax, norms and losses against candle's own ops in `f64`, and their gradients against differences.

#![expect(clippy::unwrap_used, reason = "a test says why by its panic")]

mod support;

use alephlab_ops as ops;
use candle_core::{D, DType, Device, Result, Tensor};
use support::{Random, assert_close, check, narrow, numbers};

type Op = fn(&Tensor) -> Result<Tensor>;

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

const ACTIVATIONS: [(&str, Op, Op); 8] = [
    ("gelu", ops::gelu, Tensor::gelu),
    ("gelu_erf", ops::gelu_erf, Tensor::gelu_erf),
    ("silu", ops::silu, Tensor::silu),
    ("relu", ops::relu, Tensor::relu),
    ("tanh", ops::tanh, Tensor::tanh),
    ("sigmoid", ops::sigmoid, sigmoid),
    ("exp", ops::exp, Tensor::exp),
    ("erf", ops::erf, Tensor::erf),
];

/// Shapes without elements, of one, of less and of more than a register, a chunk.
const SHAPES: [&[usize]; 8] = [&[0], &[], &[1], &[7], &[3, 5], &[2, 0, 4], &[2, 3, 17], &[64]];

#[test]
fn activations_give_what_candle_does_and_gradients_those_of_differences() {
    for (name, ours, theirs) in ACTIVATIONS {
        for shape in SHAPES {
            let x = Random(1).tensor(shape, 3.0);
            check(name, &[x], |x| ours(&x[0]), |x| theirs(&x[0]));
        }
        let x = (Random(1).tensor(&[50], 1.0) + 1.5).unwrap();
        check("log", &[x], |x| ops::log(&x[0]), |x| x[0].log());
    }
}

#[test]
fn sums_are_those_of_candle_and_give_both_their_gradients() {
    let shapes: [(&[usize], &[usize]); 9] = [
        (&[7], &[7]),
        (&[3, 5], &[3, 5]),
        (&[2, 3, 17], &[17]),
        (&[2, 3, 17], &[3, 17]),
        (&[4, 1], &[1]),
        (&[2, 0, 4], &[4]),
        (&[2, 0, 4], &[0, 4]),
        // Left to candle.
        (&[2, 3], &[2, 1]),
        (&[3], &[2, 3]),
    ];
    for (x, y) in shapes {
        let both = [Random(1).tensor(x, 3.0), Random(2).tensor(y, 3.0)];
        check(
            "add",
            &both,
            |x| ops::add(&x[0], &x[1]),
            |x| x[0].broadcast_add(&x[1]),
        );
    }
    let turned = [Random(1).tensor(&[5, 3], 3.0), Random(2).tensor(&[3, 5], 3.0)];
    check(
        "add",
        &turned,
        |x| ops::add(&x[0].t()?, &x[1]),
        |x| x[0].t()? + &x[1],
    );
    let (x, y) = (
        Random(3).tensor(&[300, 1_001], 9.0),
        Random(4).tensor(&[1_001], 9.0),
    );
    let sums = ops::add(&narrow(&x), &narrow(&y)).unwrap();
    assert_eq!(
        numbers(&sums),
        numbers(&narrow(&x).broadcast_add(&narrow(&y)).unwrap())
    );
    assert!(ops::add(&x, &narrow(&y)).is_err(), "two dtypes");
    assert!(ops::add(&x, &Random(4).tensor(&[1_000], 9.0)).is_err());
}

#[test]
fn activations_of_large_tensors_are_those_of_candle() {
    let x = Random(2).tensor(&[3, 40_001], 9.0);
    for (name, ours, theirs) in ACTIVATIONS {
        assert_close(&ours(&narrow(&x)).unwrap(), &theirs(&x).unwrap(), 2e-6, name);
    }
}

#[test]
fn activations_of_numbers_far_out_have_no_gradient_that_is_no_number() {
    let far = [-1e30f32, -200.0, -20.0, 0.0, 20.0, 200.0, 1e30];
    let x = candle_core::Var::new(&far, &Device::Cpu).unwrap();
    for (name, ours, _) in ACTIVATIONS.iter().filter(|activation| activation.0 != "exp") {
        let grads = ours(&x).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = numbers(grads.get(&x).unwrap());
        assert!(grad.iter().all(|slope| slope.is_finite()), "{name}: {grad:?}");
    }
}

#[test]
fn softmax_and_its_logarithm_give_what_candle_does() {
    for shape in SHAPES.iter().filter(|shape| !shape.is_empty()) {
        let x = Random(3).tensor(shape, 6.0);
        let exact = |x: &[Tensor]| match x[0].elem_count() {
            0 => Ok(x[0].clone()),
            _ => candle_nn::ops::softmax(&x[0], D::Minus1),
        };
        check(
            "softmax",
            std::slice::from_ref(&x),
            |x| ops::softmax_last_dim(&x[0]),
            exact,
        );
        let exact = |x: &[Tensor]| match x[0].elem_count() {
            0 => Ok(x[0].clone()),
            _ => candle_nn::ops::log_softmax(&x[0], D::Minus1),
        };
        check("log_softmax", &[x], |x| ops::log_softmax_last_dim(&x[0]), exact);
    }
}

#[test]
fn softmax_of_large_numbers_is_finite() {
    let x = Tensor::new(
        &[[1e4f32, -1e4, 1e4], [f32::NEG_INFINITY, 0.0, 0.0]],
        &Device::Cpu,
    )
    .unwrap();
    assert_eq!(
        numbers(&ops::softmax_last_dim(&x).unwrap()),
        [0.5, 0.0, 0.5, 0.0, 0.5, 0.5]
    );
}

#[test]
fn norms_give_what_their_formulas_do() {
    let mut random = Random(4);
    for (outer, width) in [
        (vec![], 5),
        (vec![4], 1),
        (vec![3], 17),
        (vec![2, 3], 16),
        (vec![0], 3),
        (vec![70], 3),
    ] {
        let shape = [&outer[..], &[width]].concat();
        let inputs = [
            random.tensor(&shape, 2.0),
            random.tensor(&[width], 1.0),
            random.tensor(&[width], 1.0),
        ];
        let formula = |x: &[Tensor], centred: bool| {
            let less = match centred {
                true => x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?,
                false => x[0].clone(),
            };
            let scale = (less.sqr()?.mean_keepdim(D::Minus1)? + f64::from(0.1f32))?.sqrt()?;
            less.broadcast_div(&scale)?.broadcast_mul(&x[1])
        };
        let fused = |x: &[Tensor]| ops::layer_norm(&x[0], &x[1], &x[2], 0.1);
        check("layer_norm", &inputs, fused, |x| {
            formula(x, true)?.broadcast_add(&x[2])
        });
        let fused = |x: &[Tensor]| ops::rms_norm(&x[0], &x[1], 0.1);
        check("rms_norm", &inputs[..2], fused, |x| formula(x, false));
    }
}

#[test]
fn the_ways_of_f64_give_what_the_fused_ones_do() {
    let mut random = Random(5);
    let (x, weight, bias) = (
        random.tensor(&[6, 33], 2.0),
        random.tensor(&[33], 1.0),
        random.tensor(&[33], 1.0),
    );
    let narrow = [&x, &weight, &bias].map(narrow);
    let pairs = [
        (ops::softmax_last_dim(&narrow[0]), ops::softmax_last_dim(&x)),
        (
            ops::log_softmax_last_dim(&narrow[0]),
            ops::log_softmax_last_dim(&x),
        ),
        (
            ops::layer_norm(&narrow[0], &narrow[1], &narrow[2], 1e-5),
            ops::layer_norm(&x, &weight, &bias, 1e-5),
        ),
        (
            ops::rms_norm(&narrow[0], &narrow[1], 1e-5),
            ops::rms_norm(&x, &weight, 1e-5),
        ),
        (ops::gelu(&narrow[0]), ops::gelu(&x)),
        (ops::sigmoid(&narrow[0]), ops::sigmoid(&x)),
    ];
    for (index, (fused, composed)) in pairs.into_iter().enumerate() {
        assert_close(
            &fused.unwrap(),
            &composed.unwrap(),
            2e-6,
            &format!("pair {index}"),
        );
    }
}

#[test]
fn half_precision_keeps_its_dtype_and_is_within_its_digits() {
    let x = Random(6).tensor(&[5, 9], 2.0);
    for dtype in [DType::BF16, DType::F16] {
        let half = x.to_dtype(dtype).unwrap();
        for (name, ours, theirs) in ACTIVATIONS {
            let got = ours(&half).unwrap();
            assert_eq!(got.dtype(), dtype);
            assert_close(
                &got,
                &theirs(&half.to_dtype(DType::F64).unwrap()).unwrap(),
                8e-3,
                name,
            );
        }
        let got = ops::softmax_last_dim(&half).unwrap();
        assert_eq!(got.dtype(), dtype);
    }
}

#[test]
fn tensors_that_are_no_rows_in_memory_are_taken_as_they_read() {
    let x = Random(8).tensor(&[7, 9], 2.0);
    let wide = narrow(&x);
    let turned = [
        wide.t().unwrap(),
        wide.narrow(1, 2, 4).unwrap(),
        wide.broadcast_left(2).unwrap(),
    ];
    for x in turned {
        let rows = x.copy().unwrap();
        assert_eq!(
            numbers(&ops::gelu(&x).unwrap()),
            numbers(&ops::gelu(&rows).unwrap())
        );
        assert_eq!(
            numbers(&ops::softmax_last_dim(&x).unwrap()),
            numbers(&ops::softmax_last_dim(&rows).unwrap())
        );
    }
    check(
        "turned gelu",
        &[x],
        |x| ops::gelu(&x[0].t()?),
        |x| x[0].t()?.gelu(),
    );
}

fn exact_loss(x: &Tensor, labels: &[u32], options: &ops::CrossEntropy) -> Result<Tensor> {
    let log = numbers(&candle_nn::ops::log_softmax(x, D::Minus1)?);
    let classes = x.dim(D::Minus1)?;
    let weights = options.class_weights.clone().unwrap_or(vec![1.0; classes]);
    let smoothing = f64::from(options.label_smoothing);
    let (mut loss, mut total) = (0.0, 0.0);
    for (log, label) in log.chunks(classes).zip(labels) {
        if Some(*label) != options.ignore_label {
            let label = *label as usize;
            let every: f64 = log
                .iter()
                .zip(&weights)
                .map(|(log, weight)| log * f64::from(*weight))
                .sum();
            loss -= (1.0 - smoothing) * f64::from(weights[label]) * log[label]
                + smoothing / classes as f64 * every;
            total += f64::from(weights[label]);
        }
    }
    Tensor::new(if total == 0.0 { 0.0 } else { loss / total }, &Device::Cpu)
}

#[test]
fn cross_entropy_is_the_mean_of_what_labels_cost() {
    let labels = [2u32, 0, 4, 4, 1, 3];
    let weights = Some(vec![0.5, 1.0, 2.0, 0.25, 1.5]);
    for (smoothing, ignored, weights) in [
        (0.0, None, None),
        (0.1, None, None),
        (0.0, Some(4), None),
        (0.25, Some(0), weights.clone()),
        (0.0, None, weights),
    ] {
        let options = ops::CrossEntropy {
            label_smoothing: smoothing,
            ignore_label: ignored,
            class_weights: weights,
        };
        let x = Random(9).tensor(&[2, 3, 5], 4.0);
        let targets = Tensor::from_slice(&labels, (2, 3), &Device::Cpu).unwrap();
        let what = format!("{options:?}");
        check(
            &what,
            std::slice::from_ref(&x),
            |x| options.of(&x[0], &targets),
            |x| exact_loss(&x[0], &labels, &options),
        );
        assert_close(
            &options.of(&x, &targets).unwrap(),
            &exact_loss(&x, &labels, &options).unwrap(),
            1e-6,
            &what,
        );
    }
}

#[test]
fn logarithms_of_softmax_keep_their_digits_where_logits_are_large() {
    let x = (Random(13).tensor(&[4, 5], 6.0) + 1e4).unwrap();
    // As f32 holds them, so that both ways take the same numbers.
    let x = narrow(&x).to_dtype(DType::F64).unwrap();
    check(
        "log_softmax of large numbers",
        std::slice::from_ref(&x),
        |x| ops::log_softmax_last_dim(&x[0]),
        |x| candle_nn::ops::log_softmax(&x[0], D::Minus1),
    );
    let labels = [2u32, 0, 4, 1];
    let targets = Tensor::new(&labels, &Device::Cpu).unwrap();
    for smoothing in [0.0, 0.25] {
        let options = ops::CrossEntropy {
            label_smoothing: smoothing,
            class_weights: Some(vec![0.5, 1.0, 2.0, 0.25, 1.5]),
            ..Default::default()
        };
        check(
            &format!("cross_entropy of large numbers, {options:?}"),
            std::slice::from_ref(&x),
            |x| options.of(&x[0], &targets),
            |x| exact_loss(&x[0], &labels, &options),
        );
    }
    let x = Tensor::new(&[[10_000f32, 9_990.0]], &Device::Cpu).unwrap();
    let want = (-10f64).exp().ln_1p();
    let loss = ops::cross_entropy(&x, &Tensor::new(&[0u32], &Device::Cpu).unwrap()).unwrap();
    assert!((numbers(&loss)[0] - want).abs() < 1e-7, "{loss}");
    let log = ops::log_softmax_last_dim(&x).unwrap();
    assert!((numbers(&log)[0] + want).abs() < 1e-7, "{log}");
}

#[test]
fn rows_that_do_not_count_may_hold_what_is_no_number() {
    let far = f64::NEG_INFINITY;
    let x = [
        [1.0, -2.0, 0.5],
        [f64::NAN, far, 0.0],
        [far; 3],
        [-1.0, 0.25, 2.0],
    ];
    let x = Tensor::new(&x, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32, 1, 1, 2], &Device::Cpu).unwrap();
    let options = ops::CrossEntropy {
        ignore_label: Some(1),
        ..Default::default()
    };
    let want = exact_loss(&x, &[0, 1, 1, 2], &options).unwrap();
    let [wide, fused] = [x.clone(), narrow(&x)].map(|x| {
        let x = candle_core::Var::from_tensor(&x).unwrap();
        let loss = options.of(&x, &labels).unwrap();
        assert_close(&loss, &want, 3e-6, "loss");
        // Two that are no numbers would count as close.
        assert!(numbers(&loss)[0].is_finite());
        loss.backward().unwrap().get(&x).unwrap().clone()
    });
    assert_close(&fused, &wide, 3e-6, "gradient");
    assert_eq!(numbers(&wide)[3..9], [0.0; 6]);
    assert!(numbers(&wide).iter().all(|slope| slope.is_finite()));

    let smooth = ops::CrossEntropy {
        label_smoothing: 0.1,
        ..options
    };
    assert_close(
        &smooth.of(&narrow(&x), &labels).unwrap(),
        &exact_loss(&x, &[0, 1, 1, 2], &smooth).unwrap(),
        3e-6,
        "smoothed, fused",
    );
    assert_close(
        &smooth.of(&x, &labels).unwrap(),
        &exact_loss(&x, &[0, 1, 1, 2], &smooth).unwrap(),
        3e-6,
        "smoothed, f64",
    );
}

#[test]
fn labels_of_64_bits_are_not_wrapped_around() {
    let x = narrow(&Random(14).tensor(&[2, 3], 1.0));
    let loss = |labels: [i64; 2]| {
        ops::cross_entropy(&x, &Tensor::new(&labels, &Device::Cpu).unwrap()).map(|loss| numbers(&loss))
    };
    let narrow_labels = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
    let want = ops::cross_entropy(&x, &narrow_labels).unwrap();
    assert_eq!(loss([2, 0]).unwrap(), numbers(&want));
    for label in [-1, -(1 << 32), 1 << 32, 3] {
        let error = loss([0, label]).unwrap_err().to_string();
        assert!(error.contains(&format!("label {label} is no class")), "{error}");
    }
    // The ignored label is that number, and none that has its lower bits.
    let options = ops::CrossEntropy {
        ignore_label: Some(u32::MAX),
        ..Default::default()
    };
    let of = |label: i64| options.of(&x, &Tensor::new(&[0, label], &Device::Cpu).unwrap());
    assert!(of(i64::from(u32::MAX)).is_ok());
    assert!(of(-1).is_err());
}

#[test]
fn cross_entropy_of_nothing_that_counts_is_zero() {
    let options = ops::CrossEntropy {
        ignore_label: Some(1),
        ..Default::default()
    };
    let x = candle_core::Var::from_tensor(&narrow(&Random(1).tensor(&[2, 3], 1.0))).unwrap();
    let loss = options
        .of(&x, &Tensor::new(&[1u32, 1], &Device::Cpu).unwrap())
        .unwrap();
    assert_eq!(numbers(&loss), [0.0]);
    assert_eq!(numbers(loss.backward().unwrap().get(&x).unwrap()), [0.0; 6]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_shapes() {
    let device = Device::Cpu;
    let x = Tensor::zeros((2, 3), DType::F32, &device).unwrap();
    let two = Tensor::zeros(2, DType::F32, &device).unwrap();
    let three64 = Tensor::zeros(3, DType::F64, &device).unwrap();
    let whole = Tensor::zeros((2, 3), DType::U32, &device).unwrap();
    let scalar = Tensor::new(1f32, &device).unwrap();
    let labels = Tensor::new(&[0u32, 3], &device).unwrap();
    for (got, says) in [
        (ops::gelu(&whole), "floating-point"),
        (ops::softmax_last_dim(&scalar), "last dimension"),
        (ops::rms_norm(&x, &two, 1e-5), "[2, 3]"),
        (ops::layer_norm(&x, &three64, &three64, 1e-5), "one dtype"),
        (ops::cross_entropy(&x, &two), "whole numbers"),
        (ops::cross_entropy(&x, &labels), "label 3 is no class"),
        (
            ops::cross_entropy(&x, &labels.narrow(0, 0, 1).unwrap()),
            "a label for each row",
        ),
    ] {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn linear_gives_what_its_formula_does() {
    let mut random = Random(10);
    for (outer, inputs, outputs) in [
        (vec![], 3, 2),
        (vec![4], 1, 5),
        (vec![2, 3], 7, 4),
        (vec![0], 3, 2),
        (vec![5], 20, 1),
    ] {
        let x = [
            random.tensor(&[&outer[..], &[inputs]].concat(), 1.0),
            random.tensor(&[outputs, inputs], 1.0),
            random.tensor(&[outputs], 1.0),
        ];
        let exact = |x: &[Tensor]| {
            let rows = x[0]
                .reshape((x[0].elem_count() / inputs, inputs))?
                .matmul(&x[1].t()?)?
                .broadcast_add(&x[2])?;
            rows.reshape([&outer[..], &[outputs]].concat())
        };
        check("linear", &x, |x| ops::linear(&x[0], &x[1], Some(&x[2])), exact);
        assert_close(
            &ops::linear(&x[0], &x[1], Some(&x[2])).unwrap(),
            &exact(&x).unwrap(),
            1e-12,
            "f64",
        );
        let plain = |x: &[Tensor]| ops::linear(&x[0], &x[1], None);
        check("linear without bias", &x[..2], plain, plain);
        // The same weight the other way round.
        let turned = [
            x[0].clone(),
            x[1].t().unwrap().contiguous().unwrap(),
            x[2].clone(),
        ];
        let exact = |x: &[Tensor]| exact(&[x[0].clone(), x[1].t()?, x[2].clone()]);
        let op = |x: &[Tensor]| ops::linear_turned(&x[0], &x[1], Some(&x[2]));
        check("linear, turned", &turned, op, exact);
        let plain = |x: &[Tensor]| ops::linear_turned(&x[0], &x[1], None);
        check("linear without bias, turned", &turned[..2], plain, plain);
    }
    let (x, weight) = (
        narrow(&random.tensor(&[2, 3], 1.0)),
        narrow(&random.tensor(&[4, 5], 1.0)),
    );
    assert!(
        ops::linear(&x, &weight, None)
            .unwrap_err()
            .to_string()
            .contains("[4, 5]")
    );
    let error = ops::linear_turned(&x, &weight, None).unwrap_err().to_string();
    assert!(error.contains("[3, out]"), "{error}");
}

#[test]
fn activations_are_within_the_bounds_that_they_state() {
    let x = Random(12).tensor(&[100_000], 12.0);
    let whole: [(&str, Op, Op); 2] = [
        ("gelu", ops::gelu, Tensor::gelu),
        ("gelu_erf", ops::gelu_erf, Tensor::gelu_erf),
    ];
    for (name, ours, theirs) in whole {
        let (got, want) = (
            numbers(&ours(&narrow(&x)).unwrap()),
            numbers(&theirs(&x).unwrap()),
        );
        for ((x, got), want) in numbers(&x).iter().zip(got).zip(want) {
            assert!((got - want).abs() <= 4e-7 * x.abs(), "{name} {x}: {got} {want}");
        }
    }
    let (got, want) = (
        numbers(&ops::silu(&narrow(&x)).unwrap()),
        numbers(&x.silu().unwrap()),
    );
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= 4.0 * f64::from(f32::EPSILON) * want.abs(),
            "silu {got} {want}"
        );
    }
}
