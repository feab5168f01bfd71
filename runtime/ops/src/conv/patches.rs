//! Patches of images as columns of matrices, a tile at a time, and back.

use std::cell::RefCell;
use std::ops::Range;

use super::{Conv2d, Plan};

/// Elements of a tile of patches: 512 KiB, half of a second-level cache.
const TILE_MAX: usize = 128 * 1024;
thread_local! {
    /// Patches of a tile; kept, so that a training step asks for no memory.
    static PATCHES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Plan {
    /// Ranges of output rows whose patches make a tile.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, patch_row) = (self.out[0], (self.patch() * self.out[1]).max(1));
        let tile = if self.pointwise() {
            rows.max(1)
        } else {
            (TILE_MAX / patch_row).max(1)
        };
        (0..rows)
            .step_by(tile)
            .map(move |start| start..(start + tile).min(rows))
    }

    /// Lends the patches of some output rows of an image: `[patch, places]`.
    pub(super) fn with_patches<R>(
        &self,
        image: &[f32],
        rows: &Range<usize>,
        work: impl FnOnce(&[f32]) -> R,
    ) -> R {
        if self.pointwise() {
            return work(image);
        }
        with_scratch(self.patch() * rows.len() * self.out[1], |patches| {
            if self.how.stride == 1 && self.out[1] == self.image[1] {
                self.lay_out_blocks(image, rows, patches);
            } else {
                self.lay_out(image, rows, patches);
            }
            work(patches)
        })
    }

    /// Calls `visit(row of patches, where it starts in the image, stretch)` for each row of patches; those that lie above or
    /// below the image start nowhere.
    fn each_row(&self, rows: &Range<usize>, mut visit: impl FnMut(usize, Option<usize>, &Stretch)) {
        let [height, width] = self.image;
        let Conv2d {
            stride,
            padding,
            dilation,
            ..
        } = self.how;
        let mut index = 0;
        for channel in 0..self.inputs {
            for down in 0..self.kernel[0] {
                for across in 0..self.kernel[1] {
                    let stretch = Stretch::new(self, across * dilation);
                    for row in rows.clone() {
                        let inside = (row * stride + down * dilation)
                            .checked_sub(padding)
                            .filter(|row| *row < height);
                        visit(
                            index,
                            inside.map(|row| (channel * height + row) * width + stretch.first),
                            &stretch,
                        );
                        index += 1;
                    }
                }
            }
        }
    }

    /// Writes the patches of some output rows of an image.
    fn lay_out(&self, image: &[f32], rows: &Range<usize>, patches: &mut [f32]) {
        let stride = self.how.stride;
        self.each_row(rows, |index, start, stretch| {
            let to = &mut patches[index * self.out[1]..][..self.out[1]];
            let Some(start) = start else { return to.fill(0.0) };
            to[..stretch.places.start].fill(0.0);
            to[stretch.places.end..].fill(0.0);
            let to = &mut to[stretch.places.clone()];
            match stride {
                1 => to.copy_from_slice(&image[start..start + to.len()]),
                _ => to
                    .iter_mut()
                    .zip(image[start..].iter().step_by(stride))
                    .for_each(|(to, from)| *to = *from),
            }
        });
    }

    /// As [`Self::lay_out`], where output rows are as wide as the image's and windows go by steps of one: what one element of the
    /// window takes from all rows lies in a row, but for the ends.
    fn lay_out_blocks(&self, image: &[f32], rows: &Range<usize>, patches: &mut [f32]) {
        let [height, width] = self.image;
        let Conv2d {
            padding, dilation, ..
        } = self.how;
        let [down, across] = self.kernel;
        for (index, to) in patches.chunks_mut(rows.len() * width).enumerate() {
            let (channel, down, across) = (index / (down * across), index / across % down, index % across);
            let stretch = Stretch::new(self, across * dilation);
            let top = rows.start + down * dilation;
            let above = padding.saturating_sub(top).min(rows.len());
            let first = (top + above).saturating_sub(padding);
            let inside = height.saturating_sub(first).min(rows.len() - above);
            to[..above * width].fill(0.0);
            to[(above + inside) * width..].fill(0.0);
            let to = &mut to[above * width..][..inside * width];
            let places = stretch.places;
            if inside == 0 || places.is_empty() {
                to.fill(0.0);
                continue;
            }
            let last = to.len() - (width - places.end);
            let taken = &mut to[places.start..last];
            let start = (channel * height + first) * width + stretch.first;
            taken.copy_from_slice(&image[start..start + taken.len()]);
            for row in to.chunks_mut(width) {
                row[..places.start].fill(0.0);
                row[places.end..].fill(0.0);
            }
        }
    }

    /// Adds the patches of some output rows to an image: [`Self::lay_out`] backwards.
    pub(super) fn take_in(&self, patches: &[f32], rows: &Range<usize>, image: &mut [f32]) {
        let stride = self.how.stride;
        self.each_row(rows, |index, start, stretch| {
            let Some(start) = start else { return };
            let from = &patches[index * self.out[1]..][stretch.places.clone()];
            let to = image[start..].iter_mut();
            match stride {
                1 => to.zip(from).for_each(|(to, from)| *to += from),
                _ => to.step_by(stride).zip(from).for_each(|(to, from)| *to += from),
            }
        });
    }
}

/// Which places of an output row take from within an image row, and the first column that they take.
struct Stretch {
    places: Range<usize>,
    first: usize,
}

impl Stretch {
    /// For an element of the window that lies `across` columns from its first.
    fn new(plan: &Plan, across: usize) -> Self {
        let (stride, padding, width) = (plan.how.stride, plan.how.padding, plan.image[1]);
        let end = match (width + padding).checked_sub(across + 1) {
            Some(last) => (last / stride + 1).min(plan.out[1]),
            None => 0,
        };
        let start = padding.saturating_sub(across).div_ceil(stride).min(end);
        Self {
            places: start..end,
            first: (start * stride + across).saturating_sub(padding).min(width),
        }
    }
}

/// Lends zeros or whatever was there before: every element is to be written.
pub(super) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out of its place, so that work that comes in between finds another.
    let mut scratch = PATCHES.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = work(&mut scratch[..len]);
    PATCHES.set(scratch);
    result
}
