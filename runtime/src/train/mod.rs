//! Training, kept thin: examples in batches, first weights from a seed, and a [`Trainer`] that runs AdamW on the
//! softmax cross entropy with a live bar and loss curve.
//!
//! Networks are candle's own, nothing here wraps them; whoever wants another loop writes it with candle and
//! [`crate::progress()`]. Not here: other losses and optimisers. Called by notebooks.

mod dropout;
mod examples;
mod init;
pub mod losses;
mod optimizer;
mod random;
mod schedule;
mod source;
mod trainer;

pub use dropout::{Dropout, seed_stream};
pub use examples::Examples;
pub use init::seeded_vars;
pub use optimizer::{AdamW, Optimizer, Sgd, Update, Weights};
pub use random::SeededRandom;
pub use schedule::Schedule;
pub use source::{BatchIter, BatchSource, Pass};
pub use trainer::{History, Trainer, accuracy, predict};
