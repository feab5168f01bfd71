//! The fused ops on NVIDIA's GPUs, in `f32`, `bf16` and `f16`: kernels of `runtime/kernels-ptx/kernels`, on the stream that candle
//! uses for the device. Where a build holds none, the ops are made of candle's own.
//!
//! Everything is begun here and nothing waited for. Not here: what the functions are (the modules of the ops say it), and products
//! of matrices, which are cuBLAS's. Tested with a driver that runs the kernels on the processor, and on a GPU where there is one.

mod launch;
mod loss;
mod norm;
mod optim;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

use crate::softmax::Kind;
use launch::{ELEMENTS, Launcher, ROWS, Threads};

pub(crate) use loss::{cost_gradient, mean_cost};
pub(crate) use norm::{biased, column_sums, norm, norm_gradients};
pub(crate) use optim::{adamw, sgd};

/// Whether a tensor is where these kernels run, and of a dtype that they are for.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda()
        && matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && x.elem_count() > 0
        && ELEMENTS.are_there()
        && ROWS.are_there()
}

/// For tests: the driver runs kernels by itself and reads no PTX.
pub(crate) fn emulate() {
    ELEMENTS.emulate();
    ROWS.emulate();
}

/// The result of a kernel as a tensor.
fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// What a tensor has on a GPU.
fn on_gpu(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor on a GPU was expected"),
    }
}

/// A function of every element.
pub(crate) fn map(name: &str, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), x.dtype());
    let launcher = Launcher::new(&x.device);
    let mut y = launcher.fresh(count, dtype)?;
    {
        let (from, to) = (launcher.read(x, layout)?, launcher.write(&mut y, None)?);
        let words = [(&from).into(), (&to).into(), count.into()];
        launcher.run(&ELEMENTS, (name, dtype), Threads::elements(count), &words)?;
    }
    Ok((y, layout.shape().clone()))
}

/// The gradient of one, from its argument or result and the gradient of its result.
pub(crate) fn map_gradient(
    name: &str,
    (known, layout): (&CudaStorage, &Layout),
    (grad, grad_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), known.dtype());
    let launcher = Launcher::new(&known.device);
    let mut made = launcher.fresh(count, dtype)?;
    {
        let (known, grad) = (launcher.read(known, layout)?, launcher.read(grad, grad_layout)?);
        let to = launcher.write(&mut made, None)?;
        let words = [(&known).into(), (&grad).into(), (&to).into(), count.into()];
        let name = format!("{name}_gradient");
        launcher.run(&ELEMENTS, (&name, dtype), Threads::elements(count), &words)?;
    }
    Ok((made, layout.shape().clone()))
}

/// Dropout, with the mask that the CPU makes of this seed. `dropped` is of 2^31.
pub(crate) fn dropout(
    x: &CudaStorage,
    layout: &Layout,
    seed: u64,
    dropped: u32,
    scale: f32,
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), x.dtype());
    let launcher = Launcher::new(&x.device);
    let mut y = launcher.fresh(count, dtype)?;
    {
        let (from, to) = (launcher.read(x, layout)?, launcher.write(&mut y, None)?);
        let words = [
            (&from).into(),
            (&to).into(),
            count.into(),
            seed.into(),
            u64::from(dropped).into(),
            scale.into(),
        ];
        launcher.run(&ELEMENTS, ("dropout", dtype), Threads::elements(count), &words)?;
    }
    Ok((y, layout.shape().clone()))
}

/// What a kind is to `rows.cu`.
fn number(kind: Kind) -> u64 {
    match kind {
        Kind::Plain => 0,
        Kind::Logarithm => 1,
        Kind::Scores { .. } => 2,
    }
}

/// What numbers are multiplied by first.
fn scale(kind: Kind) -> f32 {
    match kind {
        Kind::Plain | Kind::Logarithm => 1.0,
        Kind::Scores { scale, .. } => scale,
    }
}

/// Softmax of rows of `width`.
pub(crate) fn softmax(
    x: &CudaStorage,
    layout: &Layout,
    width: usize,
    kind: Kind,
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), x.dtype());
    let launcher = Launcher::new(&x.device);
    let mut y = launcher.fresh(count, dtype)?;
    {
        let (from, to) = (launcher.read(x, layout)?, launcher.write(&mut y, None)?);
        let queries = match kind {
            Kind::Scores {
                causal_queries: Some(queries),
                ..
            } => queries,
            _ => 0,
        };
        let words = [
            (&from).into(),
            (&to).into(),
            (count / width).into(),
            width.into(),
            scale(kind).into(),
            queries.into(),
            number(kind).into(),
        ];
        launcher.run(
            &ROWS,
            ("softmax", dtype),
            Threads::rows(count / width, width),
            &words,
        )?;
    }
    Ok((y, layout.shape().clone()))
}

/// The gradient of softmax, from its result.
pub(crate) fn softmax_gradient(
    (y, layout): (&CudaStorage, &Layout),
    (grad, grad_layout): (&CudaStorage, &Layout),
    width: usize,
    kind: Kind,
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), y.dtype());
    let launcher = Launcher::new(&y.device);
    let mut made = launcher.fresh(count, dtype)?;
    {
        let (y, grad) = (launcher.read(y, layout)?, launcher.read(grad, grad_layout)?);
        let to = launcher.write(&mut made, None)?;
        let words = [
            (&y).into(),
            (&grad).into(),
            (&to).into(),
            (count / width).into(),
            width.into(),
            scale(kind).into(),
            number(kind).into(),
        ];
        let threads = Threads::rows(count / width, width);
        launcher.run(&ROWS, ("softmax_gradient", dtype), threads, &words)?;
    }
    Ok((made, layout.shape().clone()))
}
