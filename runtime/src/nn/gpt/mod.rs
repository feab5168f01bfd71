//! A decoder as GPT-2 is one (Radford et al., 2019), with its names and layout: published weights load, and what is learned
//! here can be loaded by `transformers`.
//!
//! Not here: choosing tokens, which is [`crate::nn::generate`]'s.

mod block;
mod config;

use alephlab_ops as ops;
use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, bail};
use candle_nn::{Embedding, Init, VarBuilder};

use block::Block;
pub use config::GptConfig;

use super::{KvCache, LayerNorm, Linear, Parameters, layer_norm};
use crate::model::Model;
use crate::train::Dropout;

/// A language model: tokens (batch, places) of `u32` to the scores of what comes next, (batch, places, vocabulary).
///
/// Trained by [`crate::Trainer`] with the cross entropy on [`crate::data::Windows`]; used by [`crate::generate()`]. Tensors are
/// those of GPT-2's files: `wte.weight`, `wpe.weight`, `h.0.ln_1.weight`, `h.0.attn.c_attn.weight` (inputs, outputs), …,
/// `ln_f.bias`, under `transformer.` unless a file has them without; `lm_head.weight` where the table of embeddings is not
/// tied. Weights of attention have no dropout.
#[derive(Debug, Clone)]
pub struct Gpt {
    config: GptConfig,
    tokens: Embedding,
    places: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    dropout: Dropout,
}

impl Gpt {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for sizes that cannot be, [`crate::Error::Tensor`] when `vars` holds tensors of other shapes.
    pub fn new(config: &GptConfig, vars: VarBuilder<'_>) -> crate::Result<Self> {
        config.check()?;
        let spread = config.initializer_range;
        // Files of OpenAI's own have no prefix, those that `transformers` writes have it.
        let inner = if vars.contains_tensor("wte.weight") {
            vars.clone()
        } else {
            vars.pp("transformer")
        };
        let table = |count, name: &str| -> Result<Embedding> {
            let first = Init::Randn {
                mean: 0.0,
                stdev: spread,
            };
            let weight = inner
                .pp(name)
                .get_with_hints((count, config.n_embd), "weight", first)?;
            Ok(Embedding::new(weight, config.n_embd))
        };
        let tokens = table(config.vocab_size, "wte")?;
        let head = if config.tie_word_embeddings {
            Linear::new(tokens.embeddings().clone(), None)
        } else {
            super::linear_no_bias(config.n_embd, config.vocab_size, vars.pp("lm_head"))?
        };
        let blocks = (0..config.n_layer).map(|number| Block::new(config, &inner.pp(format!("h.{number}"))));
        Ok(Self {
            config: config.clone(),
            places: table(config.n_positions, "wpe")?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: layer_norm(config.n_embd, config.layer_norm_epsilon, inner.pp("ln_f"))?,
            dropout: Dropout::new(config.embd_pdrop)?,
            tokens,
            head,
        })
    }

    /// The network of a model with GPT-2's `config.json`.
    ///
    /// # Errors
    /// As [`GptConfig::of`], [`Model::vars`] and [`Gpt::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        Self::new(&GptConfig::of(model)?, model.vars(device)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        self.tokens.embeddings().device()
    }

    /// An empty cache for rows of as many places as the network has.
    pub fn cache(&self) -> GptCache {
        let places = self.config.n_positions;
        GptCache {
            layers: self.blocks.iter().map(|_| KvCache::new(places)).collect(),
        }
    }

    /// The scores of what comes after the last of `tokens`, (batch, new places) of `u32`, which follow those that `cache`
    /// holds and are added to it: (batch, vocabulary) of `f32`. Equal to the last place of the whole row but for rounding.
    ///
    /// # Errors
    /// When there is no token, the row is longer than the network has places, and from candle.
    pub fn next(&self, tokens: &Tensor, cache: &mut GptCache) -> Result<Tensor> {
        let seen = self.hidden(tokens, Some(cache), false)?;
        let (_, places, _) = seen.dims3()?;
        let last = seen.narrow(1, places - 1, 1)?.squeeze(1)?;
        self.head.forward(&last)?.to_dtype(DType::F32)
    }

    fn hidden(&self, tokens: &Tensor, mut cache: Option<&mut GptCache>, train: bool) -> Result<Tensor> {
        let (_, count) = tokens.dims2()?;
        let before = cache.as_ref().map_or(0, |cache| cache.len());
        let most = self.config.n_positions;
        if count == 0 || before + count > most {
            bail!(
                "a row of {} tokens: this network takes from 1 to {most}",
                before + count
            );
        }
        let places = self.places.embeddings().narrow(0, before, count)?;
        let mut x = ops::add(&self.tokens.forward(tokens)?, &places)?;
        x = self.dropout.forward_t(&x, train)?;
        for (number, block) in self.blocks.iter().enumerate() {
            let cache = cache.as_mut().map(|cache| &mut cache.layers[number]);
            x = block.forward(&x, cache, train)?;
        }
        self.norm.forward(&x)
    }
}

impl ModuleT for Gpt {
    fn forward_t(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        self.head.forward(&self.hidden(tokens, None, train)?)
    }
}

/// What a [`Gpt`] has seen of a row so far. Made by [`Gpt::cache`]; one for each row, or batch of rows of one length.
#[derive(Debug)]
pub struct GptCache {
    layers: Vec<KvCache>,
}

impl GptCache {
    /// Places that are held.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the row: another begins.
    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(KvCache::clear);
    }
}

impl Parameters for Gpt {
    fn parameter_count(&self) -> usize {
        let tables = self.tokens.parameter_count() + self.places.parameter_count();
        // A head that is the table of tokens again is counted once.
        let head = if self.config.tie_word_embeddings {
            0
        } else {
            self.head.parameter_count()
        };
        tables + self.blocks.parameter_count() + self.norm.parameter_count() + head
    }
}
