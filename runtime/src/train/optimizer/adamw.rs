//! Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

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

/// What is remembered of one variable.
#[derive(Debug)]
struct Moments {
    /// Steps that this variable was in: one that has no gradient at first is corrected from its own beginning.
    steps: u32,
    first: Var,
    second: Var,
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
                Entry::Vacant(place) => place.insert(Moments::like(update.value)?),
            };
            moments.steps = moments.steps.saturating_add(1);
            move_one(update, moments, self.rule)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Weights> {
        let mut state = Weights::new();
        for (name, moments) in &self.moments {
            state.insert(format!("{name}/first"), moments.first.as_detached_tensor());
            state.insert(format!("{name}/second"), moments.second.as_detached_tensor());
            let steps = Tensor::new(moments.steps, &Device::Cpu)?;
            state.insert(format!("{name}/steps"), steps);
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
                    let moments = Moments { steps, first, second };
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

impl Moments {
    fn like(value: &Var) -> Result<Self> {
        let zeros = || Var::zeros(value.shape(), value.dtype(), value.device());
        Ok(Self {
            steps: 0,
            first: zeros()?,
            second: zeros()?,
        })
    }
}

/// The whole arithmetic of one step of one variable: the place for a fused kernel.
fn move_one(update: &Update<'_>, moments: &Moments, rule: Rule) -> candle_core::Result<()> {
    let (beta1, beta2) = (rule.first_decay, rule.second_decay);
    let steps = i32::try_from(moments.steps).unwrap_or(i32::MAX);
    let correction = |decay: f64| 1.0 / (1.0 - decay.powi(steps));
    let (value, gradient) = (update.value, update.gradient);
    let first = ((moments.first.as_tensor() * beta1)? + (gradient * (1.0 - beta1))?)?;
    let second = ((moments.second.as_tensor() * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let root = ((&second * correction(beta2))?.sqrt()? + rule.epsilon)?;
    let moved = ((&first * correction(beta1))? / root)?;
    let kept = (value.as_tensor() * (1.0 - update.rate * update.weight_decay))?;
    let next = (kept - (moved * update.rate)?)?;
    moments.first.set(&first.detach())?;
    moments.second.set(&second.detach())?;
    value.set(&next.detach())
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
