//! Functions of registers: exp, log, tanh, sigmoid, erf by polynomials in `f32`.
//!
//! Bounds that the tests below check against `f64`, over all exponents and both signs: exp 1.1 ulp, log 1 ulp, tanh 2 ulp,
//! sigmoid 2.5 ulp, erf 1.5 ulp. Infinities give limits, what isn't a number stays so, subnormal results are rounded as others.
//! Not here: loops (`lanes.rs`).

use pulp::Simd;

use crate::lanes::Lanes;
use crate::loops::Map;

/// Adding it leaves the nearest whole number in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts; multiples of the first by whole numbers up to 2^9 are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Half of the square root of 2, as bits: mantissas are taken from here to the square root of 2.
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
const ONE_BITS: u32 = 0x3f80_0000;
const MANTISSA: u32 = 0x007f_ffff;

/// e^(x - n ln 2), where that lies within the square roots of 1/2 and 2: polynomial of Cephes' `expf` (S. Moshier, 1992).
#[inline(always)]
fn exp_rest<S: Simd>(x: Lanes<S>, n: Lanes<S>) -> Lanes<S> {
    let r = n.mul_add(x.splat(-LN2_HIGH), x);
    let r = n.mul_add(x.splat(-LN2_LOW), r);
    let p = r.polynomial([
        1.987_569_2e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ]);
    p.mul_add(r * r, r) + 1.0
}

/// e^x, by 2^n in two factors, so that subnormal results come out too.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let shifted = x.mul_add(x.splat(std::f32::consts::LOG2_E), x.splat(ROUND));
    let p = exp_rest(x, shifted - ROUND);
    // n lies in -150..=128: both halves are exponents of normal numbers.
    let biased = shifted.bits() - (ROUND.to_bits() - 254);
    let half = biased >> 1;
    let result = p * (half << 23).floats() * ((biased - half) << 23).floats();
    let result = x.above(x.splat(88.722_84)).choose(x.splat(f32::INFINITY), result);
    x.below(x.splat(-103.972_084)).choose(x.splat(0.0), result)
}

const TWO_TO_MINUS_64: f32 = f32::from_bits((127 - 64) << 23);

/// Where e^x has become 0.
const EXP_ZERO: f32 = -104.0;
/// Where e^x is a normal number still.
const EXP_SMALL: f32 = -87.0;
/// Where e^x is infinite, or nearly.
const EXP_LARGE: f32 = 88.0;

/// e^x · 2^`RAISED` for x whose 2^n, so raised, is a normal number: one factor.
#[inline(always)]
fn exp_raised<S: Simd, const RAISED: u8>(x: Lanes<S>) -> Lanes<S> {
    // With the bias of an exponent in the low bits, these have but to be shifted to their place; the others are shifted out.
    let round = ROUND + 127.0 + f32::from(RAISED);
    let shifted = x.mul_add(x.splat(std::f32::consts::LOG2_E), x.splat(round));
    exp_rest(x, shifted - round) * (shifted.bits() << 23).floats()
}

/// e^x for x of 0 or less, as [`exp`] in less work.
#[inline(always)]
pub(crate) fn exp_falling<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let x = x.below(x.splat(EXP_ZERO)).choose(x.splat(EXP_ZERO), x);
    // Rounded once: where the result is subnormal, by this product.
    exp_raised::<S, 64>(x) * TWO_TO_MINUS_64
}

/// e^x as a part of 1 + e^x: never less than e^-87, infinite from 88 on, and anything where x isn't a number.
#[inline(always)]
pub(crate) fn exp_beside_one<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let raised = exp_raised::<S, 0>(x.splat(EXP_SMALL).either_max(x));
    x.above(x.splat(EXP_LARGE)).choose(x.splat(f32::INFINITY), raised)
}

/// The standard normal distribution function, within 2e-7; 0 from -5.6 on, and anything where x isn't a number. The fraction is
/// fitted to Φ(x) - 1/2 = x p(x²) / q(x²) by least squares of which the largest were weighted up, within 1e-8.
#[inline(always)]
pub(crate) fn normal<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    const FAR: f32 = 5.6;
    let near = x.splat(-FAR).either_max(x.splat(FAR).min(x));
    let square = near * near;
    let p = square.polynomial([
        2.214_365_4e-8,
        6.356_139e-6,
        1.738_430_3e-4,
        4.707_214_4e-3,
        3.437_572_7e-2,
        3.989_422_3e-1,
    ]);
    let q = square.polynomial([
        1.180_133_2e-6,
        7.509_755e-5,
        1.912_939_6e-3,
        2.893_981_3e-2,
        2.528_329e-1,
        1.0,
    ]);
    let result = near.mul_add(p / q, x.splat(0.5));
    x.below(x.splat(-FAR)).choose(x.splat(0.0), result)
}

/// The natural logarithm. Polynomial of Cephes' `logf`.
#[inline(always)]
pub(crate) fn log<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    const TWO_23: f32 = 8_388_608.0;
    let small = x.below(x.splat(f32::MIN_POSITIVE));
    let normal = small.choose(x * TWO_23, x);
    let bits = normal.bits() + (ONE_BITS - SQRT_HALF_BITS);
    // A whole number below 2^23 put into the mantissa of 2^23 is that number above 2^23.
    let exponent = ((bits >> 23) | TWO_23.to_bits()).floats() - (TWO_23 + 127.0);
    let exponent = small.choose(exponent - 23.0, exponent);
    let f = ((bits & MANTISSA) + SQRT_HALF_BITS).floats() - 1.0;
    let square = f * f;
    let p = f.polynomial([
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_8e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ]);
    let p = exponent.mul_add(x.splat(LN2_LOW), p * f * square);
    let p = square.mul_add(x.splat(-0.5), p);
    let result = exponent.mul_add(x.splat(LN2_HIGH), f + p);
    let result = x.equals(x.splat(f32::INFINITY)).choose(x, result);
    let result = x.equals(x.splat(0.0)).choose(x.splat(f32::NEG_INFINITY), result);
    let result = x.below(x.splat(0.0)).choose(x.splat(f32::NAN), result);
    x.is_nan().choose(x, result)
}

/// 1 / (1 + e^-x), by e^-|x|, so that small results keep their digits.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let e = exp_falling(-x.abs());
    x.below(x.splat(0.0)).choose(e, x.splat(1.0)) / (e + 1.0)
}

/// The hyperbolic tangent: Cephes' `tanhf` polynomial below 0.625, else by e^-2|x|.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let magnitude = x.abs();
    let square = x * x;
    let p = square.polynomial([
        -5.704_988_7e-3,
        2.063_909e-2,
        -5.373_971_6e-2,
        1.333_144_2e-1,
        -3.333_328e-1,
    ]);
    let near = (p * square).mul_add(x, x);
    let e = exp_falling(magnitude * -2.0);
    let far = ((-e + 1.0) / (e + 1.0)).with_sign(x);
    let result = magnitude.above(x.splat(0.625)).choose(far, near);
    // Keeps the sign of zero.
    x.equals(x.splat(0.0)).choose(x, result)
}

/// The error function, after N. Juffa's `erff`: a polynomial below 0.9277, else 1 - e^p(|x|).
#[inline(always)]
pub(crate) fn erf<S: Simd>(x: Lanes<S>) -> Lanes<S> {
    let t = x.abs();
    let square = x * x;
    let p = square.polynomial([
        -5.967_617e-4,
        4.991_194e-3,
        -2.676_813_5e-2,
        1.128_199_3e-1,
        -3.761_253_4e-1,
        1.283_791_7e-1,
    ]);
    let near = p.mul_add(x, x);
    // From 4 on the result is 1; the polynomial is not to be taken further.
    let t4 = x.is_nan().choose(t, t.min(t.splat(4.0)));
    let q = t4.polynomial([
        -1.728_534_7e-5,
        3.831_971_3e-4,
        -3.883_964_4e-3,
        2.425_462_2e-2,
        -1.067_778_8e-1,
        -6.348_467e-1,
        -1.287_175_1e-1,
    ]);
    let far = (-exp(q.mul_add(t4, -t4)) + 1.0).with_sign(x);
    let result = t.above(t.splat(0.927_734_4)).choose(far, near);
    x.equals(x.splat(0.0)).choose(x, result)
}

macro_rules! map {
    ($(#[$doc:meta])* $name:ident, $function:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;
        impl Map<1> for $name {
            #[inline(always)]
            fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
                $function(x)
            }
        }
    };
}

map!(Exp, exp);
map!(Log, log);
map!(Sigmoid, sigmoid);
map!(Tanh, tanh);
map!(Erf, erf);

#[cfg(test)]
#[path = "math_tests.rs"]
mod tests;
