//! An encoder as BERT is one (Devlin et al., 2018), with its names: published weights load.
//!
//! On our own layers: candle-transformers has one too, which is slower, cannot be trained, and comes with a hundred other
//! networks to build (docs/adr/0029-bert.md). Not here: sentences, which are [`crate::nn::SentenceEncoder`]'s.

mod classifier;
mod config;
mod layer;

use alephlab_ops as ops;
use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, bail};
use candle_nn::{Embedding, Init, VarBuilder};

pub use classifier::BertClassifier;
pub use config::BertConfig;
pub(crate) use layer::Group;
use layer::Layer;

use super::{LayerNorm, Parameters, layer_norm};
use crate::model::Model;
use crate::train::Dropout;

/// An encoder: tokens (batch, places) of `u32` to numbers that say what each means where it stands, (batch, places, hidden).
///
/// Tensors are those of BERT's files: `embeddings.word_embeddings.weight`, …,
/// `encoder.layer.0.attention.self.query.weight`, …, under `bert.` where a file has them so. Weights of attention have no
/// dropout. As `ModuleT` it takes tokens alone, and those that rows are filled up with are not seen.
#[derive(Debug, Clone)]
pub struct Bert {
    config: BertConfig,
    words: Embedding,
    places: Embedding,
    types: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    dropout: Dropout,
}

impl Bert {
    /// The network whose tensors `vars` makes or holds.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for sizes that cannot be, [`crate::Error::Tensor`] when `vars` holds tensors of other shapes.
    pub fn new(config: &BertConfig, vars: VarBuilder<'_>) -> crate::Result<Self> {
        config.check()?;
        let vars = if vars.contains_tensor("bert.embeddings.word_embeddings.weight") {
            vars.pp("bert")
        } else {
            vars
        };
        let embeddings = vars.pp("embeddings");
        let table = |count, name: &str| -> Result<Embedding> {
            let first = Init::Randn {
                mean: 0.0,
                stdev: config.initializer_range,
            };
            let vars = embeddings.pp(name);
            let weight = vars.get_with_hints((count, config.hidden_size), "weight", first)?;
            Ok(Embedding::new(weight, config.hidden_size))
        };
        let layers = (0..config.num_hidden_layers)
            .map(|number| Layer::new(config, &vars.pp(format!("encoder.layer.{number}"))));
        Ok(Self {
            config: config.clone(),
            words: table(config.vocab_size, "word_embeddings")?,
            places: table(config.max_position_embeddings, "position_embeddings")?,
            types: table(config.type_vocab_size, "token_type_embeddings")?,
            norm: layer_norm(
                config.hidden_size,
                config.layer_norm_eps,
                embeddings.pp("LayerNorm"),
            )?,
            layers: layers.collect::<Result<_>>()?,
            dropout: Dropout::new(config.hidden_dropout_prob)?,
        })
    }

    /// The network of a model with BERT's `config.json`.
    ///
    /// # Errors
    /// As [`BertConfig::of`], [`Model::vars`] and [`Bert::new`].
    pub fn from_model(model: &Model, device: &Device) -> crate::Result<Self> {
        Self::new(&BertConfig::of(model)?, model.vars(device)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        self.words.embeddings().device()
    }

    /// What tokens mean where they stand, (batch, places, hidden). `tokens`, `mask` (1 where there is a token, 0 where a row is
    /// filled up) and `types` (which part of a pair) are `u32` of shape (batch, places), as [`crate::data::TokenBatch`] has
    /// them; without `types` all are of part 0. What stands where a row is filled up means nothing.
    ///
    /// # Errors
    /// When rows have no place or more than the network, and from candle.
    pub fn encode(
        &self,
        tokens: &Tensor,
        mask: &Tensor,
        types: Option<&Tensor>,
        train: bool,
    ) -> Result<Tensor> {
        let (rows, length) = tokens.dims2()?;
        let added = mask_to_add(mask, self.words.embeddings().dtype())?;
        let group = Group {
            rows,
            length,
            mask: Some(added),
        };
        let types = types.map(Tensor::flatten_all).transpose()?;
        let seen = self.through(&tokens.flatten_all()?, types.as_ref(), &[group], train)?;
        seen.reshape((rows, length, self.config.hidden_size))
    }

    /// Rows of several lengths at once: `tokens` of all groups in a row, (places), to (places, hidden). Linear layers see all
    /// of them together and nothing is filled up.
    pub(crate) fn through(
        &self,
        tokens: &Tensor,
        types: Option<&Tensor>,
        groups: &[Group],
        train: bool,
    ) -> Result<Tensor> {
        let most = self.config.max_position_embeddings;
        let mut places: Vec<u32> = Vec::with_capacity(tokens.elem_count());
        for group in groups {
            let Some(length) = u32::try_from(group.length)
                .ok()
                .filter(|_| (1..=most).contains(&group.length))
            else {
                bail!(
                    "a row of {} tokens: this network takes from 1 to {most}",
                    group.length
                );
            };
            for _ in 0..group.rows {
                places.extend(0..length);
            }
        }
        let places = Tensor::new(places, tokens.device())?;
        let types = match types {
            Some(types) => self.types.forward(types)?,
            None => self.types.embeddings().narrow(0, 0, 1)?,
        };
        let x = ops::add(&self.words.forward(tokens)?, &self.places.forward(&places)?)?;
        let mut x = self.norm.forward(&ops::add(&x, &types)?)?;
        x = self.dropout.forward_t(&x, train)?;
        for layer in &self.layers {
            x = layer.forward(&x, groups, train)?;
        }
        Ok(x)
    }

    /// 1 where there is a token that rows are not filled up with.
    pub(crate) fn mask(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens.ne(self.config.pad_token_id)?.to_dtype(DType::U32)
    }
}

impl ModuleT for Bert {
    fn forward_t(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        self.encode(tokens, &self.mask(tokens)?, None, train)
    }
}

/// 0 where there is a token, minus infinity where not, (batch, 1, 1, places).
fn mask_to_add(mask: &Tensor, dtype: DType) -> Result<Tensor> {
    let (rows, length) = mask.dims2()?;
    let shut = Tensor::full(f32::NEG_INFINITY, mask.shape(), mask.device())?;
    let added = mask.ne(0u32)?.where_cond(&shut.zeros_like()?, &shut)?;
    added.to_dtype(dtype)?.reshape((rows, 1, 1, length))
}

impl Parameters for Bert {
    fn parameter_count(&self) -> usize {
        let tables = [&self.words, &self.places, &self.types].map(Parameters::parameter_count);
        let tables: usize = tables.iter().sum();
        tables + self.norm.parameter_count() + self.layers.parameter_count()
    }
}
