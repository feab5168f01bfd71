//! Functions of every element, and dropout.

use alephlab_ops as ops;
use candle_core::{DType, Device, Result, Tensor};

use crate::support::{Random, numbers};
use crate::{DEVICES, DTYPES, check, held, placed, tolerance};

type Op = fn(&Tensor) -> Result<Tensor>;

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// Ours, and candle's in `f64`.
const FUNCTIONS: [(&str, Op, Op); 6] = [
    ("gelu", ops::gelu, Tensor::gelu),
    ("gelu_erf", ops::gelu_erf, Tensor::gelu_erf),
    ("silu", ops::silu, Tensor::silu),
    ("relu", ops::relu, Tensor::relu),
    ("tanh", ops::tanh, Tensor::tanh),
    ("sigmoid", ops::sigmoid, sigmoid),
];

#[test]
fn functions_of_every_element_give_what_candle_does_in_f64() {
    for (name, ours, theirs) in FUNCTIONS {
        for shape in [&[1][..], &[7], &[16], &[3, 5], &[2, 3, 17], &[1030]] {
            let x = Random(1).tensor(shape, 4.0);
            check(name, &[x], |x| ours(&x[0]), |x| theirs(&x[0]));
        }
    }
}

#[test]
fn numbers_far_out_have_a_slope_that_is_a_number() {
    let far = [-1e30f32, -200.0, -20.0, 0.0, 20.0, 200.0, 1e30];
    for device in DEVICES.iter() {
        let x = candle_core::Var::new(&far, device).unwrap();
        for (name, ours, _) in FUNCTIONS {
            let y = ours(&x).unwrap();
            let slopes = y
                .backward()
                .unwrap()
                .get(&x)
                .unwrap()
                .to_device(&Device::Cpu)
                .unwrap();
            let slopes = numbers(&slopes);
            assert!(slopes.iter().all(|slope| slope.is_finite()), "{name}: {slopes:?}");
        }
    }
}

#[test]
fn turned_tensors_are_taken_as_they_read() {
    let x = Random(2).tensor(&[6, 10], 2.0);
    for (name, ours, theirs) in FUNCTIONS {
        check(
            name,
            std::slice::from_ref(&x),
            |x| ours(&x[0].t()?),
            |x| theirs(&x[0].t()?),
        );
    }
}

#[test]
fn dropout_has_the_mask_of_its_seed_everywhere() {
    let x = (Random(3).tensor(&[40, 30], 1.0) + 3.0).unwrap();
    for dtype in DTYPES {
        let wide = held(&x, dtype).to_dtype(DType::F32).unwrap();
        let want = numbers(&ops::dropout(&wide, 0.3, 11).unwrap());
        let zeros = want.iter().filter(|x| **x == 0.0).count();
        assert!((250..470).contains(&zeros), "{zeros} of 1200");
        for device in DEVICES.iter() {
            for is_moved in [false, true] {
                let there = candle_core::Var::from_tensor(&placed(&x, dtype, device, is_moved)).unwrap();
                let y = ops::dropout(&there, 0.3, 11).unwrap();
                let slopes = y.backward().unwrap();
                let slopes = slopes.get(&there).unwrap().to_device(&Device::Cpu).unwrap();
                let got = numbers(&y.to_device(&Device::Cpu).unwrap());
                for ((got, want), slope) in got.iter().zip(&want).zip(numbers(&slopes)) {
                    assert!(
                        (got - want).abs() <= tolerance(dtype) * want.abs(),
                        "{got} {want}"
                    );
                    assert_eq!(*got == 0.0, slope == 0.0);
                    assert!(slope == 0.0 || (slope - 1.0 / 0.7).abs() < 8e-3, "{slope}");
                }
            }
        }
    }
}
