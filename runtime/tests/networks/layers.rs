//! Layers beside candle-nn's of the same variables, and PyTorch's.

use alephlab::candle_nn;
use alephlab::nn;
use alephlab::prelude::*;
use alephlab::train::seed_stream;

use super::support::{assert_close, expected, inputs, made, names, numbers, plain, var, variables};

const SEED: u64 = 5;

/// Results and gradients of both, made from variables of one seed.
fn compare<Ours: ModuleT, Theirs: ModuleT>(
    what: &str,
    x: &Tensor,
    ours: impl Fn(VarBuilder<'static>) -> candle_core::Result<Ours>,
    theirs: impl Fn(VarBuilder<'static>) -> candle_core::Result<Theirs>,
) {
    let (vars, other_vars) = (VarMap::new(), VarMap::new());
    let ours = ours(seeded_vars(&vars, SEED, &Device::Cpu)).unwrap();
    let theirs = theirs(seeded_vars(&other_vars, SEED, &Device::Cpu)).unwrap();
    assert_eq!(made(&vars), made(&other_vars), "{what}");
    for train in [false, true] {
        let x = Var::from_tensor(x).unwrap();
        let (y, other) = (
            ours.forward_t(&x, train).unwrap(),
            theirs.forward_t(&x, train).unwrap(),
        );
        assert_close(what, &y, &other, 1e-5);
        // Not the plain sum, whose gradient many layers have as nothing.
        let weights = inputs("weights of the loss", y.dims());
        let gradients = |y: &Tensor| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        let (found, wanted) = (gradients(&y), gradients(&other));
        let of_x = |all: &candle_core::backprop::GradStore| all.get(&x).unwrap().clone();
        assert_close(what, &of_x(&found), &of_x(&wanted), 1e-4);
        for name in made(&vars).keys() {
            let wanted = wanted.get(&var(&other_vars, name)).cloned();
            match found.get(&var(&vars, name)) {
                Some(found) => assert_close(name, found, &wanted.unwrap(), 1e-4),
                None => assert!(name.starts_with("running"), "{what}: {name} has no gradient"),
            }
        }
        for name in made(&vars).keys() {
            assert_close(name, &var(&vars, name), &var(&other_vars, name), 1e-5);
        }
    }
}

#[test]
fn layers_give_what_candles_give_and_begin_with_the_same_weights() {
    let rows = inputs("rows", &[2, 3, 8]);
    compare(
        "linear",
        &rows,
        |v| nn::linear(8, 5, v),
        |v| candle_nn::linear(8, 5, v),
    );
    compare(
        "linear_no_bias",
        &rows,
        |v| nn::linear_no_bias(8, 5, v),
        |v| candle_nn::linear_no_bias(8, 5, v),
    );
    compare(
        "layer_norm",
        &rows,
        |v| nn::layer_norm(8, 1e-5, v),
        // Its layers have no gradient: these are their functions in candle's ops.
        |v| {
            let [weight, bias] = [("weight", 1.0), ("bias", 0.0)]
                .map(|(name, first)| v.get_with_hints(8, name, candle_nn::Init::Const(first)).unwrap());
            Ok(candle_nn::func(move |x| {
                candle_nn::ops::layer_norm_slow(x, &weight, &bias, 1e-5)
            }))
        },
    );
    compare(
        "rms_norm",
        &rows,
        |v| nn::rms_norm(8, 1e-5, v),
        |v| {
            let weight = v.get_with_hints(8, "weight", candle_nn::Init::Const(1.0))?;
            Ok(candle_nn::func(move |x| {
                candle_nn::ops::rms_norm_slow(x, &weight, 1e-5)
            }))
        },
    );
    // Square: where a stride leaves a rest on one side only, the gradient of candle's convolution is an error.
    let pictures = inputs("pictures", &[3, 4, 7, 7]);
    for config in [
        nn::Conv2dConfig::default(),
        nn::Conv2dConfig {
            padding: 2,
            stride: 2,
            ..nn::Conv2dConfig::default()
        },
        nn::Conv2dConfig {
            groups: 2,
            padding: 1,
            ..nn::Conv2dConfig::default()
        },
    ] {
        compare(
            "conv2d",
            &pictures,
            |v| nn::conv2d(4, 6, 3, config, v),
            |v| candle_nn::conv2d(4, 6, 3, config, v),
        );
    }
    compare(
        "batch_norm",
        &pictures,
        |v| nn::batch_norm(4, 1e-5, v),
        |v| candle_nn::batch_norm(4, 1e-5, v),
    );
}

#[test]
fn batch_norm_learns_and_uses_what_pytorchs_does() {
    let vars = VarMap::new();
    let norm = nn::batch_norm(3, 1e-5, seeded_vars(&vars, 0, &Device::Cpu)).unwrap();
    for (name, one) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0)] {
        // As `fill` makes them.
        let values = (inputs(name, &[3]) * 0.1).unwrap();
        var(&vars, name).set(&(values + one).unwrap()).unwrap();
    }
    let spread = ((inputs("running_var", &[3]) * 0.5).unwrap() + 1.0).unwrap();
    var(&vars, "running_var").set(&spread).unwrap();
    for step in 0..3 {
        let x = inputs(&format!("pictures {step}"), &[4, 3, 5, 6]);
        let y = norm.forward_t(&x, true).unwrap();
        assert_close("in training", &y, &expected(&format!("norm.{step}")), 1e-5);
    }
    for name in ["running_mean", "running_var"] {
        // In the map, so that they are saved.
        assert_close(name, &var(&vars, name), &expected(&format!("norm.{name}")), 1e-6);
    }
    let used = norm
        .forward_t(&inputs("pictures 0", &[4, 3, 5, 6]), false)
        .unwrap();
    assert_close("afterwards", &used, &expected("norm.used"), 1e-5);
}

#[test]
fn attention_gives_what_pytorchs_does() {
    let fresh = VarMap::new();
    nn::MultiHeadAttention::new(12, 3, seeded_vars(&fresh, 0, &Device::Cpu)).unwrap();
    assert_eq!(made(&fresh), names("attention"));
    let x = inputs("rows", &[2, 5, 12]);
    let layer = nn::MultiHeadAttention::new(12, 3, plain("attention")).unwrap();
    assert_close(
        "all",
        &layer.forward(&x).unwrap(),
        &expected("attention.all"),
        1e-5,
    );
    let shut: Vec<f32> = (0..25)
        .map(|place| {
            if place % 5 > place / 5 {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        })
        .collect();
    let shut = Tensor::from_vec(shut, (5, 5), &Device::Cpu).unwrap();
    let masked = layer.forward_masked(&x, &shut).unwrap();
    assert_close("masked", &masked, &expected("attention.causal"), 1e-5);

    let (vars, builder) = variables("attention");
    let causal = nn::MultiHeadAttention::new(12, 3, builder).unwrap().causal();
    let x = Var::from_tensor(&x).unwrap();
    let y = causal.forward(&x).unwrap();
    assert_close("causal", &y, &expected("attention.causal"), 1e-5);
    let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let of_x = gradients.get(&x).unwrap();
    assert_close("its gradient", of_x, &expected("attention.gradient"), 1e-4);
    let of_weight = gradients.get(&var(&vars, "in_proj_weight")).unwrap();
    assert_close(
        "that of its weight",
        of_weight,
        &expected("attention.weight_gradient"),
        1e-4,
    );

    // Two places, then one, then two.
    let mut cache = nn::KvCache::new(3);
    let parts = [(0, 2), (2, 1), (3, 2)].map(|(from, count)| {
        let part = x.narrow(1, from, count).unwrap();
        causal.forward_cached(&part, &mut cache).unwrap()
    });
    assert_eq!(cache.len(), 5);
    let whole = Tensor::cat(&parts, 1).unwrap();
    assert_close("by a cache", &whole, &y, 1e-5);
    cache.clear();
    assert!(cache.is_empty());
    assert!(layer.forward_cached(&x, &mut cache).is_err());
    assert!(nn::MultiHeadAttention::new(12, 5, plain("attention")).is_err());
}

#[test]
fn activations_are_candles_and_have_the_names_of_files() {
    let x = inputs("values", &[100]);
    let x = (x * 5.0).unwrap();
    for (name, theirs) in [
        ("relu", x.relu()),
        ("gelu", x.gelu_erf()),
        ("gelu_new", x.gelu()),
        ("silu", x.silu()),
        ("tanh", x.tanh()),
        ("sigmoid", candle_nn::ops::sigmoid(&x)),
    ] {
        let ours: nn::Activation = serde_json::from_value(name.into()).unwrap();
        assert_close(name, &x.apply(&ours).unwrap(), &theirs.unwrap(), 1e-5);
    }
}

#[test]
fn a_sequence_tells_its_layers_whether_they_train() {
    let vars = VarMap::new();
    let builder = seeded_vars(&vars, 1, &Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(4, 6, builder.pp("0")).unwrap())
        .add(nn::Activation::Relu)
        .add(nn::Dropout::new(0.5).unwrap())
        .add_fn(|x| x * 2.0);
    assert_eq!((net.len(), made(&vars).len()), (4, 2));
    let x = inputs("rows", &[50, 4]);
    let zeros = |train| {
        seed_stream(1);
        let y = numbers(&net.forward_t(&x, train).unwrap());
        y.iter().filter(|y| **y == 0.0).count()
    };
    assert!(
        zeros(true) > zeros(false) + 50,
        "{} {}",
        zeros(true),
        zeros(false)
    );
    assert_eq!(zeros(true), zeros(true));
}

#[test]
fn layers_take_no_settings_that_they_do_not_have() {
    let vars = || seeded_vars(&VarMap::new(), 0, &Device::Cpu);
    let no_mean = nn::LayerNormConfig {
        remove_mean: false,
        ..nn::LayerNormConfig::default()
    };
    assert!(nn::layer_norm(4, no_mean, vars()).is_err());
    let momentum = nn::BatchNormConfig {
        momentum: 1.5,
        ..nn::BatchNormConfig::default()
    };
    assert!(nn::batch_norm(4, momentum, vars()).is_err());
    let groups = nn::Conv2dConfig {
        groups: 0,
        ..nn::Conv2dConfig::default()
    };
    assert!(nn::conv2d(4, 4, 3, groups, vars()).is_err());
    // Old files of BERT say `gamma` and `beta`.
    let old = ["gamma", "beta"].map(|name| (name.to_owned(), inputs(name, &[4])));
    let old = VarBuilder::from_tensors(old.into(), DType::F32, &Device::Cpu);
    let x = inputs("rows", &[2, 4]);
    let y = nn::layer_norm(4, 1e-5, old.clone()).unwrap().forward(&x).unwrap();
    let theirs = candle_nn::layer_norm(4, 1e-5, old).unwrap().forward(&x).unwrap();
    assert_close("gamma and beta", &y, &theirs, 1e-5);
}

#[test]
fn networks_know_their_sizes_and_how_many_numbers_they_have() {
    use alephlab::nn::{Bert, BertConfig, Cnn, CnnConfig, Gpt, GptConfig, ResNet, ResNetConfig};
    let fresh = |vars: &VarMap| seeded_vars(vars, 1, &Device::Cpu);
    let vars = VarMap::new();
    let config = CnnConfig {
        batch_norm: true,
        ..CnnConfig::default()
    };
    let network = Cnn::new(&config, fresh(&vars)).unwrap();
    assert_eq!(network.config(), &config);
    // Running means and variances are no parameters.
    assert_eq!(
        network.parameter_count(),
        (9 + 1 + 2) * 16 + (144 + 1 + 2) * 32 + (32 * 16 + 1) * 64 + 650
    );
    assert_eq!(vars.parameter_count(), network.parameter_count());

    let vars = VarMap::new();
    let network = ResNet::new(&ResNetConfig::default(), fresh(&vars)).unwrap();
    assert_eq!(network.config(), &ResNetConfig::default());
    assert_eq!(vars.parameter_count(), network.parameter_count());

    for tie_word_embeddings in [true, false] {
        let vars = VarMap::new();
        let config = GptConfig {
            vocab_size: 40,
            n_positions: 8,
            n_embd: 12,
            n_layer: 2,
            n_head: 3,
            tie_word_embeddings,
            ..GptConfig::default()
        };
        let network = Gpt::new(&config, fresh(&vars)).unwrap();
        assert_eq!(vars.parameter_count(), network.parameter_count());
    }

    let vars = VarMap::new();
    let config = BertConfig {
        vocab_size: 30,
        hidden_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 16,
        ..BertConfig::default()
    };
    let network = Bert::new(&config, fresh(&vars)).unwrap();
    assert_eq!(vars.parameter_count(), network.parameter_count());
}
