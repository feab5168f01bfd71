//! Two-dimensional convolution and its gradients as products of matrices: patches of the image become columns.
//!
//! Samples go to threads; within one, patches are laid out a tile of output rows at a time, so that they stay in the cache.
//! Gradients of the weight are summed over groups of samples that depend on shapes alone, and then in order.

mod patches;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

use crate::chunks;
use crate::gemm::{Into, Matrix, Out, Threads, multiply};
use crate::loops::{self, Itself};
use crate::values::{Path, path, read, values};
use patches::with_scratch;

/// How the window of a convolution moves, the same along both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// From one place of the window to the next.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
    /// From one element of the window to the next.
    pub dilation: usize,
    /// Channels are convolved in so many groups apart; more than one goes by candle's ops.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        }
    }
}

/// The convolution (cross-correlation) of images with a weight, and a bias for each output channel.
///
/// `x` is `[batch, in, height, width]`, `weight` `[out, in / groups, kernel height, kernel width]`, `bias` `[out]`, all of one
/// floating-point dtype; the result is `[batch, out, …, …]`. Gradients go through to all three. As [`Tensor::conv2d`] and
/// PyTorch's.
///
/// # Errors
/// Other shapes or dtypes, or a window larger than the padded image.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, how: &Conv2d) -> Result<Tensor> {
    let plan = Plan::new(x.dims(), weight.dims(), how)?;
    for other in [Some(weight), bias].into_iter().flatten() {
        if other.dtype() != x.dtype() {
            bail!(
                "conv2d takes tensors of one dtype, not {:?} and {:?}",
                x.dtype(),
                other.dtype()
            );
        }
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [plan.outputs]) {
        bail!(
            "conv2d to {} channels takes a bias of as many, not {:?}",
            plan.outputs,
            bias.dims()
        );
    }
    match (path("conv2d", x)?, bias) {
        (Path::Fused, Some(bias)) if how.groups == 1 => x.apply_op3(weight, bias, plan),
        (Path::Fused, None) if how.groups == 1 => x.apply_op2(weight, plan),
        (Path::Widened, _) => {
            let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
            conv2d(
                &x.to_dtype(DType::F32)?,
                &weight.to_dtype(DType::F32)?,
                bias.as_ref(),
                how,
            )?
            .to_dtype(x.dtype())
        }
        (_, bias) => {
            let y = x.conv2d(weight, how.padding, how.stride, how.dilation, how.groups)?;
            match bias {
                Some(bias) => y.broadcast_add(&bias.reshape((1, plan.outputs, 1, 1))?),
                None => Ok(y),
            }
        }
    }
}

/// The sizes of one convolution.
#[derive(Clone, Copy)]
struct Plan {
    how: Conv2d,
    batch: usize,
    inputs: usize,
    outputs: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    out: [usize; 2],
}

/// Groups of samples whose weight gradients are summed apart, and elements that these sums take together.
const GROUPS_MAX: usize = 16;
const SUMS_MAX: usize = 4 << 20;

/// Output channels in one product at most: for more, the `gemm` crate would copy patches once more.
const UNPACKED: usize = 48;

impl Plan {
    fn new(x: &[usize], weight: &[usize], how: &Conv2d) -> Result<Self> {
        let (&[batch, inputs, height, width], &[outputs, each, down, across]) = (x, weight) else {
            bail!("conv2d takes images and a weight of four dimensions each, not {x:?} and {weight:?}");
        };
        if how.groups == 0 || each * how.groups != inputs || outputs % how.groups != 0 {
            bail!(
                "conv2d of images {x:?} by a weight {weight:?} in {} groups: channels don't fit",
                how.groups
            );
        }
        if how.stride == 0 || how.dilation == 0 || down == 0 || across == 0 {
            bail!("conv2d takes a stride, a dilation and a window of 1 or more, not {how:?} of {weight:?}");
        }
        let out = |size: usize, kernel: usize| {
            let window = how.dilation * (kernel - 1) + 1;
            (size + 2 * how.padding)
                .checked_sub(window)
                .map(|left| left / how.stride + 1)
        };
        let (Some(out_height), Some(out_width)) = (out(height, down), out(width, across)) else {
            bail!("conv2d: the window {weight:?} is larger than the padded images {x:?}");
        };
        Ok(Self {
            how: *how,
            batch,
            inputs,
            outputs,
            image: [height, width],
            kernel: [down, across],
            out: [out_height, out_width],
        })
    }

    fn shape(&self) -> Shape {
        Shape::from((self.batch, self.outputs, self.out[0], self.out[1]))
    }

    /// Elements of a patch.
    fn patch(&self) -> usize {
        self.inputs * self.kernel[0] * self.kernel[1]
    }

    fn places(&self) -> usize {
        self.out[0] * self.out[1]
    }

    fn sample(&self) -> usize {
        self.inputs * self.image[0] * self.image[1]
    }

    /// Whether patches are the image as it is.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.how.stride == 1 && self.how.padding == 0
    }

    /// One sample by all threads where there are no others for them.
    fn threads(&self, groups: usize) -> Threads {
        if groups == 1 { Threads::All } else { Threads::One }
    }

    /// Samples of a group whose weight gradients are summed apart.
    fn samples_of_group(&self) -> usize {
        let groups = (SUMS_MAX / (self.outputs * self.patch()).max(1)).clamp(1, GROUPS_MAX);
        self.batch.div_ceil(groups).max(1)
    }

    /// Writes or adds the weight times patches to places of each channel.
    fn weigh(&self, to: &mut [f32], into: Into, weight: &[f32], patches: Matrix<'_>, threads: Threads) {
        let weight = Matrix::new(weight, self.outputs, self.patch());
        for first in (0..self.outputs).step_by(UNPACKED) {
            let out = Out::new(&mut to[first * self.places()..], self.places());
            let weight = weight.some_rows(first, UNPACKED.min(self.outputs - first));
            multiply(out, into, 1.0, weight, patches, threads);
        }
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (places, patch) = (self.places(), self.patch());
        let threads = self.threads(self.batch);
        chunks::build(
            self.batch * self.outputs * places,
            (self.outputs * places).max(1),
            |start, to| {
                let sample = start / (self.outputs * places).max(1);
                let image = &x[sample * self.sample()..][..self.sample()];
                for (to, bias) in to.chunks_mut(places.max(1)).zip(bias.unwrap_or_default()) {
                    to.fill(*bias);
                }
                for rows in self.tiles() {
                    let columns = rows.len() * self.out[1];
                    let into = if bias.is_some() { Into::Add } else { Into::Replace };
                    let to = &mut to[rows.start * self.out[1]..];
                    self.with_patches(image, &rows, |patches| {
                        let patches = Matrix::new(patches, patch, columns);
                        self.weigh(to, into, weight, patches, threads);
                    });
                }
            },
        )
    }

    /// The convolution that makes the gradient of x of that of the result, where both gradients are to be made by its patches:
    /// windows go by steps of one, and it has no more places and channels than this one.
    fn turned(&self) -> Option<Self> {
        let [down, across] = self.kernel;
        let padding = (self.how.dilation * (down - 1)).checked_sub(self.how.padding)?;
        let turned = Self {
            how: Conv2d { padding, ..self.how },
            inputs: self.outputs,
            outputs: self.inputs,
            image: self.out,
            out: self.image,
            ..*self
        };
        let as_cheap = turned.patch() * turned.places() <= self.patch() * self.places() * 5 / 4;
        (self.how.stride == 1 && down == across && down > 1 && as_cheap).then_some(turned)
    }

    /// The weight of the convolution that is turned: channels change places, and windows are read backwards.
    fn turn_weight(&self, weight: &[f32]) -> Vec<f32> {
        let window = self.kernel[0] * self.kernel[1];
        let mut turned = Vec::with_capacity(weight.len());
        for input in 0..self.inputs {
            for output in 0..self.outputs {
                let from = &weight[(output * self.inputs + input) * window..][..window];
                turned.extend(from.iter().rev());
            }
        }
        turned
    }

    /// The gradient of the weight from its sums, which are `[patch, outputs]`.
    fn weight_grad(&self, sums: &[f32]) -> Vec<f32> {
        let mut grad = vec![0.0; sums.len()];
        let patch = self.patch();
        for (element, sums) in sums.chunks(self.outputs.max(1)).enumerate() {
            let to = grad[element..].iter_mut().step_by(patch);
            to.zip(sums).for_each(|(to, sum)| *to = *sum);
        }
        grad
    }

    /// Gradients of x, where it has one, weight and bias.
    fn backward(&self, [x, weight, grad]: [&[f32]; 3], of_x: bool) -> Gradients {
        let turned = self.turned().filter(|_| of_x);
        let turned_weight = turned.map(|_| self.turn_weight(weight));
        let weight = turned_weight.as_deref().unwrap_or(weight);
        let group = self.samples_of_group();
        let threads = self.threads(self.batch.div_ceil(group));
        let sample = self.sample();
        let work = |samples: Range<usize>, mut image_grads: Option<&mut [f32]>| {
            let mut sums = Sums::new(self);
            for (place, index) in samples.enumerate() {
                let image_grad = image_grads
                    .as_deref_mut()
                    .map(|all| &mut all[place * sample..][..sample]);
                let grad = &grad[index * self.outputs * self.places()..][..self.outputs * self.places()];
                let inputs = [&x[index * sample..][..sample], weight, grad];
                sums.add_bias(grad, self.places());
                match (turned, image_grad) {
                    (Some(turned), Some(to)) => turned.sample_backward_turned(inputs, to, &mut sums, threads),
                    (_, to) => self.sample_backward(inputs, to, &mut sums, threads),
                }
            }
            sums
        };
        let (x_grad, sums) = if of_x {
            let chunk = (group * sample).max(1);
            let (made, sums) = chunks::build_with(self.batch * sample, chunk, |start, part| {
                let first = start / sample.max(1);
                work(first..first + part.len() / sample.max(1), Some(part))
            });
            (Some(made), sums)
        } else {
            (
                None,
                chunks::collect(self.batch, group, |samples| work(samples, None)),
            )
        };
        let (weight, bias): (Vec<_>, Vec<_>) = sums.into_iter().map(|sums| (sums.weight, sums.bias)).unzip();
        let weight = chunks::added(weight, self.outputs * self.patch());
        Gradients {
            x: x_grad,
            weight: match turned {
                Some(turned) => turned.turn_weight(&turned.weight_grad(&weight)),
                None => self.weight_grad(&weight),
            },
            bias: chunks::added(bias, self.outputs),
        }
    }

    fn sample_backward(
        &self,
        [image, weight, grad]: [&[f32]; 3],
        mut image_grad: Option<&mut [f32]>,
        sums: &mut Sums,
        threads: Threads,
    ) {
        let (places, patch) = (self.places(), self.patch());
        for rows in self.tiles() {
            let columns = rows.len() * self.out[1];
            let grad = &grad[rows.start * self.out[1]..];
            let grad = Matrix::strided(grad, [self.outputs, columns], [places, 1]);
            self.with_patches(image, &rows, |patches| {
                let patches = Matrix::new(patches, patch, columns);
                let sum = Out::new(&mut sums.weight, self.outputs);
                multiply(sum, Into::Add, 1.0, patches, grad.turned(), threads);
            });
            let Some(image_grad) = image_grad.as_deref_mut() else {
                continue;
            };
            let weight = Matrix::new(weight, self.outputs, patch).turned();
            if self.pointwise() {
                multiply(
                    Out::new(image_grad, columns),
                    Into::Replace,
                    1.0,
                    weight,
                    grad,
                    threads,
                );
                continue;
            }
            with_scratch(patch * columns, |patches| {
                multiply(
                    Out::new(patches, columns),
                    Into::Replace,
                    1.0,
                    weight,
                    grad,
                    threads,
                );
                self.take_in(patches, &rows, image_grad);
            });
        }
    }
}

impl Plan {
    /// Both gradients of a sample by patches of that of the result, which are laid out once; the weight and its gradient are
    /// turned. Of the turned plan.
    fn sample_backward_turned(
        &self,
        [image, weight, grad]: [&[f32]; 3],
        image_grad: &mut [f32],
        sums: &mut Sums,
        threads: Threads,
    ) {
        let (places, patch) = (self.places(), self.patch());
        for rows in self.tiles() {
            let (first, columns) = (rows.start * self.out[1], rows.len() * self.out[1]);
            let image = Matrix::strided(&image[first..], [self.outputs, columns], [places, 1]);
            self.with_patches(grad, &rows, |patches| {
                let patches = Matrix::new(patches, patch, columns);
                let sum = Out::new(&mut sums.weight, self.outputs);
                multiply(sum, Into::Add, 1.0, patches, image.turned(), threads);
                self.weigh(&mut image_grad[first..], Into::Replace, weight, patches, threads);
            });
        }
    }
}

/// Gradients of weight and bias that a group of samples has made so far.
struct Sums {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Sums {
    fn new(plan: &Plan) -> Self {
        Self {
            weight: vec![0.0; plan.outputs * plan.patch()],
            bias: vec![0.0; plan.outputs],
        }
    }

    fn add_bias(&mut self, grad: &[f32], places: usize) {
        for (sum, grad) in self.bias.iter_mut().zip(grad.chunks(places.max(1))) {
            *sum += loops::sum(Itself, [grad]);
        }
    }
}

struct Gradients {
    x: Option<Vec<f32>>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Plan {
    fn gradients(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let made = read(
            [x, weight, grad],
            |inputs| Ok(self.backward(inputs, x.track_op())),
        )?;
        Ok([
            made.x
                .map(|made| Tensor::from_vec(made, x.shape(), x.device()))
                .transpose()?,
            Some(Tensor::from_vec(made.weight, weight.shape(), x.device())?),
            Some(Tensor::from_vec(made.bias, self.outputs, x.device())?),
        ])
    }
}

impl CustomOp2 for Plan {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(&values(x, layout)?, &values(weight, weight_layout)?, None);
        Ok((CpuStorage::F32(y), self.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.gradients(x, weight, grad)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for Plan {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let bias = values(bias, bias_layout)?;
        let y = self.forward(&values(x, layout)?, &values(weight, weight_layout)?, Some(&bias));
        Ok((CpuStorage::F32(y), self.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.gradients(x, weight, grad)?;
        Ok((x, weight, bias))
    }
}
