//! BERT and sentences.

use alephlab::nn::{Bert, BertClassifier, BertConfig, Lora, SentenceEncoder};
use alephlab::prelude::*;

use super::support::{
    assert_close, expected, given_tokens, made, names, numbers, plain, tensors, tokens, variables,
};

pub(crate) fn tiny() -> BertConfig {
    BertConfig {
        vocab_size: 40,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 16,
        ..BertConfig::default()
    }
}

fn mask() -> Tensor {
    tokens(&[&[1; 10], &[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]])
}

#[test]
fn bert_has_transformers_names_and_gives_its_numbers() {
    let fresh = VarMap::new();
    Bert::new(&tiny(), seeded_vars(&fresh, 0, &Device::Cpu)).unwrap();
    let mut wanted = names("bert");
    wanted.retain(|name, _| !name.starts_with("pooler"));
    assert_eq!(made(&fresh), wanted);
    let types = tokens(&[&[0, 0, 0, 0, 0, 1, 1, 1, 1, 1], &[0; 10]]);
    let bert = Bert::new(&tiny(), plain("bert")).unwrap();
    let seen = bert
        .encode(&given_tokens(), &mask(), Some(&types), false)
        .unwrap();
    let wanted = expected("bert.hidden");
    // Only where there are tokens.
    for (row, length) in [(0, 10), (1, 4)] {
        let part = |all: &Tensor| all.get(row).unwrap().narrow(0, 0, length).unwrap();
        assert_close("hidden", &part(&seen), &part(&wanted), 1e-5);
    }
    let under_bert = tensors("bert")
        .into_iter()
        .map(|(name, tensor)| (format!("bert.{name}"), tensor));
    let under_bert = VarBuilder::from_tensors(under_bert.collect(), DType::F32, &Device::Cpu);
    let again = Bert::new(&tiny(), under_bert).unwrap();
    let again = again
        .encode(&given_tokens(), &mask(), Some(&types), false)
        .unwrap();
    assert_close("under a prefix", &again, &seen, 0.0);
    assert!(bert.forward_t(&tokens(&[&[1; 17]]), false).is_err());
}

/// Words `w3` to `w39` between `[CLS]` and `[SEP]`.
fn encoder(folder: &std::path::Path) -> SentenceEncoder {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut vocabulary = serde_json::Map::new();
    for (id, word) in (0..40).map(|id| match id {
        0 => (id, "[PAD]".to_owned()),
        1 => (id, "[CLS]".to_owned()),
        2 => (id, "[SEP]".to_owned()),
        _ => (id, format!("w{id}")),
    }) {
        vocabulary.insert(word, id.into());
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[CLS]"), special(2, "[SEP]")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[PAD]", "vocab": vocabulary},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("config.json"), tiny().to_json()).unwrap();
    let tensors = tensors("bert").into_iter();
    candle_core::safetensors::save(&tensors.collect(), folder.join("model.safetensors")).unwrap();
    SentenceEncoder::from_model(&load(folder).unwrap(), &Device::Cpu).unwrap()
}

#[test]
fn sentences_of_any_length_are_the_mean_of_their_places_in_the_order_of_the_texts() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = encoder(folder.path());
    let texts = ["w3 w4 w5 w6", "w7", "w8 w9 w10 w11", "", "w9 w8"];
    let rows = encoder.encode(&texts).unwrap();
    assert_eq!(rows.dims(), [5, 16]);
    let bert = Bert::new(&tiny(), plain("bert")).unwrap();
    for (place, text) in texts.iter().enumerate() {
        let words = text.split_whitespace().map(|word| word[1..].parse().unwrap());
        let row: Vec<u32> = [1].into_iter().chain(words).chain([2]).collect();
        let seen = bert.forward_t(&tokens(&[&row]), false).unwrap();
        let mean = seen.mean(1).unwrap();
        let length = mean.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
        let wanted = mean.broadcast_div(&length).unwrap();
        assert_close(text, &rows.narrow(0, place, 1).unwrap(), &wanted, 1e-5);
        // In any company.
        let alone = encoder.encode(&[text]).unwrap();
        assert_close(text, &alone, &wanted, 1e-5);
    }
    let alike = encoder
        .similarity(&rows, &rows)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    assert!((alike[2][2] - 1.0).abs() < 1e-5 && alike[0][1] < 1.0);
    assert_eq!(encoder.encode::<&str>(&[]).unwrap_err().code(), "data");
    // More than the network has places.
    let long = "w5 ".repeat(40);
    assert_eq!(encoder.encode(&[long]).unwrap().dims(), [1, 16]);
}

#[test]
fn what_a_model_says_of_its_sentences_is_done_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path());
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let made = || SentenceEncoder::from_model(&load(folder.path()).unwrap(), &Device::Cpu);
    write(
        "modules.json",
        r#"[{"type": "sentence_transformers.models.Pooling"}]"#,
    );
    write("sentence_bert_config.json", r#"{"max_seq_length": 4}"#);
    write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
    );
    let encoder = made().unwrap();
    assert_eq!(encoder.length(), 4);
    let row = encoder.encode(&["w3 w4 w5"]).unwrap();
    let bert = Bert::new(&tiny(), plain("bert")).unwrap();
    let seen = bert.forward_t(&tokens(&[&[1, 3, 4, 2]]), false).unwrap();
    assert_close(
        "the first place as it is",
        &row,
        &seen.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
        1e-5,
    );
    write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
    );
    assert!(made().unwrap_err().to_string().contains("1_Pooling"));
    // Switches that are not known here are looked at, too.
    write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
    );
    let error = made().unwrap_err().to_string();
    assert!(error.contains("pooling_mode_max_tokens"), "{error}");
    write("1_Pooling/config.json", r#"{"word_embedding_dimension": 16}"#);
    write(
        "modules.json",
        r#"[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"},
            {"type": "sentence_transformers.models.Dense"}, {"type": "sentence_transformers.models.Normalize"}]"#,
    );
    let error = made().unwrap_err().to_string();
    assert!(error.contains("step Dense"), "{error}");
}

#[test]
fn a_classifier_learns_by_adapters_over_a_plain_bert() {
    let (base, builder) = variables("bert");
    let before = super::support::bits(&base);
    let lora = Lora::new(2)
        .alpha(4.0)
        .targets(["query", "value"])
        .train_also(["classifier", "pooler.dense"]);
    let config = BertConfig {
        hidden_dropout_prob: 0.0,
        ..tiny()
    };
    let network = BertClassifier::new(&config, 2, lora.vars_over(builder).unwrap()).unwrap();
    // Which of two words is there.
    let rows: Vec<[u32; 6]> = (0..40)
        .map(|number: u32| [1, 5 + number % 7, 20 + number % 2, 12 + number % 5, 2, 0])
        .collect();
    let rows: Vec<&[u32]> = rows.iter().map(|row| &row[..]).collect();
    let labels: Vec<u32> = (0..40).map(|number| number % 2).collect();
    let all = Examples::new(tokens(&rows), Tensor::new(labels, &Device::Cpu).unwrap()).unwrap();
    let trainer = Trainer::new(lora.var_map())
        .epochs(30)
        .batch_size(10)
        .learning_rate(0.01);
    trainer.fit_all(&network, &all).unwrap();
    assert_eq!(accuracy(&network, &all).unwrap(), 1.0);
    // Merged it is a model of its own, which says how many classes it has.
    let folder = tempfile::tempdir().unwrap();
    let merged = lora.merge_into(tensors("bert")).unwrap().into_iter();
    candle_core::safetensors::save(&merged.collect(), folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
    let again = BertClassifier::from_model(&load(folder.path()).unwrap(), &Device::Cpu).unwrap();
    let scores = |network: &BertClassifier| network.forward_t(&tokens(&rows), false).unwrap();
    assert_close("from files", &scores(&again), &scores(&network), 1e-5);
    assert_eq!(super::support::bits(&base), before);
    let classifier = made(lora.var_map())["classifier.weight"].clone();
    assert_eq!(classifier, [2, 16]);
    assert!(numbers(&network.forward_t(&tokens(&rows[..1]), false).unwrap()).len() == 2);
}
