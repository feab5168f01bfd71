//! The variables that a training moves: in the order of their names, in groups, and in full precision.
//!
//! **Mixed precision.** A network built with `bf16` or `f16` variables calculates in that type. Steps are smaller than
//! such a type can tell apart, so each of its variables that has a gradient gets a master copy in `f32` here: gradients
//! are taken to `f32`, the optimiser moves the master, and its rounded value is written into the variable, which the
//! network sees because candle's variables are changed in place. The network does nothing for it. `bf16` has the range
//! of `f32`, so losses need no scaling; `f16` has not, and gets none. Called by the trainer.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;

use super::optimizer::{Update, Weights};
use crate::{Error, Result};

/// How the variables of one group are moved, as factors of the trainer's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Factor of the learning rate. At 0 the variables stay as they are.
    pub rate: f64,
    /// Factor of the weight decay.
    pub weight_decay: f64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            rate: 1.0,
            weight_decay: 1.0,
        }
    }
}

/// Which group a variable is in, by name and value.
pub(super) type Grouping = Arc<dyn Fn(&str, &Tensor) -> Group + Send + Sync>;

/// Whether a variable is a bias or belongs to a normalisation, by its name and shape: weight decay does such no good.
///
/// That is every variable with fewer than two dimensions, and those with a part of their name that is `bias` or
/// contains `norm`.
pub fn is_bias_or_norm(name: &str, value: &Tensor) -> bool {
    let tells = |part: &str| part == "bias" || part.to_ascii_lowercase().contains("norm");
    value.rank() < 2 || name.split('.').any(tells)
}

/// One variable.
pub(super) struct Parameter {
    pub(super) name: String,
    /// What the network calculates with.
    pub(super) var: Var,
    /// In full precision, once a gradient came, where `var` is not.
    master: Option<Var>,
    group: Group,
}

/// All variables of a network, by name.
pub(super) struct Parameters {
    pub(super) all: Vec<Parameter>,
}

impl Parameters {
    pub(super) fn of(vars: &VarMap, grouping: Option<&Grouping>) -> Result<Self> {
        let known = vars.data().lock().map_err(|_| Error::Data {
            reason: "another thread panicked while it held these variables".to_owned(),
        })?;
        // By name, because the order of sums over all of them shows in the last bits.
        let sorted: BTreeMap<&String, &Var> = known.iter().collect();
        let parameter = |(name, var): (&String, &Var)| Parameter {
            name: name.clone(),
            var: var.clone(),
            master: None,
            group: grouping.map_or_else(Group::default, |group| group(name, var.as_tensor())),
        };
        Ok(Self {
            all: sorted.into_iter().map(parameter).collect(),
        })
    }

    /// The one type that all variables with fractions have, where they have one: what inputs are taken to.
    pub(super) fn float(&self) -> Option<DType> {
        let mut types = self.all.iter().map(|one| one.var.dtype()).filter(DType::is_float);
        let first = types.next()?;
        types.all(|other| other == first).then_some(first)
    }

    /// Moves every variable that has a gradient.
    pub(super) fn step(
        &mut self,
        optimizer: &mut dyn super::Optimizer,
        gradients: &[Option<Tensor>],
        rate: f64,
        weight_decay: f64,
    ) -> Result<()> {
        for (one, gradient) in self.all.iter_mut().zip(gradients) {
            if gradient.is_some() {
                one.make_master()?;
            }
        }
        let moved = || self.all.iter().zip(gradients);
        let updates: Vec<Update<'_>> = moved()
            .filter_map(|(one, gradient)| {
                gradient.as_ref().map(|gradient| Update {
                    name: &one.name,
                    value: one.value(),
                    gradient,
                    rate: rate * one.group.rate,
                    weight_decay: weight_decay * one.group.weight_decay,
                })
            })
            .collect();
        optimizer.step(&updates)?;
        for (one, _) in moved().filter(|(_, gradient)| gradient.is_some()) {
            one.show_master()?;
        }
        Ok(())
    }

    /// Values in full precision, which later steps do not change.
    pub(super) fn weights(&self) -> Result<Weights> {
        let copy = |one: &Parameter| Ok((one.name.clone(), one.value().as_tensor().copy()?.detach()));
        self.all.iter().map(copy).collect()
    }

    /// Values in full precision, which the next step changes: their memory is shared.
    pub(super) fn live_weights(&self) -> Weights {
        let share = |one: &Parameter| (one.name.clone(), one.value().as_detached_tensor());
        self.all.iter().map(share).collect()
    }

    /// Variables in full precision, by name.
    pub(super) fn values(&self) -> BTreeMap<String, Var> {
        self.all
            .iter()
            .map(|one| (one.name.clone(), one.value().clone()))
            .collect()
    }

    /// Takes up weights that [`Parameters::weights`] gave.
    ///
    /// # Errors
    /// [`Error::Data`] when a variable is missing or has another shape or type; then none is changed.
    pub(super) fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        for one in &self.all {
            let found = weights.get(&one.name);
            one.check(found).map_err(|reason| Error::Data { reason })?;
        }
        for one in &mut self.all {
            let Some(tensor) = weights.get(&one.name) else {
                continue;
            };
            let tensor = tensor.to_device(one.var.device())?;
            if tensor.dtype() != one.var.dtype() {
                one.make_master()?;
            }
            one.value().set(&tensor)?;
            one.show_master()?;
        }
        Ok(())
    }

    /// These weights where the variables of their names are.
    pub(super) fn on_their_devices(&self, mut weights: Weights) -> Result<Weights> {
        for one in &self.all {
            if let Some(tensor) = weights.get_mut(&one.name) {
                *tensor = tensor.to_device(one.var.device())?;
            }
        }
        Ok(weights)
    }

    /// What the network calculates with now, as copies.
    pub(super) fn shown(&self) -> Result<Weights> {
        let copy = |one: &Parameter| Ok((one.name.clone(), one.var.as_tensor().copy()?.detach()));
        self.all.iter().map(copy).collect()
    }

    /// Shows the network other weights. Masters stay as they are.
    pub(super) fn show(&self, weights: &Weights) -> Result<()> {
        for one in &self.all {
            if let Some(tensor) = weights.get(&one.name) {
                one.var.set(&tensor.to_dtype(one.var.dtype())?)?;
            }
        }
        Ok(())
    }
}

impl Parameter {
    /// Whether it is moved at all.
    pub(super) fn learns(&self) -> bool {
        self.var.dtype().is_float() && self.group.rate != 0.0
    }

    /// In full precision.
    pub(super) fn value(&self) -> &Var {
        self.master.as_ref().unwrap_or(&self.var)
    }

    fn make_master(&mut self) -> Result<()> {
        let is_full = matches!(self.var.dtype(), DType::F32 | DType::F64);
        if !is_full && self.master.is_none() {
            let full = self.var.as_tensor().to_dtype(DType::F32)?.detach();
            self.master = Some(Var::from_tensor(&full)?);
        }
        Ok(())
    }

    /// Writes the rounded master into the variable.
    fn show_master(&self) -> Result<()> {
        if let Some(master) = &self.master {
            let rounded = master.as_tensor().to_dtype(self.var.dtype())?;
            self.var.set(&rounded.detach())?;
        }
        Ok(())
    }

    fn check(&self, found: Option<&Tensor>) -> std::result::Result<(), String> {
        let name = &self.name;
        let Some(found) = found else {
            return Err(format!("it has no {name}"));
        };
        if found.shape() != self.var.shape() {
            return Err(format!(
                "its {name} has the shape {:?}, that of this network {:?}",
                found.dims(),
                self.var.dims()
            ));
        }
        let (theirs, ours) = (found.dtype(), self.var.dtype());
        let is_master = theirs == DType::F32 && matches!(ours, DType::BF16 | DType::F16);
        if theirs != ours && !is_master {
            return Err(format!("its {name} is {theirs:?}, that of this network {ours:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::Sgd;
    use super::*;

    fn map(dtype: DType) -> VarMap {
        let vars = VarMap::new();
        for (name, shape) in [
            ("fc.weight", vec![2, 2]),
            ("fc.bias", vec![2]),
            ("norm.weight", vec![2, 1]),
        ] {
            vars.get(shape, name, candle_nn::Init::Const(1.0), dtype, &Device::Cpu)
                .unwrap();
        }
        vars
    }

    fn ones(parameters: &Parameters) -> Vec<Option<Tensor>> {
        let one = |parameter: &Parameter| {
            let ones = Tensor::ones(parameter.var.shape(), DType::F32, &Device::Cpu);
            Some(ones.unwrap())
        };
        parameters.all.iter().map(one).collect()
    }

    fn first(tensor: &Tensor) -> f32 {
        tensor
            .to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()[0]
    }

    #[test]
    fn masters_keep_steps_that_are_too_small_for_the_networks_type() {
        let vars = map(DType::BF16);
        let mut parameters = Parameters::of(&vars, None).unwrap();
        assert_eq!(parameters.float(), Some(DType::BF16));
        let gradients = ones(&parameters);
        // bf16 has eight bits: one step of 1/1024 below 1 is lost in it, four of them are not.
        for step in 1..=4_u8 {
            parameters
                .step(&mut Sgd::default(), &gradients, 1.0 / 1024.0, 0.0)
                .unwrap();
            let master = first(&parameters.weights().unwrap()["fc.bias"]);
            assert_eq!(master, 1.0 - f32::from(step) / 1024.0);
        }
        let shown = parameters.all[0].var.as_tensor();
        assert_eq!((first(shown), shown.dtype()), (1.0 - 4.0 / 1024.0, DType::BF16));
    }

    #[test]
    fn weights_are_taken_up_by_name_shape_and_type() {
        let vars = map(DType::F32);
        let mut parameters = Parameters::of(&vars, None).unwrap();
        let mut weights = parameters.weights().unwrap();
        let bias = Tensor::new(&[5_f32, 6.0], &Device::Cpu).unwrap();
        weights.insert("fc.bias".to_owned(), bias);
        parameters.set_weights(&weights).unwrap();
        assert_eq!(first(parameters.all[0].var.as_tensor()), 5.0);
        let mut refused = |name: &str, tensor: Option<Tensor>, words: &str| {
            let mut other = weights.clone();
            match tensor {
                Some(tensor) => other.insert(name.to_owned(), tensor),
                None => other.remove(name),
            };
            let error = parameters.set_weights(&other).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused("fc.bias", None, "it has no fc.bias");
        let long = Tensor::new(&[5_f32, 6.0, 7.0], &Device::Cpu).unwrap();
        refused("fc.bias", Some(long), "shape [3], that of this network [2]");
        let wide = Tensor::new(&[5_f64, 6.0], &Device::Cpu).unwrap();
        refused("fc.bias", Some(wide), "is F64, that of this network F32");
    }

    #[test]
    fn groups_decide_what_decays_and_what_stays() {
        let grouping: Grouping = Arc::new(|name, value| Group {
            rate: if name.starts_with("norm") { 0.0 } else { 1.0 },
            weight_decay: f64::from(u8::from(!is_bias_or_norm(name, value))),
        });
        let mut parameters = Parameters::of(&map(DType::F32), Some(&grouping)).unwrap();
        let learns: Vec<bool> = parameters.all.iter().map(Parameter::learns).collect();
        assert_eq!(learns, [true, true, false]);
        let mut gradients = ones(&parameters);
        gradients[2] = None;
        parameters
            .step(&mut Sgd::default(), &gradients, 0.5, 1.0)
            .unwrap();
        let weights = parameters.weights().unwrap();
        // Bias 1 - 0.5·1, weight 1 - 0.5·(1 + 1), the norm untouched.
        let found = ["fc.bias", "fc.weight", "norm.weight"].map(|name| first(&weights[name]));
        assert_eq!(found, [0.5, 0.0, 1.0]);
    }
}
