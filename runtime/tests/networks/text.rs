//! Language models.

use alephlab::data::Windows;
use alephlab::nn::{Gpt, GptConfig};
use alephlab::prelude::*;

use super::support::{assert_close, bits, expected, given_tokens, made, names, plain, var, variables};

/// Sizes of the fixtures' GPT-2.
pub(crate) fn tiny() -> GptConfig {
    GptConfig {
        vocab_size: 40,
        n_positions: 16,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        ..GptConfig::default()
    }
}

#[test]
fn gpt_has_gpt2s_names_and_gives_its_scores_and_gradients() {
    let fresh = VarMap::new();
    Gpt::new(&tiny(), seeded_vars(&fresh, 0, &Device::Cpu)).unwrap();
    assert_eq!(made(&fresh), names("gpt2"));
    let tokens = given_tokens();
    let network = Gpt::new(&tiny(), plain("gpt2")).unwrap();
    let scores = network.forward_t(&tokens, false).unwrap();
    assert_close("scores", &scores, &expected("gpt2.scores"), 1e-5);

    let (vars, builder) = variables("gpt2");
    let network = Gpt::new(&tiny(), builder).unwrap();
    let scores = network.forward_t(&tokens, true).unwrap().narrow(1, 0, 9).unwrap();
    let loss = losses::cross_entropy(&scores, &tokens.narrow(1, 1, 9).unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    for name in [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.1.mlp.c_proj.weight",
        "transformer.ln_f.bias",
    ] {
        let found = gradients.get(&var(&vars, name)).unwrap();
        assert_close(name, found, &expected(&format!("gpt2.gradient.{name}")), 1e-4);
    }
}

#[test]
fn gpt_reads_files_without_prefix_and_with_a_layer_of_scores() {
    let bare = super::support::tensors("gpt2").into_iter().map(|(name, tensor)| {
        let name = name.strip_prefix("transformer.").unwrap().to_owned();
        (name, tensor)
    });
    let bare = VarBuilder::from_tensors(bare.collect(), DType::F32, &Device::Cpu);
    let network = Gpt::new(&tiny(), bare).unwrap();
    let scores = network.forward_t(&given_tokens(), false).unwrap();
    assert_close("scores", &scores, &expected("gpt2.scores"), 1e-5);
    let vars = VarMap::new();
    let untied = GptConfig {
        tie_word_embeddings: false,
        ..tiny()
    };
    Gpt::new(&untied, seeded_vars(&vars, 0, &Device::Cpu)).unwrap();
    assert_eq!(made(&vars)["lm_head.weight"], [40, 16]);
    // What transformers writes: `gelu_new`, and much that does not matter here.
    let config = r#"{"model_type": "gpt2", "vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "activation_function": "gelu_new", "n_inner": null, "reorder_and_upcast_attn": false, "use_cache": true}"#;
    assert_eq!(GptConfig::from_json(config).unwrap(), tiny());
    let other = GptConfig::from_json(r#"{"scale_attn_by_inverse_layer_idx": true}"#).unwrap();
    let error = Gpt::new(&other, plain("gpt2")).unwrap_err().to_string();
    assert!(error.contains("scale_attn_by_inverse_layer_idx"), "{error}");
    let bert = GptConfig {
        model_type: "bert".to_owned(),
        ..tiny()
    };
    let error = Gpt::new(&bert, plain("gpt2")).unwrap_err().to_string();
    assert!(error.contains("`bert`"), "{error}");
}

#[test]
fn scores_by_a_cache_are_those_without() {
    let network = Gpt::new(&tiny(), plain("gpt2")).unwrap();
    let tokens = given_tokens();
    let whole = network.forward_t(&tokens, false).unwrap();
    let mut cache = network.cache();
    for (from, count) in [(0, 4), (4, 1), (5, 1), (6, 4)] {
        let next = network
            .next(&tokens.narrow(1, from, count).unwrap(), &mut cache)
            .unwrap();
        let wanted = whole.narrow(1, from + count - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close("next", &next, &wanted, 1e-5);
    }
    assert_eq!(cache.len(), 10);
    assert!(network.next(&tokens, &mut cache).is_err());
    cache.clear();
    let again = network.next(&tokens, &mut cache).unwrap();
    let last = whole.narrow(1, 9, 1).unwrap().squeeze(1).unwrap();
    assert_close("again", &again, &last, 1e-5);
}

const TEXT: &str = "the quick brown fox jumps over the lazy dog; the dog sleeps on, and the fox is gone. ";

/// A network that knows [`TEXT`] by heart, and its tokenizer.
pub(crate) fn taught(seed: u64) -> (VarMap, Gpt, Tokenizer, History) {
    let tokenizer = Tokenizer::bytes();
    let tokens = tokenizer.encode(&TEXT.repeat(4)).unwrap();
    let windows = Windows::new(tokens, 48).unwrap().every(5);
    let vars = VarMap::new();
    let config = GptConfig {
        n_positions: 48,
        n_embd: 48,
        n_layer: 2,
        n_head: 4,
        ..GptConfig::small(tokenizer.len())
    };
    let network = Gpt::new(&config, seeded_vars(&vars, seed, &Device::Cpu)).unwrap();
    let trainer = Trainer::new(&vars)
        .epochs(25)
        .batch_size(8)
        .learning_rate(0.004)
        .seed(seed)
        .loss(losses::cross_entropy)
        .clip_norm(1.0)
        .decay_only_weights();
    let history = trainer.fit_all(&network, &Loader::new(windows)).unwrap();
    (vars, network, tokenizer, history)
}

#[test]
fn a_gpt_learns_a_text_by_heart_and_the_same_again_bit_for_bit() {
    let (vars, network, tokenizer, history) = taught(1);
    assert!(
        history.train_loss.last().unwrap() < &0.2,
        "{:?}",
        history.train_loss
    );
    let made = generate(&network, &tokenizer, "the quick brown")
        .temperature(0.0)
        .max_tokens(30);
    assert_eq!(made.text().unwrap(), " fox jumps over the lazy dog; ");
    let (again, ..) = taught(1);
    assert_eq!(bits(&vars), bits(&again));
}
