//! The chain side of settlement: paying withdrawals out by the contract `BatchPayout`, and seeing deposits.
//!
//! [`Progress`] is what is known of one batch: what is to be paid, the transactions that were signed for it, and how it ended.
//! [`decide`] says what to do next with all that is open from what a [`Payer`] has [seen](Seen) of the chain; it is pure. Whoever keeps the books writes
//! a signed transaction down before it is sent, and books what was paid or given back once, by the [`Outcome`]. [`Deposits`] reads the
//! token's transfers to one address, each once, from final blocks. A [`Relay`] sends what payers signed (EIP-3009).
//!
//! Not here: the ledger, rates, who is owed what, when a batch is due, and where anything is stored. No amount moves in this crate.
#![forbid(unsafe_code)]

mod batch;
mod contract;
mod deposits;
mod error;
mod payer;
mod progress;
mod relay;
mod rpc;

pub use alloy_primitives::{Address, B256};

pub use crate::batch::{Batch, PAYOUTS_MAX, Payout, Place};
pub use crate::deposits::{Cursor, Deposit, Deposits, Found};
pub use crate::error::{Result, SettlementError};
pub use crate::payer::{Payer, Room, Sent};
pub use crate::progress::{
    Attempt, Decision, Fees, GAS_MAX, Outcome, Policy, Progress, Seen, Stage, Trial, Waiting, decide,
};
pub use crate::relay::{Authorization, Moved, Relay};
pub use crate::rpc::{Block, Finality, Node};
