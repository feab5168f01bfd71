//! Softmax and its logarithm along the last dimension.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};

use crate::chunks;
use crate::cuda;
use crate::lanes::Lanes;
use crate::loops::{self, Itself, Map, Product, Rows, Times, Update};
use crate::math;
use crate::values::{Path, for_kernel, path, rows, values};

/// e^x over its sum along the last dimension; each row is taken less its largest number first.
///
/// `x` has one dimension or more and a floating-point dtype; the result has shape and dtype of `x`. The gradient goes
/// through. As `candle_nn::ops::softmax_last_dim`.
///
/// # Errors
/// `x` is a scalar or holds whole numbers.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    Softmax(Kind::Plain).of(x)
}

/// The logarithm of [`softmax_last_dim`], without a loss of digits where that is small.
///
/// Shapes, dtypes and errors are those of [`softmax_last_dim`].
///
/// # Errors
/// `x` is a scalar or holds whole numbers.
pub fn log_softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    Softmax(Kind::Logarithm).of(x)
}

/// Which softmax.
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "there are no GPUs")
)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Logarithm,
    /// Of the scores of attention, times a number: zeros where every score is minus infinity. For GPUs.
    Scores {
        scale: f32,
        /// With the causal mask: how many queries there are to each head.
        causal_queries: Option<usize>,
    },
}

/// Softmax of the scores of attention where kernels of ours run: `[…, queries, keys]`, times `scale`, with the causal mask where
/// it is wanted; zeros where every score is minus infinity.
pub(crate) fn of_scores(scores: &Tensor, scale: f32, is_causal: bool) -> Result<Tensor> {
    let (_, queries, _) = scores.flatten_to(1)?.dims3()?;
    let kind = Kind::Scores {
        scale,
        causal_queries: is_causal.then_some(queries),
    };
    for_kernel(scores)?.apply_op1(Softmax(kind))
}

#[derive(Clone, Copy)]
struct Softmax(Kind);

impl Softmax {
    fn is_log(self) -> bool {
        self.0 == Kind::Logarithm
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        rows(CustomOp1::name(&self), x.dims())?;
        if cuda::takes(x) {
            return for_kernel(x)?.apply_op1(self);
        }
        match path(CustomOp1::name(&self), x)? {
            Path::Fused => x.apply_op1(self),
            Path::Widened => self.of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype()),
            Path::Composed if x.elem_count() == 0 => Ok(x.clone()),
            Path::Composed => {
                let log = composed_log_softmax(x)?;
                if self.is_log() { Ok(log) } else { log.exp() }
            }
        }
    }
}

/// [`log_softmax_last_dim`] by candle's ops.
pub(crate) fn composed_log_softmax(x: &Tensor) -> Result<Tensor> {
    let less = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    let sums = less.exp()?.sum_keepdim(D::Minus1)?;
    less.broadcast_sub(&sums.log()?)
}

/// Softmax along the last dimension by candle's ops; zeros where every number is minus infinity, as [`in_place`]. `x` has
/// elements.
pub(crate) fn composed_masked_softmax(x: &Tensor) -> Result<Tensor> {
    let most = x.max_keepdim(D::Minus1)?.detach();
    let shut = most.eq(f64::NEG_INFINITY)?;
    // In such a row e^(-infinity - 0) = 0, and 0 is shared out over 1: neither result nor gradient is 0 / 0.
    let most = shut.where_cond(&most.zeros_like()?, &most)?;
    let parts = x.broadcast_sub(&most)?.exp()?;
    let sums = (parts.sum_keepdim(D::Minus1)? + shut.to_dtype(x.dtype())?)?;
    parts.broadcast_div(&sums)
}

/// Softmax of a row where it stands; zeros where every number is minus infinity.
pub(crate) fn in_place(row: &mut [f32]) {
    let most = loops::largest(row);
    if most == f32::NEG_INFINITY {
        return row.fill(0.0);
    }
    loops::change(ExpLess(most), [], row);
    loops::change(Times(1.0 / loops::sum(Itself, [row])), [], row);
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Plain => "softmax_last_dim",
            Kind::Logarithm => "log_softmax_last_dim",
            Kind::Scores { .. } => "softmax_of_scores",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (count, width) = rows(CustomOp1::name(self), layout.dims())?;
        let y = if self.is_log() {
            chunks::build_rows(count, width, |row, to| {
                let x = &x[row * width..][..width];
                loops::apply(Less(LogSum::of_row(x)), [x], to)
            })
        } else {
            chunks::build_rows_by(count, width, &Forward { x: &x, width }).0
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, width) = rows(CustomOp1::name(self), layout.dims())?;
        cuda::softmax(storage, layout, width, self.0)
    }

    fn bwd(&self, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        res.apply_op2_no_bwd(&for_kernel(grad)?, &Gradient(self.0))
            .map(Some)
    }
}

/// Softmax of each row.
struct Forward<'a> {
    x: &'a [f32],
    width: usize,
}

impl Rows for Forward<'_> {
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    fn write<'a, S: Simd>(
        &self,
        simd: S,
        row: usize,
        to: &'a mut [MaybeUninit<f32>],
        (): &mut (),
    ) -> &'a mut [f32] {
        let x = &self.x[row * self.width..][..self.width];
        let (to, sum) = loops::apply_and_sum_by(simd, ExpLess(loops::peak_by(simd, x)), x, to);
        loops::change_by(simd, Times(1.0 / sum), [], to);
        to
    }
}

struct Gradient(Kind);

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "softmax_gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, grad) = (values(y, layout)?, values(grad, grad_layout)?);
        let (count, width) = rows(self.name(), layout.dims())?;
        let made = chunks::build_rows(count, width, |row, to| {
            let (y, grad) = (&y[row * width..][..width], &grad[row * width..][..width]);
            if self.0 == Kind::Logarithm {
                loops::apply(LogGradient(loops::sum(Itself, [grad])), [y, grad], to)
            } else {
                loops::apply(PlainGradient(loops::sum(Product, [y, grad])), [y, grad], to)
            }
        });
        Ok((CpuStorage::F32(made), layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (_, width) = rows(self.name(), layout.dims())?;
        cuda::softmax_gradient((y, layout), (grad, grad_layout), width, self.0)
    }
}

/// e^(x - the number).
#[derive(Clone, Copy)]
struct ExpLess(f32);

impl Map<1> for ExpLess {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        math::exp_falling(x - self.0)
    }
}

impl Update<0> for ExpLess {
    #[inline(always)]
    fn of<S: Simd>(self, x: Lanes<S>, _: [Lanes<S>; 0]) -> Lanes<S> {
        math::exp_falling(x - self.0)
    }
}

/// The logarithm of the sum of e^x over a row, in two parts: the sum of both would be rounded at the size of the larger, and
/// digits of a small difference from it lost.
#[derive(Clone, Copy, Default)]
pub(crate) struct LogSum {
    /// The largest number.
    pub(crate) most: f32,
    /// The logarithm of the sum of e^(x - the largest).
    pub(crate) ln: f32,
}

impl LogSum {
    pub(crate) fn of_row(x: &[f32]) -> Self {
        Arch::new().dispatch(OfRow(x))
    }

    /// The logarithm of softmax. The largest goes first: that difference is exact, or nearly so.
    #[inline(always)]
    pub(crate) fn taken_from<S: Simd>(self, x: Lanes<S>) -> Lanes<S> {
        (x - self.most) - self.ln
    }
}

struct OfRow<'a>(&'a [f32]);

impl WithSimd for OfRow<'_> {
    type Output = LogSum;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> LogSum {
        let most = loops::peak_by(simd, self.0);
        LogSum {
            most,
            ln: loops::sum_by(simd, ExpLess(most), [self.0]).ln(),
        }
    }
}

/// x - the logarithm of the sum.
#[derive(Clone, Copy)]
struct Less(LogSum);

impl Map<1> for Less {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        self.0.taken_from(x)
    }
}

/// With the sum of results times gradients.
#[derive(Clone, Copy)]
struct PlainGradient(f32);

impl Map<2> for PlainGradient {
    #[inline(always)]
    fn of<S: Simd>(self, [y, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        y * (grad - self.0)
    }
}

/// With the sum of gradients.
#[derive(Clone, Copy)]
struct LogGradient(f32);

impl Map<2> for LogGradient {
    #[inline(always)]
    fn of<S: Simd>(self, [y, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        grad - math::exp_falling(y) * self.0
    }
}
