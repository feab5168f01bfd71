//! `alephlab keys`: answers requests of kernels to open datasets and to sign models, on the machine that has the keys.
//!
//! `service` talks to a gateway, `consent` decides (a saved rule or a person), `engine` uses the keys. The wallet's and
//! the reader's private keys are used here and never sent. Used by the command `keys`, and by `up` and `quickstart`
//! for kernels of this machine's own gateway.

mod books;
mod consent;
mod engine;
mod foreign;
mod open;
mod prepared;
mod publish;
mod purchases;
mod rules;
mod sales;
mod service;
#[cfg(test)]
mod tests;
mod upload;

pub(crate) use books::{Books, DatasetEntry, ModelEntry, PublishLock, Revision as PublishedRevision};
pub(crate) use consent::Consent;
pub(crate) use engine::Engine;
pub(crate) use rules::Rules;
pub(crate) use service::Service;
