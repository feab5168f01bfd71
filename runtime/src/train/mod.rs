//! Training: examples in batches, first weights from a seed, losses, optimisers, schedules, and a [`Trainer`] that runs
//! them with a live bar and loss curve, keeps checkpoints, and goes on from them bit for bit.
//!
//! Networks are candle's own, nothing here wraps them; whoever wants another loop writes it with candle,
//! [`crate::progress()`] and the parts that are here. On the CPU a run repeats bit for bit: order of examples, first
//! weights and [`Dropout`] follow from seeds. Not here: models, loaders that stream ([`BatchSource`] is their seam),
//! several hosts. Called by notebooks.

mod average;
mod checkpoint;
mod confusion;
mod dropout;
mod examples;
mod gradients;
mod history;
mod init;
pub mod losses;
mod metric;
mod optimizer;
mod parameters;
mod random;
mod runs;
mod schedule;
mod source;
mod stopping;
mod trainer;

pub use confusion::{Confusion, confusion};
pub use dropout::{Dropout, seed_stream, with_stream};
pub use examples::Examples;
pub use gradients::clip_gradients;
pub use history::History;
pub use init::seeded_vars;
pub use metric::{Metric, accuracy, predict};
pub use optimizer::{AdamW, Optimizer, Sgd, Update, Weights};
pub use parameters::{Group, is_bias_or_norm};
pub use random::SeededRandom;
pub use runs::{Runs, compare, runs};
pub use schedule::Schedule;
pub(crate) use source::fingerprint_of;
pub use source::{BatchIter, BatchSource, Pass};
pub use stopping::{EarlyStopping, EpochReport, Flow, StepReport};
pub use trainer::Trainer;
