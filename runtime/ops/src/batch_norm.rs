//! Batch norm of images: each channel by its mean and variance over samples and places.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use pulp::Simd;

use crate::chunks;
use crate::lanes::Lanes;
use crate::loops::{self, Itself, Map};
use crate::norm::SquareLess;
use crate::values::{Path, path, read, rounded, values};

/// What [`batch_norm`] makes.
#[derive(Debug)]
pub struct BatchNormed {
    /// The images, normalised; of shape and dtype of `x`.
    pub y: Tensor,
    /// The mean of each channel, `[channels]`, without a gradient: for a running mean.
    pub mean: Tensor,
    /// The variance of each channel over n, not n - 1, `[channels]`, without a gradient: for a running variance.
    pub variance: Tensor,
}

/// (x - mean) / sqrt(variance + eps) · weight + bias by the mean and variance of each channel: what is done in training.
///
/// `x` is `[batch, channels, …]`, `weight` and `bias` are `[channels]`, all of one floating-point dtype. Gradients go through to all
/// three, by mean and variance too. As PyTorch's `batch_norm` in training.
///
/// # Errors
/// Other shapes or dtypes.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<BatchNormed> {
    let planes = Planes::new(x, &[weight, bias])?;
    match path(NAME, x)? {
        Path::Fused => {
            let (mean, variance) = read([x], |[x]| Ok(planes.statistics(x)))?;
            let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, numbers.len(), x.device());
            let (mean_tensor, variance_tensor) = (tensor(&mean)?, tensor(&variance)?);
            let scale = variance
                .iter()
                .map(|variance| 1.0 / (variance + eps).sqrt())
                .collect();
            let y = x.apply_op3(weight, bias, BatchNorm { planes, mean, scale })?;
            Ok(BatchNormed {
                y,
                mean: mean_tensor,
                variance: variance_tensor,
            })
        }
        Path::Widened => {
            let [wide, weight, bias] = [
                x.to_dtype(DType::F32)?,
                weight.to_dtype(DType::F32)?,
                bias.to_dtype(DType::F32)?,
            ];
            let made = batch_norm(&wide, &weight, &bias, eps)?;
            Ok(BatchNormed {
                y: made.y.to_dtype(x.dtype())?,
                mean: made.mean.to_dtype(x.dtype())?,
                variance: made.variance.to_dtype(x.dtype())?,
            })
        }
        Path::Composed => {
            let flat = planes.flat(x)?;
            let mean = flat.mean_keepdim((0, 2))?;
            let less = flat.broadcast_sub(&mean)?;
            let variance = less.sqr()?.mean_keepdim((0, 2))?;
            let normal = less.broadcast_div(&(&variance + f64::from(eps))?.sqrt()?)?;
            let y = normal
                .broadcast_mul(&planes.spread(weight)?)?
                .broadcast_add(&planes.spread(bias)?)?;
            let tensor = |statistic: Tensor| statistic.detach().flatten_all();
            Ok(BatchNormed {
                y: y.reshape(x.shape())?,
                mean: tensor(mean)?,
                variance: tensor(variance)?,
            })
        }
    }
}

/// (x - mean) / sqrt(variance + eps) · weight + bias by a mean and variance that are given: what is done after training.
///
/// Shapes and dtypes are those of [`batch_norm`]; `mean` and `variance` are `[channels]`. Gradients go through by candle's ops.
///
/// # Errors
/// Other shapes or dtypes.
pub fn batch_norm_by(
    x: &Tensor,
    [mean, variance]: [&Tensor; 2],
    [weight, bias]: [&Tensor; 2],
    eps: f32,
) -> Result<Tensor> {
    let planes = Planes::new(x, &[mean, variance, weight, bias])?;
    let factor = (weight / (variance + f64::from(eps))?.sqrt()?)?;
    let term = (bias - (mean * &factor)?)?;
    let y = planes
        .flat(x)?
        .broadcast_mul(&planes.spread(&factor)?)?
        .broadcast_add(&planes.spread(&term)?)?;
    y.reshape(x.shape())
}

const NAME: &str = "batch_norm";

/// `[batch, channels, places]`.
#[derive(Clone, Copy)]
struct Planes {
    batch: usize,
    channels: usize,
    places: usize,
}

impl Planes {
    fn new(x: &Tensor, along: &[&Tensor]) -> Result<Self> {
        let &[batch, channels, ref places @ ..] = x.dims() else {
            bail!("{NAME} takes two dimensions or more, not {:?}", x.dims())
        };
        for along in along {
            if along.dims() != [channels] || along.dtype() != x.dtype() {
                bail!(
                    "{NAME} of {:?} of {:?} takes vectors [{channels}] of that dtype, not {:?} of {:?}",
                    x.dims(),
                    x.dtype(),
                    along.dims(),
                    along.dtype()
                );
            }
        }
        Ok(Self {
            batch,
            channels,
            places: places.iter().product(),
        })
    }

    fn flat(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape((self.batch, self.channels, self.places))
    }

    fn spread(&self, along: &Tensor) -> Result<Tensor> {
        along.reshape((1, self.channels, 1))
    }

    /// Elements of a channel.
    fn count(&self) -> f64 {
        (self.batch * self.places) as f64
    }

    /// The planes of a channel, sample by sample.
    fn of_channel<'a>(&self, x: &'a [f32], channel: usize) -> impl Iterator<Item = &'a [f32]> {
        let (width, places) = (self.channels * self.places, self.places);
        (0..self.batch).map(move |sample| &x[sample * width + channel * places..][..places])
    }

    fn each_channel<R: Send>(&self, of: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let chunk = chunks::rows_of_chunk(self.batch * self.places);
        let each = chunks::collect(self.channels, chunk, |range| range.map(&of).collect::<Vec<R>>());
        each.into_iter().flatten().collect()
    }

    /// Mean and variance of each channel.
    fn statistics(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let both = self.each_channel(|channel| {
            let planes = || self.of_channel(x, channel);
            let sum: f64 = planes().map(|plane| f64::from(loops::sum(Itself, [plane]))).sum();
            let mean = rounded(sum / self.count());
            let squares: f64 = planes()
                .map(|plane| f64::from(loops::sum(SquareLess(mean), [plane])))
                .sum();
            (mean, rounded(squares / self.count()))
        });
        both.into_iter().unzip()
    }
}

struct BatchNorm {
    planes: Planes,
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl BatchNorm {
    fn normal(&self, channel: usize) -> Normal {
        Normal {
            mean: self.mean[channel],
            scale: self.scale[channel],
        }
    }

    /// Gradients of x, weight and bias.
    fn backward(&self, [x, weight, grad]: [&[f32]; 3]) -> [Vec<f32>; 3] {
        let Planes {
            batch,
            channels,
            places,
        } = self.planes;
        let sums = self.planes.each_channel(|channel| {
            let planes = self
                .planes
                .of_channel(x, channel)
                .zip(self.planes.of_channel(grad, channel));
            planes.fold((0.0, 0.0), |(by_weight, by_bias), (x, grad)| {
                let along = loops::sum(Along(self.normal(channel)), [x, grad]);
                (
                    by_weight + f64::from(along),
                    by_bias + f64::from(loops::sum(Itself, [grad])),
                )
            })
        });
        let of_x = chunks::build_rows(batch * channels, places, |row, to| {
            let channel = row % channels;
            let (by_weight, by_bias) = sums[channel];
            let slope = Slope {
                normal: self.normal(channel),
                factor: weight[channel] * self.scale[channel],
                along: rounded(by_weight / self.planes.count()),
                mean_grad: rounded(by_bias / self.planes.count()),
            };
            loops::apply(
                slope,
                [&x[row * places..][..places], &grad[row * places..][..places]],
                to,
            )
        });
        let (weight, bias) = sums
            .iter()
            .map(|(weight, bias)| (rounded(*weight), rounded(*bias)))
            .unzip();
        [of_x, weight, bias]
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        NAME
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
        let Planes {
            batch,
            channels,
            places,
        } = self.planes;
        let y = chunks::build_rows(batch * channels, places, |row, to| {
            let channel = row % channels;
            let factor = weight[channel] * self.scale[channel];
            let line = Line {
                factor,
                mean: self.mean[channel],
                term: bias[channel],
            };
            loops::apply(line, [&x[row * places..][..places]], to)
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_x, of_weight, of_bias] = read([x, weight, grad], |inputs| Ok(self.backward(inputs)))?;
        let vector = |made: Vec<f32>| Tensor::from_vec(made, self.planes.channels, x.device()).map(Some);
        Ok((
            Some(Tensor::from_vec(of_x, x.shape(), x.device())?),
            vector(of_weight)?,
            vector(of_bias)?,
        ))
    }
}

/// (x - mean) · factor + term.
#[derive(Clone, Copy)]
struct Line {
    mean: f32,
    factor: f32,
    term: f32,
}

impl Map<1> for Line {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        (x - self.mean).mul_add(x.splat(self.factor), x.splat(self.term))
    }
}

#[derive(Clone, Copy)]
struct Normal {
    mean: f32,
    scale: f32,
}

/// How far the gradient points along the normal itself.
#[derive(Clone, Copy)]
struct Along(Normal);

impl Map<2> for Along {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        (x - self.0.mean) * self.0.scale * grad
    }
}

#[derive(Clone, Copy)]
struct Slope {
    normal: Normal,
    factor: f32,
    along: f32,
    mean_grad: f32,
}

impl Map<2> for Slope {
    #[inline(always)]
    fn of<S: Simd>(self, [x, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let normal = (x - self.normal.mean) * self.normal.scale;
        (grad - self.mean_grad - normal * self.along) * self.factor
    }
}
