//! Tests of the local node over HTTP, with real requests and real signatures.
//!
//! One binary, a module for each subject. `support` has the node of a test and the signers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod compute;
mod credits;
mod faults;
mod lifecycle;
mod listing;
mod live;
mod machines;
mod network;
mod rules;
mod sdk;
mod signed_crn;
mod ssh;
mod support;
mod upload;
mod vectors;
