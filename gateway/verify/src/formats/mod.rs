//! One parser for each format. Each reads what it needs through [`crate::reader::Reader`], keeps little, and says in a
//! [`crate::reader::Fault`] what is wrong. None decides what is allowed: that is [`crate::inspect`].

pub(crate) mod gguf;
pub(crate) mod image;
pub(crate) mod json;
pub(crate) mod npy;
pub(crate) mod onnx;
pub(crate) mod pickle;
pub(crate) mod protobuf;
pub(crate) mod safetensors;
pub(crate) mod template;
pub(crate) mod text;
pub(crate) mod yaml;
pub(crate) mod zip;
