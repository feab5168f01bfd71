//! Functions of tensors that networks are written with, by the names that candle-nn's and PyTorch's users know. Fused where
//! [`crate::ops`] is, with gradients.

use alephlab_ops as ops;
use candle_core::shape::Dim;
use candle_core::{Result, Tensor};

pub use alephlab_ops::{
    Mask, attention, avg_pool2d, cross_entropy, dropout, exp, gelu, gelu_erf, max_pool2d, relu, sigmoid,
    silu, tanh,
};

/// e^x over its sum along a dimension: scores become parts of one. Of the last dimension it is one pass.
///
/// # Errors
/// There is no such dimension, or `x` holds whole numbers.
pub fn softmax(x: &Tensor, dim: impl Dim) -> Result<Tensor> {
    along(x, dim, ops::softmax_last_dim)
}

/// The logarithm of [`softmax`], without a loss of digits where that is small.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor, dim: impl Dim) -> Result<Tensor> {
    along(x, dim, ops::log_softmax_last_dim)
}

/// Does along a dimension what `of` does along the last one.
fn along(x: &Tensor, dim: impl Dim, of: fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let dim = dim.to_index(x.shape(), "softmax")?;
    let last = x.rank() - 1;
    if dim == last {
        return of(x);
    }
    of(&x.transpose(dim, last)?)?.transpose(dim, last)
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};

    use super::*;

    #[test]
    fn softmax_goes_along_any_dimension() {
        let x = Tensor::new(&[[1f32, 2.0, 3.0], [0.0, -1.0, 4.0]], &Device::Cpu).unwrap();
        for dim in [0, 1] {
            let (ours, theirs) = (
                softmax(&x, dim).unwrap(),
                candle_nn::ops::softmax(&x, dim).unwrap(),
            );
            let off = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-6);
            let log = log_softmax(&x, dim).unwrap().exp().unwrap();
            let sums = log.sum(dim).unwrap().to_vec1::<f32>().unwrap();
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");
        }
        assert!(softmax(&x, D::Minus2).is_ok());
        assert!(softmax(&x, 2).is_err());
    }
}
