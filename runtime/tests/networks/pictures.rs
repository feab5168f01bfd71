//! Networks for pictures.

use alephlab::nn::{Cnn, CnnConfig, ResNet, ResNetConfig, Stem};
use alephlab::prelude::*;

use super::support::{assert_close, expected, inputs, made, names, plain, var, variables};

#[test]
fn resnets_have_torchvisions_names_and_give_its_scores() {
    let pictures = inputs("pictures", &[2, 3, 64, 64]);
    for (name, config) in [
        ("resnet18", ResNetConfig::resnet18()),
        ("resnet50", ResNetConfig::resnet50()),
    ] {
        let vars = VarMap::new();
        ResNet::new(&config, seeded_vars(&vars, 0, &Device::Cpu)).unwrap();
        assert_eq!(made(&vars), names(name));
        let network = ResNet::new(&config, plain(name)).unwrap();
        let scores = network.forward_t(&pictures, false).unwrap();
        assert_eq!(scores.dims(), [2, 1000]);
        let scores = scores.narrow(1, 0, 100).unwrap();
        assert_close(name, &scores, &expected(&format!("{name}.scores")), 1e-4);
    }
}

#[test]
fn a_resnet_trains_as_torchvisions_does() {
    let (vars, builder) = variables("resnet18");
    let network = ResNet::new(&ResNetConfig::resnet18(), builder).unwrap();
    let scores = network
        .forward_t(&inputs("pictures", &[2, 3, 64, 64]), true)
        .unwrap();
    let some = scores.narrow(1, 0, 100).unwrap();
    assert_close("scores", &some, &expected("resnet18.trained.scores"), 1e-3);
    for name in ["bn1.running_mean", "layer4.1.bn2.running_var"] {
        let wanted = expected(&format!("resnet18.trained.{name}"));
        assert_close(name, &var(&vars, name), &wanted, 1e-3);
    }
    let labels = Tensor::new(&[3_u32, 500], &Device::Cpu).unwrap();
    let gradients = losses::cross_entropy(&scores, &labels)
        .unwrap()
        .backward()
        .unwrap();
    for name in ["bn1.weight", "layer2.0.downsample.1.bias", "layer4.1.bn2.weight"] {
        let found = gradients.get(&var(&vars, name)).unwrap();
        assert_close(name, found, &expected(&format!("resnet18.gradient.{name}")), 2e-2);
    }
    assert!(gradients.get(&var(&vars, "bn1.running_mean")).is_none());
}

/// Bars that stand or lie, and noise.
fn bars(count: usize, seed: u64) -> Examples {
    let mut random = alephlab::train::SeededRandom::new(seed);
    let (mut pixels, mut labels) = (vec![], vec![]);
    for number in 0..count {
        let lies = number % 2 == 1;
        let place = random.below(8);
        for at in 0..64 {
            let is_on = if lies { at / 8 == place } else { at % 8 == place };
            pixels.push(16.0 * f64::from(u8::from(is_on)) + 4.0 * random.uniform());
        }
        labels.push(u32::from(lies));
    }
    let pixels = Tensor::from_vec(pixels, (count, 64), &Device::Cpu).unwrap();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    Examples::new(pixels.to_dtype(DType::F32).unwrap(), labels).unwrap()
}

#[test]
fn networks_for_pictures_learn_and_are_the_same_when_they_are_loaded() {
    let (train, test) = (bars(120, 1), bars(60, 2));
    let cnn = CnnConfig {
        pixel_max: 16.0,
        outputs: 2,
        batch_norm: true,
        dropout: 0.1,
        ..CnnConfig::default()
    };
    let vars = VarMap::new();
    let network = Cnn::new(&cnn, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let trainer = Trainer::new(&vars)
        .epochs(8)
        .batch_size(20)
        .learning_rate(0.01)
        .seed(1);
    trainer.fit(&network, &train, &test).unwrap();
    assert_eq!(accuracy(&network, &test).unwrap(), 1.0);

    // Through its files: running means, too, are in them.
    let folder = tempfile::tempdir().unwrap();
    vars.save(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), cnn.to_json()).unwrap();
    let loaded = Cnn::from_model(&load(folder.path()).unwrap(), &Device::Cpu).unwrap();
    let scores = |network: &dyn ModuleT| network.forward_t(&test.inputs, false).unwrap();
    assert_close("loaded", &scores(&loaded), &scores(&network), 0.0);

    let resnet = ResNetConfig {
        blocks: vec![1, 1],
        width: 8,
        stem: Stem::Small,
        channels: 1,
        outputs: 2,
        ..ResNetConfig::default()
    };
    let vars = VarMap::new();
    let network = ResNet::new(&resnet, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let squares = |examples: &Examples| {
        let pixels = (&examples.inputs / 16.0).unwrap().reshape(((), 1, 8, 8)).unwrap();
        Examples::new(pixels, examples.labels.clone()).unwrap()
    };
    let trainer = Trainer::new(&vars)
        .epochs(6)
        .batch_size(20)
        .learning_rate(0.01)
        .seed(1);
    trainer.fit(&network, &squares(&train), &squares(&test)).unwrap();
    assert!(accuracy(&network, &squares(&test)).unwrap() > 0.95);
    assert_eq!(ResNetConfig::from_json(&resnet.to_json()).unwrap(), resnet);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let vars = || seeded_vars(&VarMap::new(), 0, &Device::Cpu);
    let none = CnnConfig {
        filters: vec![],
        ..CnnConfig::default()
    };
    assert_eq!(Cnn::new(&none, vars()).unwrap_err().code(), "data");
    let none = ResNetConfig {
        outputs: 0,
        ..ResNetConfig::default()
    };
    assert_eq!(ResNet::new(&none, vars()).unwrap_err().code(), "data");
    let error = CnnConfig::from_json("\"cnn\"").unwrap_err().to_string();
    assert!(error.contains("does not describe"), "{error}");
}
