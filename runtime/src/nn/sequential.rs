//! Layers one after another.

use std::fmt;
use std::sync::Arc;

use candle_core::{ModuleT, Result, Tensor};

/// Layers one after another, which know whether the network is in training: candle-nn's own does not tell them, so that
/// dropout and batch norms in it never train.
#[derive(Clone, Default)]
pub struct Sequential {
    layers: Vec<Arc<dyn ModuleT + Send + Sync>>,
}

/// No layers yet: `seq().add(linear(4, 8, vars.pp("0"))?).add(Activation::Relu)`.
pub fn seq() -> Sequential {
    Sequential::default()
}

impl Sequential {
    /// Adds a layer after the others.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "the name that candle's and PyTorch's users know"
    )]
    pub fn add(mut self, layer: impl ModuleT + Send + Sync + 'static) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Adds a function after the others.
    #[must_use]
    pub fn add_fn(self, of: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Self {
        self.add(candle_nn::func(of))
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl ModuleT for Sequential {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut layers = self.layers.iter();
        layers.try_fold(x.clone(), |x, layer| layer.forward_t(&x, train))
    }
}

impl fmt::Debug for Sequential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sequential of {} layers", self.layers.len())
    }
}
