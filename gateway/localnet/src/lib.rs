//! A faithful local Aleph core channel node (CCN) for one machine.
//!
//! It answers the parts of the CCN's REST API that a vault and a registry use, with the real node's
//! checks, statuses and error codes, so that changing one address moves a program to the real
//! network. State is a SQLite database and a folder of files; it survives restarts.
//!
//! Where it is told to ([`Config::compute`]), it is the compute side too: a list of CRNs, a scheduler, and CRNs that run
//! each INSTANCE as a sandboxed process of this machine, which is reached by SSH ([`ComputeConfig`]).
//!
//! What it is not: it talks to no other node, has no IPFS (those routes say so with 403), starts no
//! virtual machines (V-PROGRAM messages are taken and charged, PROGRAM rejected in words)
//! and knows no tokens or chains.
//!
//! Where it differs from the real node on purpose:
//! - a duplicate is `processed` at once ([`Config::strict_duplicates`] brings back the 30 s);
//! - a missing target is asked for ten times within seconds, not minutes;
//! - a page has at most 200 items in every mode, also for `pagination=0`;
//! - every address has credits ([`Config::credits`]), nobody holds tokens, and no time is charged
//!   while the node is stopped;
//! - an address without credits can add nothing, but what it has stays: nobody loses a file here by
//!   working long;
//! - `aggregates` of a FORGET takes hashes of elements, as the protocol's documents and `aleph-cli` have it (pyaleph of July
//!   2026 compares them with keys and finds nothing), and every element is judged by itself;
//! - a history of credits has one expense for each message, not one for each hour;
//! - the foundation's `pricing` and `settings` aggregates are there although nobody here can sign them: they are in no message,
//!   and `info` says nothing of them;
//! - `add_json` stores the sender's numbers and escapes as they are and only drops white space.
//!
//! `cli` runs it inside its own process; tests run it with [`Faults`] and change prices by [`Foundation`].
//!
//! ```no_run
//! # async fn run() -> alephlab_localnet::Result<()> {
//! use alephlab_localnet::{Config, Localnet, bind};
//! let listener = bind(([127, 0, 0, 1], 0).into()).await?;
//! let node = Localnet::start(Config::new(listener, "/tmp/node"), Default::default()).await?;
//! println!("{}", node.url);
//! # Ok(()) }
//! ```

mod aggregates;
mod compute;
mod config;
mod content;
mod db;
mod envelope;
mod error;
mod faults;
mod files;
mod foundation;
mod http;
mod ledger;
mod node;
mod permission;
mod process;
mod rejection;
mod rules;
mod server;
mod tasks;

pub use compute::{ComputeConfig, CrnConfig, GpuConfig, INSTANCE_READY};
pub use config::{Config, bind};
pub use error::{Error, Result};
pub use faults::{Fault, Faults, Switch};
pub use foundation::Foundation;
pub use server::{Handle, Localnet};
