//! Batch norm, and every op in half precision.

#![expect(clippy::unwrap_used, reason = "a test says why by its panic")]

mod support;

use alephlab_ops::{self as ops, AdamW, Conv2d, Mask, Moments};
use candle_core::{DType, Device, Result, Tensor, Var};
use support::{Random, assert_close, check, narrow, numbers};

#[test]
fn batch_norm_gives_what_its_formula_does() {
    let mut random = Random(41);
    for dims in [&[3, 2, 4, 5][..], &[2, 3, 1, 1], &[5, 4], &[2, 1, 70]] {
        let channels = dims[1];
        let inputs = [
            random.tensor(dims, 2.0),
            random.tensor(&[channels], 1.0),
            random.tensor(&[channels], 1.0),
        ];
        let exact = |x: &[Tensor]| -> Result<Tensor> {
            let flat = x[0].reshape((dims[0], channels, dims[2..].iter().product::<usize>()))?;
            let less = flat.broadcast_sub(&flat.mean_keepdim((0, 2))?)?;
            let scale = (less.sqr()?.mean_keepdim((0, 2))? + f64::from(0.1f32))?.sqrt()?;
            let y = less
                .broadcast_div(&scale)?
                .broadcast_mul(&x[1].reshape((1, channels, 1))?)?;
            y.broadcast_add(&x[2].reshape((1, channels, 1))?)?.reshape(dims)
        };
        check(
            "batch_norm",
            &inputs,
            |x| Ok(ops::batch_norm(&x[0], &x[1], &x[2], 0.1)?.y),
            exact,
        );
        let wide = ops::batch_norm(&inputs[0], &inputs[1], &inputs[2], 0.1).unwrap();
        assert_close(&wide.y, &exact(&inputs).unwrap(), 1e-12, "f64");
        let [x, weight, bias] = [0, 1, 2].map(|index| narrow(&inputs[index]));
        let made = ops::batch_norm(&x, &weight, &bias, 0.1).unwrap();
        assert_close(&made.mean, &wide.mean, 1e-6, "mean");
        assert_close(&made.variance, &wide.variance, 1e-6, "variance");
        let by = ops::batch_norm_by(&x, [&made.mean, &made.variance], [&weight, &bias], 0.1).unwrap();
        assert_close(&by, &wide.y, 3e-6, "by what was given");
    }
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let error = ops::batch_norm(&x, &x, &x, 0.1).unwrap_err().to_string();
    assert!(error.contains("[3]") && error.contains("[2, 3]"), "{error}");
}

#[test]
fn the_sum_of_squares_is_that_of_every_dtype() {
    let x = Random(42).tensor(&[40_000], 1.0);
    let want: f64 = numbers(&x).iter().map(|x| x * x).sum();
    for (x, tolerance) in [
        (x.clone(), 1e-12),
        (narrow(&x), 1e-6),
        (x.to_dtype(DType::BF16).unwrap(), 1e-2),
    ] {
        assert!(
            (ops::sum_squares(&x).unwrap() / want - 1.0).abs() < tolerance,
            "{:?}",
            x.dtype()
        );
    }
}

#[test]
fn ops_of_half_precision_keep_their_dtype_and_its_digits() {
    let mut random = Random(43);
    let half = |x: &Tensor| x.to_dtype(DType::BF16).unwrap();
    let wide = |x: &Tensor| half(x).to_dtype(DType::F64).unwrap();
    type Op = fn(&[Tensor]) -> Result<Tensor>;
    let cases: [(&str, &[&[usize]], Op); 9] = [
        ("linear", &[&[4, 3], &[2, 3], &[2]], |x| {
            ops::linear(&x[0], &x[1], Some(&x[2]))
        }),
        ("conv2d", &[&[1, 2, 5, 5], &[3, 2, 3, 3], &[3]], |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), &Conv2d::default())
        }),
        ("max_pool2d", &[&[1, 2, 4, 4]], |x| ops::max_pool2d(&x[0], 2, 2)),
        ("attention", &[&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4]], |x| {
            ops::attention(&x[0], &x[1], &x[2], &Mask::Causal, 0.5)
        }),
        ("layer_norm", &[&[3, 8], &[8], &[8]], |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
        }),
        ("rms_norm", &[&[3, 8], &[8]], |x| {
            ops::rms_norm(&x[0], &x[1], 1e-5)
        }),
        ("batch_norm", &[&[3, 8], &[8], &[8]], |x| {
            Ok(ops::batch_norm(&x[0], &x[1], &x[2], 1e-5)?.y)
        }),
        ("mean_all", &[&[3, 8]], |x| ops::mean_all(&x[0])),
        ("dropout", &[&[3, 8]], |x| ops::dropout(&x[0], 0.5, 7)),
    ];
    for (name, shapes, op) in cases {
        let inputs: Vec<Tensor> = shapes.iter().map(|dims| random.tensor(dims, 1.0)).collect();
        let got = op(&inputs.iter().map(half).collect::<Vec<_>>()).unwrap();
        assert_eq!(got.dtype(), DType::BF16, "{name}");
        let want = op(&inputs.iter().map(wide).collect::<Vec<_>>()).unwrap();
        assert_close(&got, &want, 1e-2, name);
    }
}

#[test]
fn queries_that_see_no_key_get_zeros_in_f64_too() {
    let mut random = Random(44);
    let inputs = [[1, 2, 3, 4], [1, 2, 2, 4], [1, 2, 2, 5]].map(|dims| random.tensor(&dims, 1.0));
    let shut = f32::NEG_INFINITY;
    let added = Tensor::new(&[[shut, shut], [0.5, shut], [0.0, -1.0]], &Device::Cpu).unwrap();
    // Of three queries and two keys the first sees none.
    for mask in [Mask::Causal, Mask::Added(added)] {
        let [wide, fused] = [DType::F64, DType::F32].map(|dtype| {
            let vars = inputs
                .each_ref()
                .map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap());
            let y = ops::attention(&vars[0], &vars[1], &vars[2], &mask, 0.5).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let grads = vars.map(|var| grads.get(&var).unwrap().clone());
            [vec![y], grads.to_vec()].concat()
        });
        for (index, (wide, fused)) in wide.iter().zip(&fused).enumerate() {
            let what = format!("{mask:?}, {index}");
            assert!(numbers(wide).iter().all(|number| number.is_finite()), "{what}");
            assert_close(fused, wide, 3e-6, &what);
        }
        assert_eq!(numbers(&wide[0].narrow(2, 0, 1).unwrap()), [0.0; 10]);
    }
    let none = Tensor::zeros((1, 2, 0, 4), DType::F64, &Device::Cpu).unwrap();
    let y = ops::attention(&inputs[0], &none, &none, &Mask::None, 0.5).unwrap();
    assert_eq!(y.dims(), [1, 2, 3, 4]);
    assert_eq!(numbers(&y), [0.0; 24]);
}

#[test]
fn a_step_that_fails_is_not_counted() {
    for dtype in [DType::F32, DType::F64] {
        let var = Var::zeros(4, dtype, &Device::Cpu).unwrap();
        let mut moments = Moments::new(&var).unwrap();
        let grad = var.ones_like().unwrap();
        ops::adamw_step(&var, &grad, &mut moments, &AdamW::default()).unwrap();
        assert_eq!(moments.saved().unwrap().2, 1);
    }
    let var = Var::zeros(4, DType::F32, &Device::Cpu).unwrap();
    let mut moments = Moments::new(&var).unwrap();
    // A gradient that shares the parameter's memory is refused.
    ops::adamw_step(&var, &var, &mut moments, &AdamW::default()).unwrap_err();
    assert_eq!(moments.saved().unwrap().2, 0);
}
