//! Fine-tuning by adapters.

use alephlab::nn::{self, Gpt, Lora, Mlp, MlpConfig};
use alephlab::prelude::*;
use alephlab::train::Weights;

use super::support::{assert_close, expected, fixtures, given_tokens, inputs, made, numbers, plain, tensors};
use super::text::tiny;

fn bits(tensors: &Weights) -> Vec<(String, Vec<u32>)> {
    let bits = |tensor: &Tensor| numbers(tensor).into_iter().map(f32::to_bits).collect();
    tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), bits(tensor)))
        .collect()
}

fn scores(network: &Gpt) -> Tensor {
    network.forward_t(&given_tokens(), false).unwrap()
}

/// A model in a folder, as if pulled.
fn model(folder: &std::path::Path, tensors: &Weights) -> Model {
    let tensors = tensors.clone().into_iter();
    candle_core::safetensors::save(&tensors.collect(), folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), tiny().to_json()).unwrap();
    load(folder).unwrap()
}

#[test]
fn adapters_of_peft_are_read_used_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), &tensors("gpt2"));
    let lora = Lora::from_model(&load(fixtures().join("peft")).unwrap(), &Device::Cpu).unwrap();
    let merged = lora.merge(&base).unwrap();
    let network = Gpt::new(&tiny(), lora.vars(&base, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(
        lora.adapted(),
        [
            "transformer.h.0.attn.c_attn",
            "transformer.h.0.mlp.c_proj",
            "transformer.h.1.attn.c_attn",
            "transformer.h.1.mlp.c_proj"
        ]
    );
    assert_close(
        "adapted",
        &scores(&network),
        &expected("gpt2.adapted.scores"),
        1e-5,
    );
    let merged = VarBuilder::from_tensors(merged.into_iter().collect(), DType::F32, &Device::Cpu);
    let merged = Gpt::new(&tiny(), merged).unwrap();
    assert_close("merged", &scores(&merged), &expected("gpt2.adapted.scores"), 1e-5);
}

#[test]
fn adapters_take_on_the_prefix_that_the_model_has_or_are_refused() {
    let peft = load(fixtures().join("peft")).unwrap();
    let bare: Weights = tensors("gpt2")
        .into_iter()
        .map(|(name, tensor)| (name.replacen("transformer.", "", 1), tensor))
        .collect();
    let builder =
        |tensors: Weights| VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu);
    let wanted = expected("gpt2.adapted.scores");
    let lora = Lora::from_model(&peft, &Device::Cpu).unwrap();
    let network = Gpt::new(&tiny(), lora.vars_over(builder(bare.clone())).unwrap()).unwrap();
    assert_close("beside names without a prefix", &scores(&network), &wanted, 1e-5);
    assert_eq!(lora.adapted()[0], "h.0.attn.c_attn");
    // The same adapters for the other names, and merged into either.
    let network = Gpt::new(&tiny(), lora.vars_over(builder(tensors("gpt2"))).unwrap()).unwrap();
    assert_close("beside names with one", &scores(&network), &wanted, 1e-5);
    let merged = builder(lora.merge_into(bare).unwrap());
    assert_close(
        "merged",
        &scores(&Gpt::new(&tiny(), merged).unwrap()),
        &wanted,
        1e-5,
    );
    let error = lora.vars_over(plain("bert")).err().unwrap().to_string();
    assert!(error.contains("h.0.attn.c_attn"), "{error}");
}

#[test]
fn layers_learned_whole_are_found_under_another_prefix() {
    let config = super::sentences::tiny();
    let lora = Lora::new(2)
        .targets(["query"])
        .train_also(["classifier", "pooler.dense"]);
    let of = |lora: &Lora, base| {
        nn::BertClassifier::new(&config, 3, lora.vars_over(base).unwrap())
            .unwrap()
            .forward_t(&given_tokens(), false)
            .unwrap()
    };
    // A plain BERT, whose files have no head.
    let without_head = |prefix: &str| {
        let mut all = tensors("bert");
        all.retain(|name, _| !name.starts_with("pooler"));
        let all = all
            .into_iter()
            .map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
        VarBuilder::from_tensors(all.collect(), DType::F32, &Device::Cpu)
    };
    let wanted = of(&lora, without_head(""));
    let folder = tempfile::tempdir().unwrap();
    let saved = lora.save_in(folder.path(), "adapters").unwrap();
    let read = Lora::from_model(&load(saved.folder()).unwrap(), &Device::Cpu).unwrap();
    assert_close("with a prefix", &of(&read, without_head("bert.")), &wanted, 0.0);
    assert_close("without one", &of(&read, without_head("")), &wanted, 0.0);
}

#[test]
fn statistics_that_are_not_learned_are_used_as_they_are() {
    let config = nn::CnnConfig {
        batch_norm: true,
        ..nn::CnnConfig::default()
    };
    let vars = VarMap::new();
    let fresh = nn::Cnn::new(&config, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let x = inputs("pictures", &[4, 1, 8, 8]);
    fresh.forward_t(&x, true).unwrap();
    let before = super::support::bits(&vars);
    let lora = Lora::new(2).targets(["*"]);
    let frozen = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let network = nn::Cnn::new(&config, lora.vars_over(frozen).unwrap()).unwrap();
    let plain = fresh.forward_t(&x, false).unwrap();
    assert_close("in training", &network.forward_t(&x, true).unwrap(), &plain, 1e-5);
    assert_close("afterwards", &network.forward_t(&x, false).unwrap(), &plain, 1e-5);
    assert_eq!(super::support::bits(&vars), before);
}

#[test]
fn only_adapters_learn_and_the_rest_stays_bit_for_bit() {
    let base = tensors("gpt2");
    let before = bits(&base);
    let lora = Lora::new(4).alpha(8.0).targets(["c_attn", "mlp.c_fc"]).seed(1);
    let frozen = VarBuilder::from_tensors(base.clone().into_iter().collect(), DType::F32, &Device::Cpu);
    let network = Gpt::new(&tiny(), lora.vars_over(frozen).unwrap()).unwrap();
    // The matrix behind is nothing at first.
    assert_close("before", &scores(&network), &expected("gpt2.scores"), 1e-5);
    let variables = made(lora.var_map());
    assert_eq!(variables.len(), 2 * 4);
    assert_eq!(variables["transformer.h.0.attn.c_attn.lora_A.weight"], [4, 16]);
    assert_eq!(variables["transformer.h.0.attn.c_attn.lora_B.weight"], [48, 4]);

    let row = given_tokens();
    let all = Examples::new(row.narrow(1, 0, 9).unwrap(), row.narrow(1, 1, 9).unwrap()).unwrap();
    let trainer = Trainer::new(lora.var_map())
        .epochs(60)
        .learning_rate(0.03)
        .loss(losses::cross_entropy);
    let history = trainer.fit_all(&network, &all).unwrap();
    assert!(
        history.train_loss[59] < 0.5 * history.train_loss[0],
        "{:?}",
        history.train_loss
    );
    assert_eq!(bits(&base), before);

    // Merged, it is the same network without adapters.
    let merged = lora.merge_into(base).unwrap();
    let changed = |name: &str| name.ends_with("c_attn.weight") || name.ends_with("c_fc.weight");
    for ((name, now), (_, old)) in bits(&merged).into_iter().zip(before) {
        assert_eq!(now != old, changed(&name), "{name}");
    }
    let merged = VarBuilder::from_tensors(merged.into_iter().collect(), DType::F32, &Device::Cpu);
    assert_close(
        "merged",
        &scores(&Gpt::new(&tiny(), merged).unwrap()),
        &scores(&network),
        1e-5,
    );
}

#[test]
fn adapters_are_the_same_when_they_are_saved_and_loaded() {
    let base = Mlp::new;
    let config = MlpConfig {
        inputs: 4,
        hidden: vec![6],
        outputs: 3,
        ..MlpConfig::default()
    };
    let vars = VarMap::new();
    base(&config, seeded_vars(&vars, 1, &Device::Cpu)).unwrap();
    let frozen = || VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let lora = Lora::new(2)
        .targets(["*"])
        .train_also(["layers.1"])
        .base("owner/name");
    assert!(
        lora.save("adapters")
            .unwrap_err()
            .to_string()
            .contains("build the network")
    );
    let network = base(&config, lora.vars_over(frozen()).unwrap()).unwrap();
    let variables: Vec<String> = made(lora.var_map()).into_keys().collect();
    let wanted = [
        "layers.0.lora_A.weight",
        "layers.0.lora_B.weight",
        "layers.1.bias",
        "layers.1.weight",
    ];
    assert_eq!(variables, wanted);
    let x = inputs("rows", &[30, 4]);
    let labels: Vec<u32> = (0..30).map(|number| number % 3).collect();
    let all = Examples::new(x.clone(), Tensor::new(labels, &Device::Cpu).unwrap()).unwrap();
    let trainer = Trainer::new(lora.var_map()).epochs(3).learning_rate(0.05);
    trainer.fit_all(&network, &all).unwrap();
    let learned = network.forward_t(&x, false).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let saved = lora.save_in(folder.path(), "adapters").unwrap();
    assert_eq!(
        saved.files(),
        ["adapter_model.safetensors", "adapter_config.json"]
    );
    let model = load(saved.folder()).unwrap();
    let config_file: serde_json::Value =
        serde_json::from_str(&model.read("adapter_config.json").unwrap()).unwrap();
    assert_eq!(config_file["base_model_name_or_path"], "owner/name");
    assert_eq!(config_file["fan_in_fan_out"], false);
    let file = candle_core::safetensors::load(saved.path(), &Device::Cpu).unwrap();
    assert!(file.contains_key("base_model.model.layers.0.lora_A.weight"));
    let again = Lora::from_model(&model, &Device::Cpu).unwrap();
    let network = base(&config, again.vars_over(frozen()).unwrap()).unwrap();
    assert_close("loaded", &network.forward_t(&x, false).unwrap(), &learned, 0.0);

    let merged = again
        .merge_into(
            alephlab::model::Saveable::tensors(&vars)
                .unwrap()
                .into_iter()
                .collect(),
        )
        .unwrap();
    let merged = VarBuilder::from_tensors(merged.into_iter().collect(), DType::F32, &Device::Cpu);
    let merged = base(&config, merged).unwrap();
    assert_close("merged", &merged.forward_t(&x, false).unwrap(), &learned, 1e-5);
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixtures().join("peft/adapter_model.safetensors"),
        folder.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    let config = std::fs::read_to_string(fixtures().join("peft/adapter_config.json")).unwrap();
    for (from, to, words) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        (
            "\"rank_pattern\": {}",
            "\"rank_pattern\": {\"c_attn\": 4}",
            "rank_pattern",
        ),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3"),
        ("\"r\": 2", "\"r\": 3", "rank 3"),
    ] {
        assert!(config.contains(from), "{from}");
        std::fs::write(
            folder.path().join("adapter_config.json"),
            config.replace(from, to),
        )
        .unwrap();
        let error = Lora::from_model(&load(folder.path()).unwrap(), &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(Lora::new(2).vars_over(plain("gpt2")).is_err());
    assert!(Lora::new(0).targets(["c_attn"]).vars_over(plain("gpt2")).is_err());
    let none = Lora::new(2).targets(["nothing"]);
    Gpt::new(&tiny(), none.vars_over(plain("gpt2")).unwrap()).unwrap();
    let error = none.merge_into(tensors("gpt2")).unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    // Layers of one's own have adapters too.
    let lora = Lora::new(2).targets(["own"]);
    let builder = lora
        .vars_over(seeded_vars(&VarMap::new(), 0, &Device::Cpu))
        .unwrap();
    assert!(nn::linear(3, 2, builder.pp("own")).unwrap().has_adapter());
    assert!(!nn::linear(3, 2, builder.pp("other")).unwrap().has_adapter());
}
