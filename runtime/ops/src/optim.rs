//! Steps of optimisers in place: one pass over parameter, gradient and state, by threads.
//!
//! Not here: which parameters there are, schedules, clipping (the training library). State lives in tensors that only this
//! module writes, and that can be copied out and put back for a checkpoint.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var, bail};
use pulp::{Arch, Simd, WithSimd};

use crate::chunks::{self, GRAIN};
use crate::cuda;
use crate::lanes::Lanes;
use crate::loops::{self, Update};
use crate::values::{rounded, values};

/// What AdamW (Loshchilov and Hutter, 2019) is told at each step; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate.
    pub learning_rate: f64,
    /// How much of the mean of gradients is kept.
    pub beta1: f64,
    /// How much of the mean of their squares is kept.
    pub beta2: f64,
    /// Added to the root of that.
    pub eps: f64,
    /// The part of a parameter that is taken off at each step, times the learning rate.
    pub weight_decay: f64,
    /// Gradients are multiplied by it first: 1, or less where they are clipped.
    pub gradient_scale: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            gradient_scale: 1.0,
        }
    }
}

/// AdamW's state of one parameter: means of gradients and of their squares, and how many steps there were.
#[derive(Debug)]
pub struct Moments {
    first: Tensor,
    second: Tensor,
    steps: u64,
}

impl Moments {
    /// The state before the first step of `param`.
    ///
    /// # Errors
    /// No memory on its device.
    pub fn new(param: &Var) -> Result<Self> {
        Ok(Self {
            first: fresh(param)?,
            second: fresh(param)?,
            steps: 0,
        })
    }

    /// Copies of both means, for a checkpoint, and the number of steps.
    ///
    /// # Errors
    /// No memory on their device.
    pub fn saved(&self) -> Result<(Tensor, Tensor, u64)> {
        Ok((self.first.copy()?, self.second.copy()?, self.steps))
    }

    /// What [`Self::saved`] gave, for a step to go on from.
    ///
    /// # Errors
    /// The two are of different shapes.
    pub fn restored(first: &Tensor, second: &Tensor, steps: u64) -> Result<Self> {
        if first.dims() != second.dims() || first.dtype() != second.dtype() {
            bail!(
                "means of shapes {:?} and {:?} are not of one parameter",
                first.dims(),
                second.dims()
            );
        }
        Ok(Self {
            first: first.force_contiguous()?,
            second: second.force_contiguous()?,
            steps,
        })
    }
}

/// Memory of its own: a tensor of zeros that shared it could be written twice at once.
fn fresh(like: &Tensor) -> Result<Tensor> {
    Tensor::zeros(like.shape(), like.dtype(), like.device())
}

/// One step of AdamW: moves `param` against `grad`, and `moments` on by one.
///
/// All have one shape and dtype. `f32` goes in one pass and in place on the CPU and on GPUs that our kernels run on; others by
/// candle's ops. As PyTorch's `AdamW`
/// and candle-nn's.
///
/// # Errors
/// Other shapes or dtypes.
pub fn adamw_step(param: &Var, grad: &Tensor, moments: &mut Moments, hyper: &AdamW) -> Result<()> {
    fits("adamw_step", param, &[grad, &moments.first, &moments.second])?;
    // Counted at the end: a step that fails leaves parameter and state as they were.
    let steps = moments.steps + 1;
    let rates = Rates::new(hyper, steps);
    if in_place(param) {
        let (first, second) = (&moments.first, &moments.second);
        // One is lent from within the other: no two of these share memory.
        write_with(param, grad, |param, grad| {
            write(first, |first| {
                write(second, |second| {
                    rates.run(param, grad, first, second);
                    Ok(())
                })
            })
        })?;
        moments.steps = steps;
        return Ok(());
    }
    if by_kernel(param) {
        let numbers = Rounded::new(&rates).in_order();
        cuda::adamw(param, grad, [&moments.first, &moments.second], numbers)?;
        moments.steps = steps;
        return Ok(());
    }
    let grad = (grad.detach() * hyper.gradient_scale)?;
    let first = ((&moments.first * hyper.beta1)? + (&grad * (1.0 - hyper.beta1))?)?;
    let second = ((&moments.second * hyper.beta2)? + (grad.sqr()? * (1.0 - hyper.beta2))?)?;
    let root = ((second.sqrt()? * rates.root_scale)? + hyper.eps)?;
    let kept = (param.as_tensor().detach() * rates.kept)?;
    param.set(&(kept - (first.div(&root)? * rates.step)?)?)?;
    *moments = Moments { first, second, steps };
    Ok(())
}

/// What stochastic gradient descent with momentum is told at each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub learning_rate: f64,
    /// How much of the velocity is kept; 0 for none.
    pub momentum: f64,
    /// The part of a parameter that is added to its gradient.
    pub weight_decay: f64,
    /// Whether the step looks ahead along the velocity (Nesterov).
    pub nesterov: bool,
    /// Gradients are multiplied by it first: 1, or less where they are clipped.
    pub gradient_scale: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            momentum: 0.9,
            weight_decay: 0.0,
            nesterov: false,
            gradient_scale: 1.0,
        }
    }
}

/// The velocity of one parameter.
#[derive(Debug)]
pub struct Velocity(Tensor);

impl Velocity {
    /// The state before the first step of `param`.
    ///
    /// # Errors
    /// No memory on its device.
    pub fn new(param: &Var) -> Result<Self> {
        fresh(param).map(Self)
    }

    /// A copy, for a checkpoint.
    ///
    /// # Errors
    /// No memory on its device.
    pub fn saved(&self) -> Result<Tensor> {
        self.0.copy()
    }

    /// What [`Self::saved`] gave, for a step to go on from.
    ///
    /// # Errors
    /// No memory on its device.
    pub fn restored(velocity: &Tensor) -> Result<Self> {
        velocity.force_contiguous().map(Self)
    }
}

/// One step of gradient descent: moves `param` against `grad`, and `velocity` on by one. As PyTorch's `SGD` without dampening.
///
/// All have one shape and dtype. `f32` goes in one pass and in place on the CPU and on GPUs that our kernels run on; others by
/// candle's ops.
///
/// # Errors
/// Other shapes or dtypes.
pub fn sgd_step(param: &Var, grad: &Tensor, velocity: &mut Velocity, hyper: &Sgd) -> Result<()> {
    fits("sgd_step", param, &[grad, &velocity.0])?;
    if in_place(param) {
        return write_with(param, grad, |param, grad| {
            write(&velocity.0, |velocity| {
                hyper.run(param, grad, velocity);
                Ok(())
            })
        });
    }
    if by_kernel(param) {
        let numbers = [
            hyper.gradient_scale,
            hyper.weight_decay,
            hyper.momentum,
            hyper.learning_rate,
        ];
        return cuda::sgd(param, grad, &velocity.0, numbers.map(rounded), hyper.nesterov);
    }
    let old = param.as_tensor().detach();
    let grad = ((grad.detach() * hyper.gradient_scale)? + (&old * hyper.weight_decay)?)?;
    let next = ((&velocity.0 * hyper.momentum)? + &grad)?;
    let along = if hyper.nesterov {
        (grad + (&next * hyper.momentum)?)?
    } else {
        next.clone()
    };
    param.set(&(old - (along * hyper.learning_rate)?)?)?;
    velocity.0 = next;
    Ok(())
}

fn in_place(param: &Var) -> bool {
    param.device().is_cpu() && param.dtype() == DType::F32 && param.is_contiguous()
}

/// Whether a kernel of ours does a step in place.
fn by_kernel(param: &Var) -> bool {
    param.dtype() == DType::F32 && param.is_contiguous() && cuda::takes(param)
}

fn fits(op: &str, param: &Tensor, others: &[&Tensor]) -> Result<()> {
    for other in others {
        if other.dims() != param.dims() || other.dtype() != param.dtype() {
            bail!(
                "{op} of a parameter {:?} of {:?} takes gradient and state of the same, not {:?} of {:?}",
                param.dims(),
                param.dtype(),
                other.dims(),
                other.dtype()
            );
        }
    }
    Ok(())
}

/// AdamW's numbers for one step, bias correction included.
#[derive(Clone, Copy)]
struct Rates {
    hyper: AdamW,
    kept: f64,
    step: f64,
    root_scale: f64,
}

impl Rates {
    fn new(hyper: &AdamW, steps: u64) -> Self {
        let left = |beta: f64| 1.0 - beta.powf(steps as f64);
        Self {
            hyper: *hyper,
            kept: 1.0 - hyper.learning_rate * hyper.weight_decay,
            step: hyper.learning_rate / left(hyper.beta1),
            root_scale: 1.0 / left(hyper.beta2).sqrt(),
        }
    }
}

impl Rates {
    fn run(&self, param: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32]) {
        let states = first.chunks_mut(GRAIN).zip(second.chunks_mut(GRAIN));
        let parts = param.chunks_mut(GRAIN).zip(grad.chunks(GRAIN)).zip(states);
        chunks::share(parts, |((param, grad), (first, second))| {
            Arch::new().dispatch(AdamWChunk {
                rates: self,
                param,
                grad,
                first,
                second,
            });
        });
    }
}

struct AdamWChunk<'a> {
    rates: &'a Rates,
    param: &'a mut [f32],
    grad: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl WithSimd for AdamWChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let one = Rounded::new(self.rates);
        let (grads, grad_tail) = S::as_simd_f32s(self.grad);
        let (params, param_tail) = S::as_mut_simd_f32s(self.param);
        let (firsts, first_tail) = S::as_mut_simd_f32s(self.first);
        let (seconds, second_tail) = S::as_mut_simd_f32s(self.second);
        for (((param, grad), first), second) in params.iter_mut().zip(grads).zip(firsts).zip(seconds) {
            (*param, *first, *second) = one.step(simd, *param, *grad, *first, *second);
        }
        if !grad_tail.is_empty() {
            let (param, grad) = (
                simd.partial_load_f32s(param_tail),
                simd.partial_load_f32s(grad_tail),
            );
            let (first, second) = (
                simd.partial_load_f32s(first_tail),
                simd.partial_load_f32s(second_tail),
            );
            let (param, first, second) = one.step(simd, param, grad, first, second);
            simd.partial_store_f32s(param_tail, param);
            simd.partial_store_f32s(first_tail, first);
            simd.partial_store_f32s(second_tail, second);
        }
    }
}

/// [`Rates`] as the loop takes them.
#[derive(Clone, Copy)]
struct Rounded {
    scale: f32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    root_scale: f32,
    eps: f32,
    kept: f32,
    step: f32,
}

impl Rounded {
    fn new(rates: &Rates) -> Self {
        let hyper = &rates.hyper;
        Self {
            scale: rounded(hyper.gradient_scale),
            beta1: rounded(hyper.beta1),
            new1: rounded(1.0 - hyper.beta1),
            beta2: rounded(hyper.beta2),
            new2: rounded(1.0 - hyper.beta2),
            root_scale: rounded(rates.root_scale),
            eps: rounded(hyper.eps),
            kept: rounded(rates.kept),
            step: rounded(rates.step),
        }
    }

    /// As the kernel takes them.
    fn in_order(self) -> [f32; 9] {
        [
            self.scale,
            self.beta1,
            self.new1,
            self.beta2,
            self.new2,
            self.root_scale,
            self.eps,
            self.kept,
            self.step,
        ]
    }

    /// Parameter and means after a step. A function that is always inlined, where a closure might not be.
    #[inline(always)]
    fn step<S: Simd>(
        self,
        simd: S,
        param: S::f32s,
        grad: S::f32s,
        first: S::f32s,
        second: S::f32s,
    ) -> (S::f32s, S::f32s, S::f32s) {
        let grad = Lanes::new(simd, grad) * self.scale;
        let first = Lanes::new(simd, first) * self.beta1 + grad * self.new1;
        let second = Lanes::new(simd, second) * self.beta2 + grad * grad * self.new2;
        let root = second.sqrt() * self.root_scale + self.eps;
        let param = Lanes::new(simd, param) * self.kept - first * self.step / root;
        (param.values, first.values, second.values)
    }
}

impl Sgd {
    fn run(&self, param: &mut [f32], grad: &[f32], velocity: &mut [f32]) {
        let parts = param
            .chunks_mut(GRAIN)
            .zip(grad.chunks(GRAIN))
            .zip(velocity.chunks_mut(GRAIN));
        chunks::share(parts, |((param, grad), velocity)| {
            // The gradient is added to the velocity by the parameter as it was.
            loops::change(Gathered::new(self), [param, grad], velocity);
            loops::change(Moved::new(self), [velocity, grad], param);
        });
    }
}

/// The velocity with a gradient more.
#[derive(Clone, Copy)]
struct Gathered {
    momentum: f32,
    scale: f32,
    decay: f32,
}

impl Gathered {
    fn new(hyper: &Sgd) -> Self {
        Self {
            momentum: rounded(hyper.momentum),
            scale: rounded(hyper.gradient_scale),
            decay: rounded(hyper.weight_decay),
        }
    }
}

impl Update<2> for Gathered {
    #[inline(always)]
    fn of<S: Simd>(self, velocity: Lanes<S>, [param, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        velocity * self.momentum + (grad * self.scale + param * self.decay)
    }
}

/// The parameter moved along the velocity; with Nesterov along gradient and velocity.
#[derive(Clone, Copy)]
struct Moved {
    gathered: Gathered,
    rate: f32,
    nesterov: bool,
}

impl Moved {
    fn new(hyper: &Sgd) -> Self {
        Self {
            gathered: Gathered::new(hyper),
            rate: rounded(hyper.learning_rate),
            nesterov: hyper.nesterov,
        }
    }
}

impl Update<2> for Moved {
    #[inline(always)]
    fn of<S: Simd>(self, param: Lanes<S>, [velocity, grad]: [Lanes<S>; 2]) -> Lanes<S> {
        let Gathered {
            momentum,
            scale,
            decay,
        } = self.gathered;
        let ahead = grad * scale + param * decay + velocity * momentum;
        param - if self.nesterov { ahead } else { velocity } * self.rate
    }
}

/// Lends the numbers of a tensor to be written, and those of another to be read. candle checks that they share no memory.
struct LendWith<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32], &[f32]) -> Result<()>> InplaceOp2 for LendWith<F> {
    fn name(&self) -> &'static str {
        "optimiser_step"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        layout: &Layout,
        from: &CpuStorage,
        from_layout: &Layout,
    ) -> Result<()> {
        let Some(work) = self.0.take() else {
            bail!("a step is taken once")
        };
        work(slice_mut(to, layout)?, &values(from, from_layout)?)
    }
}

fn write_with(to: &Tensor, from: &Tensor, work: impl FnOnce(&mut [f32], &[f32]) -> Result<()>) -> Result<()> {
    to.inplace_op2(from, &LendWith(Cell::new(Some(work))))
}

/// Lends the numbers of a tensor to be written.
struct Lend<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Lend<F> {
    fn name(&self) -> &'static str {
        "optimiser_step"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some(work) = self.0.take() else {
            bail!("a step is taken once")
        };
        work(slice_mut(to, layout)?)
    }
}

fn write(to: &Tensor, work: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    to.inplace_op1(&Lend(Cell::new(Some(work))))
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => bail!("an optimiser's step takes contiguous f32 tensors"),
    }
}
