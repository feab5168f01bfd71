//! The builder that a network with adapters is made from: a model's own tensors without gradients, and variables for
//! adapters and for layers that are learned whole.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

use super::adapter::{DOWN, SETTINGS, SETTINGS_TURNED, UP};
use super::{Layers, Lora, names};
use crate::train::seeded_vars;

pub(super) fn over(lora: &Lora, base: VarBuilder<'static>) -> VarBuilder<'static> {
    let (dtype, device) = (base.dtype(), base.device().clone());
    let backend = Vars {
        learned: seeded_vars(&lora.vars, lora.seed, &device),
        map: lora.vars.clone(),
        layers: Arc::clone(&lora.layers),
        settings: [lora.rank as f64, lora.scale()],
        targets: lora.targets.clone(),
        also: lora.also.clone(),
        base: base.root(),
    };
    VarBuilder::from_backend(Box::new(backend), dtype, device)
}

struct Vars {
    base: VarBuilder<'static>,
    learned: VarBuilder<'static>,
    map: VarMap,
    layers: Arc<Mutex<Layers>>,
    settings: [f64; 2],
    targets: Vec<String>,
    also: Vec<String>,
}

impl Vars {
    /// The layer that asks for its adapter's settings by this name, and whether its weight is turned, if it is to have one.
    fn asking<'a>(&self, name: &'a str) -> Option<(&'a str, bool)> {
        let (layer, what) = name.rsplit_once('.')?;
        let turned = match what {
            SETTINGS => false,
            SETTINGS_TURNED => true,
            _ => return None,
        };
        let wanted = self.targets.iter().any(|target| names(target, layer));
        (wanted && !self.is_whole(name)).then_some((layer, turned))
    }

    /// Whether the tensor belongs to a layer that is learned whole.
    fn is_whole(&self, name: &str) -> bool {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        self.also.iter().any(|also| names(also, layer))
    }

    fn is_adapter(name: &str) -> bool {
        [DOWN, UP].iter().any(|part| name.ends_with(part))
    }

    /// A variable that begins as the model has it, or as `init` says where the model has none.
    fn whole(&self, shape: Shape, name: &str, init: Init, dtype: DType) -> Result<Tensor> {
        if !SimpleBackend::contains_tensor(&self.map, name) && self.base.contains_tensor(name) {
            let first = self.base.get_with_hints_dtype(shape.clone(), name, init, dtype)?;
            let mut known = self.map.data().lock().map_err(|_| poisoned())?;
            known.insert(name.to_owned(), Var::from_tensor(&first.detach().copy()?)?);
        }
        self.learned.get_with_hints_dtype(shape, name, init, dtype)
    }
}

impl SimpleBackend for Vars {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some((layer, turned)) = self.asking(name) {
            let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            layers.insert(layer.to_owned(), turned);
            return Tensor::new(&self.settings, device);
        }
        if Self::is_adapter(name) {
            return self.learned.get_with_hints_dtype(shape, name, init, dtype);
        }
        if self.is_whole(name) {
            return self.whole(shape, name, init, dtype);
        }
        // Without a gradient, whatever the builder below is.
        Ok(self.base.get_with_hints_dtype(shape, name, init, dtype)?.detach())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        let from = if Self::is_adapter(name) {
            &self.learned
        } else {
            &self.base
        };
        Ok(from.get_unchecked_dtype(name, dtype)?.detach())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.asking(name).is_some() || self.base.contains_tensor(name) || self.learned.contains_tensor(name)
    }
}

fn poisoned() -> candle_core::Error {
    candle_core::Error::Msg("another thread panicked while it held these variables".to_owned())
}
