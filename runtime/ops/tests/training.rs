//! Dropout, reductions and optimisers.

#![expect(clippy::unwrap_used, reason = "a test says why by its panic")]

mod support;

use alephlab_ops::{self as ops, AdamW, Moments, Sgd, Velocity};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::Optimizer as _;
use support::{Random, assert_close, check, narrow, numbers};

#[test]
fn dropout_zeroes_its_part_and_keeps_the_mean() {
    let ones = Tensor::ones((1000, 777), DType::F32, &Device::Cpu).unwrap();
    for p in [0.1f32, 0.5, 0.9] {
        let kept = numbers(&ops::dropout(&ones, p, 42).unwrap());
        let zeros = kept.iter().filter(|x| **x == 0.0).count() as f64 / kept.len() as f64;
        assert!((zeros - f64::from(p)).abs() < 0.003, "{zeros} of {p}");
        let expected = 1.0 / (1.0 - f64::from(p));
        assert!(kept.iter().all(|x| *x == 0.0 || (x - expected).abs() < 1e-6));
    }
}

/// Pairs of neighbours, and of places a row apart, are zero together as often as chance has it.
#[test]
fn dropout_of_neighbours_is_independent() {
    let ones = Tensor::ones(1 << 20, DType::F32, &Device::Cpu).unwrap();
    let mask = |seed| {
        numbers(&ops::dropout(&ones, 0.5, seed).unwrap())
            .iter()
            .map(|x| *x == 0.0)
            .collect::<Vec<_>>()
    };
    let (one, other) = (mask(1), mask(2));
    for apart in [1, 2, 8, 16, 64, 1024, 65536] {
        let both = one.iter().zip(&one[apart..]).filter(|(a, b)| **a && **b).count() as f64;
        assert!(
            (both / (one.len() - apart) as f64 - 0.25).abs() < 0.003,
            "{apart}"
        );
        let both = one
            .iter()
            .zip(&other[apart..])
            .filter(|(a, b)| **a && **b)
            .count() as f64;
        assert!(
            (both / (one.len() - apart) as f64 - 0.25).abs() < 0.003,
            "seeds, {apart}"
        );
    }
    assert_ne!(one, other);
}

#[test]
fn dropout_has_one_mask_for_both_ways() {
    let x = Var::from_tensor(&narrow(&Random(31).tensor(&[50, 33], 1.0))).unwrap();
    let y = ops::dropout(&x, 0.3, 9).unwrap();
    let grads = (&y * 2.0).unwrap().sum_all().unwrap().backward().unwrap();
    for ((x, y), slope) in numbers(&x)
        .iter()
        .zip(numbers(&y))
        .zip(numbers(grads.get(&x).unwrap()))
    {
        assert!((x * slope - 2.0 * y).abs() < 1e-5);
    }
    let wide = ops::dropout(&x.to_dtype(DType::F64).unwrap(), 0.3, 9).unwrap();
    assert_close(&y, &wide, 1e-6, "f64");
    assert_eq!(numbers(&ops::dropout(&x, 0.0, 9).unwrap()), numbers(&x));
    assert!(ops::dropout(&x, 1.0, 9).is_err());
    assert!(ops::dropout(&x, f32::NAN, 9).is_err());
}

#[test]
fn reductions_give_what_candle_does() {
    let mut random = Random(32);
    for dims in [&[1][..], &[7], &[3, 17], &[2, 3, 33], &[4, 1], &[300, 70]] {
        let x = [random.tensor(dims, 1.0)];
        if x[0].elem_count() < 200 {
            check("sum_all", &x, |x| ops::sum_all(&x[0]), |x| x[0].sum_all());
            check("mean_all", &x, |x| ops::mean_all(&x[0]), |x| x[0].mean_all());
            check(
                "sum_last_dim",
                &x,
                |x| ops::sum_last_dim(&x[0]),
                |x| x[0].sum(D::Minus1),
            );
            check(
                "max_last_dim",
                &x,
                |x| ops::max_last_dim(&x[0]),
                |x| x[0].max(D::Minus1),
            );
        } else {
            assert_close(
                &ops::sum_all(&narrow(&x[0])).unwrap(),
                &x[0].sum_all().unwrap(),
                1e-6,
                "sum_all",
            );
        }
    }
    let empty = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(numbers(&ops::sum_all(&empty).unwrap()), [0.0]);
    assert_eq!(numbers(&ops::sum_last_dim(&empty).unwrap()), [0.0; 3]);
    assert!(ops::max_last_dim(&empty).is_err());
    let holes = Tensor::new(
        &[[1f32, f32::NAN], [f32::NEG_INFINITY, f32::NEG_INFINITY]],
        &Device::Cpu,
    )
    .unwrap();
    let largest = numbers(&ops::max_last_dim(&holes).unwrap());
    assert!(largest[0].is_nan() && largest[1] == f64::NEG_INFINITY);
}

/// A large sum keeps the digits that adding one by one in `f32` loses.
#[test]
fn the_sum_of_many_is_exact_where_it_can_be() {
    let many = Tensor::full(1f32, 20_000_000, &Device::Cpu).unwrap();
    assert_eq!(numbers(&ops::sum_all(&many).unwrap()), [2e7]);
}

#[test]
fn adamw_steps_as_candle_does() {
    let mut random = Random(33);
    for (dims, dtype) in [
        (&[5, 7][..], DType::F32),
        (&[40_003], DType::F32),
        (&[3, 4], DType::F64),
    ] {
        let start = random.tensor(dims, 1.0).to_dtype(dtype).unwrap();
        let [ours, theirs] = [(); 2].map(|()| Var::from_tensor(&start).unwrap());
        let hyper = AdamW {
            learning_rate: 0.01,
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let params = candle_nn::ParamsAdamW {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let mut optimiser = candle_nn::AdamW::new(vec![theirs.clone()], params).unwrap();
        let mut moments = Moments::new(&ours).unwrap();
        for step in 0..5 {
            let target = random.tensor(dims, 1.0).to_dtype(dtype).unwrap();
            let loss = |var: &Var| {
                (var.as_tensor() - &target)
                    .unwrap()
                    .sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
            };
            let grads = loss(&ours).backward().unwrap();
            ops::adamw_step(&ours, grads.get(&ours).unwrap(), &mut moments, &hyper).unwrap();
            optimiser.backward_step(&loss(&theirs)).unwrap();
            assert_close(&ours, &theirs, 1e-6, &format!("{dims:?} step {step}"));
            let (first, second, steps) = moments.saved().unwrap();
            assert_eq!(steps, step + 1);
            moments = Moments::restored(&first, &second, steps).unwrap();
        }
    }
}

fn exact_sgd(start: &[f64], grads: &[Vec<f64>], hyper: &Sgd) -> Vec<f64> {
    let mut param = start.to_vec();
    let mut velocity = vec![0.0; start.len()];
    for grads in grads {
        for ((param, velocity), grad) in param.iter_mut().zip(&mut velocity).zip(grads) {
            let grad = grad * hyper.gradient_scale + hyper.weight_decay * *param;
            *velocity = hyper.momentum * *velocity + grad;
            let along = if hyper.nesterov {
                grad + hyper.momentum * *velocity
            } else {
                *velocity
            };
            *param -= hyper.learning_rate * along;
        }
    }
    param
}

#[test]
fn sgd_steps_as_its_formula_does() {
    let mut random = Random(34);
    let plain = Sgd {
        learning_rate: 0.05,
        ..Sgd::default()
    };
    for hyper in [
        plain,
        Sgd {
            momentum: 0.0,
            ..plain
        },
        Sgd {
            weight_decay: 0.1,
            gradient_scale: 0.5,
            ..plain
        },
        Sgd {
            nesterov: true,
            ..plain
        },
    ] {
        for dtype in [DType::F32, DType::F64] {
            let start = random.tensor(&[3, 7], 1.0);
            let var = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
            let mut velocity = Velocity::new(&var).unwrap();
            let grads: Vec<Tensor> = (0..4).map(|_| random.tensor(&[3, 7], 1.0)).collect();
            for grad in &grads {
                ops::sgd_step(&var, &grad.to_dtype(dtype).unwrap(), &mut velocity, &hyper).unwrap();
                velocity = Velocity::restored(&velocity.saved().unwrap()).unwrap();
            }
            let want = exact_sgd(
                &numbers(&start),
                &grads.iter().map(numbers).collect::<Vec<_>>(),
                &hyper,
            );
            // With Nesterov and weight decay the step looks at the parameter as it was.
            assert_close(
                &var,
                &Tensor::from_vec(want, (3, 7), &Device::Cpu).unwrap(),
                1e-6,
                &format!("{hyper:?}"),
            );
        }
    }
}

#[test]
fn gradients_are_scaled_before_they_are_gathered() {
    let var = Var::zeros(4, DType::F32, &Device::Cpu).unwrap();
    let grad = Tensor::full(10f32, 4, &Device::Cpu).unwrap();
    let mut moments = Moments::new(&var).unwrap();
    ops::adamw_step(
        &var,
        &grad,
        &mut moments,
        &AdamW {
            gradient_scale: 0.1,
            ..AdamW::default()
        },
    )
    .unwrap();
    let (first, second, _) = moments.saved().unwrap();
    assert_close(
        &first,
        &Tensor::full(0.1f64, 4, &Device::Cpu).unwrap(),
        1e-6,
        "first",
    );
    assert_close(
        &second,
        &Tensor::full(0.001f64, 4, &Device::Cpu).unwrap(),
        1e-6,
        "second",
    );
}

#[test]
fn a_gradient_turned_in_memory_is_taken_as_it_reads() -> Result<()> {
    let grad = narrow(&Random(35).tensor(&[3, 5], 1.0));
    let [one, other] = [(); 2].map(|()| Var::zeros((5, 3), DType::F32, &Device::Cpu).unwrap());
    for (var, grad) in [(&one, grad.t()?), (&other, grad.t()?.copy()?)] {
        ops::sgd_step(var, &grad, &mut Velocity::new(var)?, &Sgd::default())?;
    }
    assert_eq!(numbers(&one), numbers(&other));
    Ok(())
}

#[test]
fn steps_refuse_what_does_not_fit() {
    let var = Var::zeros(4, DType::F32, &Device::Cpu).unwrap();
    let mut moments = Moments::new(&var).unwrap();
    let other = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let error = ops::adamw_step(&var, &other, &mut moments, &AdamW::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("[4]") && error.contains("[3]"), "{error}");
    let error = ops::adamw_step(&var, &var, &mut moments, &AdamW::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("shares storage"), "{error}");
}
