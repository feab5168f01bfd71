//! What the tests of ops share: random tensors, gradients by central differences in `f64`, and how close is close enough.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small, and rounding is meant"
)]

use candle_core::{DType, Device, Result, Tensor, Var};

/// Random numbers that are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// From -1 to 1.
    pub(crate) fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A tensor of `f64` that `f32` holds exactly, from -`size` to `size`.
    pub(crate) fn tensor(&mut self, dims: &[usize], size: f64) -> Tensor {
        let count = dims.iter().product();
        let numbers: Vec<f64> = (0..count)
            .map(|_| f64::from((self.number() * size) as f32))
            .collect();
        Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
    }
}

pub(crate) fn narrow(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F32).unwrap()
}

/// All numbers of a tensor, as `f64`.
pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Asserts that two tensors have one shape and numbers within `tolerance` of each other, relative to the larger of 1 and them.
pub(crate) fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    for (index, (got, want)) in numbers(got).iter().zip(numbers(want)).enumerate() {
        let near = (got - want).abs() <= tolerance * want.abs().max(1.0) || (got.is_nan() && want.is_nan());
        assert!(
            near || *got == want,
            "{what}: {got} in place of {want} at {index}"
        );
    }
}

/// Asserts that `fused` of `f32` gives what `exact` of `f64` does, and gradients that are those of central differences of
/// `exact`. The loss is the result times fixed random numbers.
pub(crate) fn check(
    what: &str,
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    exact: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(&narrow(x)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let got = fused(&tensors).unwrap();
    let want = exact(inputs).unwrap();
    assert_close(&got, &want, 3e-6, what);

    let weights = Random(7).tensor(want.dims(), 1.0);
    let loss = |result: &Tensor| (result * &weights).unwrap().sum_all().unwrap();
    let grads = (&got * narrow(&weights))
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    for (place, var) in vars.iter().enumerate() {
        let mut slopes = Vec::new();
        for index in 0..inputs[place].elem_count() {
            let at = |step: f64| {
                let mut moved = inputs.to_vec();
                let mut values = numbers(&inputs[place]);
                values[index] += step;
                moved[place] = Tensor::from_vec(values, inputs[place].shape(), &Device::Cpu).unwrap();
                loss(&exact(&moved).unwrap()).to_scalar::<f64>().unwrap()
            };
            slopes.push((at(1e-5) - at(-1e-5)) / 2e-5);
        }
        let want = Tensor::from_vec(slopes, inputs[place].shape(), &Device::Cpu).unwrap();
        match grads.get(var) {
            Some(got) => assert_close(got, &want, 2e-5, &format!("{what}, gradient {place}")),
            None => assert_eq!(want.elem_count(), 0, "{what}: no gradient {place}"),
        }
    }
}
