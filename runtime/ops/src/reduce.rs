//! Sums, means and maxima: by threads and registers, in one order.

use candle_core::bail;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use crate::chunks::{self, GRAIN};
use crate::loops::{self, Added, Itself, Product};
use crate::values::{Path, path, read, rounded, rows, values};

/// The sum of all elements, a scalar of the dtype of `x`; the gradient goes through.
///
/// Partial sums of 16384 elements are taken in `f32` and added in `f64`.
///
/// # Errors
/// `x` holds whole numbers.
pub fn sum_all(x: &Tensor) -> Result<Tensor> {
    Reduction::SumAll.of(x)
}

/// The mean of all elements, a scalar of the dtype of `x`; the gradient goes through. Not a number where there is none.
///
/// # Errors
/// `x` holds whole numbers.
pub fn mean_all(x: &Tensor) -> Result<Tensor> {
    Reduction::MeanAll.of(x)
}

/// Sums along the last dimension, which is left out of the result; the gradient goes through.
///
/// # Errors
/// `x` is a scalar or holds whole numbers.
pub fn sum_last_dim(x: &Tensor) -> Result<Tensor> {
    rows("sum_last_dim", x.dims())?;
    Reduction::SumLast.of(x)
}

/// The sum of rows of `width` numbers, by threads and in one order.
pub(crate) fn sum_of_rows(numbers: &[f32], width: usize) -> Vec<f32> {
    let count = numbers.len() / width.max(1);
    let parts = chunks::collect(count, chunks::rows_of_chunk(width), |rows| {
        let mut sum = vec![0.0; width];
        for row in rows {
            loops::change(Added, [&numbers[row * width..][..width]], &mut sum);
        }
        sum
    });
    chunks::added(parts, width)
}

/// The largest elements along the last dimension, which is left out of the result; not a number where one isn't. The gradient
/// goes to the first of the largest.
///
/// # Errors
/// `x` is a scalar, has an empty last dimension, or holds whole numbers.
pub fn max_last_dim(x: &Tensor) -> Result<Tensor> {
    if rows("max_last_dim", x.dims())?.1 == 0 {
        bail!("max_last_dim of {:?}: nothing has no largest element", x.dims());
    }
    Reduction::MaxLast.of(x)
}

/// The sum of the squares of all elements, for the norm of gradients; without a gradient of its own.
///
/// # Errors
/// `x` holds whole numbers.
pub fn sum_squares(x: &Tensor) -> Result<f64> {
    match path("sum_squares", x)? {
        Path::Fused => read([x], |[x]| Ok(total(x, |part| loops::sum(Product, [part, part])))),
        Path::Widened => sum_squares(&x.to_dtype(DType::F32)?),
        Path::Composed => x.detach().sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar(),
    }
}

/// Sums of parts of [`GRAIN`] elements, added in order.
fn total(x: &[f32], of: impl Fn(&[f32]) -> f32 + Sync) -> f64 {
    let sums = chunks::collect(x.len(), 16 * GRAIN, |range| {
        x[range]
            .chunks(GRAIN)
            .map(|part| f64::from(of(part)))
            .sum::<f64>()
    });
    sums.iter().sum()
}

#[derive(Clone, Copy)]
enum Reduction {
    SumAll,
    MeanAll,
    SumLast,
    MaxLast,
}

impl Reduction {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        match path(self.name(), x)? {
            Path::Fused => x.apply_op1(self),
            Path::Widened => self.of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype()),
            Path::Composed => match self {
                Self::SumAll => x.sum_all(),
                Self::MeanAll => x.mean_all(),
                Self::SumLast => x.sum(D::Minus1),
                Self::MaxLast => x.max(D::Minus1),
            },
        }
    }
}

impl CustomOp1 for Reduction {
    fn name(&self) -> &'static str {
        match self {
            Self::SumAll => "sum_all",
            Self::MeanAll => "mean_all",
            Self::SumLast => "sum_last_dim",
            Self::MaxLast => "max_last_dim",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let all = |x: &[f32]| total(x, |part| loops::sum(Itself, [part]));
        let each = |of: fn(&[f32]) -> f32| -> Result<(CpuStorage, Shape)> {
            let (count, width) = rows(self.name(), layout.dims())?;
            let made = chunks::build(count, chunks::rows_of_chunk(width), |start, to| {
                for (index, to) in to.iter_mut().enumerate() {
                    *to = of(&x[(start + index) * width..][..width]);
                }
            });
            Ok((
                CpuStorage::F32(made),
                Shape::from(&layout.dims()[..layout.dims().len() - 1]),
            ))
        };
        match self {
            Self::SumAll => Ok((CpuStorage::F32(vec![rounded(all(&x))]), Shape::from(()))),
            Self::MeanAll => Ok((
                CpuStorage::F32(vec![rounded(all(&x) / x.len() as f64)]),
                Shape::from(()),
            )),
            Self::SumLast => each(|row| loops::sum(Itself, [row])),
            Self::MaxLast => each(loops::largest),
        }
    }

    /// What is the same for many elements is spread out by strides, not written: candle adds it to zeros, and that writes it.
    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Self::SumAll => grad.broadcast_as(x.shape()).map(Some),
            Self::MeanAll => (grad / x.elem_count() as f64)?.broadcast_as(x.shape()).map(Some),
            Self::SumLast => grad.unsqueeze(D::Minus1)?.broadcast_as(x.shape()).map(Some),
            Self::MaxLast => first_largest(x, res, grad).map(Some),
        }
    }
}

/// The gradient of the largest along the last dimension, at the first of them.
fn first_largest(x: &Tensor, largest: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (count, width) = rows("max_last_dim", x.dims())?;
    let made = read([x, largest, grad], |[x, largest, grad]| {
        Ok(chunks::build_rows(count, width, |row, to| {
            let to = chunks::set(to, 0.0);
            let x = &x[row * width..][..width];
            if let Some(first) = x.iter().position(|x| *x == largest[row]) {
                to[first] = grad[row];
            }
            to
        }))
    })?;
    Tensor::from_vec(made, x.shape(), x.device())
}
