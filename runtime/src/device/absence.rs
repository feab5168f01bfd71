//! Why a GPU cannot be used: what, why, and what to do.

use std::sync::atomic::{AtomicBool, Ordering};

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Absence {
    /// Another machine than Linux on x86-64.
    #[error("this build is for CPUs only: GPUs can be used on Linux on x86-64")]
    NotHere,
    /// No driver.
    #[error("there is no NVIDIA driver: libcuda.so.1 cannot be loaded ({reason})")]
    NoDriver {
        /// What the loader said.
        reason: String,
    },
    /// A driver that does not start.
    #[error("the NVIDIA driver does not start: {what}")]
    DriverFails {
        /// In the driver's words.
        what: String,
    },
    /// A driver, and no GPU.
    #[error("there is an NVIDIA driver (for CUDA {driver}) and no GPU that this process may use")]
    NoDevice {
        /// The CUDA version that it supports.
        driver: String,
    },
    /// Fewer GPUs than that.
    #[error("there is no GPU {ordinal}: this machine has {count}, counted from 0")]
    NoSuchDevice {
        /// The one that was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The build embeds no kernels.
    #[error("there is a GPU, but this build holds no GPU kernels")]
    NoKernels,
    /// A driver that cannot read our PTX.
    #[error("the NVIDIA driver is too old: it is for CUDA {has}, and this build's GPU kernels need {needs}")]
    DriverTooOld {
        /// The CUDA version that it supports.
        has: String,
        /// The one it must support.
        needs: String,
    },
    /// A driver that is new enough for our PTX, and does not take it.
    #[error("the driver refuses this build's GPU kernels: {what}")]
    KernelsRefused {
        /// In the driver's words.
        what: String,
    },
    /// A GPU that cannot run our PTX.
    #[error("{name} is too old: it has compute capability {has}, and this build's GPU kernels need {needs}")]
    DeviceTooOld {
        /// What it is called.
        name: String,
        /// As NVIDIA counts.
        has: String,
        /// The least that will do.
        needs: String,
    },
    /// A library of the toolkit is missing.
    #[error("there is a GPU, but {library} ({file}) cannot be loaded: {reason}")]
    NoLibrary {
        /// cuBLAS or cuRAND.
        library: &'static str,
        /// Its best file.
        file: &'static str,
        /// What the loader said.
        reason: String,
        /// The CUDA version that the driver supports, such as 13000: which libraries it can run.
        driver: i32,
    },
    /// No memory for so much as the beginning.
    #[error("{name} has no memory left: others use it ({free} of {total} free)")]
    NoMemory {
        /// What it is called.
        name: String,
        /// How much is free, with its unit, or `nothing`.
        free: String,
        /// All of it.
        total: String,
    },
    /// It cannot be opened for another reason.
    #[error("{name} cannot be used: {what}")]
    Fails {
        /// What it is called.
        name: String,
        /// In the driver's words.
        what: String,
    },
    /// It failed while it calculated, and takes nothing more from this process.
    #[error("GPU {ordinal} is lost to this kernel: {what}")]
    Lost {
        /// Its number.
        ordinal: usize,
        /// In the driver's words.
        what: String,
    },
}

impl Absence {
    /// Stable machine-readable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotHere => "gpu_not_here",
            Self::NoDriver { .. } => "gpu_no_driver",
            Self::DriverFails { .. } => "gpu_driver_fails",
            Self::NoDevice { .. } => "gpu_no_device",
            Self::NoSuchDevice { .. } => "gpu_no_such_device",
            Self::NoKernels => "gpu_no_kernels",
            Self::DriverTooOld { .. } => "gpu_driver_too_old",
            Self::KernelsRefused { .. } => "gpu_kernels_refused",
            Self::DeviceTooOld { .. } => "gpu_too_old",
            Self::NoLibrary { .. } => "gpu_no_library",
            Self::NoMemory { .. } => "gpu_no_memory",
            Self::Fails { .. } => "gpu_fails",
            Self::Lost { .. } => "gpu_lost",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::NotHere => "calculate on the CPU: ALEPHLAB_DEVICE=cpu",
            Self::NoDriver { .. } => {
                "install NVIDIA's driver where there is a GPU (in a container: start it with its GPUs); without one \
                 everything is calculated on the CPU"
            }
            Self::DriverFails { .. } => {
                "`nvidia-smi` must work on this machine; after an update of the driver start the machine again"
            }
            Self::NoDevice { .. } => {
                "`nvidia-smi -L` lists GPUs; CUDA_VISIBLE_DEVICES, a container or a sandbox may hide them"
            }
            Self::NoSuchDevice { .. } => "choose one that is there: ALEPHLAB_DEVICE=cuda:0",
            Self::NoKernels => {
                "run `cargo xtask ptx` in Alephlab's sources, and start the kernel again: the runtime is then built anew"
            }
            Self::DriverTooOld { .. } => "install a newer driver",
            Self::KernelsRefused { .. } => {
                "run `cargo xtask ptx` in Alephlab's sources again, and start the kernel again: the runtime is then built anew"
            }
            Self::DeviceTooOld { .. } => "calculate on the CPU: ALEPHLAB_DEVICE=cpu",
            // Libraries of a newer CUDA than the driver's do not start.
            Self::NoLibrary { driver, .. } if *driver < 13000 => {
                "install CUDA's libraries, for example `pip install nvidia-cublas-cu12 nvidia-curand-cu12`, name their folders: \
                 ALEPHLAB_CUDA_LIBRARIES=FOLDER:FOLDER; then restart the kernel"
            }
            Self::NoLibrary { .. } => {
                "install CUDA's libraries, for example `pip install nvidia-cublas==13.0.2.14 nvidia-curand`, name their \
                 folders: ALEPHLAB_CUDA_LIBRARIES=FOLDER:FOLDER; then restart the kernel"
            }
            Self::NoMemory { .. } => {
                "`nvidia-smi` says who uses it; or choose another GPU: ALEPHLAB_DEVICE=cuda:1"
            }
            Self::Fails { .. } => "`nvidia-smi` must work on this machine",
            Self::Lost { .. } => {
                "restart the kernel to use it again; until then variables on the CPU can be saved, those on the GPU are gone"
            }
        };
        text.to_owned()
    }

    /// Nothing to speak of when the CPU is taken instead: most machines have no GPU.
    pub(super) fn is_usual(&self) -> bool {
        matches!(
            self,
            Self::NotHere | Self::NoDriver { .. } | Self::NoDevice { .. }
        )
    }

    /// Tells on stderr, the first time, that there is a GPU and the CPU is taken.
    pub(super) fn say_once(&self) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::Relaxed) {
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "the CPU is used: {self}\nhint: {hint}",
                hint = self.hint()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_is_usual_and_one_that_cannot_use_its_own_is_not() {
        assert!(
            Absence::NoDriver {
                reason: String::new()
            }
            .is_usual()
        );
        let no_kernels = Absence::NoKernels;
        assert!(!no_kernels.is_usual());
        assert!(no_kernels.hint().contains("cargo xtask ptx"));
    }

    #[test]
    fn libraries_are_named_that_the_driver_can_run() {
        let hint = |driver| {
            let absence = Absence::NoLibrary {
                library: "cuBLAS",
                file: "libcublas.so.13",
                reason: String::new(),
                driver,
            };
            absence.hint()
        };
        assert!(hint(12040).contains("nvidia-cublas-cu12") && hint(12040).contains("restart the kernel"));
        assert!(hint(13000).contains("nvidia-cublas==13"));
    }
}
