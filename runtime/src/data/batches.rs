//! Batches that are made ahead, on threads of their own, while the last one is being learnt from.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::device::{Staged, stage};
use crate::interrupt::{check_interrupt, not_meant};
use crate::train::Examples;
use crate::{Error, Result};

/// How often the cell looks for an interrupt while it waits.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How far ahead batches are made, and by how many threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    /// Batches that may be ahead of the one whose turn it is.
    pub(crate) batches: usize,
    /// Threads that make batches.
    pub(crate) threads: usize,
}

impl Default for Ahead {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            batches: 6,
            // More of them would take the processor from the training.
            threads: threads.min(4),
        }
    }
}

/// How long batches were waited for.
#[derive(Debug, Default)]
pub(crate) struct Waited(AtomicU64);

impl Waited {
    fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn all(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Batches of a dataset, in order: `for batch in batches { let batch = batch?; .. }`. Ends after the first error.
#[derive(Debug)]
pub struct Batches {
    table: Arc<Exchange>,
    count: usize,
    waited: Arc<Waited>,
}

/// Makes the batch with this number; may ask whether nobody wants it any more.
type Make = dyn Fn(usize, &dyn Fn() -> bool) -> Result<Examples>;

/// Where the threads put what they made.
#[derive(Debug)]
struct Exchange {
    state: Mutex<State>,
    changed: Condvar,
    /// Where batches are wanted.
    device: Mutex<Device>,
    /// Nobody takes any more; beside the lock, for threads that are in the middle of a batch.
    is_over: AtomicBool,
}

/// A batch: inputs and labels.
type Made = [Part; 2];

/// A tensor of a batch.
#[derive(Debug)]
enum Part {
    Here(Tensor),
    /// Where a GPU fetches it by itself.
    Staged(Staged),
}

impl Part {
    fn new(tensor: Tensor, device: &Device) -> Self {
        match stage(&tensor, device) {
            Some(staged) => Self::Staged(staged),
            None => Self::Here(tensor),
        }
    }

    fn placed(self, device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::Here(tensor) => tensor.to_device(device),
            Self::Staged(staged) => staged.place()?.to_device(device),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    made: BTreeMap<usize, Result<Made>>,
    /// Number of the batch that a thread begins next.
    begun: usize,
    /// Number of the batch whose turn it is.
    next: usize,
    /// Threads that still make some.
    threads: usize,
}

impl Batches {
    /// `count` batches, each made on the CPU by `make`, on several threads. Few are held at a time.
    pub(crate) fn new(
        count: usize,
        make: impl Fn(usize) -> Result<Examples> + Send + Sync + 'static,
    ) -> Self {
        let make = move |number: usize, _: &dyn Fn() -> bool| make(number);
        Self::ahead(count, Ahead::default(), &Device::Cpu, Arc::default(), make)
    }

    /// The same, so far ahead, for a device; the time that is waited for them is added to `waited`. `make` may ask whether
    /// anybody still wants the batch.
    pub(crate) fn ahead(
        count: usize,
        ahead: Ahead,
        device: &Device,
        waited: Arc<Waited>,
        make: impl Fn(usize, &dyn Fn() -> bool) -> Result<Examples> + Send + Sync + 'static,
    ) -> Self {
        let exchange = Exchange {
            device: Mutex::new(device.clone()),
            state: Mutex::default(),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        };
        let (table, make) = (Arc::new(exchange), Arc::new(make));
        for _ in 0..ahead.threads.max(1).min(count) {
            let (own, make) = (Arc::clone(&table), Arc::clone(&make));
            table.lock().threads += 1;
            let thread = std::thread::Builder::new().name("batches".to_owned());
            let spawned = thread.spawn(move || {
                let _leaves = Leaves(Arc::clone(&own));
                // Whoever wants batches was not stopped, though a cell before may have been.
                not_meant(|| own.make(count, ahead.batches, &*make));
            });
            if spawned.is_err() {
                table.lock().threads -= 1;
            }
        }
        Self { table, count, waited }
    }

    /// Puts tensors on this device; at first it is the CPU.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        // The threads are at work already: the first batches may go the slower way.
        *self.table.device.lock().unwrap_or_else(PoisonError::into_inner) = device.clone();
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

    /// How long batches were waited for until now: a training that waits long wants more threads, or files that are
    /// quicker to decode.
    pub fn waited(&self) -> Duration {
        self.waited.all()
    }

    /// The batch whose turn it is.
    fn wait(&self) -> Result<Made> {
        let mut state = self.table.lock();
        loop {
            let next = state.next;
            if let Some(batch) = state.made.remove(&next) {
                state.next = next + 1;
                drop(state);
                self.table.changed.notify_all();
                return batch;
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

    fn place(&self, [inputs, labels]: Made) -> Result<Examples> {
        let device = self.table.device();
        Examples::new(inputs.placed(&device)?, labels.placed(&device)?)
    }
}

impl Iterator for Batches {
    type Item = Result<Examples>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.table.is_over.load(Ordering::Relaxed) || self.table.lock().next >= self.count {
            return None;
        }
        let begun = Instant::now();
        let batch = self.wait().and_then(|batch| self.place(batch));
        self.waited.add(begun.elapsed());
        // An interrupt that unwound a function of a cell on a thread of ours means this cell.
        check_interrupt();
        if batch.is_err() {
            self.table.end();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count.saturating_sub(self.table.lock().next)))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.table.end();
    }
}

impl Exchange {
    /// Makes batches until there is none that is wanted.
    fn make(&self, count: usize, ahead: usize, make: &Make) {
        let is_over = || self.is_over.load(Ordering::Relaxed);
        while let Some(number) = self.begin(count, ahead) {
            // A decoder that panics is an error of its batch, not a batch that never comes.
            let made = catch_unwind(AssertUnwindSafe(|| make(number, &is_over)));
            let batch = made.unwrap_or_else(|panic| {
                Err(Error::Data {
                    reason: format!("making batch {number} panicked{}", said(&*panic)),
                })
            });
            let device = self.device();
            let made = batch
                .map(|Examples { inputs, labels }| [inputs, labels].map(|tensor| Part::new(tensor, &device)));
            self.lock().made.insert(number, made);
            self.changed.notify_all();
        }
    }

    /// Number of the next batch to make, once it is wanted; none when there is no more, or nobody wants any.
    fn begin(&self, count: usize, ahead: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if self.is_over.load(Ordering::Relaxed) || state.begun >= count {
                return None;
            }
            if state.begun <= state.next.saturating_add(ahead) {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody takes any more: nothing more is made, and what is made goes.
    fn end(&self) {
        let mut state = self.lock();
        self.is_over.store(true, Ordering::Relaxed);
        let made = std::mem::take(&mut state.made);
        drop(state);
        drop(made);
        self.changed.notify_all();
    }

    fn device(&self) -> Device {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic said, where it said something.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(String::new, |text| format!(": {text}"))
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
    use std::sync::atomic::AtomicUsize;

    use candle_core::Tensor;

    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    fn batch(number: usize) -> Examples {
        let inputs = Tensor::full(number as f32, (2, 3), &Device::Cpu).unwrap();
        Examples::new(inputs, Tensor::full(number as u32, 2, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn come_in_order_and_no_more_are_made_than_are_wanted_soon() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut batches = Batches::new(1000, move |number| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(batch(number))
        });
        for expected in 0..10_u32 {
            let batch = batches.next().unwrap().unwrap();
            assert_eq!(batch.inputs.dims(), [2, 3]);
            assert_eq!(batch.labels.to_vec1::<u32>().unwrap(), [expected, expected]);
        }
        drop(batches);
        assert!(made.load(Ordering::SeqCst) <= 10 + Ahead::default().batches + 1);
    }

    #[test]
    fn the_first_error_is_the_last_batch() {
        let made: Vec<_> = Batches::new(5, |number| match number {
            2 => Err(Error::NoInput),
            number => Ok(batch(number)),
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
            Ok(batch(number))
        })
        .collect();
        assert_eq!(
            one.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        let Ahead { batches, threads } = Ahead::default();
        assert!(made.load(Ordering::SeqCst) <= 4 + batches + 1 + threads);
        let broken: Vec<_> = Batches::new(9, |_| panic!("as a thread would")).collect();
        let error = broken[0].as_ref().unwrap_err().to_string();
        assert!(
            broken.len() == 1 && error.contains("as a thread would"),
            "{error}"
        );
        assert!(Batches::new(0, |number| Ok(batch(number))).next().is_none());
    }
}
