//! Models: [`save`] writes tensors and what belongs to them into a folder, [`publish`] seals and publishes that
//! folder as a revision, [`pull`] fetches one, [`load`] opens one that was saved.
//!
//! Networks themselves are candle's. Not here: sealing, signing, keys (the broker and the owner's machine). Called
//! by notebooks.

mod evidence;
mod pulled;
mod saved;

pub use evidence::{Forward, forward_pass, report};
pub use pulled::{Model, Publishable, load, publish, pull};
pub(crate) use saved::{MODELS_FOLDER, save_file};
pub use saved::{Saveable, Saved, save};

/// The file with a model's tensors.
pub const TENSORS_FILE: &str = "model.safetensors";
/// The file with the tensors of adapters, in place of a model's: [`crate::nn::Lora`].
pub const ADAPTERS_FILE: &str = "adapter_model.safetensors";
