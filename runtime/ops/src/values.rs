//! How ops reach the numbers of a candle tensor, and which way they go: fused, through `f32`, or candle's own ops.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

use crate::copy;

/// The way an op goes for a tensor.
pub(crate) enum Path {
    /// `f32` on the CPU: the fused loops of this crate.
    Fused,
    /// `bf16` or `f16` on the CPU: through `f32` and back.
    Widened,
    /// `f64`, or another device: candle's own ops. What has kernels for GPUs asks for these first ([`crate::cuda::takes`]).
    Composed,
}

/// Which way `op` goes for `x`.
///
/// # Errors
/// `x` holds whole numbers.
pub(crate) fn path(op: &'static str, x: &Tensor) -> Result<Path> {
    match (x.dtype(), x.device().is_cpu()) {
        (DType::F32, true) => Ok(Path::Fused),
        (DType::BF16 | DType::F16, true) => Ok(Path::Widened),
        (DType::F64 | DType::F32 | DType::BF16 | DType::F16, _) => Ok(Path::Composed),
        (dtype, _) => bail!("{op} is for floating-point tensors, and this one holds {dtype:?}"),
    }
}

/// The tensor as kernels take it: in row-major order. As it is on the CPU, whose ops take any.
pub(crate) fn for_kernel(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        Ok(x.clone())
    } else {
        x.contiguous()
    }
}

/// The numbers of a CPU tensor in row-major order; copied where they don't lie so.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Cow<'a, [f32]>> {
    let all = storage.as_slice::<f32>()?;
    Ok(match layout.contiguous_offsets() {
        Some((start, end)) => Cow::Borrowed(&all[start..end]),
        None => Cow::Owned(copy::strided(all, layout)),
    })
}

/// Lends the numbers of `f32` CPU tensors to `work`, in row-major order.
pub(crate) fn read<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut numbers = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cpu(storage) => numbers.push(values(storage, layout)?),
            _ => bail!("a tensor on the CPU was expected"),
        }
    }
    work(std::array::from_fn(|index| &*numbers[index]))
}

/// The last dimension and the number of rows of it.
///
/// # Errors
/// A scalar has no dimension.
pub(crate) fn rows(op: &'static str, dims: &[usize]) -> Result<(usize, usize)> {
    match dims.split_last() {
        Some((width, outer)) => Ok((outer.iter().product(), *width)),
        None => bail!("{op} goes along the last dimension, and a scalar has none"),
    }
}

/// The nearest `f32`.
#[expect(clippy::cast_possible_truncation, reason = "that is what rounding is")]
pub(crate) fn rounded(x: f64) -> f32 {
    x as f32
}
