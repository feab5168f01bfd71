//! What a [`super::Loader`] loads: anything with numbered samples. Called by the loader.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::dataset::Images;
use crate::train::{BatchSource, Examples};

/// One input with what is to be learned of it, on the CPU, without a dimension that counts examples.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Any shape and type, the same for all samples of a batch.
    pub input: Tensor,
    /// A class (`u32`, no dimension), classes of places (`u32`), or values (`f32`).
    pub label: Tensor,
}

impl Sample {
    /// An input and its class.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] from candle.
    pub fn of_class(input: Tensor, class: u32) -> Result<Self> {
        let label = Tensor::new(class, &Device::Cpu)?;
        Ok(Self { input, label })
    }
}

/// Samples with numbers, each of which can be made at any time, on any thread.
///
/// The same number must give the same sample each time, or a training that is taken up again is another one.
pub trait Samples: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample with this number, below [`Samples::len`].
    ///
    /// # Errors
    /// As the source has them.
    fn sample(&self, index: usize) -> Result<Sample>;

    /// Several at once, for a source that has a quicker way than one by one; asked only when no step changes them.
    ///
    /// # Errors
    /// As the source has them.
    fn batch(&self, _indices: &[usize]) -> Result<Option<Examples>> {
        Ok(None)
    }

    /// What errors call the sample, such as its file.
    fn name(&self, index: usize) -> String {
        format!("sample {index}")
    }

    /// As [`BatchSource::fingerprint`].
    ///
    /// # Errors
    /// As the source has them.
    fn fingerprint(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Rows of tensors in memory.
impl Samples for Examples {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        Ok(Sample {
            input: self.inputs.get(index)?,
            label: self.labels.get(index)?,
        })
    }

    fn batch(&self, indices: &[usize]) -> Result<Option<Examples>> {
        // What does not lie in order would be copied as a whole for each batch.
        if !(self.inputs.is_contiguous() && self.labels.is_contiguous()) {
            return Ok(None);
        }
        let rows: Vec<i64> = indices
            .iter()
            .filter_map(|&index| i64::try_from(index).ok())
            .collect();
        let rows = Tensor::new(rows, self.inputs.device())?;
        let inputs = self.inputs.index_select(&rows, 0)?;
        let labels = self
            .labels
            .index_select(&rows.to_device(self.labels.device())?, 0)?;
        Examples::new(inputs, labels).map(Some)
    }

    fn fingerprint(&self) -> Result<Option<u64>> {
        BatchSource::fingerprint(self)
    }
}

/// Pictures, decoded when their turn comes.
impl Samples for Images {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let (input, class) = self.read(index)?;
        Sample::of_class(input, class)
    }

    fn batch(&self, indices: &[usize]) -> Result<Option<Examples>> {
        self.examples(indices).map(Some)
    }

    fn name(&self, index: usize) -> String {
        self.file(index)
            .map_or_else(|| format!("picture {index}"), |file| file.display().to_string())
    }

    fn fingerprint(&self) -> Result<Option<u64>> {
        BatchSource::fingerprint(self)
    }
}
