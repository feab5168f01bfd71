//! Softmax, norms, cross-entropy and attention's scores.

use alephlab_ops as ops;
use candle_core::{D, DType, Device, Result, Tensor, Var};

use crate::support::{Random, numbers};
use crate::{DEVICES, DTYPES, assert_near, check, check_within, held, tolerance};

/// Rows of one number; narrower and wider than a group of threads; of a whole number of packs and not; for each size of block.
const SHAPES: [&[usize]; 9] = [
    &[3, 1],
    &[1, 5],
    &[19, 10],
    &[9, 32],
    &[2, 5, 33],
    &[5, 64],
    &[3, 300],
    &[2, 1200],
    &[1, 4100],
];

#[test]
fn softmax_and_its_logarithm_give_what_the_formula_does() {
    for shape in SHAPES {
        let x = Random(3).tensor(shape, 6.0);
        check(
            "softmax",
            std::slice::from_ref(&x),
            |x| ops::softmax_last_dim(&x[0]),
            |x| candle_nn::ops::softmax(&x[0], D::Minus1),
        );
        check(
            "log_softmax",
            &[x],
            |x| ops::log_softmax_last_dim(&x[0]),
            |x| candle_nn::ops::log_softmax(&x[0], D::Minus1),
        );
    }
}

#[test]
fn softmax_of_large_numbers_and_of_infinities_is_finite() {
    let x = [[1e4f32, -1e4, 1e4], [f32::NEG_INFINITY, 0.0, 0.0]];
    for device in DEVICES.iter() {
        let y = ops::softmax_last_dim(&Tensor::new(&x, device).unwrap()).unwrap();
        let y = numbers(&y.to_device(&Device::Cpu).unwrap());
        assert_eq!(y, [0.5, 0.0, 0.5, 0.0, 0.5, 0.5]);
    }
}

fn normal(x: &[Tensor], centred: bool) -> Result<Tensor> {
    let less = match centred {
        true => x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?,
        false => x[0].clone(),
    };
    let scale = (less.sqr()?.mean_keepdim(D::Minus1)? + f64::from(0.1f32))?.sqrt()?;
    less.broadcast_div(&scale)?.broadcast_mul(&x[1])
}

#[test]
fn norms_give_what_their_formulas_do() {
    let mut random = Random(4);
    for shape in SHAPES.into_iter().chain([&[150, 12][..]]) {
        let width = [*shape.last().unwrap()];
        let inputs = [
            random.tensor(shape, 2.0),
            random.tensor(&width, 1.0),
            random.tensor(&width, 1.0),
        ];
        check(
            "layer_norm",
            &inputs,
            |x| ops::layer_norm(&x[0], &x[1], &x[2], 0.1),
            |x| normal(x, true)?.broadcast_add(&x[2]),
        );
        check(
            "rms_norm",
            &inputs[..2],
            |x| ops::rms_norm(&x[0], &x[1], 0.1),
            |x| normal(x, false),
        );
    }
}

/// The loss and its gradient in `f64`, by the formula.
fn exact_loss(x: &Tensor, labels: &[u32], options: &ops::CrossEntropy) -> Result<(Tensor, Tensor)> {
    let x = Var::from_tensor(x)?;
    let classes = x.dim(D::Minus1)?;
    let log = candle_nn::ops::log_softmax(&x, D::Minus1)?.reshape(((), classes))?;
    let weights = options.class_weights.clone().unwrap_or(vec![1.0; classes]);
    let smoothing = f64::from(options.label_smoothing);
    let mut total = 0.0;
    let mut shares = Vec::new();
    for label in labels {
        let counts = Some(*label) != options.ignore_label;
        let own = if counts {
            f64::from(weights[*label as usize])
        } else {
            0.0
        };
        total += own;
        for (class, weight) in weights.iter().enumerate() {
            let every = smoothing / classes as f64 * f64::from(*weight) * f64::from(u8::from(counts));
            let is_own = f64::from(u8::from(class == *label as usize));
            shares.push((1.0 - smoothing) * own * is_own + every);
        }
    }
    let shares = Tensor::from_vec(shares, (labels.len(), classes), &Device::Cpu)?;
    let total = if total == 0.0 { 1.0 } else { total };
    let loss = ((log * shares)?.sum_all()? / -total)?;
    let grads = loss.backward()?;
    Ok((loss, grads.get(&x).cloned().unwrap_or(x.zeros_like()?)))
}

#[test]
fn cross_entropy_is_the_mean_of_what_labels_cost() {
    let every_class = |classes: usize| Some((0..classes).map(|class| 0.25 + class as f32 * 0.01).collect());
    for (shape, options) in [
        (&[6, 5][..], (0.0, None, false)),
        (&[2, 40, 7], (0.1, None, false)),
        (&[40, 10], (0.0, Some(4), false)),
        (&[33, 8], (0.25, Some(0), true)),
        (&[3, 400], (0.0, None, true)),
        (&[2, 2000], (0.1, Some(3), true)),
        (&[4, 5000], (0.0, None, false)),
    ] {
        let (rows, classes) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
        let mut random = Random(9);
        let x = random.tensor(shape, 4.0);
        let labels: Vec<u32> = (0..rows)
            .map(|_| u32::try_from(random.between(0, classes.min(7) - 1)).unwrap())
            .collect();
        let options = ops::CrossEntropy {
            label_smoothing: options.0,
            ignore_label: options.1,
            class_weights: if options.2 { every_class(classes) } else { None },
        };
        for dtype in DTYPES {
            let (want, slopes) = exact_loss(&held(&x, dtype), &labels, &options).unwrap();
            for device in DEVICES.iter() {
                let what = format!("{shape:?} of {dtype:?} on {:?}", device.location());
                let there = Var::from_tensor(&x.to_dtype(dtype).unwrap().to_device(device).unwrap()).unwrap();
                let targets = Tensor::from_slice(&labels, &shape[..shape.len() - 1], device).unwrap();
                let loss = options.of(&there, &targets).unwrap();
                assert_near(&loss, &want, tolerance(dtype), &what);
                let grads = loss.backward().unwrap();
                assert_near(grads.get(&there).unwrap(), &slopes, tolerance(dtype), &what);
            }
        }
    }
}

#[test]
fn a_label_that_is_no_class_is_told_or_makes_the_loss_no_number() {
    for device in DEVICES.iter() {
        let x = Tensor::new(&[[0.5f32, 1.0], [0.0, 2.0]], device).unwrap();
        // From the CPU labels can be looked at.
        let labels = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
        let error = ops::cross_entropy(&x, &labels).unwrap_err().to_string();
        assert!(error.contains("label 2 is no class"), "{error}");
        if std::env::var_os(crate::EMULATED).is_some() {
            let loss = ops::cross_entropy(&x, &labels.to_device(device).unwrap()).unwrap();
            assert!(numbers(&loss.to_device(&Device::Cpu).unwrap())[0].is_nan());
        }
    }
}

#[test]
fn rows_that_do_not_count_may_hold_what_is_no_number() {
    let x = [[1.0f32, -2.0], [f32::NAN, 0.0], [f32::NEG_INFINITY; 2]];
    let options = ops::CrossEntropy {
        ignore_label: Some(1),
        ..Default::default()
    };
    for device in DEVICES.iter() {
        let x = Var::new(&x, device).unwrap();
        let loss_of = |labels: &[u32; 3]| {
            let loss = options.of(&x, &Tensor::new(labels, device).unwrap()).unwrap();
            let grads = loss.backward().unwrap();
            let slopes = grads.get(&x).unwrap().to_device(&Device::Cpu).unwrap();
            (
                numbers(&loss.to_device(&Device::Cpu).unwrap())[0],
                numbers(&slopes),
            )
        };
        let (loss, slopes) = loss_of(&[0, 1, 1]);
        assert!((loss - (-3f64).exp().ln_1p()).abs() < 1e-6, "{loss}");
        assert_eq!(slopes[2..], [0.0; 4]);
        assert_eq!(loss_of(&[1, 1, 1]), (0.0, vec![0.0; 6]));
    }
}

/// Attention in `f64` by the formula; queries that see nothing get zeros.
fn exact_attention(x: &[Tensor], mask: &Tensor, scale: f64) -> Result<Tensor> {
    let scores = (x[0].matmul(&x[1].t()?.contiguous()?)? * scale)?;
    let parts = scores.broadcast_add(mask)?.exp()?;
    let sums = parts.sum_keepdim(D::Minus1)?;
    let shut = sums.eq(0.0)?.to_dtype(DType::F64)?;
    parts.broadcast_div(&(sums + shut)?)?.matmul(&x[2])
}

#[test]
fn attention_is_that_of_the_formula() {
    let mut random = Random(12);
    for (queries, keys) in [(5, 5), (3, 8), (8, 3), (16, 16), (2, 300)] {
        let mut of = |places: usize, size| random.tensor(&[2, 3, places, size], 1.0);
        let inputs = [of(queries, 4), of(keys, 4), of(keys, 6)];
        let shut = |is_shut: bool| if is_shut { f64::NEG_INFINITY } else { 0.0 };
        let mask = |is_shut: &dyn Fn(usize, usize) -> bool| {
            let all = (0..queries).flat_map(|query| (0..keys).map(move |key| (query, key)));
            let all: Vec<f64> = all.map(|(query, key)| shut(is_shut(query, key))).collect();
            Tensor::from_vec(all, (queries, keys), &Device::Cpu).unwrap()
        };
        let causal = mask(&|query, key| key + queries > query + keys);
        let odd = mask(&|query, key| (query + key) % 3 == 1);
        for (what, mask, exact) in [
            ("all", None, mask(&|_, _| false)),
            ("causal", Some(None), causal),
            ("odd", Some(Some(odd.clone())), odd),
        ] {
            check(
                &format!("attention {queries} {keys} {what}"),
                &inputs,
                |x| {
                    let mask = match &mask {
                        None => ops::Mask::None,
                        Some(None) => ops::Mask::Causal,
                        Some(Some(odd)) => {
                            ops::Mask::Added(odd.to_dtype(DType::F32)?.to_device(x[0].device())?)
                        }
                    };
                    ops::attention(&x[0], &x[1], &x[2], &mask, 0.5)?.contiguous()
                },
                |x| exact_attention(x, &exact, 0.5),
            );
        }
    }
}

#[test]
fn linear_layers_are_products_with_a_row_added() {
    let mut random = Random(14);
    for (shape, outputs) in [(&[3, 5][..], 7), (&[2, 4, 6], 8), (&[150, 3], 33), (&[1, 9], 300)] {
        let inputs = shape[shape.len() - 1];
        let tensors = [
            random.tensor(shape, 1.0),
            random.tensor(&[outputs, inputs], 1.0),
            random.tensor(&[outputs], 1.0),
        ];
        // The product is rounded before the row is added.
        check_within(
            2.5,
            "linear",
            &tensors,
            |x| ops::linear(&x[0], &x[1], Some(&x[2])),
            |x| {
                let flat = x[0].flatten_to(x[0].rank() - 2)?;
                let y = flat.matmul(&x[1].t()?)?.broadcast_add(&x[2])?;
                y.reshape([&x[0].dims()[..x[0].rank() - 1], &[outputs]].concat())
            },
        );
    }
}
