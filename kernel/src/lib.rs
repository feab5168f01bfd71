//! The Jupyter kernel of Alephlab: the messaging protocol, and evaluators behind one trait.
//!
//! A request comes in on a file of [`socket`], runs through [`execute`] on the evaluator's thread, and goes out
//! through [`iopub`] and the socket. Not here: datasets, keys, the GPU; the kernel knows only the path of a
//! built runtime, and talks with it in frames of `alephlab-link`.

mod analysis;
pub mod apart;
mod cell;
pub mod child;
mod comms;
mod completeness;
mod connection;
pub mod debug;
mod error;
pub mod evaluator;
mod execute;
mod history;
mod iopub;
mod kernel;
mod request;
mod socket;
mod subshells;
pub mod template;
mod wire;

pub use cell::Cell;
pub use comms::Comms;
pub use connection::{Channel, Connection};
pub use error::{Error, Result};
pub use iopub::{Limits, Stream};
pub use kernel::{Config, Kernel};
pub use wire::{Parent, Parts, Request, Session};
