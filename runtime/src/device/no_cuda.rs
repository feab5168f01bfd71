//! In the place of `cuda.rs` on machines that have no CUDA.

use candle_core::{Device, Tensor};

use super::{Absence, Gpu, Precision};
use crate::Result;

pub(super) fn open(_ordinal: usize) -> std::result::Result<Device, Absence> {
    Err(Absence::NotHere)
}

pub(super) fn look(_ordinal: usize) -> Gpu {
    Gpu::absent(Absence::NotHere)
}

pub(super) fn synchronize() -> Result<()> {
    Ok(())
}

pub(super) fn beside() {}

pub(super) fn begin() {}

pub(super) fn noted() -> Option<String> {
    None
}

pub(super) fn settle() -> Option<String> {
    None
}

pub(super) fn trim() -> std::result::Result<(), Absence> {
    Ok(())
}

pub(super) fn set_precision(_precision: Precision) {}

pub(super) fn is_out_of_memory(_error: &candle_core::Error) -> bool {
    false
}

pub(super) fn free_memory() -> Option<(u64, u64)> {
    None
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Staged {}

impl Staged {
    pub(crate) fn place(self) -> candle_core::Result<Tensor> {
        match self {}
    }
}

pub(crate) fn stage(_tensor: &Tensor, _device: &Device) -> Option<Staged> {
    None
}
