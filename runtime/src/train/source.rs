//! Where batches come from, as [`super::Trainer`] sees it.
//!
//! A seam: [`Examples`] in memory implement it here, a loader that streams and makes batches ahead can do so without
//! the trainer knowing. Also the seam for training on several hosts, where each would be given its own part of a
//! pass. Not here: reading files. Called by the trainer.

use candle_core::Device;

use super::{Examples, SeededRandom};
use crate::Result;

/// The batches of one pass, in order.
pub type BatchIter<'a> = Box<dyn Iterator<Item = Result<Examples>> + 'a>;

/// Which batches are wanted: one pass over the data, or the rest of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Examples in each batch; the last may have fewer. At least 1.
    pub batch_size: usize,
    /// What the order follows from, together with the epoch. None: the source's own order.
    pub seed: Option<u64>,
    /// Number of the pass over the data, from 0: each has another order.
    pub epoch: usize,
    /// Number of the first batch that is wanted. A training that goes on in the middle of an epoch skips those before.
    pub first: usize,
}

/// Something with batches to learn from or to measure with.
///
/// The same pass must give the same batches each time, or a training that is taken up again is another one.
pub trait BatchSource {
    /// The batches of `pass`, from its `first` on; none when there are no more.
    ///
    /// # Errors
    /// As the source has them, here or in the iterator.
    fn pass(&self, pass: &Pass) -> Result<BatchIter<'_>>;

    /// [`BatchSource::pass`] for a device: a source that makes batches ahead may begin to bring them there. They may still
    /// come on the CPU.
    ///
    /// # Errors
    /// As [`BatchSource::pass`].
    fn pass_for(&self, pass: &Pass, _device: &Device) -> Result<BatchIter<'_>> {
        self.pass(pass)
    }

    /// Number of examples in one pass, where it is known. Schedules that end need it, and a checkpoint keeps it.
    fn example_count(&self) -> Option<usize>;

    /// A number that other data would hardly have, where it is cheap to find: a training is not taken up again with
    /// data that it did not begin with.
    ///
    /// # Errors
    /// As the source has them.
    fn fingerprint(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Number of batches in one pass, where it is known.
    fn batch_count(&self, batch_size: usize) -> Option<usize> {
        self.example_count()
            .map(|examples| examples.div_ceil(batch_size.max(1)))
    }
}

/// A number that follows from a text, the same everywhere and for years.
pub(crate) fn fingerprint_of(text: &str) -> u64 {
    SeededRandom::named(0, text).next_u64()
}

impl Pass {
    /// All batches in the source's own order.
    pub fn in_order(batch_size: usize) -> Self {
        Self {
            batch_size: batch_size.max(1),
            seed: None,
            epoch: 0,
            first: 0,
        }
    }

    /// Random numbers for batch `number` of this pass, from 0, such as how its pictures are turned. They depend on
    /// nothing else, so that a pass that goes on in its middle, or on several threads, draws the same.
    pub fn random(&self, number: usize) -> SeededRandom {
        let place = format!("data of epoch {} batch {number}", self.epoch);
        SeededRandom::named(self.seed.unwrap_or_default(), &place)
    }

    /// The order of `length` examples in this pass.
    pub fn order(&self, length: usize) -> Vec<usize> {
        match self.seed {
            Some(seed) => SeededRandom::new(seed.wrapping_add(self.epoch as u64)).permutation(length),
            None => (0..length).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_has_its_own_random_numbers() {
        let pass = Pass {
            seed: Some(4),
            ..Pass::in_order(2)
        };
        let draw = |pass: Pass, number| pass.random(number).next_u64();
        assert_eq!(draw(pass, 3), draw(Pass { first: 3, ..pass }, 3));
        assert_ne!(draw(pass, 3), draw(pass, 4));
        assert_ne!(draw(pass, 3), draw(Pass { epoch: 1, ..pass }, 3));
    }
}
