//! Loops that carry slices through registers: every element, sums, the largest.
//!
//! Every element goes through the same operations wherever it stands in a slice, and sums are taken in one order, so a
//! result doesn't depend on threads. Not here: threads (`chunks.rs`), but for [`map`].

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use crate::chunks::{self, GRAIN};
use crate::lanes::Lanes;

/// A function of `N` numbers, given for whole registers.
pub(crate) trait Map<const N: usize>: Copy + Send + Sync {
    fn of<S: Simd>(self, x: [Lanes<S>; N]) -> Lanes<S>;
}

/// Registers that sum side by side: an addition waits for the one before it.
const SUMS: usize = 4;

/// The most lanes that a register has.
pub(crate) const LANES_MAX: usize = 16;

/// Bytes of a line of the cache, which the largest registers fill.
const LINE: usize = size_of::<f32>() * LANES_MAX;

/// Slices as registers and a rest each.
struct Split<'a, S: Simd, const N: usize> {
    heads: [&'a [S::f32s]; N],
    tails: [&'a [f32]; N],
}

impl<'a, S: Simd, const N: usize> Split<'a, S, N> {
    #[inline(always)]
    fn new(slices: [&'a [f32]; N]) -> Self {
        let mut split = Self {
            heads: [&[]; N],
            tails: [&[]; N],
        };
        let len = slices.first().map_or(0, |slice| slice.len()) / S::F32_LANES;
        for ((slice, head), tail) in slices.into_iter().zip(&mut split.heads).zip(&mut split.tails) {
            (*head, *tail) = S::as_simd_f32s(slice);
            // The same length for all, so that no access is checked in the loop.
            *head = &head[..len];
        }
        split
    }

    #[inline(always)]
    fn head(&self, simd: S, at: usize) -> [Lanes<S>; N] {
        let mut lanes = [Lanes::all(simd, 0.0); N];
        for (lanes, head) in lanes.iter_mut().zip(&self.heads) {
            *lanes = Lanes::new(simd, head[at]);
        }
        lanes
    }

    /// The rest; zeros beyond it.
    #[inline(always)]
    fn tail(&self, simd: S) -> [Lanes<S>; N] {
        let mut lanes = [Lanes::all(simd, 0.0); N];
        for (lanes, tail) in lanes.iter_mut().zip(&self.tails) {
            *lanes = Lanes::new(simd, simd.partial_load_f32s(tail));
        }
        lanes
    }
}

/// The first `count` lanes and zeros: what a function makes of lanes beyond a slice doesn't count.
#[inline(always)]
fn kept<S: Simd>(simd: S, lanes: Lanes<S>, count: usize, beyond: f32) -> Lanes<S> {
    let mut buffer = [beyond; LANES_MAX];
    simd.partial_store_f32s(&mut buffer[..count], lanes.values);
    Lanes::new(simd, simd.partial_load_f32s(&buffer[..S::F32_LANES]))
}

struct Apply<'a, 'b, F, const N: usize>(F, [&'a [f32]; N], &'b mut [MaybeUninit<f32>]);

impl<F: Map<N>, const N: usize> WithSimd for Apply<'_, '_, F, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(map, from, to) = self;
        let from = Split::<S, N>::new(from);
        let (heads, tail) = S::as_uninit_mut_simd_f32s(to);
        for (at, head) in heads.iter_mut().enumerate() {
            head.write(map.of(from.head(simd, at)).values);
        }
        if !tail.is_empty() {
            let mut last = [0.0; LANES_MAX];
            simd.partial_store_f32s(&mut last[..tail.len()], map.of(from.tail(simd)).values);
            for (to, last) in tail.iter_mut().zip(last) {
                to.write(last);
            }
        }
    }
}

/// Writes `map` of the numbers at each place of `from` to `to`, and gives that back as written; all slices are as long.
#[expect(unsafe_code, reason = "zeroing takes as long as light functions do")]
pub(crate) fn apply<'a, F: Map<N>, const N: usize>(
    map: F,
    from: [&[f32]; N],
    to: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    Arch::new().dispatch(Apply(map, from.map(|slice| &slice[..to.len()]), to));
    // SAFETY: registers and rest together are all of `to`, and each was written.
    unsafe { to.assume_init_mut() }
}

/// As [`map`], by the instructions of `simd`.
#[cfg(test)]
pub(crate) fn map_by<S: Simd, F: Map<N>, const N: usize>(simd: S, map: F, from: [&[f32]; N]) -> Vec<f32> {
    chunks::build_unzeroed(from[0].len(), usize::MAX, |_, to| {
        Simd::vectorize(simd, Apply(map, from, to));
        #[expect(unsafe_code, reason = "as `apply`")]
        // SAFETY: as in `apply`.
        unsafe {
            to.assume_init_mut()
        }
    })
}

/// As [`apply`] for whole tensors, by threads, into a vector.
pub(crate) fn map<F: Map<N>, const N: usize>(map: F, from: [&[f32]; N]) -> Vec<f32> {
    chunks::build_unzeroed(from[0].len(), GRAIN, |start, to| {
        let end = start + to.len();
        apply_aligned(map, from.map(|slice| &slice[start..end]), to)
    })
}

/// As [`apply`], of which all but the ends is written by whole lines of the cache: vectors seldom start with one, and a register
/// across two lines takes twice as long to write.
#[expect(unsafe_code, reason = "as `apply`")]
fn apply_aligned<'a, F: Map<N>, const N: usize>(
    map: F,
    from: [&[f32]; N],
    to: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    let before = to.as_ptr().align_offset(LINE).min(to.len());
    let (first, rest) = to.split_at_mut(before);
    apply(map, from.map(|slice| &slice[..before]), first);
    apply(map, from.map(|slice| &slice[before..]), rest);
    // SAFETY: both parts were written.
    unsafe { to.assume_init_mut() }
}

/// As [`apply_aligned`], by the instructions of `simd`.
#[inline(always)]
#[expect(unsafe_code, reason = "as `apply`")]
pub(crate) fn apply_aligned_by<'a, S: Simd, F: Map<N>, const N: usize>(
    simd: S,
    map: F,
    from: [&[f32]; N],
    to: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    let before = to.as_ptr().align_offset(LINE).min(to.len());
    let (first, rest) = to.split_at_mut(before);
    apply_by(simd, map, from.map(|slice| &slice[..before]), first);
    apply_by(simd, map, from.map(|slice| &slice[before..]), rest);
    // SAFETY: both parts were written.
    unsafe { to.assume_init_mut() }
}

/// As [`apply`], by the instructions of `simd`.
#[inline(always)]
#[expect(unsafe_code, reason = "as `apply`")]
pub(crate) fn apply_by<'a, S: Simd, F: Map<N>, const N: usize>(
    simd: S,
    map: F,
    from: [&[f32]; N],
    to: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    Apply(map, from.map(|slice| &slice[..to.len()]), to).with_simd(simd);
    // SAFETY: as in `apply`.
    unsafe { to.assume_init_mut() }
}

/// As [`apply_by`], and the sum of what is written, in the order of [`sum`].
#[inline(always)]
#[expect(unsafe_code, reason = "as `apply`")]
pub(crate) fn apply_and_sum_by<'a, S: Simd, F: Map<1>>(
    simd: S,
    map: F,
    from: &[f32],
    to: &'a mut [MaybeUninit<f32>],
) -> (&'a mut [f32], f32) {
    let from = Split::<S, 1>::new([&from[..to.len()]]);
    let (heads, tail) = S::as_uninit_mut_simd_f32s(&mut *to);
    let mut sums = [Lanes::all(simd, 0.0); SUMS];
    let (quads, rest) = heads.as_chunks_mut::<SUMS>();
    let whole = quads.len() * SUMS;
    for (quad, head) in quads.iter_mut().enumerate() {
        for (index, (head, sum)) in head.iter_mut().zip(&mut sums).enumerate() {
            let made = map.of(from.head(simd, quad * SUMS + index));
            head.write(made.values);
            *sum = *sum + made;
        }
    }
    for (index, head) in rest.iter_mut().enumerate() {
        let made = map.of(from.head(simd, whole + index));
        head.write(made.values);
        sums[0] = sums[0] + made;
    }
    if !tail.is_empty() {
        let mut last = [0.0; LANES_MAX];
        simd.partial_store_f32s(&mut last[..tail.len()], map.of(from.tail(simd)).values);
        for (to, last) in tail.iter_mut().zip(last) {
            to.write(last);
        }
        sums[1] = sums[1] + Lanes::new(simd, simd.partial_load_f32s(&last[..S::F32_LANES]));
    }
    let sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum();
    // SAFETY: registers and rest together are all of `to`, and each was written.
    (unsafe { to.assume_init_mut() }, sum)
}

/// Rows that are made within one choice of instructions: for narrow ones, choosing for each loop takes as long as the loop.
pub(crate) trait Rows: Sync {
    /// What each chunk of rows has for itself.
    type Own: Send;

    fn own(&self) -> Self::Own;

    /// Writes a row, and gives it back as written.
    fn write<'a, S: Simd>(
        &self,
        simd: S,
        row: usize,
        to: &'a mut [MaybeUninit<f32>],
        own: &mut Self::Own,
    ) -> &'a mut [f32];
}

/// Some rows of `width` elements, of which the first has a number.
pub(crate) struct RowsOf<'a, 'b, R> {
    pub(crate) rows: &'a R,
    pub(crate) first: usize,
    pub(crate) width: usize,
    pub(crate) to: &'b mut [MaybeUninit<f32>],
}

impl<R: Rows> WithSimd for RowsOf<'_, '_, R> {
    type Output = R::Own;

    /// Every row is written.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> R::Own {
        let mut own = self.rows.own();
        for (index, row) in self.to.chunks_mut(self.width.max(1)).enumerate() {
            let (place, len) = (row.as_ptr().cast::<f32>(), row.len());
            let written = self.rows.write(simd, self.first + index, row, &mut own);
            assert!(
                std::ptr::eq(written.as_ptr(), place) && written.len() == len,
                "the row itself is given back"
            );
        }
        own
    }
}

struct Change<'a, F, const N: usize>(F, [&'a [f32]; N], &'a mut [f32]);

/// A function of the number that is there, and `N` others.
pub(crate) trait Update<const N: usize>: Copy + Send + Sync {
    fn of<S: Simd>(self, old: Lanes<S>, x: [Lanes<S>; N]) -> Lanes<S>;
}

impl<F: Update<N>, const N: usize> WithSimd for Change<'_, F, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(map, from, to) = self;
        let from = Split::<S, N>::new(from);
        let (heads, tail) = S::as_mut_simd_f32s(to);
        for (at, head) in heads.iter_mut().enumerate() {
            *head = map.of(Lanes::new(simd, *head), from.head(simd, at)).values;
        }
        if !tail.is_empty() {
            let old = Lanes::new(simd, simd.partial_load_f32s(tail));
            simd.partial_store_f32s(tail, map.of(old, from.tail(simd)).values);
        }
    }
}

/// Replaces each number of `to` by what `map` makes of it and the numbers of `from` at its place.
pub(crate) fn change<F: Update<N>, const N: usize>(map: F, from: [&[f32]; N], to: &mut [f32]) {
    Arch::new().dispatch(Change(map, from.map(|slice| &slice[..to.len()]), to));
}

struct Sum<'a, F, const N: usize>(F, [&'a [f32]; N]);

impl<F: Map<N>, const N: usize> WithSimd for Sum<'_, F, N> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let Self(map, from) = self;
        let tail = from[0].len() % S::F32_LANES;
        let from = Split::<S, N>::new(from);
        let mut sums = [Lanes::all(simd, 0.0); SUMS];
        let len = from.heads[0].len();
        let whole = len - len % SUMS;
        for at in (0..whole).step_by(SUMS) {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = *sum + map.of(from.head(simd, at + index));
            }
        }
        for at in whole..len {
            sums[0] = sums[0] + map.of(from.head(simd, at));
        }
        if tail > 0 {
            sums[1] = sums[1] + kept(simd, map.of(from.tail(simd)), tail, 0.0);
        }
        ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum()
    }
}

/// As [`sum`], by the instructions of `simd`.
#[inline(always)]
pub(crate) fn sum_by<S: Simd, F: Map<N>, const N: usize>(simd: S, map: F, from: [&[f32]; N]) -> f32 {
    Sum(map, from.map(|slice| &slice[..from[0].len()])).with_simd(simd)
}

/// Two functions of `N` numbers.
pub(crate) trait Both<const N: usize>: Copy + Send + Sync {
    fn of<S: Simd>(self, x: [Lanes<S>; N]) -> [Lanes<S>; 2];
}

/// The sums of both functions over the places of `from`, whose slices are as long, in the order of [`sum`].
#[inline(always)]
pub(crate) fn sum_both_by<S: Simd, F: Both<N>, const N: usize>(
    simd: S,
    map: F,
    from: [&[f32]; N],
) -> [f32; 2] {
    let tail = from[0].len() % S::F32_LANES;
    let from = Split::<S, N>::new(from.map(|slice| &slice[..from[0].len()]));
    let mut sums = [[Lanes::all(simd, 0.0); 2]; SUMS];
    let len = from.heads[0].len();
    let whole = len - len % SUMS;
    for at in (0..whole).step_by(SUMS) {
        for (index, [first, second]) in sums.iter_mut().enumerate() {
            let [a, b] = map.of(from.head(simd, at + index));
            (*first, *second) = (*first + a, *second + b);
        }
    }
    for at in whole..len {
        let [a, b] = map.of(from.head(simd, at));
        sums[0] = [sums[0][0] + a, sums[0][1] + b];
    }
    if tail > 0 {
        // Not by `map` here and below: instructions within its closure would become calls.
        let [a, b] = map.of(from.tail(simd));
        let [a, b] = [kept(simd, a, tail, 0.0), kept(simd, b, tail, 0.0)];
        sums[1] = [sums[1][0] + a, sums[1][1] + b];
    }
    let [[a, b], [c, d], [e, f], [g, h]] = sums;
    [((a + c) + (e + g)).sum(), ((b + d) + (f + h)).sum()]
}

/// As [`change`], by the instructions of `simd`.
#[inline(always)]
pub(crate) fn change_by<S: Simd, F: Update<N>, const N: usize>(
    simd: S,
    map: F,
    from: [&[f32]; N],
    to: &mut [f32],
) {
    Change(map, from.map(|slice| &slice[..to.len()]), to).with_simd(simd);
}

/// The sum of `map` over the places of `from`, whose slices are as long.
pub(crate) fn sum<F: Map<N>, const N: usize>(map: F, from: [&[f32]; N]) -> f32 {
    Arch::new().dispatch(Sum(map, from.map(|slice| &slice[..from[0].len()])))
}

struct Largest<'a>(&'a [f32]);

impl WithSimd for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (heads, tail) = S::as_simd_f32s(self.0);
        let mut largest = [Lanes::all(simd, f32::NEG_INFINITY); SUMS];
        let quads = heads.chunks_exact(SUMS);
        for head in quads.remainder() {
            largest[0] = largest[0].max(Lanes::new(simd, *head));
        }
        for quad in quads {
            for (largest, head) in largest.iter_mut().zip(quad) {
                *largest = largest.max(Lanes::new(simd, *head));
            }
        }
        if !tail.is_empty() {
            let last = Lanes::new(simd, simd.partial_load_f32s(tail));
            largest[1] = largest[1].max(kept(simd, last, tail.len(), f32::NEG_INFINITY));
        }
        let all = largest[0].max(largest[1]).max(largest[2].max(largest[3]));
        let mut buffer = [f32::NEG_INFINITY; LANES_MAX];
        simd.partial_store_f32s(&mut buffer[..S::F32_LANES], all.values);
        buffer.iter().fold(
            f32::NEG_INFINITY,
            |a, b| if a > *b || a.is_nan() { a } else { *b },
        )
    }
}

/// The largest number; not a number where one isn't, minus infinity where there is none.
pub(crate) fn largest(from: &[f32]) -> f32 {
    Arch::new().dispatch(Largest(from))
}

/// The largest number, by the instructions of `simd`, where what isn't a number may go unseen: for what is taken from every
/// number of a row before their sum, which shows it.
#[inline(always)]
pub(crate) fn peak_by<S: Simd>(simd: S, from: &[f32]) -> f32 {
    let (heads, tail) = S::as_simd_f32s(from);
    let mut most = [Lanes::all(simd, f32::NEG_INFINITY); SUMS];
    let (quads, rest) = heads.as_chunks::<SUMS>();
    for head in rest {
        most[0] = most[0].either_max(Lanes::new(simd, *head));
    }
    for quad in quads {
        for (most, head) in most.iter_mut().zip(quad) {
            *most = most.either_max(Lanes::new(simd, *head));
        }
    }
    if !tail.is_empty() {
        let last = Lanes::new(simd, simd.partial_load_f32s(tail));
        most[1] = most[1].either_max(kept(simd, last, tail.len(), f32::NEG_INFINITY));
    }
    let [a, b, c, d] = most;
    simd.reduce_max_f32s(a.either_max(b).either_max(c.either_max(d)).values)
}

/// The number itself.
#[derive(Clone, Copy)]
pub(crate) struct Itself;

impl Map<1> for Itself {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        x
    }
}

/// Two numbers multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Product;

impl Map<2> for Product {
    #[inline(always)]
    fn of<S: Simd>(self, [a, b]: [Lanes<S>; 2]) -> Lanes<S> {
        a * b
    }
}

/// What is there, and another number added.
#[derive(Clone, Copy)]
pub(crate) struct Added;

impl Update<1> for Added {
    #[inline(always)]
    fn of<S: Simd>(self, old: Lanes<S>, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        old + x
    }
}

/// Multiplied by a number.
#[derive(Clone, Copy)]
pub(crate) struct Times(pub(crate) f32);

impl Update<0> for Times {
    #[inline(always)]
    fn of<S: Simd>(self, old: Lanes<S>, _: [Lanes<S>; 0]) -> Lanes<S> {
        old * self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each instruction set of this machine makes of it.
    fn on_each<O: WithSimd>(op: impl Fn() -> O) -> Vec<O::Output> {
        let mut made = vec![pulp::Scalar::new().vectorize(op()), Arch::new().dispatch(op())];
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            made.push(Simd::vectorize(simd, op()));
        }
        made
    }

    #[test]
    fn sums_and_maxima_of_every_length_are_right_by_every_instruction_set() {
        for len in 0..200u16 {
            // All below -1, so that what lies beyond the slice would show.
            let x: Vec<f32> = (0..len)
                .map(|place| -1.0 - f32::from(place * 37 % 101) / 8.0)
                .collect();
            let sum: f32 = x.iter().sum();
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(
                on_each(|| Sum(Itself, [&x]))
                    .iter()
                    .all(|got| (got - sum).abs() < 1e-3),
                "{len}"
            );
            assert!(on_each(|| Largest(&x)).iter().all(|got| *got == most), "{len}");
            for hole in 0..x.len().min(70) {
                let mut x = x.clone();
                x[hole] = f32::NAN;
                assert!(
                    on_each(|| Largest(&x)).iter().all(|got| got.is_nan()),
                    "{len}, {hole}"
                );
            }
        }
    }
}
