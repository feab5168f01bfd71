//! Attention: each place of a row looks at the others.

use alephlab_ops as ops;
use candle_core::{D, IndexOp, Module, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder, kv_cache};

use super::{Linear, Parameters};

/// Keys and values of places that a layer has seen already, so that a row can grow without their being calculated again.
///
/// Memory for `places` is taken at the first use; it grows beyond by as much again. Cleared, not cloned: a clone would
/// write into the same memory.
#[derive(Debug)]
pub struct KvCache {
    inner: kv_cache::KvCache,
    places: usize,
}

impl KvCache {
    /// For rows of up to so many places.
    pub fn new(places: usize) -> Self {
        let places = places.max(1);
        Self {
            // Dimension 2 of (batch, heads, places, size).
            inner: kv_cache::KvCache::new(2, places),
            places,
        }
    }

    /// Places that are held.
    pub fn len(&self) -> usize {
        self.inner.current_seq_len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all places: another row begins.
    pub fn clear(&mut self) {
        self.inner = kv_cache::KvCache::new(2, self.places);
    }

    /// Adds keys and values of shape (batch, heads, new places, size); answers all.
    fn append(&mut self, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        // What is kept is not learned from: gradients would keep each step's graph alive.
        let [key, value] = [ops::contiguous(&key.detach())?, ops::contiguous(&value.detach())?];
        self.inner.append(&key, &value)
    }
}

/// Attention with queries, keys and values of shape (batch, places, heads, size); answers (batch, places, heads · size).
///
/// With `causal` a place sees itself and those before; with a cache those that it holds are before all of these.
pub(super) fn attend(
    [query, key, value]: [&Tensor; 3],
    mask: &ops::Mask,
    cache: Option<&mut KvCache>,
) -> Result<Tensor> {
    // Views: the op reads them where they lie.
    let [query, key, value] = [
        query.transpose(1, 2)?,
        key.transpose(1, 2)?,
        value.transpose(1, 2)?,
    ];
    let (key, value) = match cache {
        Some(cache) => cache.append(&key, &value)?,
        None => (key, value),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "f32 is what networks calculate with"
    )]
    let scale = (query.dim(D::Minus1)? as f64).powf(-0.5) as f32;
    let seen = ops::attention(&query, &key, &value, mask, scale)?;
    // Lies so already: nothing is copied.
    seen.transpose(1, 2)?.flatten_from(2)
}

/// Splits (batch, places, parts · heads · size) into its parts, each (batch, places, heads, size), without a copy.
pub(super) fn split<const PARTS: usize>(packed: &Tensor, heads: usize) -> Result<[Tensor; PARTS]> {
    let (batch, places, width) = packed.dims3()?;
    let packed = packed.reshape((batch, places, PARTS, heads, width / (PARTS * heads).max(1)))?;
    let mut parts = Vec::with_capacity(PARTS);
    for part in 0..PARTS {
        parts.push(packed.i((.., .., part))?);
    }
    parts
        .try_into()
        .map_err(|_| candle_core::Error::Msg("attention has as many parts as were asked for".to_owned()))
}

/// Self-attention with several heads, (batch, places, width) to the same shape, by the fused op.
///
/// Tensors are `in_proj_weight` (3 · width, width), `in_proj_bias` (3 · width), `out_proj.weight` (width, width) and
/// `out_proj.bias` (width), as PyTorch's `nn.MultiheadAttention` with `batch_first`. Weights have no dropout.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    packed: Linear,
    out: Linear,
    heads: usize,
    causal: bool,
}

impl MultiHeadAttention {
    /// Attention over rows of `width` numbers by so many heads, which divide it.
    ///
    /// # Errors
    /// When they don't, or `vars` holds tensors of other shapes.
    pub fn new(width: usize, heads: usize, vars: VarBuilder<'_>) -> Result<Self> {
        divides(width, heads)?;
        // Xavier's bound, as PyTorch begins this layer.
        let bound = (6.0 / (4 * width) as f64).sqrt();
        let weight = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let weight = vars.get_with_hints((3 * width, width), "in_proj_weight", weight)?;
        let bias = vars.get_with_hints(3 * width, "in_proj_bias", Init::Const(0.0))?;
        Ok(Self {
            packed: Linear::new(weight, Some(bias)),
            out: super::linear(width, width, vars.pp("out_proj"))?,
            heads,
            causal: false,
        })
    }

    /// Lets each place see itself and those before it only.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Attention in which `mask` is added to the scores before softmax: 0 where a place is seen, minus infinity where not.
    /// It is broadcast to (batch, heads, places, places).
    ///
    /// # Errors
    /// Other shapes, or when the layer is causal and would need both.
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        if self.causal {
            bail!("a causal attention takes no other mask; add minus infinity above the diagonal to yours");
        }
        self.through(x, &ops::Mask::Added(mask.clone()), None)
    }

    /// Attention of new places to themselves, those before, and those that `cache` holds; adds them to it. Not for training.
    ///
    /// # Errors
    /// Other shapes, and when the layer is not causal.
    pub fn forward_cached(&self, x: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        if !self.causal {
            bail!(
                "only a causal attention can go on from a cache: elsewhere places see those that come later"
            );
        }
        self.through(x, &ops::Mask::Causal, Some(cache))
    }

    fn through(&self, x: &Tensor, mask: &ops::Mask, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let [query, key, value] = split(&self.packed.forward(x)?, self.heads)?;
        self.out.forward(&attend([&query, &key, &value], mask, cache)?)
    }
}

impl Module for MultiHeadAttention {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mask = if self.causal {
            ops::Mask::Causal
        } else {
            ops::Mask::None
        };
        self.through(x, &mask, None)
    }
}

/// Whether each head gets as many numbers.
pub(super) fn divides(width: usize, heads: usize) -> Result<()> {
    if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
        bail!(
            "{width} numbers cannot be shared out among {heads} heads; take a width that is a multiple of them"
        );
    }
    Ok(())
}

impl Parameters for MultiHeadAttention {
    fn parameter_count(&self) -> usize {
        self.packed.parameter_count() + self.out.parameter_count()
    }
}
