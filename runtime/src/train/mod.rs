//! Training: examples in batches, first weights from a seed, losses, optimisers, schedules, and a [`Trainer`] that runs
//! them with a live bar and loss curve, keeps checkpoints, and goes on from them bit for bit.
//!
//! Networks are candle's own, nothing here wraps them; whoever wants another loop writes it with candle,
//! [`crate::progress()`] and the parts that are here. On the CPU a run repeats bit for bit: order of examples, first
//! weights and [`Dropout`] follow from seeds. Not here: models, loaders that stream ([`BatchSource`] is their seam),
//! several hosts. Called by notebooks.

//!
//! **The seam for several hosts** (nothing of it is built). Data-parallel training needs three things, and each has one place:
//! every host its own part of a pass, which is a [`BatchSource`] that hands out each n-th batch of another, by the same seed;
//! one mean of all hosts' gradients, which belongs where a step takes them (`Gradients::take` in `gradients`, before they are
//! cut): there the sum over the examples of each host is at hand, so that hosts may see different numbers of them; and the same
//! first weights, which follow from [`seeded_vars`]. All else (optimiser, schedule, averages, checkpoints of the first host)
//! then goes the same way on each, bit for bit if the mean is summed in the order of the hosts. Running statistics of batch
//! norms ([`crate::nn::BatchNorm2d`]) differ by host; the first host's are saved.

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
