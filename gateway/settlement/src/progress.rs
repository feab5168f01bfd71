//! How a batch goes: what is known of it, and what to do next. Pure: it asks nothing and keeps nothing by itself.
//!
//! Two things that the contract does make this simple. A batch's id is used once, so sending a batch again, by the same transaction or by
//! another, can never pay it twice. And no block after its deadline can have it, so a batch that is not paid in a final block
//! later than that never will be. Nothing is concluded from what waits at nodes, nor from what a transaction's receipt says.

use alloy_primitives::{Address, B256};

use crate::batch::Batch;
use crate::error::{Result, SettlementError};

#[cfg(test)]
mod tests;

/// Most gas of one transaction on any chain, by EIP-7825.
pub const GAS_MAX: u64 = 1 << 24;
/// What the contract wants left before each payout, and what a batch needs besides, amply: with so much no recipient's code can make a
/// batch run out, whatever it does. Batches up to 62 payouts fit into one transaction so.
const PAYOUT_GAS: u64 = 264_000;
const BATCH_GAS: u64 = 400_000;
/// So often a batch's transactions may be mined without paying it. Each costs its fees, and code of recipients could bring it about for ever.
const FAILURES_MAX: usize = 2;

/// What one gas is paid, in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// At most.
    pub most: u128,
    /// Of it, for whoever makes the block.
    pub tip: u128,
}

impl Fees {
    /// Enough that nodes take it in place of this: they ask for a tenth more of both, so an eighth.
    fn raised(self) -> Self {
        let raise = |fee: u128| fee.saturating_add(fee / 8).saturating_add(1);
        Self {
            most: raise(self.most),
            tip: raise(self.tip),
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self {
            most: self.most.max(other.most),
            tip: self.tip.max(other.tip),
        }
    }
}

/// A transaction that was signed for a batch. It is written down before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Of whose key: numbers of another's mean nothing.
    pub sender: Address,
    /// Of the payout key's transactions, which number.
    pub nonce: u64,
    /// What it offers.
    pub fees: Fees,
    /// Its name.
    pub hash: B256,
    /// The bytes that are sent.
    pub raw: Vec<u8>,
    /// When a node took it, in seconds since 1970; none before.
    pub sent_at: Option<u64>,
    /// A node wants a higher fee, for it or for what it replaces.
    pub is_cheap: bool,
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was paid in a final block, but for those whom the token refused.
    Paid {
        /// Their places in the batch, rising. What they are owed is still held, and goes into another batch.
        unpaid: Vec<usize>,
    },
    /// It was not paid and never will be. What is planned again of it goes into batches of half the size: then who made it fail, if anybody did,
    /// is alone in the end.
    Dropped,
}

/// What a batch is called while it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing was signed.
    Planned,
    /// A transaction is written down.
    Signed,
    /// A node has taken one.
    Sent,
    /// It is paid in the newest block, which may still go.
    Mined,
    /// It is paid for good.
    Paid,
    /// It never will be.
    Dropped,
}

/// What may be spent and waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Nothing is signed for a batch whose deadline is nearer than so many seconds: it would only cost fees.
    pub margin_s: u64,
    /// After so many seconds a transaction is replaced by one with higher fees.
    pub patience_s: u64,
    /// Most for one gas, in wei.
    pub fee_max: u128,
}

/// Whether the batch could be paid in the newest block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// With so much gas.
    Works {
        /// At least.
        gas: u64,
    },
    /// No node has said: it did not answer, or was not asked because nothing depends on it.
    Unknown {
        /// Why not.
        reason: String,
    },
    /// The contract refuses it as a whole.
    Refused {
        /// Its error.
        reason: String,
    },
}

/// The chain, as far as it concerns one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// This machine's own time. It stands beside the chain's only where money is given back.
    pub clock: u64,
    /// Time of the newest final block.
    pub final_time: u64,
    /// The contract's digest of the batch in it.
    pub final_digest: Option<B256>,
    /// Time of the newest block.
    pub time: u64,
    /// The contract's digest of the batch in it.
    pub digest: Option<B256>,
    /// Whose key this is.
    pub sender: Address,
    /// How many of the attempts are mined there without having paid.
    pub failures: usize,
    /// How many transactions of the payout key the newest block's chain has.
    pub nonce: u64,
    /// What is usual now; zero while the trial is unknown.
    pub fees: Fees,
    /// What would become of it.
    pub trial: Trial,
}

/// Why nothing is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// It is paid in a block that is not final.
    ForFinality,
    /// The contract would refuse it: paused, not filled, or above the limit.
    ForContract {
        /// The contract's error.
        reason: String,
    },
    /// An older batch of the key is not mined: two would bid for one number up to the highest fee.
    ForTurn,
    /// No node says what it would cost.
    ForNode {
        /// What it said instead.
        reason: String,
    },
    /// It takes more gas than a transaction may have, or was mined too often without paying: it is left to expire.
    ForSmaller,
    /// One gas costs more than is allowed.
    ForFees {
        /// What it costs.
        most: u128,
    },
    /// Its deadline has passed or is too near, and no final block says yet that it was not paid.
    ForDeadline,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Look again later.
    Wait(Waiting),
    /// Sign a transaction, write it down by [`Progress::signed`], then send it.
    Sign {
        /// With this number.
        nonce: u64,
        /// At these fees.
        fees: Fees,
        /// With at most so much gas.
        gas: u64,
    },
    /// Send the newest attempt, again or for the first time. What a node says it has may be of a block that went: it is sent at every look.
    Send,
    /// It is paid for good: read whom the token refused, and book it.
    Conclude,
    /// It never will be paid: give back what is held for it.
    Drop,
    /// It has ended.
    Nothing,
}

/// Everything that is known of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is to be paid.
    pub batch: Batch,
    /// What was signed for it, oldest first.
    pub attempts: Vec<Attempt>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
}

impl Progress {
    /// Of a batch that is planned.
    pub fn new(batch: Batch) -> Self {
        Self {
            batch,
            attempts: Vec::new(),
            outcome: None,
        }
    }

    /// What it is called, after what was last seen.
    pub fn stage(&self, seen: Option<&Seen>) -> Stage {
        match &self.outcome {
            Some(Outcome::Paid { .. }) => Stage::Paid,
            Some(Outcome::Dropped) => Stage::Dropped,
            None if seen.is_some_and(|seen| seen.digest.is_some()) => Stage::Mined,
            None if self.attempts.iter().any(|attempt| attempt.sent_at.is_some()) => Stage::Sent,
            None if !self.attempts.is_empty() => Stage::Signed,
            None => Stage::Planned,
        }
    }

    /// What to do next, if it is alone.
    ///
    /// # Errors
    /// When something else was paid under the batch's id, or what was seen cannot be of one chain.
    fn decide(&self, seen: &Seen, policy: &Policy) -> Result<Decision> {
        if self.outcome.is_some() {
            return Ok(Decision::Nothing);
        }
        let digest = self.batch.digest();
        if let Some(paid) = seen.final_digest {
            return self.ours(paid, digest).map(|()| Decision::Conclude);
        }
        let is_over = seen.final_time > self.batch.deadline();
        if let Some(paid) = seen.digest {
            self.ours(paid, digest)?;
            // A block up to the deadline has it then, so that the final one must have it, too. What is given back now may be paid.
            if is_over {
                return Err(SettlementError::Contradiction {
                    batch: self.batch.id(),
                    reason: "the newest block has it, and a final one after its deadline does not",
                });
            }
            return Ok(Decision::Wait(Waiting::ForFinality));
        }
        if is_over && seen.clock > self.batch.deadline() {
            return Ok(Decision::Drop);
        }
        if seen.time.saturating_add(policy.margin_s) > self.batch.deadline() {
            return Ok(Decision::Wait(Waiting::ForDeadline));
        }
        // A transaction that the contract refuses costs its fees and uses its number up.
        let gas = match &seen.trial {
            Trial::Works { gas } => *gas,
            Trial::Unknown { reason } => {
                let reason = reason.clone();
                return Ok(Decision::Wait(Waiting::ForNode { reason }));
            }
            Trial::Refused { reason } => {
                let reason = reason.clone();
                return Ok(Decision::Wait(Waiting::ForContract { reason }));
            }
        };
        if gas > GAS_MAX || seen.failures >= FAILURES_MAX {
            return Ok(Decision::Wait(Waiting::ForSmaller));
        }
        Ok(self.send_or_sign(seen, policy, self.gas_limit(gas, seen.failures)))
    }

    /// What is not used costs nothing, but the key must hold it. So a quarter more than was estimated at first (accounts that are known now
    /// may be new by then), and after a failure as much as no recipient can use up.
    fn gas_limit(&self, estimate: u64, failures: usize) -> u64 {
        let payouts = u64::try_from(self.batch.payouts().len()).unwrap_or(u64::MAX);
        let ample = payouts.saturating_mul(PAYOUT_GAS).saturating_add(BATCH_GAS);
        let usual = estimate.saturating_add((estimate / 4).max(PAYOUT_GAS));
        let wanted = if failures == 0 { usual } else { usual.max(ample) };
        wanted.min(GAS_MAX)
    }

    /// The contract takes it, and nothing is mined.
    fn send_or_sign(&self, seen: &Seen, policy: &Policy, gas: u64) -> Decision {
        let sign = |fees: Fees| {
            if fees.most > policy.fee_max {
                return Decision::Wait(Waiting::ForFees { most: fees.most });
            }
            let nonce = seen.nonce;
            Decision::Sign { nonce, fees, gas }
        };
        // One whose number is used up, or not next because a block with earlier ones went, is not mined now.
        let is_next = |attempt: &&Attempt| attempt.nonce == seen.nonce && attempt.sender == seen.sender;
        let Some(attempt) = self.attempts.last().filter(is_next) else {
            return sign(seen.fees);
        };
        let is_late = attempt
            .sent_at
            .is_some_and(|sent_at| seen.time >= sent_at.saturating_add(policy.patience_s));
        if !attempt.is_cheap && !is_late {
            return Decision::Send;
        }
        match sign(attempt.fees.raised().at_least(seen.fees)) {
            // It may still be mined, or be dear enough again when fees have fallen.
            Decision::Wait(_) => Decision::Send,
            decision => decision,
        }
    }

    /// Notes a signed transaction; only then is it sent.
    pub fn signed(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
    }

    /// Notes that a node took the newest attempt, at this time.
    pub fn sent(&mut self, time: u64) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.sent_at.get_or_insert(time);
            attempt.is_cheap = false;
        }
    }

    /// Notes that a node wants more for the newest attempt.
    pub fn was_cheap(&mut self) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.is_cheap = true;
        }
    }

    fn ours(&self, paid: B256, digest: B256) -> Result<()> {
        if paid == digest {
            return Ok(());
        }
        Err(SettlementError::PaidElse {
            batch: self.batch.id(),
            digest: paid,
        })
    }
}

/// What to do next with the open batches of one key, oldest first, each with what was seen of it. While one waits to be mined, none after it
/// signs or sends.
///
/// # Errors
/// For each batch by itself: when something else was paid under its id, or what was seen of it cannot be of one chain.
pub fn decide(open: &[(&Progress, &Seen)], policy: &Policy) -> Vec<Result<Decision>> {
    let mut is_free = true;
    let decisions = open.iter().map(|(progress, seen)| {
        let decision = progress.decide(seen, policy);
        let acts = matches!(decision, Ok(Decision::Sign { .. } | Decision::Send));
        if acts && !is_free {
            return Ok(Decision::Wait(Waiting::ForTurn));
        }
        is_free &= matches!(
            decision,
            Ok(Decision::Nothing
                | Decision::Conclude
                | Decision::Drop
                | Decision::Wait(Waiting::ForFinality | Waiting::ForDeadline | Waiting::ForSmaller))
        );
        decision
    });
    decisions.collect()
}
