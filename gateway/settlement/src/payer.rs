//! The contract on its chain and the payout key: looks, signs, sends, and reads what was paid.

use alephlab_api::money::Amount;
use alloy_consensus::{SignableTransaction as _, TxEip1559};
use alloy_network::TxSignerSync as _;
use alloy_network::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, TxKind};
use alloy_provider::Provider as _;
use alloy_rpc_types_eth::{Filter, Log, TransactionReceipt, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall as _, SolEvent as _, SolInterface as _};
use alloy_transport::{RpcError, TransportError};

use crate::batch::{Batch, Place, to_amount, to_u256};
use crate::contract::{BatchPayout, PayoutArgument};
use crate::error::{Result, SettlementError};
use crate::progress::{Attempt, Fees, Outcome, Progress, Seen, Trial};
use crate::rpc::{BLOCKS_MAX, Block, Node, asked, nothing, reason, same};

/// So many times [`BLOCKS_MAX`] blocks are searched: two weeks of Ethereum, two days of a chain with a block every two seconds.
const SEARCHES_MAX: usize = 100;

/// What a node said to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It has it.
    Taken,
    /// It wants a higher fee.
    Cheap,
    /// Its number is used up: something of the same key was mined.
    Used,
}

/// What the contract could pay in the newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What is left of its limit of 24 hours.
    pub left_today: Amount,
    /// The tokens that it holds.
    pub held: Amount,
    /// Its owner or operator has stopped it.
    pub is_paused: bool,
}

impl Room {
    /// Most that a batch may come to.
    pub fn most(self) -> Amount {
        match self.is_paused {
            true => Amount::ZERO,
            false => self.left_today.min(self.held),
        }
    }
}

/// Pays batches by one contract with one key.
#[derive(Debug, Clone)]
pub struct Payer {
    node: Node,
    contract: Address,
    token: Address,
    key: PrivateKeySigner,
}

impl Payer {
    /// Checks that the contract is for this token and takes batches from this key (32 bytes, hex).
    ///
    /// # Errors
    /// When the key is none, or the contract says something else.
    pub async fn connect(node: Node, contract: Address, token: Address, key: &str) -> Result<Self> {
        let key: PrivateKeySigner = key.trim().parse().map_err(|_| SettlementError::Setting {
            what: "the payout key",
            reason: "it is not 32 bytes in hex".to_owned(),
        })?;
        let newest = node.newest().await?.hash;
        let found = node.call(contract, BatchPayout::tokenCall {}, newest).await?;
        same("the contract's token", found, token)?;
        let found = node.call(contract, BatchPayout::operatorCall {}, newest).await?;
        same("the contract's operator", found, key.address())?;
        Ok(Self {
            node,
            contract,
            token,
            key,
        })
    }

    /// Where this pays: what a batch that is planned now is for.
    pub fn place(&self) -> Place {
        Place {
            chain_id: self.node.chain_id(),
            contract: self.contract,
        }
    }

    /// Whose key pays, and must have what gas costs.
    pub fn sender(&self) -> Address {
        self.key.address()
    }

    /// What a batch may come to now: a larger one would wait in vain until its deadline.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn room(&self) -> Result<Room> {
        let newest = self.node.newest().await?.hash;
        let left = BatchPayout::leftTodayCall {};
        let left_today = to_amount(self.node.call(self.contract, left, newest).await?);
        let is_paused = self
            .node
            .call(self.contract, BatchPayout::pausedCall {}, newest)
            .await?;
        Ok(Room {
            left_today,
            held: self.node.balance(self.token, self.contract, newest).await?,
            is_paused,
        })
    }

    /// Whether a batch was paid up to a block, by its hash.
    ///
    /// # Errors
    /// When the batch is another contract's, or the node does not answer or no longer has the block's state.
    pub async fn is_paid_at(&self, batch: &Batch, block: B256) -> Result<bool> {
        self.ours(batch)?;
        Ok(self.digest(batch, block).await?.is_some())
    }

    /// Another contract knows nothing of what was paid: it would pay it once more, or have it given back.
    fn ours(&self, batch: &Batch) -> Result<()> {
        same("the contract and chain of a batch", batch.place(), self.place())
    }

    /// What the chain says of a batch. Each answer is as of one of two blocks, the newest and the newest final one.
    ///
    /// # Errors
    /// When the batch is another contract's, the node does not answer, or no longer has the state of the final block.
    pub async fn look(&self, progress: &Progress) -> Result<Seen> {
        let batch = &progress.batch;
        self.ours(batch)?;
        // The final block first: it must not be newer than the other.
        let last = self.node.newest_final().await?;
        let newest = self.node.newest().await?;
        let final_digest = match last {
            Some(block) => self.digest(batch, block.hash).await?,
            None => None,
        };
        if let Some(block) = last {
            self.node.unchanged(block.number, block.hash).await?;
        }
        let mut seen = Seen {
            clock: now(),
            final_time: last.map_or(0, |block| block.time),
            final_digest,
            time: newest.time,
            digest: self.digest(batch, newest.hash).await?,
            sender: self.key.address(),
            failures: 0,
            nonce: 0,
            fees: Fees { most: 0, tip: 0 },
            trial: Trial::Unknown {
                reason: "nothing depends on it".to_owned(),
            },
        };
        // How it ended needs none of the rest, and must be seen though a node cannot say what a batch would cost.
        let is_open = final_digest.is_none() && seen.digest.is_none() && newest.time <= batch.deadline();
        if is_open && let Err(error) = self.would_become(progress, newest.hash, &mut seen).await {
            seen.trial = Trial::Unknown {
                reason: error.to_string(),
            };
        }
        Ok(seen)
    }

    async fn would_become(&self, progress: &Progress, newest: B256, seen: &mut Seen) -> Result<()> {
        let provider = &self.node.provider;
        seen.nonce = provider
            .get_transaction_count(self.key.address())
            .hash(newest)
            .await
            .map_err(asked("the payout key's transactions"))?;
        let fees = provider
            .estimate_eip1559_fees()
            .await
            .map_err(asked("the usual fees"))?;
        seen.fees = Fees {
            most: fees.max_fee_per_gas,
            tip: fees.max_priority_fee_per_gas,
        };
        for attempt in &progress.attempts {
            if attempt.sender == seen.sender && attempt.nonce < seen.nonce {
                let mined = self.receipt(attempt.hash).await?;
                seen.failures += usize::from(mined.is_some_and(|receipt| !receipt.status()));
            }
        }
        seen.trial = self.trial(&progress.batch, newest, seen.fees).await?;
        Ok(())
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>> {
        let receipt = self.node.provider.get_transaction_receipt(transaction).await;
        receipt.map_err(asked("a receipt"))
    }

    async fn digest(&self, batch: &Batch, block: B256) -> Result<Option<B256>> {
        let call = BatchPayout::digestOfCall { batch: batch.id() };
        let digest = self.node.call(self.contract, call, block).await?;
        Ok((!digest.is_zero()).then_some(digest))
    }

    /// Whether the batch could be paid upon a block, and with how much gas. Upon that block, not upon what waits: there it may be paid.
    /// At the fees that will be offered: code that a transfer runs sees them, and could do something else without.
    async fn trial(&self, batch: &Batch, block: B256, fees: Fees) -> Result<Trial> {
        let request = self
            .request(batch)
            .max_fee_per_gas(fees.most)
            .max_priority_fee_per_gas(fees.tip.min(fees.most));
        let estimate = self.node.provider.estimate_gas(request);
        match estimate.block(block.into()).await {
            Ok(gas) => Ok(Trial::Works { gas }),
            Err(error) => refusal(&error).map_or_else(
                || Err(asked("what a batch costs")(error)),
                |reason| Ok(Trial::Refused { reason }),
            ),
        }
    }

    /// How much of a batch the token would refuse now; an error of the contract is one of the node's words.
    ///
    /// # Errors
    /// When the node does not answer, or the contract refuses the batch.
    pub async fn unpaid(&self, batch: &Batch) -> Result<Amount> {
        self.ours(batch)?;
        let newest = self.node.newest().await?.hash;
        let answer = self
            .node
            .provider
            .call(self.request(batch))
            .hash(newest)
            .await
            .map_err(|error| SettlementError::Node {
                asked: "a batch",
                reason: refusal(&error).unwrap_or_else(|| reason(&error)),
            })?;
        BatchPayout::payCall::abi_decode_returns(&answer)
            .map(to_amount)
            .map_err(|_| SettlementError::Node {
                asked: "a batch",
                reason: "its answer cannot be read".to_owned(),
            })
    }

    fn request(&self, batch: &Batch) -> TransactionRequest {
        TransactionRequest::default()
            .from(self.key.address())
            .to(self.contract)
            .input(call(batch).into())
    }

    /// A transaction for a batch, which is not sent.
    ///
    /// # Errors
    /// When the batch is another contract's, or the key cannot sign.
    pub fn sign(&self, batch: &Batch, nonce: u64, fees: Fees, gas: u64) -> Result<Attempt> {
        self.ours(batch)?;
        let mut transaction = TxEip1559 {
            chain_id: self.node.chain_id(),
            nonce,
            gas_limit: gas,
            max_fee_per_gas: fees.most,
            max_priority_fee_per_gas: fees.tip.min(fees.most),
            to: TxKind::Call(self.contract),
            input: call(batch).into(),
            ..TxEip1559::default()
        };
        let signature =
            self.key
                .sign_transaction_sync(&mut transaction)
                .map_err(|_| SettlementError::Setting {
                    what: "the payout key",
                    reason: "it cannot sign".to_owned(),
                })?;
        let signed = transaction.into_signed(signature);
        Ok(Attempt {
            sender: self.key.address(),
            nonce,
            fees,
            hash: *signed.hash(),
            raw: signed.encoded_2718(),
            sent_at: None,
            is_cheap: false,
        })
    }

    /// Gives a batch's transaction to the node; as often as one likes.
    ///
    /// # Errors
    /// When the batch is another contract's, the node does not answer, or refuses it for a reason that sending again does not mend.
    pub async fn send(&self, batch: &Batch, attempt: &Attempt) -> Result<Sent> {
        self.ours(batch)?;
        let error = match self.node.provider.send_raw_transaction(&attempt.raw).await {
            Ok(_) => return Ok(Sent::Taken),
            Err(error) => error,
        };
        if let Some(sent) = said(&reason(&error)) {
            return Ok(sent);
        }
        // Words that are not known here: what counts is whether it has it.
        match self.node.provider.get_transaction_by_hash(attempt.hash).await {
            Ok(Some(_)) => Ok(Sent::Taken),
            _ => Err(asked("to take a transaction")(error)),
        }
    }

    /// Who was paid and whom the token refused, from the logs of the transaction that paid the batch in a final block. Whoever sent it: a
    /// copy of the database, or one that was restored, does not have it written down.
    ///
    /// # Errors
    /// When the batch is another contract's, the node does not have it, or its logs do not add up to the batch.
    pub async fn conclude(&self, progress: &Progress) -> Result<Outcome> {
        let batch = &progress.batch;
        self.ours(batch)?;
        let last = self.node.newest_final().await?.ok_or_else(nothing)?;
        for attempt in &progress.attempts {
            if let Some(receipt) = self.receipt(attempt.hash).await?
                && receipt.status()
                && self.is_final(&receipt, last).await?
            {
                return self.outcome(batch, &receipt);
            }
        }
        let found = self.search(batch, last).await?;
        if let Some(receipt) = self.receipt(found).await?
            && self.is_final(&receipt, last).await?
        {
            return self.outcome(batch, &receipt);
        }
        Err(self.wrong(batch, "the transaction that paid it is in no final block"))
    }

    /// By its block's hash, not its number alone: the node may still have a receipt of a block that went, where others were refused.
    async fn is_final(&self, receipt: &TransactionReceipt, last: Block) -> Result<bool> {
        let (Some(number), Some(hash)) = (receipt.block_number, receipt.block_hash) else {
            return Ok(false);
        };
        if number > last.number {
            return Ok(false);
        }
        let block = self.node.block(number).await?;
        Ok(block.is_some_and(|block| block.hash == hash))
    }

    /// The transaction that paid a batch, by the contract's own log, backwards from the newest final block.
    async fn search(&self, batch: &Batch, last: Block) -> Result<B256> {
        let mut end = last.number;
        for _ in 0..SEARCHES_MAX {
            let start = end.saturating_sub(BLOCKS_MAX - 1);
            let filter = Filter::new()
                .from_block(start)
                .to_block(end)
                .address(self.contract)
                .event_signature(BatchPayout::BatchPaid::SIGNATURE_HASH)
                .topic1(batch.id());
            let logs = self.node.provider.get_logs(&filter).await;
            let logs = logs.map_err(asked("a batch's logs"))?;
            if let Some(found) = logs.iter().find_map(|log| log.transaction_hash) {
                return Ok(found);
            }
            let Some(next) = start.checked_sub(1) else { break };
            end = next;
        }
        Err(self.wrong(batch, "no final block that was searched has them"))
    }

    fn outcome(&self, batch: &Batch, receipt: &TransactionReceipt) -> Result<Outcome> {
        let logs = receipt.logs().iter().filter(|log| log.address() == self.contract);
        let (mut unpaid, mut is_paid) = (Vec::new(), false);
        for log in logs {
            if let Some(refused) = decoded::<BatchPayout::NotPaid>(log).filter(|log| log.batch == batch.id())
            {
                let place = usize::try_from(refused.index).unwrap_or(usize::MAX);
                let payout = batch.payouts().get(place);
                let is_so =
                    payout.is_some_and(|one| one.to == refused.to && to_u256(one.amount) == refused.amount);
                if !is_so || unpaid.last().is_some_and(|last| *last >= place) {
                    return Err(self.wrong(batch, "they name a payout that is not in it"));
                }
                unpaid.push(place);
            }
            if let Some(paid) = decoded::<BatchPayout::BatchPaid>(log).filter(|log| log.batch == batch.id()) {
                let refused = unpaid.iter().map(|place| to_u256(batch.payouts()[*place].amount));
                let refused = refused.fold(to_u256(Amount::ZERO), |sum, one| sum.saturating_add(one));
                let sum = paid.paid.checked_add(paid.unpaid);
                if paid.digest != batch.digest()
                    || paid.unpaid != refused
                    || sum != Some(to_u256(batch.total()))
                {
                    return Err(self.wrong(batch, "they do not add up to it"));
                }
                is_paid = true;
            }
        }
        if is_paid {
            return Ok(Outcome::Paid { unpaid });
        }
        Err(self.wrong(batch, "they do not say that it was paid"))
    }

    fn wrong(&self, batch: &Batch, reason: &'static str) -> SettlementError {
        SettlementError::Logs {
            batch: batch.id(),
            contract: self.contract,
            reason,
        }
    }
}

/// What a node's words come to, if they are known. There are no codes for these; the words are those of Geth, Reth, Erigon, Besu and
/// Nethermind, some of which write them without blanks.
pub(crate) fn said(words: &str) -> Option<Sent> {
    let words: String = words
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect::<String>()
        .to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if has(&["alreadyknown", "alreadyimported", "knowntransaction"]) {
        Some(Sent::Taken)
    } else if has(&["noncetoolow", "nonceistoolow", "oldnonce"]) {
        Some(Sent::Used)
    } else if has(&[
        "underpriced",
        "lessthanblockbasefee",
        "feetoolow",
        "replacementnotallowed",
    ]) {
        Some(Sent::Cheap)
    } else {
        None
    }
}

/// Seconds since 1970 by this machine.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn call(batch: &Batch) -> Vec<u8> {
    let payouts = batch.payouts().iter().map(|payout| PayoutArgument {
        to: payout.to,
        amount: to_u256(payout.amount),
    });
    BatchPayout::payCall {
        batch: batch.id(),
        deadline: alloy_primitives::U256::from(batch.deadline()),
        payouts: payouts.collect(),
    }
    .abi_encode()
}

fn decoded<E: alloy_sol_types::SolEvent>(log: &Log) -> Option<E> {
    E::decode_log(&log.inner).ok().map(|log| log.data)
}

/// The contract's error in what a node says; none when it did not come to the contract.
fn refusal(error: &TransportError) -> Option<String> {
    let RpcError::ErrorResp(answer) = error else {
        return None;
    };
    let data = answer.as_revert_data();
    let known = data.and_then(|data| BatchPayout::BatchPayoutErrors::abi_decode(&data).ok());
    match known {
        Some(error) => Some(name_of(&error)),
        None if answer.message.contains("revert") => Some(reason(&RpcError::ErrorResp(answer.clone()))),
        None => None,
    }
}

fn name_of(error: &BatchPayout::BatchPayoutErrors) -> String {
    use BatchPayout::BatchPayoutErrors as Errors;
    match error {
        Errors::NotAllowed(_) => "the key is not the contract's operator".to_owned(),
        Errors::AlreadyPaid(_) => "it is paid".to_owned(),
        Errors::Expired(_) => "its deadline has passed".to_owned(),
        Errors::EmptyBatch(_) => "it is empty".to_owned(),
        Errors::AboveDailyLimit(limit) => format!(
            "{} are left of the contract's limit for 24 hours",
            to_amount(limit.left)
        ),
        Errors::NotFunded(funds) => format!("the contract holds {}", to_amount(funds.held)),
        Errors::TooLittleGas(_) => "it needs more gas than a block has".to_owned(),
        Errors::EnforcedPause(_) => "the contract is paused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_words_are_known_with_blanks_and_without() {
        for (words, sent) in [
            ("already known", Some(Sent::Taken)),
            ("AlreadyKnown", Some(Sent::Taken)),
            ("nonce too low: next nonce 3", Some(Sent::Used)),
            ("OldNonce", Some(Sent::Used)),
            ("replacement transaction underpriced", Some(Sent::Cheap)),
            ("FeeTooLow, MaxFeePerGas too low", Some(Sent::Cheap)),
            ("insufficient funds for gas * price + value", None),
        ] {
            assert_eq!(said(words), sent, "{words}");
        }
    }
}
