//! Rules of the message types that need more than permission: amends, STORE and FORGET.
//!
//! Each takes a connection inside the transaction that records the message.

pub(crate) mod forget;
pub(crate) mod post;
pub(crate) mod store;
