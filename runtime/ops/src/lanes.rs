//! Vector registers of `f32` with the operators of Rust.
//!
//! The registers are pulp's: which instructions stand behind them is chosen while the program runs. Not here: loops over
//! slices (`loops.rs`), functions (`math.rs`).

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Shl, Shr, Sub};

use pulp::Simd;

/// A register of `f32` lanes, with the instruction set that works on it.
pub(crate) struct Lanes<S: Simd> {
    simd: S,
    pub(crate) values: S::f32s,
}

/// A yes or no for each lane.
pub(crate) struct Mask<S: Simd>(S, S::m32s);

impl<S: Simd> Clone for Lanes<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for Lanes<S> {}

macro_rules! operator {
    ($trait:ident, $method:ident, $simd:ident) => {
        impl<S: Simd> $trait for Lanes<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self {
                    simd: self.simd,
                    values: self.simd.$simd(self.values, other.values),
                }
            }
        }
        impl<S: Simd> $trait<f32> for Lanes<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f32) -> Self {
                self.$method(self.splat(other))
            }
        }
    };
}

operator!(Add, add, add_f32s);
operator!(Sub, sub, sub_f32s);
operator!(Mul, mul, mul_f32s);
operator!(Div, div, div_f32s);

impl<S: Simd> Neg for Lanes<S> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self {
            simd: self.simd,
            values: self.simd.neg_f32s(self.values),
        }
    }
}

impl<S: Simd> Lanes<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, values: S::f32s) -> Self {
        Self { simd, values }
    }

    /// `value` in every lane.
    #[inline(always)]
    pub(crate) fn all(simd: S, value: f32) -> Self {
        Self::new(simd, simd.splat_f32s(value))
    }

    /// `value` in every lane of another register.
    #[inline(always)]
    pub(crate) fn splat(self, value: f32) -> Self {
        Self::all(self.simd, value)
    }

    /// `self * factor + term`, rounded once where the processor can.
    #[inline(always)]
    pub(crate) fn mul_add(self, factor: Self, term: Self) -> Self {
        Self::new(
            self.simd,
            self.simd.mul_add_e_f32s(self.values, factor.values, term.values),
        )
    }

    /// The polynomial with these coefficients, the highest power first.
    #[inline(always)]
    pub(crate) fn polynomial<const N: usize>(self, coefficients: [f32; N]) -> Self {
        let mut sum = self.splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = sum.mul_add(self, self.splat(*coefficient));
        }
        sum
    }

    #[inline(always)]
    pub(crate) fn abs(self) -> Self {
        Self::new(self.simd, self.simd.abs_f32s(self.values))
    }

    #[inline(always)]
    pub(crate) fn sqrt(self) -> Self {
        Self::new(self.simd, self.simd.sqrt_f32s(self.values))
    }

    /// The smaller one; either where one isn't a number.
    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        Self::new(self.simd, self.simd.min_f32s(self.values, other.values))
    }

    /// The larger one; either where one isn't a number.
    #[inline(always)]
    pub(crate) fn either_max(self, other: Self) -> Self {
        Self::new(self.simd, self.simd.max_f32s(self.values, other.values))
    }

    /// The larger one; not a number where either isn't.
    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        let larger = self.above(other).choose(self, other);
        self.is_nan().choose(self, larger)
    }

    /// This with the sign of `other`; this must not be negative.
    #[inline(always)]
    pub(crate) fn with_sign(self, other: Self) -> Self {
        let sign = self.simd.and_f32s(other.values, self.simd.splat_f32s(-0.0));
        Self::new(self.simd, self.simd.or_f32s(self.values, sign))
    }

    #[inline(always)]
    pub(crate) fn above(self, other: Self) -> Mask<S> {
        Mask(self.simd, self.simd.greater_than_f32s(self.values, other.values))
    }

    #[inline(always)]
    pub(crate) fn below(self, other: Self) -> Mask<S> {
        Mask(self.simd, self.simd.less_than_f32s(self.values, other.values))
    }

    #[inline(always)]
    pub(crate) fn is_nan(self) -> Mask<S> {
        let ordered = self.simd.equal_f32s(self.values, self.values);
        Mask(self.simd, self.simd.not_m32s(ordered))
    }

    #[inline(always)]
    pub(crate) fn equals(self, other: Self) -> Mask<S> {
        Mask(self.simd, self.simd.equal_f32s(self.values, other.values))
    }

    /// The bits, to be worked on as integers.
    #[inline(always)]
    pub(crate) fn bits(self) -> Bits<S> {
        Bits {
            simd: self.simd,
            values: self.simd.transmute_u32s_f32s(self.values),
        }
    }

    /// The sum of all lanes, always in the same order.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        self.simd.reduce_sum_f32s(self.values)
    }
}

impl<S: Simd> Mask<S> {
    /// `yes` where the mask is set, else `no`.
    #[inline(always)]
    pub(crate) fn choose(&self, yes: Lanes<S>, no: Lanes<S>) -> Lanes<S> {
        Lanes::new(self.0, self.0.select_f32s(self.1, yes.values, no.values))
    }
}

/// A register of `u32` lanes.
pub(crate) struct Bits<S: Simd> {
    simd: S,
    values: S::u32s,
}

impl<S: Simd> Clone for Bits<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for Bits<S> {}

macro_rules! bit_operator {
    ($trait:ident, $method:ident, $simd:ident) => {
        impl<S: Simd> $trait for Bits<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self {
                    simd: self.simd,
                    values: self.simd.$simd(self.values, other.values),
                }
            }
        }
        impl<S: Simd> $trait<u32> for Bits<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: u32) -> Self {
                self.$method(Self {
                    simd: self.simd,
                    values: self.simd.splat_u32s(other),
                })
            }
        }
    };
}

// Each wraps around.
bit_operator!(Add, add, add_u32s);
bit_operator!(Sub, sub, sub_u32s);
bit_operator!(Mul, mul, mul_u32s);
bit_operator!(BitAnd, bitand, and_u32s);
bit_operator!(BitOr, bitor, or_u32s);
bit_operator!(BitXor, bitxor, xor_u32s);
bit_operator!(Shl, shl, wrapping_dyn_shl_u32s);
bit_operator!(Shr, shr, wrapping_dyn_shr_u32s);

impl<S: Simd> Bits<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, values: S::u32s) -> Self {
        Self { simd, values }
    }

    #[inline(always)]
    pub(crate) fn values(self) -> S::u32s {
        self.values
    }

    /// The bits as floating point.
    #[inline(always)]
    pub(crate) fn floats(self) -> Lanes<S> {
        Lanes::new(self.simd, self.simd.transmute_f32s_u32s(self.values))
    }
}
