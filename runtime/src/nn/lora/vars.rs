//! The builder that a network with adapters is made from: a model's own tensors without gradients, and variables for
//! adapters and for layers that are learned whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

use super::adapter::{SETTINGS, is_part, lies_of};
use super::prefix::candidates;
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
        is_read: lora.is_read,
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
    is_read: bool,
}

impl Vars {
    /// The layer that asks for its adapter's settings by this name, if it is to have one.
    fn asking<'a>(&self, name: &'a str) -> Option<&'a str> {
        let layer = name.strip_suffix(SETTINGS)?.strip_suffix('.')?;
        // Those from files are known by the names that the model has.
        let is_known = || self.known().contains_key(layer);
        let wanted = self.targets.iter().any(|target| names(target, layer)) || is_known();
        (wanted && !self.is_whole(name)).then_some(layer)
    }

    fn known(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tensor belongs to a layer that is learned whole.
    fn is_whole(&self, name: &str) -> bool {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let is_read = || self.is_read && !is_part(name) && self.learned_name(name).is_some();
        self.also.iter().any(|also| names(also, layer)) || is_read()
    }

    /// The name by which a tensor is among those that are learned: in files it may have another prefix.
    fn learned_name(&self, name: &str) -> Option<String> {
        let mut names = candidates(name).take(if self.is_read { usize::MAX } else { 1 });
        names.find(|name| SimpleBackend::contains_tensor(&self.map, name))
    }

    /// A variable that begins as the model has it, or as `init` says where the model has none.
    fn whole(&self, shape: Shape, name: &str, init: Init, dtype: DType) -> Result<Tensor> {
        if let Some(other) = self.learned_name(name) {
            if other != name {
                let mut known = self.map.data().lock().map_err(|_| poisoned())?;
                let var = known.remove(&other);
                known.extend(var.map(|var| (name.to_owned(), var)));
            }
        } else if self.base.contains_tensor(name) {
            let first = self.base.get_with_hints_dtype(shape.clone(), name, init, dtype)?;
            let mut known = self.map.data().lock().map_err(|_| poisoned())?;
            known.insert(name.to_owned(), Var::from_tensor(&first.detach().copy()?)?);
        }
        self.learned.get_with_hints_dtype(shape, name, init, dtype)
    }
}

impl SimpleBackend for Vars {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(layer) = self.asking(name) {
            self.known().insert(layer.to_owned(), lies_of(init));
            return Tensor::new(&self.settings, device);
        }
        if is_part(name) {
            return self.learned.get_with_hints_dtype(shape, name, init, dtype);
        }
        if self.is_whole(name) {
            return self.whole(shape, name, init, dtype);
        }
        // Without a gradient, whatever the builder below is.
        Ok(self.base.get_with_hints_dtype(shape, name, init, dtype)?.detach())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        let from = if is_part(name) { &self.learned } else { &self.base };
        Ok(from.get_unchecked_dtype(name, dtype)?.detach())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.asking(name).is_some() || self.base.contains_tensor(name) || self.learned.contains_tensor(name)
    }
}

fn poisoned() -> candle_core::Error {
    candle_core::Error::Msg("another thread panicked while it held these variables".to_owned())
}
