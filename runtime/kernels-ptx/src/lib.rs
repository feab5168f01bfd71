//! candle's CUDA kernels, in the place of the crate of this name on crates.io.
//!
//! That one needs a CUDA toolkit to be built and links CUDA's own libraries. This one embeds PTX (NVIDIA's portable
//! assembly, which a driver compiles for its GPU) that `cargo xtask ptx` makes of that very crate's sources, and needs
//! nothing. Without the PTX it still builds: [`BUILT`] is none then, and the runtime says that there are no GPU kernels.
//! What is compiled by NVIDIA's compiler for one GPU only, products with quantised weights and of mixtures of experts, is
//! not here: see [`ffi`].
//!
//! Called by candle, whose names these are; [`BUILT`], [`own`], [`note_apart`] and [`take_unsupported`] by the runtime.
#![forbid(unsafe_code)]

mod module;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
extern crate alephlab_cuda_stubs as _;

mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

pub mod ffi;

pub use ffi::{note_apart, take_unsupported};
pub use module::own;
pub use module::{AFFINE, BINARY, CAST, CONV, FILL, INDEXING, QUANTIZED, REDUCE, SORT, TERNARY, UNARY};
pub use module::{ALL_IDS, Id, Module};

/// How the embedded kernels were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Version of NVIDIA's compiler, such as `13.0.88`.
    pub compiler: &'static str,
    /// The oldest GPUs that they run on, such as `compute_80`.
    pub target: &'static str,
    /// The CUDA version that a driver must support to read them, as drivers count: 13000 is 13.0.
    pub driver: i32,
}

/// The kernels in this build; none when it was built without `cargo xtask ptx`.
pub const BUILT: Option<Built> = ptx::BUILT;
