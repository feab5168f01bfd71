//! A BERT that tells classes of texts.

use alephlab_ops as ops;
use candle_core::{Device, IndexOp, Module, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;

use super::{Bert, BertConfig};
use crate::model::Model;
use crate::nn::{Linear, Parameters};
use crate::train::Dropout;

/// A [`Bert`] with a pooler and a layer of scores: tokens (batch, places) of `u32` to (batch, classes).
///
/// Tensors are those of `transformers`' `BertForSequenceClassification`: `bert.…`, `bert.pooler.dense` and `classifier`. Built
/// over the files of a plain BERT, `classifier` is new, and so may the pooler be: name them in
/// [`crate::nn::Lora::train_also`].
#[derive(Debug, Clone)]
pub struct BertClassifier {
    bert: Bert,
    pooler: Linear,
    classifier: Linear,
    dropout: Dropout,
}

impl BertClassifier {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// As [`Bert::new`].
    pub fn new(config: &BertConfig, classes: usize, vars: VarBuilder<'_>) -> crate::Result<Self> {
        // Files of a plain BERT have no prefix.
        let inner = if vars.contains_tensor("embeddings.word_embeddings.weight") {
            vars.clone()
        } else {
            vars.pp("bert")
        };
        let (width, spread) = (config.hidden_size, config.initializer_range);
        Ok(Self {
            pooler: Linear::normal(width, width, spread, inner.pp("pooler.dense"))?,
            bert: Bert::new(config, inner)?,
            classifier: Linear::normal(width, classes, spread, vars.pp("classifier"))?,
            dropout: Dropout::new(config.hidden_dropout_prob)?,
        })
    }

    /// The network of a model with BERT's `config.json` and a `classifier`, which says how many classes there are.
    ///
    /// # Errors
    /// As [`BertConfig::of`], [`Model::vars`] and [`BertClassifier::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        let vars = model.vars(device)?;
        let scores = vars.get_unchecked("classifier.weight")?;
        Self::new(&BertConfig::of(model)?, scores.dim(0)?, vars)
    }

    /// The encoder.
    pub fn bert(&self) -> &Bert {
        &self.bert
    }
}

impl ModuleT for BertClassifier {
    fn forward_t(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        let seen = self.bert.forward_t(tokens, train)?;
        // The first token stands for the text.
        let first = ops::contiguous(&seen.i((.., 0))?)?;
        let pooled = ops::tanh(&self.pooler.forward(&first)?)?;
        self.classifier.forward(&self.dropout.forward_t(&pooled, train)?)
    }
}

impl Parameters for BertClassifier {
    fn parameter_count(&self) -> usize {
        let head = self.pooler.parameter_count() + self.classifier.parameter_count();
        self.bert.parameter_count() + head
    }
}
