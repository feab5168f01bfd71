//! Steps of optimisers in place, of `f32` parameters.

use std::cell::Cell;

use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var, bail,
};

use super::launch::{ELEMENTS, Launcher, Threads, Word};

const NAME: &str = "optimiser_step";

/// A step of AdamW: `numbers` are those of the kernel, in its order.
pub(crate) fn adamw(
    param: &Var,
    grad: &Tensor,
    [first, second]: [&Tensor; 2],
    numbers: [f32; 9],
) -> Result<()> {
    step(param, grad, |(param, param_layout), (grad, grad_layout)| {
        write(first, |first, first_layout| {
            write(second, |second, second_layout| {
                let launcher = Launcher::new(&grad.device);
                let count = param_layout.shape().elem_count();
                let param = launcher.write(param, Some(param_layout))?;
                let grad = launcher.read(grad, grad_layout)?;
                let first = launcher.write(first, Some(first_layout))?;
                let second = launcher.write(second, Some(second_layout))?;
                let operands = [&param, &grad, &first, &second].map(Word::from);
                let words = [&operands[..], &[count.into()], &numbers.map(Word::from)].concat();
                launcher.run(&ELEMENTS, ("adamw", DType::F32), Threads::elements(count), &words)
            })
        })
    })
}

/// A step of gradient descent: `numbers` are scale, decay, momentum and rate.
pub(crate) fn sgd(
    param: &Var,
    grad: &Tensor,
    velocity: &Tensor,
    numbers: [f32; 4],
    nesterov: bool,
) -> Result<()> {
    step(param, grad, |(param, param_layout), (grad, grad_layout)| {
        write(velocity, |velocity, velocity_layout| {
            let launcher = Launcher::new(&grad.device);
            let count = param_layout.shape().elem_count();
            let param = launcher.write(param, Some(param_layout))?;
            let grad = launcher.read(grad, grad_layout)?;
            let velocity = launcher.write(velocity, Some(velocity_layout))?;
            let operands = [&param, &grad, &velocity].map(Word::from);
            let numbers = numbers.map(Word::from);
            let words = [&operands[..], &[count.into()], &numbers, &[nesterov.into()]].concat();
            launcher.run(&ELEMENTS, ("sgd", DType::F32), Threads::elements(count), &words)
        })
    })
}

type Written<'a> = (&'a mut CudaStorage, &'a Layout);
type Read<'a> = (&'a CudaStorage, &'a Layout);

/// Lends a parameter to be written and its gradient to be read. candle checks that they share no memory.
struct LendBoth<F>(Cell<Option<F>>);

impl<F: FnOnce(Written<'_>, Read<'_>) -> Result<()>> InplaceOp2 for LendBoth<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        bail!("this step is for a GPU")
    }

    fn cuda_fwd(
        &self,
        param: &mut CudaStorage,
        param_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        match self.0.take() {
            Some(work) => work((param, param_layout), (grad, grad_layout)),
            None => bail!("a step is taken once"),
        }
    }
}

fn step(param: &Var, grad: &Tensor, work: impl FnOnce(Written<'_>, Read<'_>) -> Result<()>) -> Result<()> {
    param.inplace_op2(&grad.contiguous()?, &LendBoth(Cell::new(Some(work))))
}

/// Lends a state to be written.
struct Lend<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CudaStorage, &Layout) -> Result<()>> InplaceOp1 for Lend<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("this step is for a GPU")
    }

    fn cuda_fwd(&self, state: &mut CudaStorage, layout: &Layout) -> Result<()> {
        match self.0.take() {
            Some(work) => work(state, layout),
            None => bail!("a step is taken once"),
        }
    }
}

fn write(state: &Tensor, work: impl FnOnce(&mut CudaStorage, &Layout) -> Result<()>) -> Result<()> {
    state.inplace_op1(&Lend(Cell::new(Some(work))))
}
