//! Strided tensors made contiguous: by tiles, by threads.
//!
//! candle copies a transposed tensor element by element on one thread, and each element costs a cache line. Here a tile of
//! 64 × 16 goes through a buffer in the first-level cache: whole lines are read, four in a row, and written, once each.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::chunks::{self, GRAIN};

/// Columns of a tile: 16 `f32` are a cache line, that is written at once.
const TILE: usize = 16;
/// Rows of a tile, which are read along: a page is gone to for four lines, where it would be for one.
const ROWS: usize = 64;

/// `x` in row-major order; `x` itself where it is so already. Any shape, any dtype; the gradient goes through.
///
/// As [`Tensor::contiguous`], which it replaces on the CPU.
///
/// # Errors
/// None of its own.
pub fn contiguous(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() || !x.device().is_cpu() {
        x.contiguous()
    } else {
        x.apply_op1(Copied)
    }
}

/// `x` with two dimensions exchanged, in row-major order. Any dtype; the gradient goes through.
///
/// # Errors
/// A dimension is out of range.
pub fn transpose_copy(x: &Tensor, first: usize, second: usize) -> Result<Tensor> {
    contiguous(&x.transpose(first, second)?)
}

struct Copied;

impl CustomOp1 for Copied {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let copied = match storage {
            CpuStorage::F32(all) => CpuStorage::F32(strided(all, layout)),
            CpuStorage::F64(all) => CpuStorage::F64(strided(all, layout)),
            CpuStorage::BF16(all) => CpuStorage::BF16(strided(all, layout)),
            CpuStorage::F16(all) => CpuStorage::F16(strided(all, layout)),
            CpuStorage::U8(all) => CpuStorage::U8(strided(all, layout)),
            CpuStorage::U32(all) => CpuStorage::U32(strided(all, layout)),
            CpuStorage::I64(all) => CpuStorage::I64(strided(all, layout)),
            CpuStorage::I32(all) => CpuStorage::I32(strided(all, layout)),
            CpuStorage::I16(all) => CpuStorage::I16(strided(all, layout)),
            _ => bail!("contiguous is not made for this dtype"),
        };
        Ok((copied, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}

/// Dimensions of a strided tensor with those left out that don't matter, and neighbours that lie in a row made one.
fn simplified(layout: &Layout) -> Vec<(usize, usize)> {
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (&size, &stride) in layout.dims().iter().zip(layout.stride()) {
        match merged.last_mut() {
            _ if size == 1 => {}
            Some((outer, outer_stride)) if *outer_stride == stride * size => {
                *outer *= size;
                *outer_stride = stride;
            }
            _ => merged.push((size, stride)),
        }
    }
    merged
}

/// The elements of a strided tensor in row-major order.
pub(crate) fn strided<T: Copy + Default + Send + Sync>(all: &[T], layout: &Layout) -> Vec<T> {
    let len = layout.shape().elem_count();
    if len == 0 {
        return Vec::new();
    }
    let all = &all[layout.start_offset()..];
    let mut dims = simplified(layout);
    let Some((width, stride)) = dims.pop() else {
        return vec![all[0]];
    };
    let nearest = (0..dims.len()).min_by_key(|index| match dims[*index].1 {
        0 => usize::MAX,
        stride => stride,
    });
    match nearest {
        Some(near) if stride > 1 && dims[near].1 < stride && dims[near].1 > 0 && width >= 4 => Tiles {
            all,
            outer: &dims[..near],
            near: dims[near],
            middle: &dims[near + 1..],
            last: (width, stride),
        }
        .copied(),
        _ => {
            let nowhere = || None::<Place<'_>>;
            let copied = chunks::build_rows_with(len / width, width, nowhere, |row, to, place| {
                match place {
                    Some(place) => place.advance(),
                    None => *place = Some(Place::new(&dims, row)),
                }
                let offset = place.as_ref().map_or(0, |place| place.offset);
                copy_row(&all[offset..], stride, to)
            });
            copied.0
        }
    }
}

/// A place in a strided tensor that goes on in row-major order: by additions, where [`offset`] divides.
struct Place<'a> {
    dims: &'a [(usize, usize)],
    index: Vec<usize>,
    offset: usize,
}

impl<'a> Place<'a> {
    fn new(dims: &'a [(usize, usize)], row: usize) -> Self {
        let mut left = row;
        let mut index = vec![0; dims.len()];
        for (index, (size, _)) in index.iter_mut().zip(dims).rev() {
            (*index, left) = (left % size, left / size);
        }
        Self {
            dims,
            index,
            offset: offset(dims, row),
        }
    }

    fn advance(&mut self) {
        for (index, (size, stride)) in self.index.iter_mut().zip(self.dims).rev() {
            *index += 1;
            if *index < *size {
                self.offset += stride;
                return;
            }
            *index = 0;
            self.offset -= (size - 1) * stride;
        }
    }
}

fn copy_row<'a, T: Copy>(from: &[T], stride: usize, to: &'a mut [MaybeUninit<T>]) -> &'a mut [T] {
    if stride == 1 {
        return to.write_copy_of_slice(&from[..to.len()]);
    }
    let to = chunks::set(to, from[0]);
    if stride > 1 {
        to.iter_mut()
            .zip(from.iter().step_by(stride))
            .for_each(|(to, from)| *to = *from);
    }
    to
}

/// Where the element with this row-major index over `dims` lies.
fn offset(dims: &[(usize, usize)], mut index: usize) -> usize {
    let mut offset = 0;
    for (size, stride) in dims.iter().rev() {
        offset += index % size * stride;
        index /= size;
    }
    offset
}

/// A tensor whose last dimension lies far apart, and another one (`near`) close together.
struct Tiles<'a, T> {
    all: &'a [T],
    outer: &'a [(usize, usize)],
    near: (usize, usize),
    middle: &'a [(usize, usize)],
    last: (usize, usize),
}

impl<T: Copy + Default + Send + Sync> Tiles<'_, T> {
    fn copied(&self) -> Vec<T> {
        let outer: usize = self.outer.iter().map(|dim| dim.0).product();
        let middle: usize = self.middle.iter().map(|dim| dim.0).product();
        let width = middle * self.last.0;
        let rows = outer * self.near.0;
        // Whole tiles where they fit.
        let rows_of_chunk = (GRAIN / width).max(1).next_multiple_of(ROWS);
        chunks::build(rows * width, rows_of_chunk * width, |start, part| {
            let (mut row, mut part) = (start / width, part);
            while !part.is_empty() {
                let (block, inside) = (row / self.near.0, row % self.near.0);
                let count = ROWS.min(self.near.0 - inside).min(part.len() / width);
                let (now, rest) = part.split_at_mut(count * width);
                self.strip(offset(self.outer, block) + inside * self.near.1, now, count);
                (row, part) = (row + count, rest);
            }
        })
    }

    /// Writes up to [`ROWS`] rows that are neighbours along `near`, the first at `base`.
    fn strip(&self, base: usize, to: &mut [T], rows: usize) {
        let width = to.len() / rows;
        let (last, stride) = self.last;
        for middle in 0..width / last {
            let base = base + offset(self.middle, middle);
            for column in (0..last).step_by(TILE) {
                let columns = TILE.min(last - column);
                let from = &self.all[base + column * stride..];
                let to = &mut to[middle * last + column..];
                if columns == TILE && self.near.1 == 1 {
                    full_tile(from, stride, to, width, rows);
                } else {
                    part_tile(from, [self.near.1, stride], to, width, [rows, columns]);
                }
            }
        }
    }
}

fn full_tile<T: Copy + Default>(from: &[T], stride: usize, to: &mut [T], width: usize, rows: usize) {
    let mut tile = [[T::default(); TILE]; ROWS];
    let tile = &mut tile[..rows];
    for column in 0..TILE {
        for (tile, value) in tile.iter_mut().zip(&from[column * stride..][..rows]) {
            tile[column] = *value;
        }
    }
    for (to, tile) in to.chunks_mut(width).zip(tile) {
        to[..TILE].copy_from_slice(tile);
    }
}

fn part_tile<T: Copy>(from: &[T], strides: [usize; 2], to: &mut [T], width: usize, size: [usize; 2]) {
    for row in 0..size[0] {
        for column in 0..size[1] {
            to[row * width + column] = from[row * strides[0] + column * strides[1]];
        }
    }
}
