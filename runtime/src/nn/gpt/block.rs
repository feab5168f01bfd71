//! One block of a GPT: attention to what came before, and a perceptron for each place.

use alephlab_ops as ops;
use candle_core::{Module, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;

use super::GptConfig;
use crate::nn::attention::{attend, divides, split};
use crate::nn::{Activation, KvCache, LayerNorm, Linear, Parameters, layer_norm};
use crate::train::Dropout;

#[derive(Debug, Clone)]
pub(super) struct Block {
    heads: usize,
    before_attention: LayerNorm,
    packed: Linear,
    attention_out: Linear,
    before_perceptron: LayerNorm,
    widen: Linear,
    narrow: Linear,
    activation: Activation,
    dropout: Dropout,
}

impl Block {
    pub(super) fn new(config: &GptConfig, vars: &VarBuilder<'_>) -> Result<Self> {
        let (width, inner, spread) = (config.n_embd, config.inner(), config.initializer_range);
        divides(width, config.n_head)?;
        // Each block adds twice: so the sum keeps its size however many there are.
        let added = spread / (2.0 * config.n_layer as f64).sqrt();
        let norm = |name: &str| layer_norm(width, config.layer_norm_epsilon, vars.pp(name));
        Ok(Self {
            heads: config.n_head,
            before_attention: norm("ln_1")?,
            packed: Linear::turned(width, 3 * width, spread, vars.pp("attn.c_attn"))?,
            attention_out: Linear::turned(width, width, added, vars.pp("attn.c_proj"))?,
            before_perceptron: norm("ln_2")?,
            widen: Linear::turned(width, inner, spread, vars.pp("mlp.c_fc"))?,
            narrow: Linear::turned(inner, width, added, vars.pp("mlp.c_proj"))?,
            activation: config.activation_function,
            dropout: Dropout::new(config.resid_pdrop)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: Option<&mut KvCache>, train: bool) -> Result<Tensor> {
        let packed = self.packed.forward(&self.before_attention.forward(x)?)?;
        let [query, key, value] = split(&packed, self.heads)?;
        let seen = attend([&query, &key, &value], &ops::Mask::Causal, cache)?;
        let seen = self.attention_out.forward(&seen)?;
        let x = ops::add(x, &self.dropout.forward_t(&seen, train)?)?;
        let inner = self.widen.forward(&self.before_perceptron.forward(&x)?)?;
        let made = self.narrow.forward(&self.activation.forward(&inner)?)?;
        ops::add(&x, &self.dropout.forward_t(&made, train)?)
    }
}

impl Parameters for Block {
    fn parameter_count(&self) -> usize {
        let norms = self.before_attention.parameter_count() + self.before_perceptron.parameter_count();
        let layers = [&self.packed, &self.attention_out, &self.widen, &self.narrow];
        norms + layers.map(Parameters::parameter_count).iter().sum::<usize>()
    }
}
