//! Texts as samples: windows of one long text for language models, and texts with classes. Used with a [`super::Loader`].

use std::fmt::Write as _;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Sample, Samples, Tokenizer};
use crate::train::SeededRandom;
use crate::{Error, Result};

/// Windows of one long row of tokens: each input is `length` tokens (`u32`), its label the same ones moved on by one, which
/// is what a language model learns to say.
#[derive(Debug, Clone)]
pub struct Windows {
    tokens: Arc<[u32]>,
    length: usize,
    stride: usize,
}

impl Windows {
    /// Windows of `length` tokens, one beginning where the other ends. What is left at the end is too short for one.
    ///
    /// # Errors
    /// [`Error::Data`] when there is not even one, or `length` is 0.
    pub fn new(tokens: impl Into<Arc<[u32]>>, length: usize) -> Result<Self> {
        let tokens = tokens.into();
        if length == 0 || tokens.len() <= length {
            return Err(Error::Data {
                reason: format!(
                    "{} tokens give no window of {length} and the one behind it",
                    tokens.len()
                ),
            });
        }
        Ok(Self {
            tokens,
            length,
            stride: length,
        })
    }

    /// Lets windows begin so many tokens after each other, at least 1: they overlap where that is less than their length.
    #[must_use]
    pub fn every(mut self, tokens: usize) -> Self {
        self.stride = tokens.max(1);
        self
    }
}

impl Samples for Windows {
    fn len(&self) -> usize {
        (self.tokens.len() - 1 - self.length) / self.stride + 1
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let from = index.saturating_mul(self.stride);
        let end = from.saturating_add(self.length);
        let (Some(input), Some(label)) = (self.tokens.get(from..end), self.tokens.get(from + 1..end + 1))
        else {
            return Err(Error::Data {
                reason: format!("there is no window {index}: there are {}", self.len()),
            });
        };
        Ok(Sample {
            input: Tensor::new(input, &Device::Cpu)?,
            label: Tensor::new(label, &Device::Cpu)?,
        })
    }

    fn name(&self, index: usize) -> String {
        format!("window {index}")
    }

    fn fingerprint(&self) -> Result<Option<u64>> {
        let mut print = Print::new();
        // Writing to it does not fail.
        let _ = write!(print, "{} {} {:?}", self.length, self.stride, self.tokens);
        Ok(Some(print.number()))
    }
}

/// Texts with classes, cut into tokens when their turn comes: inputs are `length` tokens (`u32`), cut off or padded.
#[derive(Debug, Clone)]
pub struct Texts {
    texts: Arc<[(String, u32)]>,
    tokenizer: Tokenizer,
    length: usize,
}

impl Texts {
    /// Texts, each with its class.
    pub fn new<T: Into<String>>(
        texts: impl IntoIterator<Item = (T, u32)>,
        tokenizer: &Tokenizer,
        length: usize,
    ) -> Self {
        let texts = texts.into_iter().map(|(text, class)| (text.into(), class));
        Self {
            texts: texts.collect(),
            tokenizer: tokenizer.clone(),
            length,
        }
    }
}

impl Samples for Texts {
    fn len(&self) -> usize {
        self.texts.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let Some((text, class)) = self.texts.get(index) else {
            return Err(Error::Data {
                reason: format!("there is no text {index}: there are {}", self.texts.len()),
            });
        };
        let batch = self.tokenizer.batch_of(&[text.as_str()], self.length)?;
        Sample::of_class(batch.ids.get(0)?, *class)
    }

    fn name(&self, index: usize) -> String {
        format!("text {index}")
    }

    fn fingerprint(&self) -> Result<Option<u64>> {
        let mut print = Print::new();
        let _ = write!(print, "{} {} {:?}", self.length, self.tokenizer.len(), self.texts);
        Ok(Some(print.number()))
    }
}

/// The fingerprint of a text ([`crate::train::fingerprint_of`]) that is written to it piece by piece and never held.
struct Print(u64);

impl Print {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn number(&self) -> u64 {
        // As `SeededRandom::named` with seed 0.
        let mut mixed = SeededRandom::new(self.0);
        SeededRandom::new(mixed.next_u64()).next_u64()
    }
}

impl std::fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // FNV-1a.
        self.0 = text.bytes().fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Loader;
    use crate::train::fingerprint_of;

    #[test]
    fn a_fingerprint_is_that_of_the_whole_text() {
        let windows = Windows::new(vec![3, 1, 4, 1, 5], 2).unwrap().every(3);
        let expected = fingerprint_of("2 3 [3, 1, 4, 1, 5]");
        assert_eq!(windows.fingerprint().unwrap(), Some(expected));
        let texts = Texts::new([("a\"b", 1)], &Tokenizer::bytes(), 4);
        let text = format!("4 {} {:?}", Tokenizer::bytes().len(), [("a\"b", 1)]);
        assert_eq!(texts.fingerprint().unwrap(), Some(fingerprint_of(&text)));
    }

    #[test]
    fn a_label_is_the_input_moved_on_by_one() {
        let windows = Windows::new((0..11).collect::<Vec<u32>>(), 4).unwrap();
        assert_eq!(windows.len(), 2);
        let batch = Loader::new(windows)
            .batches(2, None)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            batch.inputs.to_vec2::<u32>().unwrap(),
            [[0, 1, 2, 3], [4, 5, 6, 7]]
        );
        assert_eq!(
            batch.labels.to_vec2::<u32>().unwrap(),
            [[1, 2, 3, 4], [5, 6, 7, 8]]
        );
        // Every window that there is, for all lengths and strides, and none more.
        for count in 2..14_u32 {
            for length in 1..count {
                for stride in 1..5 {
                    let windows = Windows::new((0..count).collect::<Vec<u32>>(), length as usize).unwrap();
                    let windows = windows.every(stride);
                    let last = windows
                        .sample(windows.len() - 1)
                        .unwrap()
                        .label
                        .to_vec1::<u32>()
                        .unwrap();
                    assert!(*last.last().unwrap() < count && windows.sample(windows.len()).is_err());
                    let fit = (0..count).step_by(stride).filter(|from| from + length < count);
                    assert_eq!(windows.len(), fit.count());
                }
            }
        }
        assert!(Windows::new(vec![1, 2, 3], 3).is_err() && Windows::new(vec![1, 2, 3], 0).is_err());
    }

    #[test]
    fn texts_become_rows_of_one_length() {
        let texts = Texts::new([("ab", 1), ("abcdef", 0)], &Tokenizer::bytes(), 4);
        let batch = Loader::new(texts)
            .batches(2, None)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            batch.inputs.to_vec2::<u32>().unwrap(),
            [[97, 98, 256, 256], [97, 98, 99, 100]]
        );
        assert_eq!(batch.labels.to_vec1::<u32>().unwrap(), [1, 0]);
    }
}
