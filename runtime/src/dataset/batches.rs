//! Batches that are made ahead, on threads of their own, while the last one is being learnt from.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candle_core::{Device, Tensor};

use crate::interrupt::check_interrupt;
use crate::train::Examples;
use crate::{Error, Result};

/// Batches that may be ahead of the one whose turn it is.
const AHEAD: usize = 6;
/// Most threads that make batches.
const THREADS_MAX: usize = 4;
/// How often the cell looks for an interrupt while it waits.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A batch, not yet on a device.
#[derive(Debug)]
pub(crate) struct Raw {
    /// `f32`, row by row.
    pub(crate) inputs: Vec<f32>,
    /// Shape of one example.
    pub(crate) shape: Vec<usize>,
    /// One for each example.
    pub(crate) labels: Vec<u32>,
}

/// Batches of a dataset, in order: `for batch in batches { let batch = batch?; .. }`. Ends after the first error.
#[derive(Debug)]
pub struct Batches {
    table: Arc<Exchange>,
    count: usize,
    device: Device,
}

/// Where the threads put what they made.
#[derive(Debug, Default)]
struct Exchange {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    made: BTreeMap<usize, Result<Raw>>,
    /// Number of the batch that a thread begins next.
    begun: usize,
    /// Number of the batch whose turn it is.
    next: usize,
    /// Threads that still make some.
    threads: usize,
    /// Nobody takes any more.
    is_over: bool,
}

impl Batches {
    /// `count` batches, each made by `make`, on several threads. Few are held at a time.
    pub(crate) fn new(count: usize, make: impl Fn(usize) -> Result<Raw> + Send + Sync + 'static) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (table, make) = (Arc::new(Exchange::default()), Arc::new(make));
        for _ in 0..threads.clamp(1, THREADS_MAX).min(count) {
            let (own, make) = (Arc::clone(&table), Arc::clone(&make));
            table.lock().threads += 1;
            let thread = std::thread::Builder::new().name("batches".to_owned());
            let spawned = thread.spawn(move || {
                let _leaves = Leaves(Arc::clone(&own));
                while let Some(number) = own.begin(count) {
                    // A decoder that panics is an error of its batch, not a batch that never comes.
                    let raw = catch_unwind(AssertUnwindSafe(|| make(number))).unwrap_or_else(|_| {
                        Err(Error::Data {
                            reason: format!("making batch {number} panicked"),
                        })
                    });
                    own.lock().made.insert(number, raw);
                    own.changed.notify_all();
                }
            });
            if spawned.is_err() {
                table.lock().threads -= 1;
            }
        }
        Self {
            table,
            count,
            device: Device::Cpu,
        }
    }

    /// Puts tensors on this device; at first it is the CPU.
    #[must_use]
    pub fn to_device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Batches in all.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch whose turn it is.
    fn wait(&self) -> Result<Raw> {
        let mut state = self.table.lock();
        loop {
            let next = state.next;
            if let Some(raw) = state.made.remove(&next) {
                state.next = next + 1;
                self.table.changed.notify_all();
                return raw;
            }
            if state.threads == 0 {
                return Err(Error::Data {
                    reason: "the threads that make batches have ended".to_owned(),
                });
            }
            let waited = self.table.changed.wait_timeout(state, LOOK_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            check_interrupt();
            state = self.table.lock();
        }
    }

    fn place(&self, raw: Raw) -> Result<Examples> {
        let mut shape = vec![raw.labels.len()];
        shape.extend(raw.shape);
        let inputs = Tensor::from_vec(raw.inputs, shape, &self.device)?;
        Examples::new(inputs, Tensor::new(raw.labels, &self.device)?)
    }
}

impl Iterator for Batches {
    type Item = Result<Examples>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_over = {
            let state = self.table.lock();
            state.is_over || state.next >= self.count
        };
        if is_over {
            return None;
        }
        let batch = self.wait().and_then(|raw| self.place(raw));
        if batch.is_err() {
            self.table.end();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count - self.table.lock().next))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.table.end();
    }
}

impl Exchange {
    /// Number of the next batch to make, once it is wanted; none when there is no more, or nobody wants any.
    fn begin(&self, count: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.begun >= count {
                return None;
            }
            if state.begun <= state.next + AHEAD {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody takes any more: nothing more is made, and what is made goes.
    fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.made.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that makes batches; it may end by a panic.
struct Leaves(Arc<Exchange>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "small numbers"
    )]
    fn raw(number: usize) -> Raw {
        Raw {
            inputs: vec![number as f32; 6],
            shape: vec![3],
            labels: vec![number as u32; 2],
        }
    }

    #[test]
    fn come_in_order_and_no_more_are_made_than_are_wanted_soon() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut batches = Batches::new(1000, move |number| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(raw(number))
        });
        for expected in 0..10_u32 {
            let batch = batches.next().unwrap().unwrap();
            assert_eq!(batch.inputs.dims(), [2, 3]);
            assert_eq!(batch.labels.to_vec1::<u32>().unwrap(), [expected, expected]);
        }
        drop(batches);
        assert!(made.load(Ordering::SeqCst) <= 10 + AHEAD + 1);
    }

    #[test]
    fn the_first_error_is_the_last_batch() {
        let made: Vec<_> = Batches::new(5, |number| match number {
            2 => Err(Error::NoInput),
            number => Ok(raw(number)),
        })
        .collect();
        assert_eq!(
            made.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, false]
        );
        // One panic in a thread is no wait without end, and nothing more is made after an error.
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let one: Vec<_> = Batches::new(1000, move |number| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_ne!(number, 3, "as a decoder would");
            Ok(raw(number))
        })
        .collect();
        assert_eq!(
            one.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        assert!(made.load(Ordering::SeqCst) <= 4 + AHEAD + 1 + THREADS_MAX);
        let broken: Vec<_> = Batches::new(9, |_| panic!("as a thread would")).collect();
        assert!(broken.len() == 1 && broken[0].is_err());
        assert!(Batches::new(0, |number| Ok(raw(number))).next().is_none());
    }
}
