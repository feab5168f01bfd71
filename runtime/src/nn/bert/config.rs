//! Sizes of a BERT, in the words of its `config.json`.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::nn::Activation;
use crate::nn::config::{ensure, in_files};

/// Sizes of a [`super::Bert`]. Fields have the names that `transformers` gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Always `bert`: what `transformers` knows the network by.
    pub model_type: String,
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Numbers of a place; a multiple of the heads.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Numbers in the middle of a layer's perceptron.
    pub intermediate_size: usize,
    /// Between the two layers of the perceptron.
    pub hidden_act: Activation,
    /// Share of the numbers between layers that are dropped in training.
    pub hidden_dropout_prob: f64,
    /// Places of the longest row.
    pub max_position_embeddings: usize,
    /// Parts that a row can have.
    pub type_vocab_size: usize,
    /// Keeps divisions of the normalisations finite.
    pub layer_norm_eps: f64,
    /// Spread of the first weights.
    pub initializer_range: f64,
    /// The token that rows are filled up with.
    pub pad_token_id: u32,
}

impl Default for BertConfig {
    /// Those of BERT-base, 110 million numbers.
    fn default() -> Self {
        Self {
            model_type: "bert".to_owned(),
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            pad_token_id: 0,
        }
    }
}

in_files!(BertConfig);

impl BertConfig {
    pub(super) fn check(&self) -> Result<()> {
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.max_position_embeddings,
            self.type_vocab_size,
        ];
        ensure(!sizes.contains(&0), || {
            format!("a BERT of {self:?} cannot be: each size needs 1 or more")
        })?;
        ensure(self.model_type == "bert", || {
            format!(
                "this config.json describes a `{}`, and Bert is for `bert`",
                self.model_type
            )
        })
    }
}
