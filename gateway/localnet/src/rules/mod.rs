//! Rules of the message types that need more than permission: amends, credit transfers, STORE, machines and FORGET.
//!
//! Each takes a connection inside the transaction that records the message.

pub(crate) mod credit;
pub(crate) mod forget;
pub(crate) mod machine;
pub(crate) mod post;
pub(crate) mod store;
