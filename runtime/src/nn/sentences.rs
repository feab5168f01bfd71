//! Sentences as rows of numbers that lie near each other when they mean the same (Reimers and Gurevych, 2019).

use candle_core::{D, Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::bert::Group;
use super::{Bert, BertConfig, Parameters};
use crate::data::{Tokenizer, read_tokenizer};
use crate::interrupt::check_interrupt;
use crate::model::Model;
use crate::{Error, Result};

/// Tokens that go through the network together: enough for its products to be fast, few enough to stay in the caches.
const PASS_TOKENS: usize = 2048;
/// Texts that are cut into tokens together.
const PART: usize = 4096;

/// What becomes of a sentence's places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    Mean,
    First,
}

/// A sentence encoder as published for `sentence-transformers`, such as all-MiniLM-L6-v2: a [`Bert`], its tokenizer, and what
/// makes one row of the numbers of all places.
///
/// Texts of about one length go through together, and nothing is filled up: what others spend on padding is not calculated.
#[derive(Debug, Clone)]
pub struct SentenceEncoder {
    bert: Bert,
    tokenizer: Tokenizer,
    length: usize,
    pooling: Pooling,
    normalises: bool,
}

/// `sentence_bert_config.json`
#[derive(Deserialize)]
struct Lengths {
    max_seq_length: Option<usize>,
}

/// Of `1_Pooling/config.json`: a switch for each way to make one row of all places.
const MODES: &str = "pooling_mode_";
const MEAN: &str = "pooling_mode_mean_tokens";
const FIRST: &str = "pooling_mode_cls_token";
/// Steps of `modules.json` that are taken here.
const STEPS: [&str; 3] = ["Transformer", "Pooling", "Normalize"];

/// One of `modules.json`
#[derive(Deserialize)]
struct Step {
    r#type: String,
}

impl SentenceEncoder {
    /// The encoder of a model with `config.json`, `tokenizer.json` and `model.safetensors`, and where it has them
    /// `sentence_bert_config.json`, `1_Pooling/config.json` and `modules.json`; without these last the mean of all places is
    /// taken and made of length 1.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::File`] when a file is missing, [`Error::Data`] when one says what cannot be done here,
    /// [`Error::Tensor`] when the tensors do not fit.
    pub fn from_model(model: &Model, device: &Device) -> Result<Self> {
        let config = BertConfig::of(model)?;
        let tokenizer = read_tokenizer(model.file("tokenizer.json")?)?;
        let lengths: Option<Lengths> = optional(model, "sentence_bert_config.json")?;
        let asked = lengths.and_then(|lengths| lengths.max_seq_length);
        let pooling = Pooling::of(&optional(model, "1_Pooling/config.json")?.unwrap_or_default())?;
        let normalises = match optional::<Vec<Step>>(model, "modules.json")? {
            Some(steps) => normalises(&steps)?,
            None => true,
        };
        Ok(Self {
            length: asked
                .unwrap_or(config.max_position_embeddings)
                .min(config.max_position_embeddings),
            bert: Bert::new(&config, model.vars(device)?)?,
            tokenizer,
            pooling,
            normalises,
        })
    }

    /// Numbers of a sentence.
    pub fn size(&self) -> usize {
        self.bert.config().hidden_size
    }

    /// Longest text in tokens; what is longer is cut off.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Cuts texts off after so many tokens, at most as many as the network has places.
    #[must_use]
    pub fn cut_at(mut self, tokens: usize) -> Self {
        self.length = tokens.clamp(1, self.bert.config().max_position_embeddings);
        self
    }

    /// A row for each text, (texts, [`SentenceEncoder::size`]) of `f32` on the network's device.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no text or the tokenizer refuses, [`Error::Tensor`] from candle. An interrupt of the
    /// cell stops between two passes.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let mut parts = vec![];
        for part in texts.chunks(PART) {
            parts.push(self.part(part)?);
        }
        if parts.is_empty() {
            return Err(Error::Data {
                reason: "there is no text to encode".to_owned(),
            });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// How alike the texts of two encodings are, the cosine of their angle: (n, size) and (m, size) to (n, m), from -1 to 1.
    ///
    /// # Errors
    /// [`Error::Tensor`] for other shapes.
    pub fn similarity(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        let (left, right) = (of_length_one(left)?, of_length_one(right)?);
        // One row for each text of the right.
        Ok(alephlab_ops::linear(&left, &right, None)?)
    }

    fn part<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let batch = self.tokenizer.batch(texts, Some(self.length))?;
        let masks: Vec<Vec<u32>> = batch.mask.to_vec2()?;
        let rows: Vec<Vec<u32>> = batch.ids.to_vec2()?;
        let length_of = |row: usize| masks[row].iter().filter(|on| **on != 0).count().max(1);
        let mut order: Vec<(usize, usize)> = (0..rows.len()).map(|row| (length_of(row), row)).collect();
        order.sort_unstable();
        let mut encoded = vec![];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            check_interrupt();
            let (pass, later) = rest.split_at(rows_of_pass(rest));
            encoded.push(self.pass(pass, &rows)?);
            rest = later;
        }
        // Back into the order of the texts.
        let mut places = vec![0_u32; order.len()];
        for (place, (_, row)) in (0_u32..).zip(&order) {
            places[*row] = place;
        }
        let encoded = Tensor::cat(&encoded, 0)?;
        Ok(encoded.index_select(&Tensor::new(places, encoded.device())?, 0)?)
    }

    /// Rows of these lengths at once, in this order.
    fn pass(&self, pass: &[(usize, usize)], rows: &[Vec<u32>]) -> Result<Tensor> {
        let mut groups: Vec<Group> = vec![];
        let mut tokens: Vec<u32> = vec![];
        for (length, row) in pass {
            tokens.extend(&rows[*row][..*length]);
            match groups.last_mut() {
                Some(group) if group.length == *length => group.rows += 1,
                _ => groups.push(Group {
                    rows: 1,
                    length: *length,
                    mask: None,
                }),
            }
        }
        let tokens = Tensor::new(tokens, self.bert.device())?;
        let seen = self.bert.through(&tokens, None, &groups, false)?;
        let mut start = 0;
        let mut pooled = Vec::with_capacity(groups.len());
        for group in &groups {
            let places = group.rows * group.length;
            let part = seen
                .narrow(0, start, places)?
                .reshape((group.rows, group.length, self.size()))?;
            pooled.push(match self.pooling {
                Pooling::Mean => part.mean(1)?,
                Pooling::First => part.narrow(1, 0, 1)?.squeeze(1)?,
            });
            start += places;
        }
        let pooled = Tensor::cat(&pooled, 0)?;
        if self.normalises {
            of_length_one(&pooled)
        } else {
            Ok(pooled)
        }
    }
}

impl Pooling {
    /// The one way that the file's switches name; the mean where it says nothing of it.
    fn of(file: &Map<String, Value>) -> Result<Self> {
        let is_on = |name: &str, value: &Value| name.starts_with(MODES) && *value == Value::Bool(true);
        let mut on: Vec<&str> = file
            .iter()
            .filter(|(name, value)| is_on(name, value))
            .map(|(name, _)| name.as_str())
            .collect();
        if on.is_empty() && !file.contains_key(MEAN) {
            on.push(MEAN);
        }
        match on[..] {
            [MEAN] => Ok(Self::Mean),
            [FIRST] => Ok(Self::First),
            _ => Err(Error::Data {
                reason: format!(
                    "1_Pooling/config.json names neither the mean of all places alone nor the first ({}): other ways to make \
                     one row of a sentence are not known here",
                    on.join(", ")
                ),
            }),
        }
    }
}

/// Whether rows are made of length 1.
fn normalises(steps: &[Step]) -> Result<bool> {
    let mut normalises = false;
    for Step { r#type } in steps {
        let step = r#type.rsplit('.').next().unwrap_or_default();
        if !STEPS.contains(&step) {
            return Err(Error::Data {
                reason: format!(
                    "modules.json has a step {step}, which cannot be done here: rows would be other ones"
                ),
            });
        }
        normalises |= step == "Normalize";
    }
    Ok(normalises)
}

/// How many of the rows, sorted by length, go through together: at least one.
fn rows_of_pass(rows: &[(usize, usize)]) -> usize {
    let mut tokens = 0;
    let fit = rows.iter().take_while(|(length, _)| {
        tokens += length;
        tokens <= PASS_TOKENS
    });
    fit.count().max(1)
}

/// Each row over its length; a row of nothing stays so.
fn of_length_one(rows: &Tensor) -> Result<Tensor> {
    let length = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    // As PyTorch's `normalize`.
    Ok(rows.broadcast_div(&length.maximum(1e-12)?)?)
}

fn optional<T: serde::de::DeserializeOwned>(model: &Model, file: &str) -> Result<Option<T>> {
    if !model.files().iter().any(|known| known == file) {
        return Ok(None);
    }
    super::config::of_json(&model.read(file)?, &format!("{file} of {}", model.name())).map(Some)
}

impl Parameters for SentenceEncoder {
    fn parameter_count(&self) -> usize {
        self.bert.parameter_count()
    }
}
