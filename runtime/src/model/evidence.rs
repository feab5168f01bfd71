//! What a verifier looks at: a forward pass of a known network, and what an evaluation measured.
//!
//! Both are shown with a media type of their own, which `alephlab model verify` reads from the outputs of a cell. Called in
//! kernels that have neither network nor broker, over files of strangers: every size comes from outside.

use candle_core::{DType, Device, ModuleT, Tensor};
use serde_json::{Value, json};

use super::Model;
use crate::display::{Bundle, Rich, display};
use crate::nn::{
    Bert, CONFIG_FILE, Cnn, CnnConfig, Gpt, MODEL_TYPE, Mlp, MlpConfig, ResNet, ResNetConfig, Stem,
};
use crate::{Error, Result};

/// Media type of a [`Forward`].
const FORWARD: &str = "application/vnd.alephlab.forward+json";
/// Media type of one measured value.
const METRIC: &str = "application/vnd.alephlab.metric+json";
/// Tokens of the fixed input of a language model, at most.
const TOKENS: usize = 8;
/// Numbers of the fixed input, at most: 4 GiB of floats have no place in a look.
const INPUT_MAX: usize = 1 << 26;

/// A forward pass that was made.
/// Mean and largest number are rounded to three digits: sums differ in the last ones between processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    network: &'static str,
    numbers: usize,
    input: Vec<usize>,
    output: Vec<usize>,
    mean: String,
    largest: String,
}

impl Forward {
    /// The network, as `config.json` names it in `model_type`.
    pub fn network(&self) -> &str {
        self.network
    }

    /// Numbers in the model's tensors.
    pub fn numbers(&self) -> usize {
        self.numbers
    }

    /// Shape of what came out.
    pub fn output(&self) -> &[usize] {
        &self.output
    }

    fn facts(&self) -> Value {
        json!({
            "network": self.network, "numbers": self.numbers, "input": self.input, "output": self.output,
            "mean": self.mean, "largest": self.largest,
        })
    }
}

impl Rich for Forward {
    fn bundle(&self) -> Bundle {
        let text = format!(
            "{} of {} numbers: {:?} to {:?}, all finite",
            self.network, self.numbers, self.input, self.output
        );
        Bundle::new().text(text).with(FORWARD, self.facts())
    }
}

/// Builds the network that `config.json` of a model names (`model_type`: `gpt2`, `bert`, or what [`Mlp`], [`Cnn`] and [`ResNet`]
/// write there), with the model's tensors, and passes a fixed input through it on the CPU: rising numbers from 0 to 1, or the
/// first tokens of the vocabulary.
///
/// # Errors
/// [`Error::Data`] for a network that is not known here, one whose tensors do not fit, and an output that is not finite;
/// [`Error::Name`] where a file is missing.
pub fn forward_pass(model: &Model) -> Result<Forward> {
    let config: Value = serde_json::from_str(&model.read(CONFIG_FILE)?).map_err(|error| Error::Data {
        reason: format!("{CONFIG_FILE} is no JSON: {error}"),
    })?;
    let word = config[MODEL_TYPE].as_str().unwrap_or_default();
    let device = Device::Cpu;
    let (network, input, output) = match word {
        "gpt2" => {
            let net = Gpt::from_model(model, &device)?;
            let tokens = tokens(net.config().vocab_size, net.config().n_positions)?;
            ("gpt2", tokens.clone(), net.forward_t(&tokens, false)?)
        }
        "bert" => {
            let net = Bert::from_model(model, &device)?;
            let tokens = tokens(net.config().vocab_size, net.config().max_position_embeddings)?;
            let mask = tokens.ones_like()?;
            ("bert", tokens.clone(), net.encode(&tokens, &mask, None, false)?)
        }
        "alephlab-mlp" => {
            let input = ramp(&[1, MlpConfig::of(model)?.inputs])?;
            (
                "alephlab-mlp",
                input.clone(),
                Mlp::from_model(model, &device)?.forward_t(&input, false)?,
            )
        }
        "alephlab-cnn" => {
            let config = CnnConfig::of(model)?;
            let input = ramp(&[1, config.channels, config.size[0], config.size[1]])?;
            (
                "alephlab-cnn",
                input.clone(),
                Cnn::from_model(model, &device)?.forward_t(&input, false)?,
            )
        }
        "alephlab-resnet" => {
            let config = ResNetConfig::of(model)?;
            let side = if config.stem == Stem::Large { 224 } else { 32 };
            let input = ramp(&[1, config.channels, side, side])?;
            let net = ResNet::from_model(model, &device)?;
            ("alephlab-resnet", input.clone(), net.forward_t(&input, false)?)
        }
        other => {
            return Err(Error::Data {
                reason: format!(
                    "{CONFIG_FILE} names the network `{other}` in {MODEL_TYPE}, and known here are gpt2, bert, \
                     alephlab-mlp, alephlab-cnn and alephlab-resnet"
                ),
            });
        }
    };
    let numbers = model.tensors(&device)?.values().map(Tensor::elem_count).sum();
    let (mean, largest) = summary(&output)?;
    Ok(Forward {
        network,
        numbers,
        input: input.dims().to_vec(),
        output: output.dims().to_vec(),
        mean,
        largest,
    })
}

/// Tells who runs an evaluation what it measured: `report("accuracy", 0.9833)`. `alephlab model verify` compares it with the
/// card's metric of that name.
///
/// # Errors
/// [`Error::Data`] for a value that is not finite.
pub fn report(name: &str, value: f64) -> Result<()> {
    if !value.is_finite() {
        return Err(Error::Data {
            reason: format!("{name} is {value}, and only finite values can be reported"),
        });
    }
    let shown = Bundle::new()
        .text(format!("{name} {value}"))
        .with(METRIC, json!({ "name": name, "value": value }));
    display(&shown);
    Ok(())
}

fn tokens(vocabulary: usize, places: usize) -> Result<Tensor> {
    let count = TOKENS.min(places).min(vocabulary);
    let count = u32::try_from(count).unwrap_or_default();
    Ok(Tensor::arange(0, count, &Device::Cpu)?.unsqueeze(0)?)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a position needs no more digits than a float has"
)]
fn ramp(shape: &[usize]) -> Result<Tensor> {
    let count = shape
        .iter()
        .try_fold(1_usize, |count, side| count.checked_mul(*side));
    let count = count
        .filter(|count| (1..=INPUT_MAX).contains(count))
        .ok_or_else(|| Error::Data {
            reason: format!("an input of shape {shape:?} cannot be tried"),
        })?;
    let numbers: Vec<f32> = (0..count).map(|n| n as f32 / count as f32).collect();
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}

/// Mean and largest size of the outputs.
#[expect(
    clippy::cast_precision_loss,
    reason = "a mean needs no more digits than a float has"
)]
fn summary(output: &Tensor) -> Result<(String, String)> {
    let numbers = output.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if numbers.is_empty() || numbers.iter().any(|number| !number.is_finite()) {
        return Err(Error::Data {
            reason: "what came out is empty, or not finite".to_owned(),
        });
    }
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let largest = numbers
        .iter()
        .fold(0.0, |most: f64, number| most.max(number.abs()));
    Ok((format!("{mean:.2e}"), format!("{largest:.2e}")))
}

#[cfg(test)]
mod tests {
    use candle_nn::VarMap;

    use super::*;
    use crate::model::{load, save_file};
    use crate::train::seeded_vars;

    fn saved(config: &str, build: impl FnOnce(candle_nn::VarBuilder<'static>)) -> (tempfile::TempDir, Model) {
        let folder = tempfile::tempdir().unwrap();
        let map = VarMap::new();
        let vars = seeded_vars(&map, 1, &Device::Cpu);
        build(vars);
        let saved = save_file(folder.path(), crate::model::TENSORS_FILE, &map, "net").unwrap();
        let saved = saved.with_file(CONFIG_FILE, config).unwrap();
        let model = load(saved.folder()).unwrap();
        (folder, model)
    }

    #[test]
    fn a_known_network_computes_the_same_each_time() {
        let config = MlpConfig {
            inputs: 4,
            outputs: 3,
            ..MlpConfig::default()
        };
        let (_folder, model) = saved(&config.to_json(), |vars| drop(Mlp::new(&config, vars).unwrap()));
        let (one, two) = (forward_pass(&model).unwrap(), forward_pass(&model).unwrap());
        assert_eq!(one, two);
        assert_eq!((one.network(), one.output()), ("alephlab-mlp", &[1, 3][..]));
        assert_eq!(MlpConfig::from_json(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let config = MlpConfig {
            inputs: 4,
            outputs: 3,
            ..MlpConfig::default()
        };
        let other = MlpConfig {
            inputs: 5,
            ..config.clone()
        };
        let build = |vars: candle_nn::VarBuilder<'static>| drop(Mlp::new(&config, vars).unwrap());
        let (_folder, model) = saved(&other.to_json(), build);
        assert!(forward_pass(&model).is_err());
        let huge = MlpConfig {
            inputs: usize::MAX / 2,
            ..config.clone()
        };
        let (_folder, model) = saved(&huge.to_json(), build);
        assert_eq!(forward_pass(&model).unwrap_err().code(), "data");
        let (_folder, model) = saved(r#"{"model_type":"llama"}"#, build);
        let refused = forward_pass(&model).unwrap_err().to_string();
        assert!(refused.contains("llama") && refused.contains("gpt2"), "{refused}");
    }
}
