//! One layer of a BERT, and how rows lie while they go through.

use alephlab_ops as ops;
use candle_core::{Module, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;

use super::BertConfig;
use crate::nn::attention::{attend, divides};
use crate::nn::{Activation, LayerNorm, Linear, Parameters, layer_norm};
use crate::train::Dropout;

/// Rows of one length, which lie one behind the other.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) rows: usize,
    /// Places of each.
    pub(crate) length: usize,
    /// 0 where there is a token and minus infinity where a row is filled up, (rows, 1, 1, length); none where no row is.
    pub(crate) mask: Option<Tensor>,
}

impl Group {
    fn places(&self) -> usize {
        self.rows * self.length
    }
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_out: Linear,
    after_attention: LayerNorm,
    widen: Linear,
    narrow: Linear,
    after_perceptron: LayerNorm,
    activation: Activation,
    dropout: Dropout,
}

impl Layer {
    pub(super) fn new(config: &BertConfig, vars: &VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        divides(width, config.num_attention_heads)?;
        let linear = |inputs, outputs, name: &str| {
            Linear::normal(inputs, outputs, config.initializer_range, vars.pp(name))
        };
        let norm = |name: &str| layer_norm(width, config.layer_norm_eps, vars.pp(name));
        Ok(Self {
            heads: config.num_attention_heads,
            query: linear(width, width, "attention.self.query")?,
            key: linear(width, width, "attention.self.key")?,
            value: linear(width, width, "attention.self.value")?,
            attention_out: linear(width, width, "attention.output.dense")?,
            after_attention: norm("attention.output.LayerNorm")?,
            widen: linear(width, inner, "intermediate.dense")?,
            narrow: linear(inner, width, "output.dense")?,
            after_perceptron: norm("output.LayerNorm")?,
            activation: config.hidden_act,
            dropout: Dropout::new(config.hidden_dropout_prob)?,
        })
    }

    /// Places of all groups, (places, width), to the same shape.
    pub(super) fn forward(&self, x: &Tensor, groups: &[Group], train: bool) -> Result<Tensor> {
        let seen = self.attention_out.forward(&self.attention(x, groups)?)?;
        let seen = self.dropout.forward_t(&seen, train)?;
        let x = self.after_attention.forward(&ops::add(x, &seen)?)?;
        let inner = self.activation.forward(&self.widen.forward(&x)?)?;
        let made = self.dropout.forward_t(&self.narrow.forward(&inner)?, train)?;
        self.after_perceptron.forward(&ops::add(&x, &made)?)
    }

    fn attention(&self, x: &Tensor, groups: &[Group]) -> Result<Tensor> {
        let projected = [&self.query, &self.key, &self.value].map(|layer| layer.forward(x));
        let [query, key, value] = projected;
        let (query, key, value) = (query?, key?, value?);
        let width = query.dim(1)?;
        let mut start = 0;
        let mut seen = Vec::with_capacity(groups.len());
        for group in groups {
            let shape = (group.rows, group.length, self.heads, width / self.heads);
            let part = |all: &Tensor| match groups.len() {
                1 => all.reshape(shape),
                _ => all.narrow(0, start, group.places())?.reshape(shape),
            };
            let mask = match &group.mask {
                Some(mask) => ops::Mask::Added(mask.clone()),
                None => ops::Mask::None,
            };
            let made = attend([&part(&query)?, &part(&key)?, &part(&value)?], &mask, None)?;
            seen.push(made.reshape((group.places(), width))?);
            start += group.places();
        }
        match seen.as_slice() {
            [one] => Ok(one.clone()),
            _ => Tensor::cat(&seen, 0),
        }
    }
}

impl Parameters for Layer {
    fn parameter_count(&self) -> usize {
        let norms = self.after_attention.parameter_count() + self.after_perceptron.parameter_count();
        let layers = [
            &self.query,
            &self.key,
            &self.value,
            &self.attention_out,
            &self.widen,
            &self.narrow,
        ];
        norms + layers.map(Parameters::parameter_count).iter().sum::<usize>()
    }
}
