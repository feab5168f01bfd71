//! Adapters from files beside a model whose names have another prefix: `transformer.h.0…` in one, `h.0…` in the other.

use super::{Layers, Lora};
use crate::{Error, Result};

/// What networks with a head put before the names of those without.
const PREFIXES: [&str; 2] = ["transformer.", "bert."];

impl Lora {
    /// Takes on the model's names, so that a network that is built from the model finds its adapters. `has` says whether the
    /// model has a tensor.
    ///
    /// # Errors
    /// [`Error::Data`] when the model has no such layer by any of its names.
    pub(super) fn fit_to(&self, has: impl Fn(&str) -> bool) -> Result<()> {
        if !self.is_read {
            return Ok(());
        }
        let mut layers = self.known();
        let mut fitted = Layers::new();
        let mut lost = None;
        for (layer, lies) in &*layers {
            let of_model = candidates(layer).find(|name| has(&format!("{name}.weight")));
            let of_model = of_model.ok_or_else(|| Error::Data {
                reason: format!(
                    "these adapters are for a layer {layer}, and the model has no {layer}.weight, nor one with another prefix \
                     ({})",
                    PREFIXES.join(", ")
                ),
            })?;
            self.rename_parts(layer, &of_model)?;
            lost = lost
                .or_else(|| layer.strip_suffix(&of_model))
                .filter(|lost| !lost.is_empty());
            fitted.insert(of_model, *lies);
        }
        let lost = lost.unwrap_or_default().to_owned();
        *layers = fitted;
        drop(layers);
        self.rename_whole(has, &lost)
    }

    /// The matrices of an adapter.
    fn rename_parts(&self, from: &str, to: &str) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let mut known = self.variables()?;
        for part in [super::adapter::DOWN, super::adapter::UP] {
            if let Some(var) = known.remove(&format!("{from}.{part}")) {
                known.insert(format!("{to}.{part}"), var);
            }
        }
        Ok(())
    }

    /// Tensors that were learned whole. One that the model has by no name is a new one, such as those of a head: it loses
    /// what the adapters lost. What they were given it may need or not; [`super::vars`] sees then what the network asks for.
    fn rename_whole(&self, has: impl Fn(&str) -> bool, lost: &str) -> Result<()> {
        let mut known = self.variables()?;
        let names: Vec<String> = known.keys().cloned().collect();
        let is_part = |name: &String| super::adapter::is_part(name);
        for name in names.into_iter().filter(|name| !is_part(name)) {
            let of_model = candidates(&name).find(|name| has(name));
            let of_model = of_model.or_else(|| name.strip_prefix(lost).map(str::to_owned));
            if let Some(of_model) = of_model.filter(|of_model| *of_model != name)
                && let Some(var) = known.remove(&name)
            {
                known.insert(of_model, var);
            }
        }
        Ok(())
    }
}

/// The name, without its prefix, and with each.
pub(super) fn candidates(name: &str) -> impl Iterator<Item = String> {
    let without = PREFIXES.iter().filter_map(|prefix| name.strip_prefix(prefix));
    let with = PREFIXES.iter().map(|prefix| format!("{prefix}{name}"));
    let mut all = vec![name.to_owned()];
    all.extend(without.map(str::to_owned));
    all.extend(with);
    all.into_iter()
}
