//! Products of matrices that are views of slices, by the `gemm` crate, which is what candle's `matmul` runs on.

use gemm::Parallelism;

use crate::chunks;

/// A matrix in a slice: where its rows and columns lie is told by strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows in a row.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, [rows, columns], [columns, 1])
    }

    /// # Panics
    /// An element lies beyond the slice.
    pub(crate) fn strided(data: &'a [f32], [rows, columns]: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(
            span([rows, columns], strides).is_some_and(|span| data.len() >= span),
            "a matrix lies within its slice"
        );
        Self {
            data,
            rows,
            columns,
            row_stride: strides[0],
            column_stride: strides[1],
        }
    }

    pub(crate) fn some_rows(self, first: usize, rows: usize) -> Self {
        let start = (first * self.row_stride).min(self.data.len());
        Self::strided(
            &self.data[start..],
            [rows, self.columns],
            [self.row_stride, self.column_stride],
        )
    }

    /// Rows as columns.
    pub(crate) fn turned(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// How many elements a matrix reaches over; none when that is no number, as of what is broadcast without end.
fn span(size: [usize; 2], strides: [usize; 2]) -> Option<usize> {
    match size {
        [0, _] | [_, 0] => Some(0),
        [rows, columns] => {
            let down = (rows - 1).checked_mul(strides[0])?;
            let across = (columns - 1).checked_mul(strides[1])?;
            down.checked_add(across)?.checked_add(1)
        }
    }
}

/// A matrix to be written, each of whose rows lies in a row.
pub(crate) struct Out<'a> {
    data: &'a mut [f32],
    row_stride: usize,
}

impl<'a> Out<'a> {
    /// The first row starts with the slice, each next one `row_stride` after.
    pub(crate) fn new(data: &'a mut [f32], row_stride: usize) -> Self {
        Self { data, row_stride }
    }
}

/// What becomes of what is in the matrix that is written.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Into {
    /// It is replaced.
    Replace,
    /// The product is added.
    Add,
}

/// Whether all threads work on one product, or the caller's alone.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    One,
    All,
}

/// Rows of a part of a product at least, so that what is prepared of the other matrix for it pays.
const ROWS_MIN: usize = 128;
/// Parts of a product at most.
const PARTS_MAX: usize = 32;

/// `out = scale · a · b`, or that added to it. The result is the same with any number of threads: how inner sums are made
/// depends on the size that the `gemm` crate is given, so parts follow from the shape alone.
///
/// # Panics
/// Sizes don't fit together.
pub(crate) fn multiply(
    mut out: Out<'_>,
    into: Into,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    if out.row_stride == 0 || a.rows == 0 || b.columns == 0 {
        return;
    }
    if threads == Threads::One {
        return product(&mut out, into, scale, a, b, Parallelism::None);
    }
    if a.rows < 4 * ROWS_MIN {
        // Here threads share tiles, and no sum.
        let parallelism = match rayon::current_num_threads() {
            1 => Parallelism::None,
            pool => Parallelism::Rayon(pool),
        };
        return product(&mut out, into, scale, a, b, parallelism);
    }
    let rows = a.rows.div_ceil(PARTS_MAX).max(ROWS_MIN);
    let stride = out.row_stride;
    let needed = span([a.rows, b.columns], [stride, 1]).unwrap_or(usize::MAX);
    chunks::share(
        out.data[..needed].chunks_mut(rows * stride).enumerate(),
        |(index, part)| {
            let first = index * rows;
            let a = a.some_rows(first, rows.min(a.rows - first));
            product(&mut Out::new(part, stride), into, scale, a, b, Parallelism::None);
        },
    );
}

#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
fn product(
    out: &mut Out<'_>,
    into: Into,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    parallelism: Parallelism,
) {
    let size = [a.rows, b.columns];
    assert!(
        a.columns == b.rows,
        "the columns of the one are the rows of the other"
    );
    assert!(out.row_stride >= b.columns, "rows don't overlap");
    assert!(
        span(size, [out.row_stride, 1]).is_some_and(|span| out.data.len() >= span),
        "a matrix lies within its slice"
    );
    let signed = |stride: usize| stride.cast_signed();
    // SAFETY: all elements that the sizes and strides reach were checked to lie within the three slices, when the matrices
    // were made and above; `out` is borrowed alone, and its rows don't overlap.
    unsafe {
        gemm::gemm(
            size[0],
            size[1],
            a.columns,
            out.data.as_mut_ptr(),
            1,
            signed(out.row_stride),
            into == Into::Add,
            a.data.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.data.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
