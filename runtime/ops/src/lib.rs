//! Fused ops for candle tensors, with their gradients: what candle does in several passes, on one thread or with scalar
//! functions, done in one pass by vector instructions and all threads.
//!
//! Free functions over [`candle_core::Tensor`]. `f32` on the CPU takes the fused way, `bf16` and `f16` go through `f32`; on
//! NVIDIA's GPUs activations, softmax, norms, cross-entropy, dropout and steps of optimisers are kernels of ours where the build
//! has them; `f64` and everything else takes candle's own ops, so that every function works everywhere. A result is the same bit
//! for bit in every run and with any number of threads. Cells and the training library call this; it knows nothing of either.
//!
//! ```
//! use alephlab_ops as ops;
//! use candle_core::{DType, Device, Tensor, Var};
//!
//! # fn main() -> candle_core::Result<()> {
//! let x = Tensor::randn(0f32, 1., (4, 3), &Device::Cpu)?;
//! let labels = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
//! let (weight, bias) = (Var::zeros((2, 3), DType::F32, &Device::Cpu)?, Var::zeros(2, DType::F32, &Device::Cpu)?);
//!
//! let loss = ops::cross_entropy(&ops::linear(&x, &weight, Some(&bias))?, &labels)?;
//! assert!((loss.to_scalar::<f32>()? - 2f32.ln()).abs() < 1e-6);
//!
//! let grads = loss.backward()?;
//! let mut moments = ops::Moments::new(&weight)?;
//! let grad = grads.get(&weight).ok_or_else(|| candle_core::Error::Msg("no gradient".into()))?;
//! ops::adamw_step(&weight, grad, &mut moments, &ops::AdamW::default())?;
//! # Ok(())
//! # }
//! ```

mod activations;
mod add;
mod attention;
mod batch_norm;
mod chunks;
mod conv;
mod copy;
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), path = "no_cuda.rs")]
mod cuda;
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
pub use add::add;
pub use attention::{Mask, attention};
pub use batch_norm::{BatchNormed, batch_norm, batch_norm_by};
pub use conv::{Conv2d, conv2d};
/// For tests of the ops on a GPU, whose driver runs our kernels by itself and needs no PTX of them.
#[doc(hidden)]
pub fn emulate() {
    cuda::emulate();
}

pub use copy::{contiguous, transpose_copy};
pub use dropout::dropout;
pub use linear::{linear, linear_turned};
pub use loss::{CrossEntropy, cross_entropy};
pub use norm::{layer_norm, rms_norm};
pub use optim::{AdamW, Moments, Sgd, Velocity, adamw_step, sgd_step};
pub use pool::{avg_pool2d, max_pool2d};
pub use reduce::{max_last_dim, mean_all, sum_all, sum_last_dim, sum_squares};
pub use softmax::{log_softmax_last_dim, softmax_last_dim};
