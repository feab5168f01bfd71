//! Layer norm and root-mean-square norm along the last dimension, with gradients for every input.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use pulp::Simd;

use crate::chunks;
use crate::lanes::Lanes;
use crate::loops::{self, Added, Itself, Map, Product, Update};
use crate::values::{Path, path, read, rows, values};

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
    match path(NAME, x)? {
        Path::Fused => x.apply_op3(weight, bias, LayerNorm { eps }),
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
    match path(NAME, x)? {
        Path::Fused => x.apply_op2(weight, RmsNorm { eps }),
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

/// Mean, and what to multiply by.
fn statistics(x: &[f32], centred: bool, eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = if centred {
        loops::sum(Itself, [x]) / count
    } else {
        0.0
    };
    let variance = loops::sum(SquareLess(mean), [x]) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

struct LayerNorm {
    eps: f32,
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
        let y = chunks::build_rows(count, width, |row, to| {
            let x = &x[row * width..][..width];
            let (mean, scale) = statistics(x, true, self.eps);
            loops::apply(Normal { mean, scale }, [x, &weight, &bias], to)
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Gradients { x, weight, bias } = read([x, weight, grad], |inputs| {
            gradients(inputs, x, bias.track_op(), true, self.eps)
        })?;
        Ok((Some(x), Some(weight), bias))
    }
}

struct RmsNorm {
    eps: f32,
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
        let y = chunks::build_rows(count, width, |row, to| {
            let x = &x[row * width..][..width];
            let (mean, scale) = statistics(x, false, self.eps);
            loops::apply(Normal { mean, scale }, [x, &weight], to)
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Gradients { x, weight, .. } = read([x, weight, grad], |inputs| {
            gradients(inputs, x, false, false, self.eps)
        })?;
        Ok((Some(x), Some(weight)))
    }
}

struct Gradients {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
}

/// One pass over x and the gradient: each chunk of rows sums the gradients of weight and bias for itself.
fn gradients(
    [x, weight, grad]: [&[f32]; 3],
    like: &Tensor,
    biased: bool,
    centred: bool,
    eps: f32,
) -> Result<Gradients> {
    let (count, width) = rows("norm", like.dims())?;
    let zeros = || (vec![0.0; width], vec![0.0; if biased { width } else { 0 }]);
    let (made, sums) = chunks::build_rows_with(count, width, zeros, |row, to, (by_weight, by_bias)| {
        let (x, grad) = (&x[row * width..][..width], &grad[row * width..][..width]);
        let (mean, scale) = statistics(x, centred, eps);
        let normal = Normal { mean, scale };
        let along = loops::sum(Along(normal), [x, weight, grad]) / width as f32;
        let mean_grad = if centred {
            loops::sum(Product, [weight, grad]) / width as f32
        } else {
            0.0
        };
        let to = loops::apply(
            Slope {
                normal,
                along,
                mean_grad,
            },
            [x, weight, grad],
            to,
        );
        loops::change(normal, [x, grad], by_weight);
        if biased {
            loops::change(Added, [grad], by_bias);
        }
        to
    });
    let (by_weight, by_bias): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    let device = like.device();
    Ok(Gradients {
        x: Tensor::from_vec(made, like.shape(), device)?,
        weight: Tensor::from_vec(chunks::added(by_weight, width), width, device)?,
        bias: biased
            .then(|| Tensor::from_vec(chunks::added(by_bias, width), width, device))
            .transpose()?,
    })
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

/// How far the gradient points along the normal itself.
#[derive(Clone, Copy)]
struct Along(Normal);

impl Map<3> for Along {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight, grad]: [Lanes<S>; 3]) -> Lanes<S> {
        self.0.normal(x) * (weight * grad)
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
