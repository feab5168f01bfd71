//! The perceptron.

use alephlab::nn::{Activation, Mlp, MlpConfig};
use alephlab::prelude::*;

use super::support::{assert_close, inputs, made};

#[test]
fn a_perceptron_learns_what_no_line_divides() {
    let points = inputs("points", &[400, 2]);
    let sides = points.ge(0.0).unwrap().to_vec2::<u8>().unwrap();
    let labels: Vec<u32> = sides.iter().map(|side| u32::from(side[0] == side[1])).collect();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let all = Examples::new(points, labels).unwrap();
    let config = MlpConfig {
        inputs: 2,
        hidden: vec![32, 32],
        outputs: 2,
        activation: Activation::Gelu,
        dropout: 0.0,
    };
    let vars = VarMap::new();
    let network = Mlp::new(&config, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let names: Vec<String> = made(&vars).into_keys().collect();
    assert_eq!(names[..2], ["layers.0.bias", "layers.0.weight"]);
    assert_eq!(made(&vars)["layers.2.weight"], [2, 32]);
    let trainer = Trainer::new(&vars).epochs(30).batch_size(40).learning_rate(0.01);
    trainer.fit_all(&network, &all).unwrap();
    assert!(accuracy(&network, &all).unwrap() > 0.97);

    let folder = tempfile::tempdir().unwrap();
    vars.save(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
    let loaded = Mlp::from_model(&load(folder.path()).unwrap(), &Device::Cpu).unwrap();
    let scores = |network: &dyn ModuleT| network.forward_t(&all.inputs, false).unwrap();
    assert_close("loaded", &scores(&loaded), &scores(&network), 0.0);
    assert!(
        Mlp::new(
            &MlpConfig { inputs: 0, ..config },
            seeded_vars(&vars, 1, &Device::Cpu)
        )
        .is_err()
    );
}
