//! Functions of every element, each with its gradient in one pass: gelu, silu, relu, tanh, sigmoid, exp.
//!
//! On the CPU in `f32`; `bf16` and `f16` go through `f32`; on GPUs by kernels where there are some; else by candle's own ops.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};
use pulp::Simd;

use crate::cuda;
use crate::lanes::Lanes;
use crate::loops::{Map, map};
use crate::math::{self, Erf, Exp, Log, Sigmoid, Tanh};
use crate::values::{Path, for_kernel, path, values};

macro_rules! public {
    ($($(#[$doc:meta])* $name:ident => $function:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// `x` has any shape and a floating-point dtype; the result has both of them. The gradient goes through.
        ///
        /// # Errors
        /// `x` holds whole numbers.
        pub fn $name(x: &Tensor) -> Result<Tensor> {
            Function::$function.of(x)
        }
    )*};
}

public! {
    /// The Gaussian error linear unit by its approximation with tanh (Hendrycks and Gimpel, 2016), as [`Tensor::gelu`] and
    /// PyTorch's `gelu(approximate="tanh")`. Within 4e-7 of the exact value of the approximation, relative to |x|.
    gelu => Gelu;
    /// The Gaussian error linear unit, x Φ(x), as [`Tensor::gelu_erf`]. Within 4e-7 relative to |x|.
    gelu_erf => GeluErf;
    /// x sigmoid(x), as [`Tensor::silu`]. Within 4 ulp.
    silu => Silu;
    /// The larger of x and 0; what isn't a number stays so.
    relu => Relu;
    /// The hyperbolic tangent, within 2 ulp.
    tanh => Tanh;
    /// 1 / (1 + e^-x), within 2.5 ulp.
    sigmoid => Sigmoid;
    /// e^x, within 1.1 ulp.
    exp => Exp;
    /// The natural logarithm, within 1 ulp.
    log => Log;
    /// The error function, within 1.5 ulp.
    erf => Erf;
}

#[derive(Clone, Copy, Debug)]
enum Function {
    Gelu,
    GeluErf,
    Silu,
    Relu,
    Tanh,
    Sigmoid,
    Exp,
    Log,
    Erf,
}

impl Function {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        if self.is_kernel() && cuda::takes(x) {
            return for_kernel(x)?.apply_op1(self);
        }
        match path(CustomOp1::name(&self), x)? {
            Path::Fused => x.apply_op1(self),
            Path::Widened => self.of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype()),
            Path::Composed => self.composed(x),
        }
    }

    fn composed(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu(),
            Self::GeluErf => x.gelu_erf(),
            Self::Silu => x.silu(),
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
            Self::Exp => x.exp(),
            Self::Log => x.log(),
            Self::Erf => x.erf(),
        }
    }

    /// Whether there is a kernel: candle's own are one pass for the others, also back.
    fn is_kernel(self) -> bool {
        !matches!(self, Self::Exp | Self::Log | Self::Erf)
    }

    /// Whether the gradient is made of the result; of the argument otherwise.
    fn gradient_by_result(self) -> bool {
        matches!(self, Self::Tanh | Self::Sigmoid | Self::Exp)
    }
}

impl CustomOp1 for Function {
    fn name(&self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluErf => "gelu_erf",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Erf => "erf",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let y = match self {
            Self::Gelu => map(Gelu, [&x]),
            Self::GeluErf => map(GeluErf, [&x]),
            Self::Silu => map(Silu, [&x]),
            Self::Relu => map(Relu, [&x]),
            Self::Tanh => map(Tanh, [&x]),
            Self::Sigmoid => map(Sigmoid, [&x]),
            Self::Exp => map(Exp, [&x]),
            Self::Log => map(Log, [&x]),
            Self::Erf => map(Erf, [&x]),
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::map(CustomOp1::name(self), storage, layout)
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let known = if self.gradient_by_result() { res } else { arg };
        known
            .apply_op2_no_bwd(&for_kernel(grad)?, &Gradient(*self))
            .map(Some)
    }
}

/// The gradient of a function: from its argument or result, and the gradient of its result.
struct Gradient(Function);

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        CustomOp1::name(&self.0)
    }

    fn cpu_fwd(
        &self,
        known: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (known, grad) = (values(known, layout)?, values(grad, grad_layout)?);
        let made = match self.0 {
            Function::Gelu => map(Gelu, [&known, &grad]),
            Function::GeluErf => map(GeluErf, [&known, &grad]),
            Function::Silu => map(Silu, [&known, &grad]),
            Function::Relu => map(Relu, [&known, &grad]),
            Function::Tanh => map(Tanh, [&known, &grad]),
            Function::Sigmoid => map(Sigmoid, [&known, &grad]),
            Function::Exp => map(Exp, [&known, &grad]),
            Function::Log => map(Log, [&known, &grad]),
            Function::Erf => map(Erf, [&known, &grad]),
        };
        Ok((CpuStorage::F32(made), layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        known: &CudaStorage,
        layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::map_gradient(CustomOp1::name(&self.0), (known, layout), (grad, grad_layout))
    }
}

/// Twice the square root of 2 / π.
const GELU_1: f32 = 1.595_769;
/// 0.044715 of it.
const GELU_3: f32 = 0.071_354_814;
/// Squares are cut there: the sigmoid is 0 or 1 long before, and infinity times 0 isn't a number.
const SQUARE_MAX: f32 = 1e4;
const INV_SQRT_TAU: f32 = 0.398_942_3;

/// By 1 + tanh u = 2 sigmoid 2u: one exponential, and small results keep their digits.
#[derive(Clone, Copy)]
struct Gelu;

impl Map<1> for Gelu {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        let square = (x * x).min(x.splat(SQUARE_MAX));
        let u = x * square.mul_add(x.splat(GELU_3), x.splat(GELU_1));
        x / (math::exp_beside_one(-u) + 1.0)
    }
}

impl Map<2> for Gelu {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let square = (x * x).min(x.splat(SQUARE_MAX));
        let u = x * square.mul_add(x.splat(GELU_3), x.splat(GELU_1));
        let s = x.splat(1.0) / (math::exp_beside_one(-u) + 1.0);
        let slope = square.mul_add(x.splat(3.0 * GELU_3), x.splat(GELU_1));
        grad * (x * slope * (-s + 1.0)).mul_add(s, s)
    }
}

#[derive(Clone, Copy)]
struct GeluErf;

impl Map<1> for GeluErf {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        x * math::normal(x)
    }
}

impl Map<2> for GeluErf {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let phi = math::normal(x);
        let square = (x * x).min(x.splat(SQUARE_MAX));
        let density = math::exp_falling(square * -0.5) * INV_SQRT_TAU;
        grad * x.mul_add(density, phi)
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Map<1> for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        x * math::sigmoid(x)
    }
}

impl Map<2> for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let s = math::sigmoid(x);
        grad * (x * (-s + 1.0)).mul_add(s, s)
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Map<1> for Relu {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        x.below(x.splat(0.0)).choose(x.splat(0.0), x)
    }
}

impl Map<2> for Relu {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        x.above(x.splat(0.0)).choose(grad, x.splat(0.0))
    }
}

impl Map<2> for Tanh {
    #[inline(always)]
    fn of<S: Simd>(self, [y, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        grad * ((-y + 1.0) * (y + 1.0))
    }
}

impl Map<2> for Sigmoid {
    #[inline(always)]
    fn of<S: Simd>(self, [y, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        grad * y * (-y + 1.0)
    }
}

impl Map<2> for Exp {
    #[inline(always)]
    fn of<S: Simd>(self, [y, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        grad * y
    }
}

impl Map<2> for Log {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        grad / x
    }
}

impl Map<2> for Erf {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let square = (x * x).min(x.splat(SQUARE_MAX));
        grad * math::exp_falling(-square) * std::f32::consts::FRAC_2_SQRT_PI
    }
}
