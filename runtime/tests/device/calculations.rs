//! Written once, run on the CPU and, where one can be used, on a GPU: each result against the CPU's in f64.

use std::sync::LazyLock;

use alephlab::candle_core::{DType, Device, Result, Tensor, Var};
use alephlab::ops;

/// Largest error of a sum of a few hundred f32 products, relative to the largest value.
const EXACT: f64 = 1e-5;
/// The same where factors have 8 bits.
const BF16: f64 = 5e-2;

static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    let mut all = vec![Device::Cpu];
    match alephlab::cuda_device(0) {
        Ok(gpu) => all.push(gpu),
        Err(absence) => eprintln!("only on the CPU: {absence}"),
    }
    all
});

/// Values of a wave: the same everywhere, of both signs, none of them twice in a row.
fn values(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|index| (index as f64 * 0.7).sin() * 2.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn largest_difference(one: &Tensor, other: &Tensor) -> f64 {
    let flat = |tensor: &Tensor| -> Vec<f64> {
        let tensor = tensor
            .to_device(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (one, other) = (flat(one), flat(other));
    assert_eq!(one.len(), other.len());
    let scale = other.iter().fold(1_f64, |most, value| most.max(value.abs()));
    one.iter()
        .zip(&other)
        .map(|(one, other)| (one - other).abs() / scale)
        .fold(0.0, f64::max)
}

/// Calculates on each device in `dtype`, and on the CPU in f64.
fn same(dtype: DType, limit: f64, inputs: &[&[usize]], work: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let exact: Vec<Tensor> = inputs.iter().map(|shape| values(shape)).collect();
    let wanted = work(&exact).unwrap();
    for device in DEVICES.iter() {
        let there: Vec<Tensor> = exact
            .iter()
            .map(|tensor| tensor.to_dtype(dtype).unwrap().to_device(device).unwrap())
            .collect();
        let found = work(&there).unwrap();
        assert!(found.device().same_device(device));
        let off = largest_difference(&found, &wanted);
        assert!(off <= limit, "off by {off} on {:?}", device.location());
    }
    alephlab::synchronize().unwrap();
}

#[test]
fn products_of_matrices() {
    same(DType::F32, EXACT, &[&[33, 65], &[65, 17]], |x| x[0].matmul(&x[1]));
    same(DType::F32, EXACT, &[&[3, 8, 16], &[3, 16, 5]], |x| {
        x[0].matmul(&x[1])
    });
    same(DType::F32, EXACT, &[&[65, 33], &[65, 17]], |x| {
        x[0].t()?.matmul(&x[1])
    });
    same(DType::BF16, BF16, &[&[32, 64], &[64, 16]], |x| x[0].matmul(&x[1]));
}

#[test]
fn one_value_at_a_time() {
    same(DType::F32, EXACT, &[&[7, 9], &[7, 9]], |x| {
        (&x[0] + &x[1])? * &x[0]
    });
    same(DType::F32, EXACT, &[&[7, 9], &[9]], |x| {
        x[0].broadcast_add(&x[1])?.affine(2.0, -1.0)
    });
    same(DType::F32, EXACT, &[&[1000]], |x| x[0].exp()?.tanh());
    same(DType::F32, EXACT, &[&[1000]], |x| x[0].gelu()?.relu()?.sqr());
    same(DType::F32, EXACT, &[&[1000]], |x| {
        x[0].abs()?.affine(1.0, 1.0)?.sqrt()?.log()
    });
}

#[test]
fn sums_and_largest_values() {
    same(DType::F32, EXACT, &[&[13, 257]], |x| x[0].sum(1));
    same(DType::F32, EXACT, &[&[13, 257]], |x| x[0].mean_all());
    same(DType::F32, EXACT, &[&[13, 257]], |x| x[0].max(0));
    same(DType::F32, EXACT, &[&[13, 257]], |x| {
        x[0].argmax(1)?.to_dtype(DType::F32)
    });
    same(DType::F32, EXACT, &[&[5, 63]], |x| {
        x[0].arg_sort_last_dim(true)?.to_dtype(DType::F32)
    });
}

#[test]
fn views_and_copies() {
    same(DType::F32, 1e-7, &[&[6, 10]], |x| x[0].t()?.contiguous());
    same(DType::F32, 1e-7, &[&[6, 10]], |x| {
        Tensor::cat(&[&x[0].narrow(1, 2, 3)?, &x[0].narrow(1, 7, 2)?], 1)
    });
    same(DType::F32, 1e-7, &[&[6, 10]], |x| {
        let rows = Tensor::new(&[4_u32, 0, 4], x[0].device())?;
        x[0].index_select(&rows, 0)
    });
    same(DType::F32, EXACT, &[&[6, 10]], |x| {
        let is_positive = x[0].gt(&x[0].zeros_like()?)?;
        is_positive.where_cond(&x[0], &x[0].affine(0.1, 0.0)?)
    });
    same(DType::F32, BF16, &[&[6, 10]], |x| {
        x[0].to_dtype(DType::BF16)?.to_dtype(DType::F32)
    });
}

#[test]
fn convolutions() {
    same(DType::F32, EXACT, &[&[2, 3, 9, 9], &[4, 3, 3, 3]], |x| {
        x[0].conv2d(&x[1], 1, 1, 1, 1)
    });
    same(DType::F32, EXACT, &[&[2, 3, 8, 8]], |x| x[0].max_pool2d(2));
}

#[test]
fn the_fused_ops_go_everywhere() {
    same(DType::F32, EXACT, &[&[9, 33]], |x| ops::softmax_last_dim(&x[0]));
    same(DType::F32, EXACT, &[&[9, 33], &[33], &[33]], |x| {
        ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
    });
    same(DType::F32, EXACT, &[&[9, 33], &[5, 33], &[5]], |x| {
        ops::linear(&x[0], &x[1], Some(&x[2]))
    });
}

#[test]
fn gradients() {
    same(DType::F32, EXACT, &[&[8, 6], &[6, 4]], |x| {
        let weight = Var::from_tensor(&x[1])?;
        let loss = x[0].matmul(&weight)?.tanh()?.sqr()?.mean_all()?;
        let gradients = loss.backward()?;
        let found = gradients.get(&weight).cloned();
        found.ok_or_else(|| alephlab::candle_core::Error::Msg("no gradient".into()))
    });
}

#[test]
fn random_numbers_have_the_mean_that_they_should() {
    for device in DEVICES.iter() {
        let mean = Tensor::randn(1_f32, 1.0, 40_000, device)
            .unwrap()
            .mean_all()
            .unwrap();
        let mean: f32 = mean.to_scalar().unwrap();
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
    }
}
