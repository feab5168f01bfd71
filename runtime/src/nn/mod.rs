//! Layers and ready networks on the fused ops of [`crate::ops`], with the names of tensors that PyTorch's users know.
//!
//! **Layers** are made by functions like candle-nn's, with the same arguments, names and first weights, so that a network is
//! brought over by another `use`: [`linear`], [`conv2d`], [`layer_norm`], [`rms_norm`], [`batch_norm`], [`seq`]. They are here
//! because candle's are slower on the CPU (products with bias in two passes, `exp` and `gelu` by scalar functions, gradients of
//! convolutions and normalisations by many passes), or lack something: `candle_nn::Sequential` does not tell its layers
//! whether they are in training, its dropout cannot be seeded, and its attention is a function. What candle-nn does as
//! well is not wrapped: [`Embedding`] is its own, and so are group norms, recurrent layers and one-dimensional convolutions.
//!
//! **Networks**: [`Mlp`] for tables, [`Cnn`] and [`ResNet`] for pictures, [`Gpt`] for text, which [`generate`] lets write, and
//! [`Bert`] with [`SentenceEncoder`] for the meaning of sentences. Each has settings that become its `config.json`, and
//! `from_model`, which builds it from a model that was saved, pulled or published elsewhere. [`Lora`] fine-tunes any of them.
//!
//! **Functions** that networks of one's own are written with: [`softmax`], [`relu`], [`gelu`], [`dropout`], [`attention`] and others;
//! [`crate::ops`] has all of them. [`Parameters`] counts the numbers of a network.
//!
//! All of it is called by notebooks; the trainer sees only candle's `ModuleT`. Names that candle-nn has too are not in the
//! prelude: `use alephlab::nn;` and `nn::linear(..)`.
#![expect(
    clippy::needless_pass_by_value,
    reason = "builders of variables are handed over by value, as to candle's functions"
)]

mod activation;
mod attention;
mod bert;
mod cnn;
mod config;
mod conv;
mod functions;
mod generate;
mod gpt;
mod linear;
mod lora;
mod mlp;
mod norm;
mod parameters;
mod resnet;
mod sentences;
mod sequential;

pub use candle_nn::{
    BatchNormConfig, Conv2dConfig, Embedding, LayerNormConfig, VarBuilder, VarMap, embedding,
};

pub use activation::Activation;
pub use attention::{KvCache, MultiHeadAttention};
pub use bert::{Bert, BertClassifier, BertConfig};
pub use cnn::{Cnn, CnnConfig};
pub use config::CONFIG_FILE;
pub(crate) use config::MODEL_TYPE;
pub use conv::{Conv2d, conv2d, conv2d_no_bias};
pub use functions::{
    Mask, attention, avg_pool2d, cross_entropy, dropout, exp, gelu, gelu_erf, log_softmax, max_pool2d, relu,
    sigmoid, silu, softmax, tanh,
};
pub use generate::{End, Generate, Generated, Pieces, Tokens, generate};
pub use gpt::{Gpt, GptCache, GptConfig};
pub use linear::{Linear, linear, linear_no_bias};
pub use lora::Lora;
pub use mlp::{Mlp, MlpConfig};
pub use norm::{BatchNorm2d, LayerNorm, RmsNorm, batch_norm, layer_norm, rms_norm};
pub use parameters::Parameters;
pub use resnet::{ResNet, ResNetConfig, Stem};
pub use sentences::SentenceEncoder;
pub use sequential::{Sequential, seq};

pub use crate::train::Dropout;
