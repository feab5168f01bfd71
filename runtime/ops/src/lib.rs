//! Fused CPU ops for candle tensors, with their gradients: what candle does in several passes, on one thread or with scalar
//! functions, done in one pass by vector instructions and all threads.
//!
//! Free functions over [`candle_core::Tensor`]. `f32` on the CPU takes the fused way, `bf16` and `f16` go through `f32`, and
//! `f64` and other devices take candle's own ops, so that every function works everywhere. A result is the same bit for bit
//! in every run and with any number of threads. Cells and the training library call this; it knows nothing of either.

mod activations;
mod attention;
mod chunks;
mod conv;
mod copy;
mod dropout;
mod gemm;
mod lanes;
mod linear;
mod loops;
mod loss;
mod math;
mod norm;
mod optim;
mod pool;
mod reduce;
mod softmax;
mod values;

pub use activations::{erf, exp, gelu, gelu_erf, log, relu, sigmoid, silu, tanh};
pub use attention::{Mask, attention};
pub use conv::{Conv2d, conv2d};
pub use copy::{contiguous, transpose_copy};
pub use dropout::dropout;
pub use linear::linear;
pub use loss::{CrossEntropy, cross_entropy};
pub use norm::{layer_norm, rms_norm};
pub use optim::{AdamW, Moments, Sgd, Velocity, adamw_step, sgd_step};
pub use pool::{avg_pool2d, max_pool2d};
pub use reduce::{max_last_dim, mean_all, sum_all, sum_last_dim};
pub use softmax::{log_softmax_last_dim, softmax_last_dim};
