//! Two-dimensional pooling, with gradients.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use crate::chunks::{self, GRAIN};
use crate::values::{Path, path, read, values};

/// The largest of each window of `kernel` × `kernel`, which moves by `stride`; what doesn't fill a window is left out.
///
/// `x` is `[batch, channels, height, width]` of a floating-point dtype; the result is `[batch, channels, …, …]` of the same.
/// The gradient goes to the first of the largest of each window. As [`Tensor::max_pool2d_with_stride`].
///
/// # Errors
/// Other shapes or dtypes, or a window that is larger than the image.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    Pool::new("max_pool2d", true, x, kernel, stride)?.of(x)
}

/// The mean of each window of `kernel` × `kernel`, which moves by `stride`; what doesn't fill a window is left out.
///
/// Shapes, dtypes and errors are those of [`max_pool2d`]. As [`Tensor::avg_pool2d_with_stride`].
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    Pool::new("avg_pool2d", false, x, kernel, stride)?.of(x)
}

#[derive(Clone, Copy)]
struct Pool {
    largest: bool,
    kernel: usize,
    stride: usize,
    planes: [usize; 2],
    image: [usize; 2],
    out: [usize; 2],
}

impl Pool {
    fn new(op: &str, largest: bool, x: &Tensor, kernel: usize, stride: usize) -> Result<Self> {
        let &[batch, channels, height, width] = x.dims() else {
            bail!("{op} takes images of four dimensions, not {:?}", x.dims());
        };
        if kernel == 0 || stride == 0 || height < kernel || width < kernel {
            bail!(
                "{op} of {:?}: a window of {kernel} by steps of {stride} doesn't fit",
                x.dims()
            );
        }
        let out = |size: usize| (size - kernel) / stride + 1;
        Ok(Self {
            largest,
            kernel,
            stride,
            planes: [batch, channels],
            image: [height, width],
            out: [out(height), out(width)],
        })
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        match path(self.name(), x)? {
            Path::Fused => x.apply_op1(self),
            Path::Widened => self.of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype()),
            Path::Composed if self.largest => x.max_pool2d_with_stride(self.kernel, self.stride),
            Path::Composed => x.avg_pool2d_with_stride(self.kernel, self.stride),
        }
    }

    fn shape(&self) -> Shape {
        Shape::from((self.planes[0], self.planes[1], self.out[0], self.out[1]))
    }

    fn count(&self) -> usize {
        self.planes[0] * self.planes[1]
    }

    /// Planes that make a chunk, by elements of the image.
    fn planes_of_chunk(&self) -> usize {
        (GRAIN / (self.image[0] * self.image[1])).max(1)
    }

    fn plane_of<'a>(&self, all: &'a [f32], index: usize, size: [usize; 2]) -> &'a [f32] {
        &all[index * size[0] * size[1]..][..size[0] * size[1]]
    }

    /// Writes one output row from the image rows of its windows.
    fn forward_row(&self, rows: &[f32], to: &mut [f32]) {
        let width = self.image[1];
        to.fill(if self.largest { f32::NEG_INFINITY } else { 0.0 });
        for row in rows.chunks(width) {
            for across in 0..self.kernel {
                let taken = row[across..].iter().step_by(self.stride);
                if self.largest {
                    // Not a number stays so.
                    to.iter_mut()
                        .zip(taken)
                        .for_each(|(to, x)| *to = if *to >= *x || to.is_nan() { *to } else { *x });
                } else {
                    to.iter_mut().zip(taken).for_each(|(to, x)| *to += x);
                }
            }
        }
        if !self.largest {
            let share = 1.0 / (self.kernel * self.kernel) as f32;
            to.iter_mut().for_each(|to| *to *= share);
        }
    }

    /// The image rows that an output row takes, as elements of a plane.
    fn rows_of(&self, out_row: usize) -> Range<usize> {
        let first = out_row * self.stride * self.image[1];
        first..first + self.kernel * self.image[1]
    }

    fn backward_plane(&self, x: &[f32], grad: &[f32], to: &mut [f32]) {
        let width = self.image[1];
        let share = 1.0 / (self.kernel * self.kernel) as f32;
        for (row, grad) in grad.chunks(self.out[1]).enumerate() {
            let range = self.rows_of(row);
            let (x, to) = (&x[range.clone()], &mut to[range]);
            if self.largest && self.kernel == 2 && self.stride == 2 {
                pairs_backward(x.split_at(width), grad, to.split_at_mut(width));
                continue;
            }
            for (column, grad) in grad.iter().enumerate() {
                let first = column * self.stride;
                if self.largest {
                    to[self.first_largest(x, first)] += grad;
                } else {
                    for down in 0..self.kernel {
                        to[down * width + first..][..self.kernel]
                            .iter_mut()
                            .for_each(|to| *to += grad * share);
                    }
                }
            }
        }
    }

    fn first_largest(&self, rows: &[f32], first: usize) -> usize {
        let (mut place, mut largest) = (first, rows[first]);
        for down in 0..self.kernel {
            for across in 0..self.kernel {
                let at = down * self.image[1] + first + across;
                let x = rows[at];
                if x > largest || (x.is_nan() && !largest.is_nan()) {
                    (place, largest) = (at, x);
                }
            }
        }
        place
    }
}

/// The commonest window: which of four is the first of the largest, without a branch. What isn't a number comes first.
fn pairs_backward(
    (above, below): (&[f32], &[f32]),
    grad: &[f32],
    (to_above, to_below): (&mut [f32], &mut [f32]),
) {
    let windows = above.chunks_exact(2).zip(below.chunks_exact(2));
    let to = to_above.chunks_exact_mut(2).zip(to_below.chunks_exact_mut(2));
    for (((above, below), (to_above, to_below)), grad) in windows.zip(to).zip(grad) {
        // Whether the gradient goes to a number rather than to one that comes after it.
        let before = |a: f32, b: f32| (a >= b) | a.is_nan();
        let (left, lower_left) = (before(above[0], above[1]), before(below[0], below[1]));
        let (upper, lower) = (
            if left { above[0] } else { above[1] },
            if lower_left { below[0] } else { below[1] },
        );
        let up = before(upper, lower);
        to_above[0] = if up & left { *grad } else { 0.0 };
        to_above[1] = if up & !left { *grad } else { 0.0 };
        to_below[0] = if !up & lower_left { *grad } else { 0.0 };
        to_below[1] = if !up & !lower_left { *grad } else { 0.0 };
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        if self.largest { "max_pool2d" } else { "avg_pool2d" }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let plane = self.out[0] * self.out[1];
        let made = chunks::build(
            self.count() * plane,
            self.planes_of_chunk() * plane,
            |start, to| {
                for (index, to) in to.chunks_mut(plane).enumerate() {
                    let x = self.plane_of(&x, start / plane + index, self.image);
                    for (row, to) in to.chunks_mut(self.out[1]).enumerate() {
                        self.forward_row(&x[self.rows_of(row)], to);
                    }
                }
            },
        );
        Ok((CpuStorage::F32(made), self.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let plane = self.image[0] * self.image[1];
        let made = read([x, grad], |[x, grad]| {
            Ok(chunks::build(
                self.count() * plane,
                self.planes_of_chunk() * plane,
                |start, to| {
                    for (index, to) in to.chunks_mut(plane).enumerate() {
                        let index = start / plane + index;
                        self.backward_plane(
                            self.plane_of(x, index, self.image),
                            self.plane_of(grad, index, self.out),
                            to,
                        );
                    }
                },
            ))
        })?;
        Tensor::from_vec(made, x.shape(), x.device()).map(Some)
    }
}
