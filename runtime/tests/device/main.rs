//! GPUs: what is said where there is none, calls against a driver that the tests make, and calculations on every device
//! that this machine has.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it could not try"
)]

mod calculations;
mod fake;
