//! Work cut into chunks for threads.
//!
//! The cut depends on shapes alone, never on how many threads there are, and partial sums are added in the order of
//! chunks: a result is the same bit for bit in every run. Less than one chunk stays on the caller's thread.

use std::any::Any;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use pulp::Arch;

use crate::loops::{self, Rows, RowsOf};

/// Elements of a chunk of light work: some ten microseconds, well above what waking a thread takes.
pub(crate) const GRAIN: usize = 16 * 1024;

/// A vector of `len` elements whose chunks of `chunk` elements are written by `write(first element, chunk)`, and what each
/// call gave, in order; without elements there is no call. Each chunk is zeroed just before, in the cache: memory is gone
/// through once.
#[expect(unsafe_code, reason = "`vec![0; len]` would write all of memory once more")]
pub(crate) fn build_with<T, R, F>(len: usize, chunk: usize, write: F) -> (Vec<T>, Vec<R>)
where
    T: Copy + Default + Send,
    R: Send,
    F: Fn(usize, &mut [T]) -> R + Sync,
{
    let one = |start: usize, part: &mut [MaybeUninit<T>]| write(start, set(part, T::default()));
    // SAFETY: `one` writes every element of a chunk.
    unsafe { filled(len, chunk, one) }
}

/// As [`build`], of chunks that aren't zeroed before: `write` gives the chunk back as written. For light work, where zeroing
/// takes as long.
#[expect(unsafe_code, reason = "as for `build_with`")]
pub(crate) fn build_unzeroed<T, F>(len: usize, chunk: usize, write: F) -> Vec<T>
where
    T: Send,
    F: for<'a> Fn(usize, &'a mut [MaybeUninit<T>]) -> &'a mut [T] + Sync,
{
    let one = |start: usize, part: &mut [MaybeUninit<T>]| {
        let (place, len) = (part.as_ptr().cast::<T>(), part.len());
        let written = write(start, part);
        assert!(
            std::ptr::eq(written.as_ptr(), place) && written.len() == len,
            "the chunk itself is given back"
        );
    };
    // SAFETY: what `write` gives back as written is the whole chunk.
    unsafe { filled(len, chunk, one) }.0
}

/// A vector whose chunks `one` writes.
///
/// # Safety
/// `one` writes every element of the chunk that it is given.
#[expect(unsafe_code, reason = "as for `build_with`")]
unsafe fn filled<T: Send, R: Send>(
    len: usize,
    chunk: usize,
    one: impl Fn(usize, &mut [MaybeUninit<T>]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let mut out = Vec::with_capacity(len);
    let spare = &mut out.spare_capacity_mut()[..len];
    let given = if len == 0 {
        Vec::new()
    } else if len <= chunk {
        vec![one(0, spare)]
    } else {
        share(spare.chunks_mut(chunk).enumerate(), |(index, part)| {
            one(index * chunk, part)
        })
    };
    // SAFETY: the chunks cover the first `len` elements, and `one` wrote each.
    unsafe { out.set_len(len) };
    (out, given)
}

/// As [`build_with`], where calls give nothing.
pub(crate) fn build<T, F>(len: usize, chunk: usize, write: F) -> Vec<T>
where
    T: Copy + Default + Send,
    F: Fn(usize, &mut [T]) + Sync,
{
    build_with(len, chunk, write).0
}

/// As [`build_unzeroed`], of rows of `width` elements: `write(row, elements of that row)`. A chunk is whole rows.
pub(crate) fn build_rows<T, F>(rows: usize, width: usize, write: F) -> Vec<T>
where
    T: Send,
    F: for<'a> Fn(usize, &'a mut [MaybeUninit<T>]) -> &'a mut [T] + Sync,
{
    build_rows_with(rows, width, || (), |row, to, _| write(row, to)).0
}

/// As [`build_rows`], with something that each chunk of rows has for itself, and these in order.
#[expect(unsafe_code, reason = "as for `build_with`")]
pub(crate) fn build_rows_with<T, R, F>(
    rows: usize,
    width: usize,
    start: impl Fn() -> R + Sync,
    write: F,
) -> (Vec<T>, Vec<R>)
where
    T: Send,
    R: Send,
    F: for<'a> Fn(usize, &'a mut [MaybeUninit<T>], &mut R) -> &'a mut [T] + Sync,
{
    let width_or_one = width.max(1);
    let one = |first: usize, part: &mut [MaybeUninit<T>]| {
        let mut own = start();
        for (index, row) in part.chunks_mut(width_or_one).enumerate() {
            let (place, len) = (row.as_ptr().cast::<T>(), row.len());
            let written = write(first / width_or_one + index, row, &mut own);
            assert!(
                std::ptr::eq(written.as_ptr(), place) && written.len() == len,
                "the row itself is given back"
            );
        }
        own
    };
    // SAFETY: what `write` gives back as written is each whole row, and rows are all of a chunk.
    unsafe { filled(rows * width, rows_of_chunk(width) * width_or_one, one) }
}

/// As [`build_rows_with`], of rows that are made within one choice of instructions for each chunk.
#[expect(unsafe_code, reason = "as for `build_with`")]
pub(crate) fn build_rows_by<R: Rows>(count: usize, width: usize, rows: &R) -> (Vec<f32>, Vec<R::Own>) {
    let one = |start: usize, to: &mut [MaybeUninit<f32>]| {
        let first = start / width.max(1);
        Arch::new().dispatch(RowsOf {
            rows,
            first,
            width,
            to,
        })
    };
    // SAFETY: what `Rows::write` gives back as written is each whole row, which `RowsOf` checks, and rows are all of a chunk.
    unsafe { filled(count * width, rows_of_chunk(width) * width.max(1), one) }
}

/// Writes `value` everywhere, and gives back what is written.
#[expect(unsafe_code, reason = "as for `build_with`")]
pub(crate) fn set<T: Copy>(to: &mut [MaybeUninit<T>], value: T) -> &mut [T] {
    for place in to.iter_mut() {
        place.write(value);
    }
    // SAFETY: every element was written above.
    unsafe { to.assume_init_mut() }
}

/// How many rows of `width` elements make a chunk.
pub(crate) fn rows_of_chunk(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// `of(range)` for the chunks of `0..len`, in order.
pub(crate) fn collect<R, F>(len: usize, chunk: usize, of: F) -> Vec<R>
where
    R: Send,
    F: Fn(std::ops::Range<usize>) -> R + Sync,
{
    let range = |index: usize| index * chunk..((index + 1) * chunk).min(len);
    let count = len.div_ceil(chunk);
    if count <= 1 {
        (0..count).map(|index| of(range(index))).collect()
    } else {
        share(0..count, |index| of(range(index)))
    }
}

/// `work` for each job, by the caller's thread and those of rayon's pool, and what it gave, in the order of jobs.
///
/// Each takes the next job when it is done with one.
pub(crate) fn share<I, R, F>(jobs: I, work: F) -> Vec<R>
where
    I: ExactSizeIterator + Send,
    I::Item: Send,
    R: Send,
    F: Fn(I::Item) -> R + Sync,
{
    let count = jobs.len();
    let jobs = Mutex::new(jobs.enumerate());
    let done = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<R>>>());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take = || {
        while let Some((index, job)) = next() {
            let given = work(job);
            done.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(given);
        }
    };
    let helpers = rayon::current_num_threads().min(count).saturating_sub(1);
    with_helpers(helpers, &take);
    done.into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_iter()
        .flatten()
        .collect()
}

/// Calls `work` on the caller's thread and on up to `helpers` of rayon's pool, until the caller's call and those that have begun
/// are over. A thread that wakes up later than that is not waited for, as rayon's own scopes and iterators would: that takes
/// longer than a small op does.
fn with_helpers(helpers: usize, work: &(dyn Fn() + Sync)) {
    if helpers == 0 {
        return work();
    }
    let door = Arc::new(Door::new(work));
    for _ in 0..helpers {
        let door = Arc::clone(&door);
        rayon::spawn(move || door.enter());
    }
    let own = catch_unwind(AssertUnwindSafe(work));
    let others = door.shut();
    if let Some(panic) = own.err().or(others) {
        resume_unwind(panic);
    }
}

type Panic = Box<dyn Any + Send>;

/// Where helpers come to work that is only lent: they are let in until it is shut.
struct Door {
    /// Helpers inside, and [`SHUT`].
    state: AtomicUsize,
    work: *const (dyn Fn() + Sync),
    panic: Mutex<Option<Panic>>,
    caller: Thread,
}

const SHUT: usize = 1 << (usize::BITS - 1);
/// How often a caller looks whether helpers are done before it sleeps: they are in the middle of their last job.
const LOOKS: usize = 2000;

// SAFETY: `work` may be called on any thread, and is called only while it is lent: see `enter`.
#[expect(unsafe_code, reason = "scoped threads that may be late")]
unsafe impl Send for Door {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "as for `Send`")]
unsafe impl Sync for Door {}

impl Door {
    #[expect(unsafe_code, reason = "as for `Send`")]
    fn new(work: &(dyn Fn() + Sync)) -> Self {
        // SAFETY: only a lifetime is left out; `enter` keeps to it.
        let work = unsafe {
            std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync + 'static)>(work)
        };
        Self {
            state: AtomicUsize::new(0),
            work,
            panic: Mutex::new(None),
            caller: thread::current(),
        }
    }

    #[expect(unsafe_code, reason = "as for `Send`")]
    fn enter(&self) {
        let inside = |state: usize| (state & SHUT == 0).then_some(state + 1);
        if self.state.fetch_update(Acquire, Relaxed, inside).is_err() {
            return;
        }
        // SAFETY: the caller lends `work` until `shut` is over, which waits for whoever was counted before the door was shut.
        let work = unsafe { &*self.work };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.state.fetch_sub(1, Release);
        self.caller.unpark();
    }

    /// Lets nobody in any more and waits for those inside; what one panicked with, if one did.
    fn shut(&self) -> Option<Panic> {
        self.state.fetch_or(SHUT, Acquire);
        let mut looks = 0;
        while self.state.load(Acquire) != SHUT {
            if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                thread::park();
            }
        }
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The sums of vectors of `width` elements, in order.
pub(crate) fn added(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_else(|| vec![0.0; width]);
    for part in parts {
        loops::change(loops::Added, [&part], &mut sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_by_the_time_that_a_call_is_over_and_panics_come_through() {
        for round in 0..2000usize {
            let made = share(0..round % 9, |job| job * round);
            assert_eq!(made, (0..round % 9).map(|job| job * round).collect::<Vec<_>>());
        }
        // On whichever thread the job that panics is.
        for _ in 0..50 {
            let panics = catch_unwind(|| share(0..9, |job| assert!(job != 7, "as it should")));
            assert!(panics.is_err());
        }
    }

    #[test]
    fn callers_on_every_thread_of_the_pool_get_through() {
        let made = share(0..16u32, |outer| {
            share(0..16u32, |inner| outer * inner).iter().sum::<u32>()
        });
        assert_eq!(made.iter().sum::<u32>(), 120 * 120);
        rayon::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|_| assert_eq!(share(0..5u8, |job| job), [0, 1, 2, 3, 4]));
            }
        });
    }
}
