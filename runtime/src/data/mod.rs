//! Data on its way into a training: arrays of numpy, Parquet files, and a [`Loader`] that makes batches of anything with numbered samples
//! ahead, in a random order that repeats, with pictures turned and texts cut as they come.
//!
//! Not here: CSV files ([`crate::table`]), mounting ([`crate::dataset`]), and what learns from the batches
//! ([`crate::train`], whose [`crate::train::BatchSource`] the loader is). Called by notebooks.

mod batches;
mod files;
mod loader;
mod npy;
mod npy_header;
mod parquet;
mod pictures;
mod samples;
mod tokenizer;
mod windows;

pub use batches::Batches;
pub use files::Files;
pub use loader::Loader;
pub use npy::{read_npy, read_npz};
pub use parquet::{Parquet, read_parquet};
pub use pictures::{normalise, random_crop, random_flip, random_rotation, random_shift};
pub use samples::{Sample, Samples};
pub use tokenizer::{TokenBatch, Tokenizer, read_tokenizer};
pub use windows::{Texts, Windows};
