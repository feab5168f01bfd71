use super::*;
use crate::loops::{map, map_by};
use crate::values::rounded;

/// Numbers of all exponents, both signs, and what is no ordinary number.
fn numbers() -> Vec<f32> {
    let mut numbers: Vec<f32> = (0..=u32::MAX).step_by(8191).map(f32::from_bits).collect();
    numbers.extend((-220_000..=220_000).map(|step| step as f32 * 5e-4));
    numbers.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
    ]);
    numbers
}

/// The largest error, by each instruction set that this machine has, in units of the last place of the true result; those of subnormals are one size.
fn worst(function: impl Map<1>, exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let numbers = numbers();
    let mut all = vec![
        map(function, [&numbers]),
        map_by(pulp::Scalar::new(), function, [&numbers]),
    ];
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        all.push(map_by(simd, function, [&numbers]));
    }
    let mut worst = (0.0, 0.0);
    for (x, got) in all.iter().flat_map(|results| numbers.iter().zip(results)) {
        let want = exact(f64::from(*x));
        let error = if want.is_nan() || got.is_nan() {
            if want.is_nan() == got.is_nan() {
                0.0
            } else {
                f64::INFINITY
            }
        } else if want.abs() > f64::from(f32::MAX) + 1e31 || got.is_infinite() {
            if f64::from(rounded(want)) == f64::from(*got) {
                0.0
            } else {
                f64::INFINITY
            }
        } else {
            (f64::from(*got) - want).abs() / ulp(want)
        };
        if error > worst.0 {
            worst = (error, *x);
        }
    }
    worst
}

fn ulp(of: f64) -> f64 {
    let exponent = of.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    2f64.powf(exponent - 23.0)
}

/// erf(x) by its series, or by the continued fraction of erfc; both to 1e-15.
fn erf_exact(x: f64) -> f64 {
    let t = x.abs();
    let magnitude = if t.is_nan() {
        return x;
    } else if t < 3.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..120 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else if t > 7.0 {
        1.0
    } else {
        let fraction = (1..100).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below);
        1.0 - (-t * t).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    magnitude.copysign(x)
}

#[test]
fn exp_is_within_its_bound() {
    let worst = worst(Exp, f64::exp);
    assert!(worst.0 <= 1.1, "{worst:?}");
}

#[test]
fn log_is_within_its_bound() {
    let worst = worst(Log, f64::ln);
    assert!(worst.0 <= 1.0, "{worst:?}");
}

#[test]
fn tanh_is_within_its_bound() {
    let worst = worst(Tanh, f64::tanh);
    assert!(worst.0 <= 2.0, "{worst:?}");
}

#[test]
fn sigmoid_is_within_its_bound() {
    let worst = worst(Sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    assert!(worst.0 <= 2.5, "{worst:?}");
}

#[test]
fn erf_is_within_its_bound() {
    let worst = worst(Erf, erf_exact);
    assert!(worst.0 <= 1.5, "{worst:?}");
}

#[test]
fn signs_of_zero_are_kept() {
    let zeros = [0.0f32, -0.0];
    for kept in [map(Tanh, [&zeros]), map(Erf, [&zeros])] {
        assert_eq!([kept[0], kept[1]].map(f32::to_bits), zeros.map(f32::to_bits));
    }
}

#[test]
fn a_number_gives_the_same_result_wherever_it_stands() {
    let numbers: Vec<f32> = (0..37).map(|step| step as f32 * 0.37 - 5.0).collect();
    for (x, want) in numbers.iter().zip(map(Tanh, [&numbers])) {
        assert_eq!(map(Tanh, [&[*x]])[0].to_bits(), want.to_bits());
    }
}
