//! Inputs with what belongs to them, in batches. Called by [`super::Trainer`] and by notebooks.

use std::fmt::Write as _;

use candle_core::{DType, Device, Tensor};

use super::{BatchIter, BatchSource, Pass, fingerprint_of};
use crate::{Error, Result};

/// Values of a row that a fingerprint is made of: enough to tell, few enough to fetch from any device.
const ROW_VALUES_MAX: usize = 1024;

/// What a network learns from or is measured with: a class or value for each row of the inputs.
#[derive(Debug, Clone)]
pub struct Examples {
    /// One example in each row: the first dimension counts them.
    pub inputs: Tensor,
    /// What is to be learned, a row for each example: its class (`u32`, one dimension), the classes of each of its
    /// places (`u32`, two dimensions), or in regression its values (`f32`, any shape).
    pub labels: Tensor,
}

impl Examples {
    /// Puts inputs and labels together.
    ///
    /// # Errors
    /// [`Error::Data`] when their numbers differ or there is none.
    pub fn new(inputs: Tensor, labels: Tensor) -> Result<Self> {
        let count = |tensor: &Tensor| tensor.dims().first().copied().unwrap_or(0);
        let (rows, targets) = (count(&inputs), count(&labels));
        if rows != targets {
            return Err(Error::Data {
                reason: format!("there are {rows} inputs and {targets} labels"),
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
        self.labels.dims().first().copied().unwrap_or(0)
    }

    /// Whether there is no example; [`Examples::new`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same examples with inputs of this type: what a network of `bf16` variables takes. Labels stay as they are.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn inputs_as(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            inputs: self.inputs.to_dtype(dtype)?,
            labels: self.labels.clone(),
        })
    }

    /// The examples in the same order, at most `size` at a time.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn batches(&self, size: usize) -> Result<Vec<Self>> {
        self.pass(&Pass::in_order(size))?.collect()
    }

    /// The examples in the random order that `seed` gives, at most `size` at a time.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn shuffled_batches(&self, size: usize, seed: u64) -> Result<Vec<Self>> {
        let seed = Some(seed);
        self.pass(&Pass {
            seed,
            ..Pass::in_order(size)
        })?
        .collect()
    }

    fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self {
            inputs: self.inputs.narrow(0, start, count)?,
            labels: self.labels.narrow(0, start, count)?,
        })
    }

    /// The rows with these numbers, of examples that lie in order in memory.
    fn rows(&self, rows: &[u32]) -> Result<Self> {
        let rows = |device| Tensor::new(rows, device);
        Ok(Self {
            inputs: self.inputs.index_select(&rows(self.inputs.device())?, 0)?,
            labels: self.labels.index_select(&rows(self.labels.device())?, 0)?,
        })
    }
}

impl BatchSource for Examples {
    fn pass(&self, pass: &Pass) -> Result<BatchIter<'_>> {
        let size = pass.batch_size.max(1);
        if pass.seed.is_none() {
            let starts = (0..self.len()).step_by(size).skip(pass.first);
            return Ok(Box::new(
                starts.map(move |start| self.narrow(start, size.min(self.len() - start))),
            ));
        }
        let order: Vec<u32> = pass
            .order(self.len())
            .into_iter()
            .map(|row| u32::try_from(row).unwrap_or(u32::MAX))
            .collect();
        // A batch is gathered when its turn comes: the examples are not held twice.
        let batches = self.batch_count(size).unwrap_or(0);
        let whole = Self {
            inputs: self.inputs.contiguous()?,
            labels: self.labels.contiguous()?,
        };
        Ok(Box::new((pass.first..batches).map(move |number| {
            let end = order.len().min((number + 1) * size);
            whole.rows(&order[number * size..end])
        })))
    }

    fn example_count(&self) -> Option<usize> {
        Some(self.len())
    }

    /// Of shapes, types, and the first, the middle and the last row.
    fn fingerprint(&self) -> Result<Option<u64>> {
        let mut text = String::new();
        for tensor in [&self.inputs, &self.labels] {
            // Writing to a string does not fail.
            let _ = write!(text, "{:?} {:?}", tensor.dims(), tensor.dtype());
            for row in [0, self.len() / 2, self.len() - 1] {
                let row = tensor.narrow(0, row, 1)?.flatten_all()?;
                let row = row.narrow(0, 0, row.elem_count().min(ROW_VALUES_MAX))?;
                let row = row.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                for value in row.to_vec1::<f64>()? {
                    let _ = write!(text, " {:x}", value.to_bits());
                }
            }
        }
        Ok(Some(fingerprint_of(&text)))
    }
}

#[cfg(test)]
mod tests {
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
    fn a_pass_goes_on_where_it_was_left_and_each_epoch_has_another_order() {
        let ten = ten();
        let pass = |epoch, first| Pass {
            seed: Some(5),
            epoch,
            first,
            ..Pass::in_order(3)
        };
        let seen = |pass: &Pass| -> Vec<u32> {
            let batches: Result<Vec<Examples>> = ten.pass(pass).unwrap().collect();
            labels(&batches.unwrap())
        };
        let whole = seen(&pass(0, 0));
        for first in 0..4 {
            assert_eq!(seen(&pass(0, first)), whole[first * 3..], "from {first}");
        }
        assert!(seen(&pass(0, 4)).is_empty() && seen(&pass(0, 9)).is_empty());
        assert_ne!(seen(&pass(1, 0)), whole);
        assert_eq!(
            seen(&Pass {
                first: 3,
                ..Pass::in_order(3)
            }),
            [9]
        );
        assert_eq!((ten.example_count(), ten.batch_count(3)), (Some(10), Some(4)));
    }

    #[test]
    fn holds_values_of_any_shape_and_type() {
        let inputs = Tensor::zeros((4, 2), DType::F32, &Device::Cpu).unwrap();
        let values = Tensor::zeros((4, 3), DType::F64, &Device::Cpu).unwrap();
        let examples = Examples::new(inputs, values).unwrap();
        assert_eq!(examples.len(), 4);
        assert_eq!(examples.batches(3).unwrap()[1].labels.dims(), [1, 3]);
        assert_eq!(
            examples.inputs_as(DType::BF16).unwrap().inputs.dtype(),
            DType::BF16
        );
    }

    #[test]
    fn other_examples_have_another_fingerprint() {
        let of = |examples: &Examples| examples.fingerprint().unwrap().unwrap();
        let (one, other) = (ten(), ten().shuffled_batches(10, 1).unwrap().remove(0));
        assert_eq!(of(&one), of(&ten()));
        assert_ne!(of(&one), of(&other));
        assert_ne!(of(&one), of(&one.inputs_as(DType::BF16).unwrap()));
        assert_ne!(of(&one), of(&one.batches(9).unwrap()[0]));
    }

    #[test]
    fn refuses_inputs_and_labels_of_different_number() {
        let three = Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let two = Tensor::new(vec![0_u32, 1], &Device::Cpu).unwrap();
        let error = Examples::new(three, two).unwrap_err().to_string();
        assert!(error.contains("3 inputs and 2 labels"), "{error}");
    }
}
