//! Inputs with their labels, in batches. Called by [`super::Trainer`] and by notebooks.

use candle_core::Tensor;

use super::SeededRandom;
use crate::{Error, Result};

/// What a network learns from or is measured with: one label for each row of the inputs.
#[derive(Debug, Clone)]
pub struct Examples {
    /// One example in each row: the first dimension counts them.
    pub inputs: Tensor,
    /// Class of each example (`u32`, one dimension).
    pub labels: Tensor,
}

impl Examples {
    /// Puts inputs and labels together.
    ///
    /// # Errors
    /// [`Error::Data`] when their numbers differ or there is none, [`Error::Tensor`] from candle.
    pub fn new(inputs: Tensor, labels: Tensor) -> Result<Self> {
        let (rows, classes) = (inputs.dims().first().copied().unwrap_or(0), labels.dims1()?);
        if rows != classes {
            return Err(Error::Data {
                reason: format!("there are {rows} inputs and {classes} labels"),
            });
        }
        if rows == 0 {
            return Err(Error::Data {
                reason: "there is no example".to_owned(),
            });
        }
        Ok(Self { inputs, labels })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there is no example; [`Examples::new`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The examples in the same order, at most `size` at a time.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn batches(&self, size: usize) -> Result<Vec<Self>> {
        let size = size.max(1);
        let starts = (0..self.len()).step_by(size);
        starts
            .map(|start| self.narrow(start, size.min(self.len() - start)))
            .collect()
    }

    /// The examples in the random order that `seed` gives, at most `size` at a time.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn shuffled_batches(&self, size: usize, seed: u64) -> Result<Vec<Self>> {
        let order = SeededRandom::new(seed).permutation(self.len());
        let order: Vec<u32> = order
            .into_iter()
            .map(|row| u32::try_from(row).unwrap_or(u32::MAX))
            .collect();
        let order = Tensor::new(order, self.labels.device())?;
        let shuffled = Self {
            inputs: self.inputs.index_select(&order, 0)?,
            labels: self.labels.index_select(&order, 0)?,
        };
        shuffled.batches(size)
    }

    fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self {
            inputs: self.inputs.narrow(0, start, count)?,
            labels: self.labels.narrow(0, start, count)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn ten() -> Examples {
        let inputs = Tensor::arange(0_f32, 20.0, &Device::Cpu)
            .unwrap()
            .reshape((10, 2))
            .unwrap();
        Examples::new(inputs, Tensor::arange(0_u32, 10, &Device::Cpu).unwrap()).unwrap()
    }

    fn labels(batches: &[Examples]) -> Vec<u32> {
        batches
            .iter()
            .flat_map(|batch| batch.labels.to_vec1::<u32>().unwrap())
            .collect()
    }

    #[test]
    fn batches_hold_every_example_once() {
        let batches = ten().batches(4).unwrap();
        assert_eq!(batches.iter().map(Examples::len).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(labels(&batches), (0..10).collect::<Vec<_>>());
        assert_eq!(ten().batches(0).unwrap().len(), 10);
    }

    #[test]
    fn shuffled_batches_keep_inputs_with_their_labels_and_follow_the_seed() {
        let batches = ten().shuffled_batches(3, 5).unwrap();
        for batch in &batches {
            let inputs = batch.inputs.to_vec2::<f32>().unwrap();
            let expected = batch.labels.to_vec1::<u32>().unwrap();
            for (row, label) in inputs.iter().zip(expected) {
                assert_eq!(row[0], 2.0 * label as f32);
            }
        }
        let mut all = labels(&batches);
        assert_eq!(all, labels(&ten().shuffled_batches(3, 5).unwrap()));
        assert_ne!(all, labels(&ten().shuffled_batches(3, 6).unwrap()));
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn refuses_inputs_and_labels_of_different_number() {
        let three = Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let two = Tensor::new(vec![0_u32, 1], &Device::Cpu).unwrap();
        let error = Examples::new(three, two).unwrap_err().to_string();
        assert!(error.contains("3 inputs and 2 labels"), "{error}");
    }
}
