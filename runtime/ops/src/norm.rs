//! Layer norm and root-mean-square norm along the last dimension, with gradients for every input.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail,
};
use pulp::Simd;

use crate::chunks;
use crate::cuda;
use crate::lanes::Lanes;
use crate::loops::{self, Added, Both, Itself, Map, Rows, Update};
use crate::values::{Path, for_kernel, path, read, rows, values};

/// (x - mean) / sqrt(variance + eps) · weight + bias, along the last dimension; the variance is over n, not n - 1.
///
/// `x` is `[…, n]`, `weight` and `bias` are `[n]`, all of one floating-point dtype; the result has shape and dtype of `x`.
/// Gradients go through to all three. As PyTorch's `layer_norm` over one dimension.
///
/// # Errors
/// Other shapes or dtypes.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    const NAME: &str = "layer_norm";
    fits(NAME, x, weight)?;
    fits(NAME, x, bias)?;
    let op = || LayerNorm {
        eps,
        known: Known::new(),
    };
    if cuda::takes(x) {
        return for_kernel(x)?.apply_op3(&for_kernel(weight)?, &for_kernel(bias)?, op());
    }
    match path(NAME, x)? {
        Path::Fused => x.apply_op3(weight, bias, op()),
        Path::Widened => {
            let [wide, weight, bias] = [
                x.to_dtype(DType::F32)?,
                weight.to_dtype(DType::F32)?,
                bias.to_dtype(DType::F32)?,
            ];
            layer_norm(&wide, &weight, &bias, eps)?.to_dtype(x.dtype())
        }
        Path::Composed => {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            scaled(&centred, eps)?.broadcast_mul(weight)?.broadcast_add(bias)
        }
    }
}

/// x / sqrt(mean of squares + eps) · weight, along the last dimension (Zhang and Sennrich, 2019).
///
/// `x` is `[…, n]`, `weight` is `[n]`, both of one floating-point dtype; the result has shape and dtype of `x`. Gradients go
/// through to both.
///
/// # Errors
/// Other shapes or dtypes.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const NAME: &str = "rms_norm";
    fits(NAME, x, weight)?;
    let op = || RmsNorm {
        eps,
        known: Known::new(),
    };
    if cuda::takes(x) {
        return for_kernel(x)?.apply_op2(&for_kernel(weight)?, op());
    }
    match path(NAME, x)? {
        Path::Fused => x.apply_op2(weight, op()),
        Path::Widened => {
            rms_norm(&x.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?, eps)?.to_dtype(x.dtype())
        }
        Path::Composed => scaled(x, eps)?.broadcast_mul(weight),
    }
}

fn fits(op: &str, x: &Tensor, along: &Tensor) -> Result<()> {
    let last = x.dims().last().copied();
    if along.dims().len() != 1 || last != along.dims().first().copied() {
        bail!(
            "{op} of {:?} takes a vector as long as its last dimension, not {:?}",
            x.dims(),
            along.dims()
        );
    }
    if along.dtype() != x.dtype() {
        bail!(
            "{op} takes tensors of one dtype, not {:?} and {:?}",
            x.dtype(),
            along.dtype()
        );
    }
    Ok(())
}

fn scaled(x: &Tensor, eps: f32) -> Result<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(square + f64::from(eps))?.sqrt()?)
}

/// What makes rows of `x` normal: less their mean where `centred`, by their size.
#[derive(Clone, Copy)]
struct Statistics<'a> {
    x: &'a [f32],
    width: usize,
    centred: bool,
    eps: f32,
}

impl<'a> Statistics<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.width..][..self.width]
    }

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, row: usize) -> Normal {
        let (x, count) = (self.row(row), self.width as f32);
        let mean = if self.centred {
            loops::sum_by(simd, Itself, [x]) / count
        } else {
            0.0
        };
        let variance = loops::sum_by(simd, SquareLess(mean), [x]) / count;
        Normal {
            mean,
            scale: 1.0 / (variance + self.eps).sqrt(),
        }
    }
}

/// What is kept of a forward pass: an op object is made for one.
type Known = OnceLock<Vec<Normal>>;

/// The normal rows, times the weight, and the bias added.
struct Forward<'a> {
    statistics: Statistics<'a>,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl Forward<'_> {
    fn make(&self, count: usize, known: &Known) -> Vec<f32> {
        let (y, normals) = chunks::build_rows_by(count, self.statistics.width, self);
        known.get_or_init(|| normals.concat());
        y
    }
}

impl Rows for Forward<'_> {
    type Own = Vec<Normal>;

    fn own(&self) -> Vec<Normal> {
        Vec::with_capacity(chunks::rows_of_chunk(self.statistics.width))
    }

    #[inline(always)]
    fn write<'a, S: Simd>(
        &self,
        simd: S,
        row: usize,
        to: &'a mut [MaybeUninit<f32>],
        own: &mut Vec<Normal>,
    ) -> &'a mut [f32] {
        let normal = self.statistics.of(simd, row);
        own.push(normal);
        let x = self.statistics.row(row);
        match self.bias {
            Some(bias) => loops::apply_by(simd, normal, [x, self.weight, bias], to),
            None => loops::apply_by(simd, normal, [x, self.weight], to),
        }
    }
}

struct LayerNorm {
    eps: f32,
    known: Known,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (
            values(x, layout)?,
            values(weight, weight_layout)?,
            values(bias, bias_layout)?,
        );
        let (count, width) = rows(self.name(), layout.dims())?;
        let forward = Forward {
            statistics: Statistics {
                x: &x,
                width,
                centred: true,
                eps: self.eps,
            },
            weight: &weight,
            bias: Some(&bias),
        };
        Ok((
            CpuStorage::F32(forward.make(count, &self.known)),
            layout.shape().clone(),
        ))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let bias = Some((bias, bias_layout));
        cuda::norm((x, layout), (weight, weight_layout), bias, self.eps)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = [weight.track_op(), bias.track_op()];
        gradients([x, weight, grad], wanted, true, self.eps, &self.known)
    }
}

struct RmsNorm {
    eps: f32,
    known: Known,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (values(x, layout)?, values(weight, weight_layout)?);
        let (count, width) = rows(self.name(), layout.dims())?;
        let forward = Forward {
            statistics: Statistics {
                x: &x,
                width,
                centred: false,
                eps: self.eps,
            },
            weight: &weight,
            bias: None,
        };
        Ok((
            CpuStorage::F32(forward.make(count, &self.known)),
            layout.shape().clone(),
        ))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::norm((x, layout), (weight, weight_layout), None, self.eps)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let wanted = [weight.track_op(), false];
        let (x, weight, _) = gradients([x, weight, grad], wanted, false, self.eps, &self.known)?;
        Ok((x, weight))
    }
}

/// One pass over x and the gradient: each chunk of rows sums the gradients of weight and bias, where they are wanted, for
/// itself.
struct Backward<'a> {
    statistics: Statistics<'a>,
    known: Option<&'a [Normal]>,
    weight: &'a [f32],
    grad: &'a [f32],
    /// Of weight, and of bias.
    wanted: [bool; 2],
}

impl Rows for Backward<'_> {
    type Own = [Vec<f32>; 2];

    fn own(&self) -> [Vec<f32>; 2] {
        self.wanted
            .map(|wanted| vec![0.0; if wanted { self.statistics.width } else { 0 }])
    }

    #[inline(always)]
    fn write<'a, S: Simd>(
        &self,
        simd: S,
        row: usize,
        to: &'a mut [MaybeUninit<f32>],
        [by_weight, by_bias]: &mut [Vec<f32>; 2],
    ) -> &'a mut [f32] {
        let Statistics { width, centred, .. } = self.statistics;
        let (x, grad) = (self.statistics.row(row), &self.grad[row * width..][..width]);
        let normal = match self.known {
            Some(known) => known[row],
            None => self.statistics.of(simd, row),
        };
        let inputs = [x, self.weight, grad];
        let sums = loops::sum_both_by(simd, Along(normal), inputs);
        let [along, mean_grad] = sums.map(|sum| sum / width as f32);
        let slope = Slope {
            normal,
            along,
            mean_grad: if centred { mean_grad } else { 0.0 },
        };
        if self.wanted[0] {
            loops::change_by(simd, normal, [x, grad], by_weight);
        }
        if self.wanted[1] {
            loops::change_by(simd, Added, [grad], by_bias);
        }
        loops::apply_by(simd, slope, inputs, to)
    }
}

/// Gradients of x, and of weight and bias where these are wanted.
fn gradients(
    [x, weight, grad]: [&Tensor; 3],
    wanted: [bool; 2],
    centred: bool,
    eps: f32,
    known: &Known,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    if x.device().is_cuda() {
        let (of_x, of_weight, of_bias) = cuda::norm_gradients([x, weight, &for_kernel(grad)?], centred, eps)?;
        return Ok((
            Some(of_x),
            wanted[0].then_some(of_weight),
            wanted[1].then_some(of_bias),
        ));
    }
    let (count, width) = rows("norm", x.dims())?;
    let (of_x, sums) = read([x, weight, grad], |[x, weight, grad]| {
        let backward = Backward {
            statistics: Statistics {
                x,
                width,
                centred,
                eps,
            },
            known: known.get().map(Vec::as_slice),
            weight,
            grad,
            wanted,
        };
        Ok(chunks::build_rows_by(count, width, &backward))
    })?;
    let (by_weight, by_bias): (Vec<_>, Vec<_>) =
        sums.into_iter().map(|[weight, bias]| (weight, bias)).unzip();
    let vector = |parts: Vec<Vec<f32>>| Tensor::from_vec(chunks::added(parts, width), width, x.device());
    Ok((
        Some(Tensor::from_vec(of_x, x.shape(), x.device())?),
        wanted[0].then(|| vector(by_weight)).transpose()?,
        wanted[1].then(|| vector(by_bias)).transpose()?,
    ))
}

/// (x - the number)².
#[derive(Clone, Copy)]
pub(crate) struct SquareLess(pub(crate) f32);

impl Map<1> for SquareLess {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        let less = x - self.0;
        less * less
    }
}

/// (x - mean) · scale.
#[derive(Clone, Copy)]
struct Normal {
    mean: f32,
    scale: f32,
}

impl Normal {
    #[inline(always)]
    fn normal<S: Simd>(self, x: Lanes<S>) -> Lanes<S> {
        (x - self.mean) * self.scale
    }
}

impl Map<2> for Normal {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight]: [Lanes<S>; 2]) -> Lanes<S> {
        self.normal(x) * weight
    }
}

impl Map<3> for Normal {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight, bias]: [Lanes<S>; 3]) -> Lanes<S> {
        self.normal(x).mul_add(weight, bias)
    }
}

impl Update<2> for Normal {
    #[inline(always)]
    fn of<S: Simd>(self, old: Lanes<S>, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        self.normal(x).mul_add(grad, old)
    }
}

/// How far the gradient points along the normal itself, and the gradient.
#[derive(Clone, Copy)]
struct Along(Normal);

impl Both<3> for Along {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight, grad]: [Lanes<S>; 3]) -> [Lanes<S>; 2] {
        let grad = weight * grad;
        [self.0.normal(x) * grad, grad]
    }
}

#[derive(Clone, Copy)]
struct Slope {
    normal: Normal,
    along: f32,
    mean_grad: f32,
}

impl Map<3> for Slope {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight, grad]: [Lanes<S>; 3]) -> Lanes<S> {
        let less = self.normal.normal(x) * self.along;
        (weight * grad - self.mean_grad - less) * self.normal.scale
    }
}
