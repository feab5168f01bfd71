//! Batches of any [`Samples`], made ahead on threads, in an order and with random changes that repeat.
//!
//! Which samples are in which batch follows from seed and epoch, and what a random step does with a sample from seed,
//! epoch and the sample's number: neither from how many threads there are or which of them was quick. So a training that
//! begins in the middle of an epoch gets what it would have got.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};

use super::batches::{Ahead, Waited, said};
use super::{Batches, Sample, Samples};
use crate::train::{BatchIter, BatchSource, Examples, Pass, SeededRandom, fingerprint_of};
use crate::{Error, Result};

/// Loads samples in batches: shuffled, changed and made ahead. Cloning one is cheap.
///
/// ```no_run
/// # use alephlab::prelude::*;
/// # fn main() -> alephlab::Result<()> {
/// let train = Loader::new(mount("flowers")?.images("train")?.resized(64, 64))
///     .augment(random_crop(64, 64, 8))
///     .augment(random_flip())
///     .map(normalise([0.5; 3], [0.25; 3]));
/// for batch in train.batches(32, Some(7))? {
///     let batch = batch?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Loader {
    source: Arc<dyn Samples>,
    steps: Arc<[Step]>,
    ahead: Ahead,
    drops_last: bool,
    device: Device,
    waited: Arc<Waited>,
}

/// What is done with a sample.
#[derive(Clone)]
enum Step {
    Always(Arc<Always>),
    /// Where samples are learned from.
    Random(Arc<Random>),
}

type Always = dyn Fn(Sample) -> Result<Sample> + Send + Sync;
type Random = dyn Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync;

impl Loader {
    /// Of these samples. At first nothing changes them, the last batch of a pass may be smaller, batches are on the CPU, up
    /// to six are made ahead, by up to four threads.
    pub fn new(source: impl Samples + 'static) -> Self {
        Self {
            source: Arc::new(source),
            steps: Arc::new([]),
            ahead: Ahead::default(),
            drops_last: false,
            device: Device::Cpu,
            waited: Arc::default(),
        }
    }

    /// Changes each sample, after what was said before. On a thread of the loader's.
    #[must_use]
    pub fn map(self, step: impl Fn(Sample) -> Result<Sample> + Send + Sync + 'static) -> Self {
        self.step(Step::Always(Arc::new(step)))
    }

    /// Changes each sample at random, after what was said before: only in passes with a seed, which are those to learn from;
    /// what is measured stays as it is. The random numbers follow from the seed, the epoch and the sample's number.
    #[must_use]
    pub fn augment(
        self,
        step: impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static,
    ) -> Self {
        self.step(Step::Random(Arc::new(step)))
    }

    fn step(mut self, step: Step) -> Self {
        self.steps = self.steps.iter().cloned().chain([step]).collect();
        self
    }

    /// Leaves out the last batch of a pass where it has fewer samples than the others: only in passes with a seed, which
    /// are those to learn from; what is measured is all of it.
    #[must_use]
    pub fn drop_last(mut self, drops: bool) -> Self {
        self.drops_last = drops;
        self
    }

    /// How many threads make batches; at least one.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.ahead.threads = threads.max(1);
        self
    }

    /// How many batches may wait for their turn.
    #[must_use]
    pub fn ahead(mut self, batches: usize) -> Self {
        self.ahead.batches = batches;
        self
    }

    /// Puts batches on this device. A trainer does so by itself.
    #[must_use]
    pub fn to_device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// How long all passes until now, also those of clones, waited for their batches. Of the time of a training that is
    /// the part that a quicker loader would save.
    pub fn waited(&self) -> Duration {
        self.waited.all()
    }

    /// Batches of up to `size` samples in the source's order, or, with a seed, in the random order that it gives.
    ///
    /// # Errors
    /// [`Error::Data`] when there would be no batch. What is wrong with a sample comes with its batch and names it.
    pub fn batches(&self, size: usize, seed: Option<u64>) -> Result<Batches> {
        self.of_pass(&Pass {
            seed,
            ..Pass::in_order(size)
        })
    }

    /// The batches of one pass, or the rest of one: what a loop of one's own takes, with another number for each epoch.
    ///
    /// # Errors
    /// As [`Loader::batches`].
    pub fn of_pass(&self, pass: &Pass) -> Result<Batches> {
        let size = pass.batch_size.max(1);
        let all = self.count(size, pass.seed.is_some());
        if all == 0 {
            let reason = if self.is_empty() {
                "there is no sample to load".to_owned()
            } else {
                format!(
                    "{} samples are less than a batch of {size}, and the last is left out",
                    self.len()
                )
            };
            return Err(Error::Data { reason });
        }
        let (own, pass, order) = (self.clone(), *pass, pass.order(self.len()));
        let count = all.saturating_sub(pass.first);
        let make = move |number: usize, is_over: &dyn Fn() -> bool| {
            let from = (pass.first + number) * size;
            own.make(&order[from..order.len().min(from + size)], &pass, is_over)
        };
        let waited = Arc::clone(&self.waited);
        Ok(Batches::ahead(count, self.ahead, &self.device, waited, make))
    }

    /// Batches in one pass.
    fn count(&self, size: usize, is_learned: bool) -> usize {
        if self.drops_last && is_learned {
            self.len() / size
        } else {
            self.len().div_ceil(size)
        }
    }

    fn make(&self, indices: &[usize], pass: &Pass, is_over: &dyn Fn() -> bool) -> Result<Examples> {
        let is_changed = |step: &Step| matches!(step, Step::Always(_)) || pass.seed.is_some();
        if !self.steps.iter().any(is_changed)
            && let Some(batch) = self.source.batch(indices)?
        {
            return Ok(batch);
        }
        let mut samples: Vec<Sample> = Vec::with_capacity(indices.len());
        for &index in indices {
            if is_over() {
                // Nobody hears this.
                return Err(Error::Data {
                    reason: "the batch is not wanted any more".to_owned(),
                });
            }
            // With the sample's name, which the panic itself would not say.
            let made = catch_unwind(AssertUnwindSafe(|| self.sample(index, pass)));
            let made = made.unwrap_or_else(|panic| {
                Err(Error::Data {
                    reason: format!("making it panicked{}", said(&*panic)),
                })
            });
            let sample = made.map_err(|error| named(error, &self.source.name(index)))?;
            if let Some(first) = samples.first() {
                self.check_alike(first, indices[0], &sample, index)?;
            }
            samples.push(sample);
        }
        let stacked = |part: fn(&Sample) -> &Tensor| {
            let parts: Vec<&Tensor> = samples.iter().map(part).collect();
            Tensor::stack(&parts, 0)
        };
        Examples::new(stacked(|sample| &sample.input)?, stacked(|sample| &sample.label)?)
    }

    fn sample(&self, index: usize, pass: &Pass) -> Result<Sample> {
        let mut sample = self.source.sample(index)?;
        let mut random = pass.seed.map(|seed| {
            let place = format!("data of epoch {} sample {index}", pass.epoch);
            SeededRandom::named(seed, &place)
        });
        for step in self.steps.iter() {
            match (step, &mut random) {
                (Step::Always(step), _) => sample = step(sample)?,
                (Step::Random(step), Some(random)) => sample = step(sample, random)?,
                (Step::Random(_), None) => {}
            }
        }
        Ok(sample)
    }

    /// Refuses samples that cannot be in one batch, with the names of both.
    fn check_alike(&self, first: &Sample, of_first: usize, other: &Sample, of_other: usize) -> Result<()> {
        for (what, first, other) in [
            ("input", &first.input, &other.input),
            ("label", &first.label, &other.label),
        ] {
            if (first.dims(), first.dtype()) != (other.dims(), other.dtype()) {
                let said = |tensor: &Tensor| format!("{:?} {:?}", tensor.dtype(), tensor.dims());
                let (one, two) = (self.source.name(of_first), self.source.name(of_other));
                let (first, other) = (said(first), said(other));
                return Err(Error::Data {
                    reason: format!(
                        "the {what} of {two} is {other}, that of {one} is {first}: one batch holds one shape"
                    ),
                });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Loader");
        shown
            .field("samples", &self.len())
            .field("steps", &self.steps.len());
        shown
            .field("ahead", &self.ahead)
            .field("drops_last", &self.drops_last)
            .finish_non_exhaustive()
    }
}

/// A trainer learns from its batches as they are made, ahead of it, in another order each epoch.
impl BatchSource for Loader {
    fn pass(&self, pass: &Pass) -> Result<BatchIter<'_>> {
        Ok(Box::new(self.of_pass(pass)?))
    }

    fn pass_for(&self, pass: &Pass, device: &Device) -> Result<BatchIter<'_>> {
        // Where it was told to put them, that holds.
        if !self.device.is_cpu() {
            return self.pass(pass);
        }
        Ok(Box::new(self.clone().to_device(device).of_pass(pass)?))
    }

    fn example_count(&self) -> Option<usize> {
        Some(self.len())
    }

    /// In a pass to learn from.
    fn batch_count(&self, batch_size: usize) -> Option<usize> {
        Some(self.count(batch_size.max(1), true))
    }

    /// Of the samples, how many steps there are, and whether the last batch counts; not of what the steps do.
    fn fingerprint(&self) -> Result<Option<u64>> {
        let own = (self.steps.len(), self.drops_last);
        let source = self.source.fingerprint()?;
        Ok(source.map(|source| fingerprint_of(&format!("{source} {own:?}"))))
    }
}

/// The error with the name of what it is about, where it does not say that itself.
fn named(error: Error, name: &str) -> Error {
    let text = error.to_string();
    if text.contains(name) {
        return error;
    }
    Error::Data {
        reason: format!("{name}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::data::Files;

    /// As many samples: the number, with itself as label.
    struct Numbers(usize);

    impl Samples for Numbers {
        fn len(&self) -> usize {
            self.0
        }

        fn sample(&self, index: usize) -> Result<Sample> {
            let class = u32::try_from(index).unwrap();
            let input = Tensor::new(&[class as f32, 0.5], &Device::Cpu)?;
            Sample::of_class(input, class)
        }
    }

    /// Adds a random number, which tells whether draws repeat.
    fn noisy(source: impl Samples + 'static) -> Loader {
        Loader::new(source).augment(|sample, random| {
            let Sample { input, label } = sample;
            let input = (input + random.uniform())?;
            Ok(Sample { input, label })
        })
    }

    fn seen(loader: &Loader, pass: &Pass) -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
        let batches = loader.of_pass(pass).unwrap();
        let values = |batch: Result<Examples>| {
            let batch = batch.unwrap();
            (batch.labels.to_vec1().unwrap(), batch.inputs.to_vec2().unwrap())
        };
        batches.map(values).collect()
    }

    fn pass(seed: u64, epoch: usize, first: usize) -> Pass {
        Pass {
            seed: Some(seed),
            epoch,
            first,
            ..Pass::in_order(4)
        }
    }

    #[test]
    fn the_same_batches_come_however_many_threads_make_them() {
        let loader = noisy(Numbers(50));
        let expected = seen(&loader.clone().threads(1).ahead(0), &pass(3, 1, 0));
        for threads in [2, 3, 8] {
            assert_eq!(
                seen(&loader.clone().threads(threads).ahead(threads), &pass(3, 1, 0)),
                expected
            );
        }
        assert_eq!(expected.len(), 13);
        let mut all: Vec<u32> = expected.iter().flat_map(|(labels, _)| labels.clone()).collect();
        assert_ne!(all, (0..50).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        for other in [pass(3, 2, 0), pass(4, 1, 0)] {
            assert_ne!(seen(&loader, &other), expected);
        }
    }

    #[test]
    fn random_passes_go_on_where_they_were_left_with_the_same_numbers() {
        let mut random = SeededRandom::new(9);
        for _ in 0..20 {
            let loader = noisy(Numbers(1 + random.below(40)))
                .drop_last(random.below(2) == 1)
                .threads(3);
            let mut pass = pass(random.next_u64(), random.below(5), 0);
            pass.batch_size = 1 + random.below(loader.len());
            let whole = seen(&loader, &pass);
            assert_eq!(loader.batch_count(pass.batch_size), Some(whole.len()));
            for first in 0..whole.len() + 2 {
                assert_eq!(
                    seen(&loader, &Pass { first, ..pass }),
                    whole[first.min(whole.len())..]
                );
            }
        }
    }

    #[test]
    fn a_small_last_batch_is_kept_or_left_out_as_is_wanted() {
        let loader = Loader::new(Numbers(10));
        let sizes = |loader: &Loader, seed| -> Vec<usize> {
            let batches = loader.batches(4, seed).unwrap();
            batches.map(|batch| batch.unwrap().len()).collect()
        };
        assert_eq!(sizes(&loader, Some(1)), [4, 4, 2]);
        assert_eq!(loader.batch_count(4), Some(3));
        let loader = loader.drop_last(true);
        assert_eq!(sizes(&loader, Some(1)), [4, 4]);
        assert_eq!(sizes(&loader, None), [4, 4, 2]);
        assert_eq!(loader.batch_count(4), Some(2));
        let error = loader.batches(11, Some(1)).unwrap_err().to_string();
        assert!(
            error.contains("10 samples are less than a batch of 11"),
            "{error}"
        );
        assert!(Loader::new(Numbers(0)).batches(1, None).is_err());
    }

    #[test]
    fn random_steps_are_for_learning_and_others_for_both() {
        let loader = noisy(Numbers(3)).map(|sample| {
            let input = (sample.input * 2.0)?;
            Ok(Sample { input, ..sample })
        });
        let measured = &seen(&loader, &Pass::in_order(3))[0].1;
        assert_eq!(measured, &[[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]);
        let learned = &seen(&loader, &pass(1, 0, 0))[0];
        for (label, input) in learned.0.iter().zip(&learned.1) {
            let added = input[0] - 2.0 * *label as f32;
            assert!(added > 0.0 && added < 2.0 && (input[1] - 1.0 - added).abs() < 1e-5);
        }
    }

    #[test]
    fn rows_of_tensors_are_gathered_at_once_also_where_they_lie_turned() {
        let inputs = Tensor::arange(0_f32, 12.0, &Device::Cpu)
            .unwrap()
            .reshape((6, 2))
            .unwrap();
        let labels = Tensor::arange(0_u32, 6, &Device::Cpu).unwrap();
        let rows = Examples::new(inputs.clone(), labels.clone()).unwrap();
        let turned = inputs.t().unwrap().contiguous().unwrap().t().unwrap();
        let turned = Examples::new(turned, labels).unwrap();
        let expected = seen(&Loader::new(rows.clone()), &pass(2, 0, 0));
        assert_eq!(seen(&Loader::new(turned), &pass(2, 0, 0)), expected);
        let loader = Loader::new(rows.clone());
        let fingerprint = |loader: &Loader| BatchSource::fingerprint(loader).unwrap().unwrap();
        assert_eq!(fingerprint(&loader), fingerprint(&loader.clone().threads(2)));
        assert_ne!(fingerprint(&loader), fingerprint(&loader.clone().drop_last(true)));
        let of_examples: Vec<Examples> = rows.pass(&pass(2, 0, 0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(of_examples[0].inputs.to_vec2::<f32>().unwrap(), expected[0].1);
    }

    #[test]
    fn errors_name_the_file() {
        let files = ["a.bin", "odd.bin", "panics.bin", "wide.bin"];
        let read = |path: &std::path::Path| {
            let name = path.to_string_lossy();
            assert!(name != "panics.bin", "as a decoder would");
            if name == "odd.bin" {
                return Err(Error::Data {
                    reason: "not a sound".to_owned(),
                });
            }
            Sample::of_class(
                Tensor::zeros(name.len(), candle_core::DType::F32, &Device::Cpu)?,
                0,
            )
        };
        let error_of = |files: &[&str]| {
            let batches = Loader::new(Files::new(files, read)).batches(4, None).unwrap();
            batches.last().unwrap().unwrap_err().to_string()
        };
        assert_eq!(error_of(&files[..2]), "odd.bin: not a sound");
        assert_eq!(
            error_of(&files[2..]),
            "panics.bin: making it panicked: as a decoder would"
        );
        let error = error_of(&["a.bin", "wide.bin"]);
        assert!(
            error.contains("wide.bin is F32 [8], that of a.bin is F32 [5]"),
            "{error}"
        );
    }

    #[test]
    fn what_nobody_takes_any_more_is_not_made() {
        let (made, gate) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new((Mutex::new(false), Condvar::new())),
        );
        let (count, inside) = (Arc::clone(&made), Arc::clone(&gate));
        let loader = Loader::new(Numbers(1000)).threads(1).map(move |sample| {
            count.fetch_add(1, Ordering::SeqCst);
            let open = inside.0.lock().unwrap();
            drop(inside.1.wait_while(open, |open| !*open).unwrap());
            Ok(sample)
        });
        let batches = loader.batches(500, None).unwrap();
        // In the middle of the first batch.
        while made.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(batches);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        // The source goes when the thread has ended.
        while Arc::strong_count(&made) > 1 && Arc::strong_count(&loader.source) > 1 {
            std::thread::yield_now();
        }
        assert!(made.load(Ordering::SeqCst) <= 2);
    }
}
