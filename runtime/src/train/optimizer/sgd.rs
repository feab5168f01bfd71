//! Stochastic gradient descent with momentum (Polyak, 1964; Nesterov, 1983), as PyTorch's `SGD`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use alephlab_ops::{Velocity, sgd_step};
use candle_core::Var;

use super::{Optimizer, Update, Weights, restored};
use crate::Result;

/// Stochastic gradient descent. Weight decay is added to the gradient, as in PyTorch's `SGD`.
#[derive(Debug, Default)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    velocities: BTreeMap<String, Velocity>,
}

impl Sgd {
    /// Part of the last move that goes on in the next, from 0 (none) to below 1.
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Looks ahead by the momentum. Means nothing without one.
    #[must_use]
    pub fn nesterov(mut self, looks_ahead: bool) -> Self {
        self.nesterov = looks_ahead;
        self
    }

    fn has_momentum(&self) -> bool {
        self.momentum != 0.0
    }
}

impl Optimizer for Sgd {
    fn describe(&self) -> String {
        let kind = if self.nesterov {
            "Nesterov momentum"
        } else {
            "momentum"
        };
        format!("SGD, {kind} {}", self.momentum)
    }

    fn fresh(&self) -> Box<dyn Optimizer> {
        Box::new(Self {
            velocities: BTreeMap::new(),
            ..*self
        })
    }

    fn step(&mut self, updates: &[Update<'_>]) -> Result<()> {
        for update in updates {
            if !self.has_momentum() {
                plain(update)?;
                continue;
            }
            let velocity = match self.velocities.entry(update.name.to_owned()) {
                Entry::Occupied(known) => known.into_mut(),
                // From nothing its first move is the gradient, as in PyTorch.
                Entry::Vacant(place) => place.insert(Velocity::new(update.value)?),
            };
            let now = alephlab_ops::Sgd {
                learning_rate: update.rate,
                momentum: self.momentum,
                weight_decay: update.weight_decay,
                nesterov: self.nesterov,
                gradient_scale: 1.0,
            };
            sgd_step(update.value, update.gradient, velocity, &now)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Weights> {
        let mut state = Weights::new();
        for (name, velocity) in &self.velocities {
            state.insert(format!("{name}/velocity"), velocity.saved()?);
        }
        Ok(state)
    }

    fn set_state(&mut self, state: &Weights, variables: &BTreeMap<String, Var>) -> Result<()> {
        self.velocities.clear();
        for (name, value) in variables {
            if let Some(velocity) = restored(state, name, "velocity", value)? {
                self.velocities
                    .insert(name.clone(), Velocity::restored(&velocity)?);
            }
        }
        Ok(())
    }
}

/// A step without momentum, which remembers nothing.
fn plain(update: &Update<'_>) -> candle_core::Result<()> {
    let kept = (update.value.as_tensor() * (1.0 - update.rate * update.weight_decay))?;
    update
        .value
        .set(&(kept - (update.gradient * update.rate)?)?.detach())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, close, gradient, numbers, path, start};
    use super::*;

    /// PyTorch's documentation of SGD, line by line, on plain numbers.
    fn reference(steps: usize, momentum: f64, nesterov: bool, decay: f64) -> [f64; 3] {
        let (mut value, mut buffer) = (START, [0.0; 3]);
        for step in 0..steps {
            let rate = 0.1 / (1.0 + step as f64);
            for (at, g) in gradient(step).into_iter().enumerate() {
                let g = g + decay * value[at];
                buffer[at] = if step == 0 { g } else { momentum * buffer[at] + g };
                let direction = match (momentum != 0.0, nesterov) {
                    (false, _) => g,
                    (true, false) => buffer[at],
                    (true, true) => g + momentum * buffer[at],
                };
                value[at] -= rate * direction;
            }
        }
        value
    }

    #[test]
    fn moves_as_the_published_formula() {
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true), (0.5, true)] {
            for decay in [0.0, 0.1] {
                let value = start();
                let mut rule = Sgd::default().momentum(momentum).nesterov(nesterov);
                path(&mut rule, 0..20, &value, decay);
                close(&numbers(&value), &reference(20, momentum, nesterov, decay));
            }
        }
    }
}
