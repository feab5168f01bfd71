//! Ops that have kernels for GPUs, on every device that there is: each is checked against the same formula in `f64` on the CPU,
//! and gradients against those of `f64`. On the CPU, on a GPU where this machine has one, and always on an emulated GPU: a
//! driver of the tests that runs our kernels' sources on the processor, in a process of its own, because a driver is looked for
//! once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it could not try"
)]

#[path = "../support/mod.rs"]
mod support;

mod elements;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod emulated;
mod rows;
mod steps;

use std::sync::LazyLock;

use candle_core::{DType, Device, Result, Tensor, Var};
use support::{Random, numbers};

/// What a process of this program has in the place of a GPU.
const EMULATED: &str = "ALEPHLAB_TEST_EMULATED";

/// The devices of this process.
static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    if std::env::var_os(EMULATED).is_some() {
        alephlab_ops::emulate();
        return vec![Device::new_cuda_with_stream(0).unwrap()];
    }
    let mut all = vec![Device::Cpu];
    match Device::new_cuda_with_stream(0) {
        Ok(gpu) => all.push(gpu),
        Err(error) => eprintln!("no GPU of this machine: {error}"),
    }
    all
});

/// How far a result may be off, relative to the larger of 1 and it: of `f32` some roundings, of the others half a step.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 5e-6,
        DType::F16 => 1.2e-3,
        _ => 9e-3,
    }
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// As the dtype holds it, in `f64`.
fn held(x: &Tensor, dtype: DType) -> Tensor {
    x.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap()
}

/// The same numbers on a device, one place into memory of their own: no kernel may take it that they begin where memory does.
fn placed(x: &Tensor, dtype: DType, device: &Device, is_moved: bool) -> Tensor {
    let x = x.to_dtype(dtype).unwrap();
    if !is_moved {
        return x.to_device(device).unwrap();
    }
    let flat = x.flatten_all().unwrap();
    let before = Tensor::zeros(1, dtype, &Device::Cpu).unwrap();
    let all = Tensor::cat(&[&before, &flat], 0)
        .unwrap()
        .to_device(device)
        .unwrap();
    all.narrow(0, 1, flat.elem_count())
        .unwrap()
        .reshape(x.shape())
        .unwrap()
}

/// Asserts that a tensor of any device and dtype has these numbers.
fn assert_near(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let got = numbers(&got.to_device(&Device::Cpu).unwrap());
    for (index, (got, want)) in got.iter().zip(numbers(want)).enumerate() {
        let is_near =
            (got - want).abs() <= tolerance * want.abs().max(1.0) || (got.is_nan() && want.is_nan());
        assert!(
            is_near || *got == want,
            "{what}: {got} in place of {want} at {index}"
        );
    }
}

/// Checks an op on every device and in every dtype: what it gives, and what gradient each input gets of its result times fixed
/// numbers. `exact` is in `f64` by candle's ops.
fn check(
    what: &str,
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    exact: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    check_within(1.0, what, inputs, op, exact);
}

/// [`check`], with so many times the tolerance: of a result that is rounded more than once.
fn check_within(
    times: f64,
    what: &str,
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    exact: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for dtype in DTYPES {
        let held: Vec<Tensor> = inputs.iter().map(|x| held(x, dtype)).collect();
        let exact_vars: Vec<Var> = held.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let want = exact(&tensors(&exact_vars)).unwrap();
        let factors = Random(7).tensor(want.dims(), 1.0).to_dtype(dtype).unwrap();
        let exact_factors = factors.to_dtype(DType::F64).unwrap();
        let exact_grads = (&want * &exact_factors).unwrap().backward().unwrap();
        for device in DEVICES.iter() {
            for is_moved in [false, true] {
                let what = format!("{what} of {dtype:?} on {:?}, moved {is_moved}", device.location());
                let vars: Vec<Var> = held
                    .iter()
                    .map(|x| var(&placed(x, dtype, device, is_moved)))
                    .collect();
                let got = op(&tensors(&vars)).unwrap();
                assert_eq!(got.dtype(), dtype, "{what}");
                assert_near(&got, &want, times * tolerance(dtype), &what);
                let factors = factors.to_device(device).unwrap();
                let grads = (&got * &factors).unwrap().backward().unwrap();
                for (place, (var, exact)) in vars.iter().zip(&exact_vars).enumerate() {
                    let what = format!("{what}, gradient {place}");
                    match (grads.get(var), exact_grads.get(exact)) {
                        (Some(got), Some(want)) => {
                            // Sums of many numbers, each rounded before it is multiplied.
                            assert_near(got, want, 6.0 * tolerance(dtype), &what);
                        }
                        (None, None) => {}
                        (got, _) => panic!("{what}: {got:?}"),
                    }
                }
            }
        }
    }
}

/// A variable that keeps its place in memory.
fn var(x: &Tensor) -> Var {
    Var::from_tensor(x).unwrap()
}

fn tensors(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|var| var.as_tensor().clone()).collect()
}
