//! Where tensors are calculated: the CPU, or a GPU of NVIDIA.
//!
//! [`device`] picks, by `ALEPHLAB_DEVICE`. A GPU is opened when it is first asked for, in the process that runs cells, once
//! for each number and with one stream, on which everything happens in order. What a GPU refuses comes as an error that says
//! what, why and what to do ([`Absence`]); nothing here panics. At a cell's end [`settle`] waits for the GPU, so that an error
//! is that cell's.
//!
//! Not here: what is calculated. Called by cells, by the end of a cell (`child.rs`) and by `alephlab doctor --gpu`.

mod absence;
mod choice;
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), path = "no_cuda.rs")]
mod cuda;
mod memory;
mod report;

use candle_core::Device;

pub use absence::Absence;
pub use choice::DEVICE_ENV;
pub use memory::{Held, held, with_memory};
pub use report::{Gpu, gpu, show_gpu, show_held};

pub(crate) use cuda::{Staged, stage};

use choice::Choice;

use crate::Result;

/// How exact products of `f32` matrices are on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As on the CPU: 24 bits.
    Highest,
    /// TF32: 11 bits of each factor, sums in 24; several times as fast.
    High,
}

/// The device of this kernel. `ALEPHLAB_DEVICE` chooses: `auto` (the first GPU where one can be used, else the CPU; what is
/// taken when it is not set), `cpu`, `cuda` or `cuda:1`.
///
/// The same device each time. `Device::new_cuda` makes another one, whose tensors do not go together with those of this.
///
/// # Errors
/// [`crate::Error::Gpu`] when the GPU that was named cannot be used or is lost, [`crate::Error::Name`] when the variable says something else.
pub fn device() -> Result<Device> {
    match Choice::of_environment()? {
        Choice::Cpu => Ok(Device::Cpu),
        Choice::Cuda(ordinal) => Ok(cuda::open(ordinal)?),
        Choice::Auto => match cuda::open(0) {
            Ok(device) => Ok(device),
            Err(absence) if absence.is_usual() => Ok(Device::Cpu),
            // Its variables are there: going on with the CPU would fail at the first of them.
            Err(absence @ Absence::Lost { .. }) => Err(absence.into()),
            Err(absence) => {
                absence.say_once();
                Ok(Device::Cpu)
            }
        },
    }
}

/// The GPU of this number, counted from 0, whatever `ALEPHLAB_DEVICE` says.
///
/// # Errors
/// [`crate::Error::Gpu`].
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    Ok(cuda::open(ordinal)?)
}

/// Waits until everything that was begun on GPUs has been calculated. An interrupt ends the wait, not the calculation.
///
/// # Errors
/// [`crate::Error::Gpu`] when something failed there since the last time.
pub fn synchronize() -> Result<()> {
    cuda::synchronize()
}

/// Gives memory of GPUs that no tensor uses back to the system. It is kept otherwise: asking again is slow.
///
/// # Errors
/// As [`synchronize`], which it begins with.
pub fn empty_cache() -> Result<()> {
    cuda::synchronize()?;
    Ok(cuda::trim()?)
}

/// Sets how exact products of `f32` matrices are on GPUs: [`Precision::Highest`] at first. Nothing changes on the CPU.
pub fn matmul_precision(precision: Precision) {
    cuda::set_precision(precision);
}

/// This thread runs a subshell's cells. Called once, before the first.
pub(crate) fn beside() {
    cuda::beside();
}

/// A cell begins on this thread.
pub(crate) fn begin() {
    cuda::begin();
}

/// What an interrupted cell's results are wrong by: it is not waited for.
pub(crate) fn noted() -> Option<String> {
    cuda::noted()
}

/// Waits for GPUs that this process has opened, and says what failed there. Called at a cell's end.
pub(crate) fn settle() -> Option<String> {
    cuda::settle()
}

/// A CUDA version as people write it: 13000 is 13.0.
fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nvidia_writes_them() {
        assert_eq!(cuda_version(13000), "13.0");
        assert_eq!(cuda_version(12040), "12.4");
    }
}
