//! Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use alephlab_ops::{Moments, adamw_step};
use candle_core::{DType, Device, Tensor, Var};

use super::{Optimizer, Update, Weights, restored};
use crate::{Error, Result};

/// Adam with decoupled weight decay, as PyTorch's `AdamW`: moments 0.9 and 0.999, epsilon 1e-8.
#[derive(Debug, Default)]
pub struct AdamW {
    rule: Rule,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    first_decay: f64,
    second_decay: f64,
    epsilon: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            first_decay: 0.9,
            second_decay: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl AdamW {
    /// How slowly the means of gradients and of their squares forget, each from 0 to below 1.
    #[must_use]
    pub fn decays(mut self, first: f64, second: f64) -> Self {
        self.rule.first_decay = first;
        self.rule.second_decay = second;
        self
    }

    /// What is added to the root of the second moment.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.rule.epsilon = epsilon;
        self
    }
}

impl Optimizer for AdamW {
    fn describe(&self) -> String {
        let Rule {
            first_decay,
            second_decay,
            epsilon,
        } = self.rule;
        format!("AdamW, decays {first_decay} and {second_decay}, epsilon {epsilon}")
    }

    fn fresh(&self) -> Box<dyn Optimizer> {
        Box::new(Self {
            rule: self.rule,
            moments: BTreeMap::new(),
        })
    }

    fn step(&mut self, updates: &[Update<'_>]) -> Result<()> {
        for update in updates {
            let moments = match self.moments.entry(update.name.to_owned()) {
                Entry::Occupied(known) => known.into_mut(),
                // Steps are its own: a variable that has no gradient at first is corrected from its own beginning.
                Entry::Vacant(place) => place.insert(Moments::new(update.value)?),
            };
            let now = alephlab_ops::AdamW {
                learning_rate: update.rate,
                beta1: self.rule.first_decay,
                beta2: self.rule.second_decay,
                eps: self.rule.epsilon,
                weight_decay: update.weight_decay,
                gradient_scale: 1.0,
            };
            adamw_step(update.value, update.gradient, moments, &now)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Weights> {
        let mut state = Weights::new();
        for (name, moments) in &self.moments {
            let (first, second, steps) = moments.saved()?;
            state.insert(format!("{name}/first"), first);
            state.insert(format!("{name}/second"), second);
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            state.insert(format!("{name}/steps"), Tensor::new(steps, &Device::Cpu)?);
        }
        Ok(state)
    }

    fn set_state(&mut self, state: &Weights, variables: &BTreeMap<String, Var>) -> Result<()> {
        self.moments.clear();
        for (name, value) in variables {
            let first = restored(state, name, "first", value)?;
            let second = restored(state, name, "second", value)?;
            let steps = state.get(&format!("{name}/steps"));
            match (first, second, steps) {
                (None, None, None) => {}
                (Some(first), Some(second), Some(steps)) if steps.elem_count() == 1 => {
                    let steps = steps.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?[0];
                    let moments = Moments::restored(&first, &second, steps.into())?;
                    self.moments.insert(name.clone(), moments);
                }
                _ => {
                    return Err(Error::Data {
                        reason: format!("half of what AdamW knows of {name} is missing"),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, close, gradient, numbers, path, start};
    use super::*;

    /// PyTorch's documentation of AdamW, line by line, on plain numbers.
    fn reference(steps: usize, (beta1, beta2): (f64, f64), epsilon: f64, decay: f64) -> [f64; 3] {
        let (mut value, mut m, mut v) = (START, [0.0; 3], [0.0; 3]);
        for step in 0..steps {
            let rate = 0.1 / (1.0 + step as f64);
            let turn = i32::try_from(step).unwrap() + 1;
            for (at, g) in gradient(step).into_iter().enumerate() {
                value[at] -= rate * decay * value[at];
                m[at] = beta1 * m[at] + (1.0 - beta1) * g;
                v[at] = beta2 * v[at] + (1.0 - beta2) * g * g;
                let m_hat = m[at] / (1.0 - beta1.powi(turn));
                let v_hat = v[at] / (1.0 - beta2.powi(turn));
                value[at] -= rate * m_hat / (v_hat.sqrt() + epsilon);
            }
        }
        value
    }

    #[test]
    fn moves_as_the_published_formula() {
        for decay in [0.0, 0.01, 0.5] {
            let value = start();
            path(&mut AdamW::default(), 0..20, &value, decay);
            close(&numbers(&value), &reference(20, (0.9, 0.999), 1e-8, decay));
            let value = start();
            let mut other = AdamW::default().decays(0.8, 0.95).epsilon(1e-3);
            path(&mut other, 0..20, &value, decay);
            close(&numbers(&value), &reference(20, (0.8, 0.95), 1e-3, decay));
        }
    }

    #[test]
    fn a_first_step_moves_by_the_rate_whatever_the_gradient() {
        let value = start();
        path(&mut AdamW::default(), 1..2, &value, 0.0);
        let moved: Vec<f64> = START.iter().zip(numbers(&value)).map(|(a, b)| a - b).collect();
        for (moved, sign) in moved.iter().zip([1.0, -1.0, 1.0]) {
            assert!((moved - 0.05 * sign).abs() < 1e-6, "{moved}");
        }
    }
}
