//! Sizes of a GPT, in the words of GPT-2's `config.json`.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::nn::Activation;
use crate::nn::config::{ensure, in_files};

/// Sizes of a [`super::Gpt`]. Fields have the names that `transformers` gives those of GPT-2, so that its `config.json` is
/// read as it is, and ours by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GptConfig {
    /// Always `gpt2`: what `transformers` knows the network by.
    pub model_type: String,
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Places of the longest row.
    pub n_positions: usize,
    /// Numbers of a place; a multiple of the heads.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Heads of attention.
    pub n_head: usize,
    /// Numbers in the middle of a block's perceptron; 4 · `n_embd` where nothing is said.
    pub n_inner: Option<usize>,
    /// Between the two layers of the perceptron.
    pub activation_function: Activation,
    /// Keeps divisions of the normalisations finite.
    pub layer_norm_epsilon: f64,
    /// Spread of the first weights.
    pub initializer_range: f64,
    /// Share of the embeddings that are dropped in training.
    pub embd_pdrop: f64,
    /// Share of what a block adds that is dropped in training.
    pub resid_pdrop: f64,
    /// Always false: attention that is divided by the number of its block is not made here.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether scores are made by the table of embeddings (tied), or by a layer of their own, `lm_head.weight`.
    pub tie_word_embeddings: bool,
}

impl Default for GptConfig {
    /// Those of the smallest GPT-2, 124 million numbers, without dropout.
    fn default() -> Self {
        Self {
            model_type: "gpt2".to_owned(),
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            embd_pdrop: 0.0,
            resid_pdrop: 0.0,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
        }
    }
}

in_files!(GptConfig);

impl GptConfig {
    /// A small one for texts of one's own: 4 blocks of 4 heads on 128 numbers, rows of up to 128 tokens; 0.8 million numbers
    /// and the table of embeddings.
    pub fn small(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            n_positions: 128,
            n_embd: 128,
            n_layer: 4,
            n_head: 4,
            ..Self::default()
        }
    }

    /// Numbers in the middle of a block's perceptron.
    pub(super) fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    pub(super) fn check(&self) -> Result<()> {
        let sizes = [
            self.vocab_size,
            self.n_positions,
            self.n_embd,
            self.n_layer,
            self.n_head,
            self.inner(),
        ];
        ensure(!sizes.contains(&0), || {
            format!("a GPT of {self:?} cannot be: each size needs 1 or more")
        })?;
        ensure(!self.scale_attn_by_inverse_layer_idx, || {
            "this config.json has scale_attn_by_inverse_layer_idx, which Gpt cannot do: its scores would be other ones"
                .to_owned()
        })?;
        ensure(self.model_type == "gpt2", || {
            format!(
                "this config.json describes a `{}`, and Gpt is for `gpt2`",
                self.model_type
            )
        })
    }
}
