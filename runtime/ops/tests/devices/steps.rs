//! Steps of optimisers in place.

use alephlab_ops as ops;
use candle_core::{DType, Device, Tensor, Var};

use crate::support::Random;
use crate::{DEVICES, assert_near};

/// Parameter, and gradients of three steps.
fn numbers_of(count: usize) -> (Tensor, Vec<Tensor>) {
    let mut random = Random(21);
    let param = random.tensor(&[count], 1.0);
    (param, (0..3).map(|_| random.tensor(&[count], 0.5)).collect())
}

fn on(x: &Tensor, device: &Device) -> Tensor {
    x.to_dtype(DType::F32).unwrap().to_device(device).unwrap()
}

#[test]
fn steps_of_adamw_are_those_of_f64() {
    let hyper = ops::AdamW {
        learning_rate: 0.01,
        weight_decay: 0.1,
        gradient_scale: 0.5,
        ..Default::default()
    };
    for count in [1, 7, 1000, 5003] {
        let (param, grads) = numbers_of(count);
        let exact = Var::from_tensor(&param).unwrap();
        let mut moments = ops::Moments::new(&exact).unwrap();
        for grad in &grads {
            ops::adamw_step(&exact, grad, &mut moments, &hyper).unwrap();
        }
        let (first, second, _) = moments.saved().unwrap();
        for device in DEVICES.iter() {
            let there = Var::from_tensor(&on(&param, device)).unwrap();
            let mut moments = ops::Moments::new(&there).unwrap();
            for grad in &grads {
                ops::adamw_step(&there, &on(grad, device), &mut moments, &hyper).unwrap();
            }
            let saved = moments.saved().unwrap();
            assert_near(&there, &exact, 1e-6, "parameter");
            assert_near(&saved.0, &first, 1e-6, "first moment");
            assert_near(&saved.1, &second, 1e-6, "second moment");
            assert_eq!(saved.2, 3);
        }
    }
}

#[test]
fn steps_of_gradient_descent_are_those_of_f64() {
    for nesterov in [false, true] {
        let hyper = ops::Sgd {
            learning_rate: 0.05,
            weight_decay: 0.01,
            gradient_scale: 0.5,
            nesterov,
            ..Default::default()
        };
        let (param, grads) = numbers_of(3001);
        let exact = Var::from_tensor(&param).unwrap();
        let mut velocity = ops::Velocity::new(&exact).unwrap();
        for grad in &grads {
            ops::sgd_step(&exact, grad, &mut velocity, &hyper).unwrap();
        }
        for device in DEVICES.iter() {
            let there = Var::from_tensor(&on(&param, device)).unwrap();
            let mut found = ops::Velocity::new(&there).unwrap();
            for grad in &grads {
                ops::sgd_step(&there, &on(grad, device), &mut found, &hyper).unwrap();
            }
            assert_near(&there, &exact, 1e-6, "parameter");
            assert_near(
                &found.saved().unwrap(),
                &velocity.saved().unwrap(),
                1e-6,
                "velocity",
            );
        }
    }
}
