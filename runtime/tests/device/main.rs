//! GPUs: what is said where there is none, calls against a driver that the tests make, and calculations on every device
//! that this machine has.

mod calculations;
mod fake;
