//! The functions that cudarc names, by library. Written by `cargo xtask stubs` from cudarc's own source; a test compares.
#![expect(unsafe_code, reason = "each is a few instructions")]

mod cublas;
mod cublaslt;
mod curand;
mod driver;
mod nvrtc;
