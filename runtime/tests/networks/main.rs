//! Layers and networks beside those that they stand for: candle-nn's layers, and PyTorch's, torchvision's, transformers' and
//! PEFT's results in the files that `make_fixtures.py` made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adapters;
mod layers;
mod pictures;
mod sentences;
mod support;
mod tables;
mod text;
mod writing;
