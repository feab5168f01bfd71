//! In the place of `cuda` on machines that have no CUDA: nothing is taken, and so nothing else called.

use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, Var, bail};

use crate::loss::Costs;
use crate::softmax::Kind;

type Read<'a> = (&'a CudaStorage, &'a Layout);

pub(crate) fn takes(_: &Tensor) -> bool {
    false
}

pub(crate) fn emulate() {}

fn nowhere<T>() -> Result<T> {
    bail!("there are no GPUs")
}

pub(crate) fn map(_: &str, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn map_gradient(_: &str, _: Read<'_>, _: Read<'_>) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn dropout(_: &CudaStorage, _: &Layout, _: u64, _: u32, _: f32) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn softmax(_: &CudaStorage, _: &Layout, _: usize, _: Kind) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn softmax_gradient(_: Read<'_>, _: Read<'_>, _: usize, _: Kind) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn biased(_: Read<'_>, _: Read<'_>) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn column_sums(_: &Tensor) -> Result<Tensor> {
    nowhere()
}

pub(crate) fn norm(_: Read<'_>, _: Read<'_>, _: Option<Read<'_>>, _: f32) -> Result<(CudaStorage, Shape)> {
    nowhere()
}

pub(crate) fn norm_gradients(_: [&Tensor; 3], _: bool, _: f32) -> Result<(Tensor, Tensor, Tensor)> {
    nowhere()
}

pub(crate) fn mean_cost(_: &Costs, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, [Tensor; 2])> {
    nowhere()
}

pub(crate) fn cost_gradient(_: &Costs, _: [&Tensor; 2], _: &[Tensor; 2]) -> Result<Tensor> {
    nowhere()
}

pub(crate) fn adamw(_: &Var, _: &Tensor, _: [&Tensor; 2], _: [f32; 9]) -> Result<()> {
    nowhere()
}

pub(crate) fn sgd(_: &Var, _: &Tensor, _: &Tensor, _: [f32; 4], _: bool) -> Result<()> {
    nowhere()
}
