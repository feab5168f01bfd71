//! Random numbers inside a network that repeat: dropout whose masks follow from the trainer's seed.
//!
//! candle's own dropout draws from a generator that cannot be seeded. Here each thread has one stream of numbers,
//! which [`super::Trainer`] begins anew for each batch from the seed and the batch's place in the training. So there
//! is no state to keep: a training that is taken up again draws what it would have drawn. Called by networks.

use std::cell::RefCell;

use candle_core::{ModuleT, Result, Tensor};

use super::SeededRandom;

thread_local! {
    static STREAM: RefCell<SeededRandom> = RefCell::new(SeededRandom::new(0));
}

/// Begins this thread's stream of random numbers anew: what [`Dropout`] draws next follows from `seed`. The trainer
/// does it before each batch; a loop of one's own may do it once.
pub fn seed_stream(seed: u64) {
    STREAM.with_borrow_mut(|stream| *stream = SeededRandom::new(seed));
}

/// Draws from this thread's stream of random numbers: for layers of one's own that want noise and are to repeat.
pub fn with_stream<T>(draw: impl FnOnce(&mut SeededRandom) -> T) -> T {
    STREAM.with_borrow_mut(draw)
}

/// Begins the stream of one batch of a training.
pub(super) fn begin_batch(seed: u64, epoch: usize, batch: usize) {
    let place = format!("epoch {epoch} batch {batch}");
    STREAM.with_borrow_mut(|stream| *stream = SeededRandom::named(seed, &place));
}

/// Sets a share of values to nothing while a network learns, and makes the others larger by as much (Srivastava et
/// al., 2014). Does nothing when the network is only used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    share: f64,
}

impl Dropout {
    /// Drops this share of the values, from 0 up to, not including, 1.
    ///
    /// # Errors
    /// When the share is another number.
    pub fn new(share: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&share) {
            candle_core::bail!("dropout takes a share from 0 to below 1, not {share}");
        }
        Ok(Self { share })
    }
}

impl ModuleT for Dropout {
    fn forward_t(&self, values: &Tensor, train: bool) -> Result<Tensor> {
        if !train || self.share == 0.0 {
            return Ok(values.clone());
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "f32 is what networks calculate with"
        )]
        let share = self.share as f32;
        // By places and one number for each call: the same on every device and with any number of threads.
        alephlab_ops::dropout(values, share, with_stream(SeededRandom::next_u64))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn dropped(seed: u64) -> Vec<f32> {
        seed_stream(seed);
        let ones = Tensor::ones(10_000, DType::F32, &Device::Cpu).unwrap();
        let layer = Dropout::new(0.2).unwrap();
        layer.forward_t(&ones, true).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn drops_the_share_it_was_given_and_keeps_the_mean() {
        let values = dropped(1);
        let gone = values.iter().filter(|value| **value == 0.0).count();
        assert!((1_800..2_200).contains(&gone), "{gone}");
        assert!(values.iter().all(|value| *value == 0.0 || *value == 1.25));
    }

    #[test]
    fn follows_the_seed_and_does_nothing_when_the_network_is_used() {
        assert_eq!(dropped(7), dropped(7));
        assert_ne!(dropped(7), dropped(8));
        let two = Tensor::new(&[1_f32, 2.0], &Device::Cpu).unwrap();
        let used = Dropout::new(0.9).unwrap().forward_t(&two, false).unwrap();
        assert_eq!(used.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        assert!(Dropout::new(1.0).is_err() && Dropout::new(f64::NAN).is_err());
    }

    #[test]
    fn each_batch_has_its_own_stream() {
        let draw = |epoch, batch| {
            begin_batch(3, epoch, batch);
            with_stream(SeededRandom::next_u64)
        };
        assert_eq!(draw(0, 1), draw(0, 1));
        assert!(draw(0, 1) != draw(1, 0) && draw(0, 1) != draw(0, 2));
    }
}
