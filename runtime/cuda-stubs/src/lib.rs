//! The functions of CUDA's libraries, found when one is first called and not when the program starts.
//!
//! candle links libcuda, cuBLAS, cuBLASLt, NVRTC and cuRAND by name, so a program with its `cuda` feature would not start
//! on a machine without them. Here each of their functions is a few instructions that jump through a [`trampoline`] slot:
//! its first call opens the library ([`library`]) and looks the function up. Where there is none, the call answers an
//! error code of its library and never ends the process. [`names`] is made from cudarc's source by `cargo xtask stubs`.
//!
//! Not here: what the functions mean. Called by cudarc, under their own names; [`Library::found`] by the runtime's probe.
//! On other machines than Linux on x86-64 this crate is empty, and the runtime is built without CUDA.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod library;
mod names;
mod places;
mod trampoline;

pub use library::{CUBLAS, CUBLAS_LT, CURAND, DRIVER, Library, Missing, NVRTC};
pub use places::FOLDERS_ENV;
