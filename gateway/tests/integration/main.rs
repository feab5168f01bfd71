//! The gateway over real sockets, with a host in memory and a storage in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod accounts;
mod aleph;
mod channels;
mod fake_host;
mod files;
mod isolation;
mod jupyter;
mod ledger;
mod lifecycle;
mod limits;
mod market;
mod market_pages;
mod oidc;
mod own;
mod pages;
mod private;
mod provider;
mod registry;
mod registry_pages;
mod rented;
mod secrets;
mod settings;
mod settlement;
mod shares;
mod support;
mod terminals;
// The same rule for both kinds of tests.
#[path = "../../src/store/testing.rs"]
mod testing;
mod tokens;
