//! Why settlement refused or failed. Addresses of nodes often carry a key and stand in no message.

use alloy_primitives::{Address, B256};

/// What every fallible public function of this crate returns.
pub type Result<T> = std::result::Result<T, SettlementError>;

/// Why nothing was done. [`SettlementError::code`] is stable; messages are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettlementError {
    /// A batch that must not be made.
    #[error("a batch of this content is not made: {reason}")]
    Batch {
        /// What is wrong with it.
        reason: String,
    },
    /// A setting or key that is none.
    #[error("{what} is none: {reason}")]
    Setting {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The node did not answer, or with something else.
    #[error("the chain's node did not answer {asked}: {reason}")]
    Node {
        /// What it was asked.
        asked: &'static str,
        /// What came instead, without the node's address.
        reason: String,
    },
    /// The chain or contract is another one than the settings say.
    #[error("{what} on the chain is {found}, and should be {expected}")]
    NotOurs {
        /// What was compared.
        what: &'static str,
        /// What the chain says.
        found: String,
        /// What the settings say.
        expected: String,
    },
    /// Something else than the batch was paid under its id.
    #[error("under batch {batch} the contract paid something else, with digest {digest}")]
    PaidElse {
        /// The batch.
        batch: B256,
        /// Of what was paid.
        digest: B256,
    },
    /// What a node says cannot all be of one chain.
    #[error("what the node says of batch {batch} cannot all be true: {reason}")]
    Contradiction {
        /// The batch.
        batch: B256,
        /// What does not go together.
        reason: &'static str,
    },
    /// A block that was final is no longer part of the chain.
    #[error("block {number} was final and has changed: what was read from it may not be true")]
    FinalChanged {
        /// Its number.
        number: u64,
    },
    /// The logs of a payment do not say what they must.
    #[error("the logs of batch {batch} at {contract} cannot be right: {reason}")]
    Logs {
        /// The batch.
        batch: B256,
        /// The contract.
        contract: Address,
        /// What does not fit.
        reason: &'static str,
    },
}

impl SettlementError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Batch { .. } => "settlement_batch",
            Self::Setting { .. } => "settlement_setting",
            Self::Node { .. } => "settlement_node",
            Self::NotOurs { .. } => "settlement_not_ours",
            Self::PaidElse { .. } => "settlement_paid_else",
            Self::Contradiction { .. } => "settlement_contradiction",
            Self::FinalChanged { .. } => "settlement_final_changed",
            Self::Logs { .. } => "settlement_logs",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Batch { .. } => "plan it anew from the ledger",
            Self::Setting { .. } => "correct it in the settings",
            Self::Node { .. } => "nothing is lost: it is asked again; if it stays, name another node",
            Self::NotOurs { .. } => "correct the settings, or the contract by its owner",
            Self::PaidElse { .. } => {
                "stop withdrawals: somebody else has the payout key, or two gateways have one database's copy each"
            }
            Self::Contradiction { .. } => {
                "nothing was concluded from it, and it is asked again; if it stays, compare with another node"
            }
            Self::FinalChanged { .. } => {
                "stop withdrawals and deposits, and compare with another node: more confirmations may be needed"
            }
            Self::Logs { .. } => {
                "the node may be behind or wrong: it is asked again; compare with another node"
            }
        }
    }
}
