//! Weights that follow from names, as `make_fixtures.py` makes them, and comparing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use alephlab::prelude::*;
use alephlab::train::{SeededRandom, Weights};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks")
}

/// What the others calculated.
pub(crate) fn expected(name: &str) -> Tensor {
    let all = candle_core::safetensors::load(fixtures().join("expected.safetensors"), &Device::Cpu);
    all.unwrap().remove(name).unwrap()
}

fn uniform(name: &str, count: usize) -> Vec<f64> {
    let mut random = SeededRandom::named(0, name);
    (0..count).map(|_| random.uniform()).collect()
}

/// Numbers from -1 to 1.
pub(crate) fn inputs(name: &str, shape: &[usize]) -> Tensor {
    let values = uniform(name, shape.iter().product());
    let values: Vec<f64> = values.into_iter().map(|u| 2.0 * u - 1.0).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap()
}

fn filled(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let one = if name.ends_with("weight") { 1.0 } else { 0.0 };
    let spread = (3.0 * shape.first().map_or(1.0, |first| *first as f64) / count as f64).sqrt();
    let values = uniform(name, count).into_iter().map(|u| match shape.len() {
        _ if name.ends_with("running_var") => 0.5 + u,
        0 | 1 => 0.2 * (u - 0.5) + one,
        _ => (2.0 * u - 1.0) * spread,
    });
    let tensor = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap()
}

/// Names and shapes of a network's tensors, as the others have them.
pub(crate) fn names(network: &str) -> BTreeMap<String, Vec<usize>> {
    let text = std::fs::read_to_string(fixtures().join("names.json")).unwrap();
    let mut all: HashMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_str(&text).unwrap();
    all.remove(network).unwrap()
}

/// The tensors of such a network.
pub(crate) fn tensors(network: &str) -> Weights {
    let names = names(network).into_iter();
    names
        .map(|(name, shape)| {
            let tensor = filled(&name, &shape);
            (name, tensor)
        })
        .collect()
}

/// As plain tensors.
pub(crate) fn plain(network: &str) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors(network).into_iter().collect(), DType::F32, &Device::Cpu)
}

/// As variables.
pub(crate) fn variables(network: &str) -> (VarMap, VarBuilder<'static>) {
    let vars = VarMap::new();
    for (name, tensor) in tensors(network) {
        let var = Var::from_tensor(&tensor).unwrap();
        vars.data().lock().unwrap().insert(name, var);
    }
    let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    (vars, builder)
}

pub(crate) fn var(vars: &VarMap, name: &str) -> Var {
    vars.data().lock().unwrap()[name].clone()
}

/// Names and shapes of the variables that there are.
pub(crate) fn made(vars: &VarMap) -> BTreeMap<String, Vec<usize>> {
    let known = vars.data().lock().unwrap();
    known
        .iter()
        .map(|(name, var)| (name.clone(), var.dims().to_vec()))
        .collect()
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every number within `tolerance` of the other, as a share of the largest.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (numbers(found), numbers(expected));
    let largest = expected.iter().fold(1e-6_f32, |largest, x| largest.max(x.abs()));
    let worst = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst <= tolerance * largest && found.iter().all(|x| x.is_finite()),
        "{what}: {worst} beside a largest of {largest}"
    );
}

pub(crate) fn tokens(rows: &[&[u32]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

/// What `make_fixtures.py` gives its language models.
pub(crate) fn given_tokens() -> Tensor {
    tokens(&[
        &[5, 3, 39, 0, 7, 7, 12, 25, 1, 30],
        &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ])
}

/// Every bit of every variable.
pub(crate) fn bits(vars: &VarMap) -> BTreeMap<String, Vec<u32>> {
    let bits = |name: &String| {
        let numbers = numbers(&var(vars, name));
        numbers.into_iter().map(f32::to_bits).collect()
    };
    made(vars).keys().map(|name| (name.clone(), bits(name))).collect()
}
