//! Wire types of Alephlab: what crosses a socket between two of its programs, and nothing else.
//!
//! Used by the gateway, the agent, the broker, the registry, the runtime and the `alephlab` command. It holds no
//! policy, opens no content and, without the feature `client`, does no input or output at all. Secrets that cross a
//! socket are [`Secret`]s, which print as nothing and are overwritten when dropped.
#![forbid(unsafe_code)]

pub mod account;
pub mod agent;
pub mod audit;
pub mod broker;
#[cfg(feature = "client")]
pub mod client;
mod frames;
pub mod isolation;
pub mod jupyter;
pub mod kernel;
pub mod keys;
#[cfg(feature = "money")]
pub mod ledger;
pub mod load;
#[cfg(feature = "money")]
pub mod market;
pub mod model;
#[cfg(feature = "money")]
pub mod money;
#[cfg(feature = "money")]
pub mod offer;
#[cfg(feature = "money")]
pub mod payout;
pub mod problem;
#[cfg(feature = "money")]
pub mod receipt;
pub mod secret;
pub mod secrets;
pub mod share;
pub mod time;
pub mod token;

pub use model::Card;
pub use problem::Problem;
pub use secret::Secret;
