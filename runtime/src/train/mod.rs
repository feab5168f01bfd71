//! Training, kept thin: examples in batches, first weights from a seed, and a [`Trainer`] that runs AdamW on the
//! softmax cross entropy with a live bar and loss curve.
//!
//! Networks are candle's own, nothing here wraps them; whoever wants another loop writes it with candle and
//! [`crate::progress()`]. Not here: other losses and optimisers. Called by notebooks.

mod examples;
mod init;
mod random;
mod trainer;

pub use examples::Examples;
pub use init::seeded_vars;
pub use random::SeededRandom;
pub use trainer::{History, Trainer, accuracy, predict};
