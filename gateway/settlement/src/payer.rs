//! The contract on its chain and the payout key: looks, signs, sends, and reads what was paid.

use alephlab_api::money::Amount;
use alloy_consensus::{SignableTransaction as _, TxEip1559};
use alloy_network::TxSignerSync as _;
use alloy_network::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, TxKind};
use alloy_provider::Provider as _;
use alloy_rpc_types_eth::{Log, TransactionReceipt, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall as _, SolInterface as _};
use alloy_transport::{RpcError, TransportError};

use crate::batch::{Batch, to_amount, to_u256};
use crate::contract::{BatchPayout, PayoutArgument};
use crate::error::{Result, SettlementError};
use crate::progress::{Attempt, Fees, Outcome, Progress, Seen, Trial};
use crate::rpc::{Node, asked, nothing, reason, same};

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

/// Pays batches by one contract with one key.
#[derive(Debug, Clone)]
pub struct Payer {
    node: Node,
    contract: Address,
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
        Ok(Self { node, contract, key })
    }

    /// What the chain says of a batch. Each answer is as of one of two blocks, the newest and the newest final one.
    ///
    /// # Errors
    /// When the node does not answer, or no longer has the state of the final block.
    pub async fn look(&self, progress: &Progress) -> Result<Seen> {
        // The final block first: it must not be newer than the other.
        let last = self.node.newest_final().await?;
        let newest = self.node.newest().await?;
        let final_digest = match last {
            Some(block) => self.digest(&progress.batch, block.hash).await?,
            None => None,
        };
        let provider = &self.node.provider;
        let nonce = provider
            .get_transaction_count(self.key.address())
            .hash(newest.hash)
            .await
            .map_err(asked("the payout key's transactions"))?;
        let fees = provider
            .estimate_eip1559_fees()
            .await
            .map_err(asked("the usual fees"))?;
        Ok(Seen {
            final_time: last.map_or(0, |block| block.time),
            final_digest,
            time: newest.time,
            digest: self.digest(&progress.batch, newest.hash).await?,
            nonce,
            fees: Fees {
                most: fees.max_fee_per_gas,
                tip: fees.max_priority_fee_per_gas,
            },
            trial: self.trial(&progress.batch, newest.hash).await?,
        })
    }

    async fn digest(&self, batch: &Batch, block: B256) -> Result<Option<B256>> {
        let call = BatchPayout::digestOfCall { batch: batch.id() };
        let digest = self.node.call(self.contract, call, block).await?;
        Ok((!digest.is_zero()).then_some(digest))
    }

    /// Whether the batch could be paid upon a block, and with how much gas. Upon that block, not upon what waits: there it may be paid.
    async fn trial(&self, batch: &Batch, block: B256) -> Result<Trial> {
        let estimate = self.node.provider.estimate_gas(self.request(batch));
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
    /// When the key cannot sign.
    pub fn sign(&self, batch: &Batch, nonce: u64, fees: Fees, gas: u64) -> Result<Attempt> {
        let mut transaction = TxEip1559 {
            chain_id: self.node.chain_id(),
            nonce,
            // Accounts that are known now may be new by then, which costs more.
            gas_limit: gas.saturating_add(gas / 4),
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
            nonce,
            fees,
            hash: *signed.hash(),
            raw: signed.encoded_2718(),
            sent_at: None,
            is_cheap: false,
        })
    }

    /// Gives a transaction to the node; as often as one likes.
    ///
    /// # Errors
    /// When the node does not answer, or refuses it for a reason that sending again does not mend.
    pub async fn send(&self, attempt: &Attempt) -> Result<Sent> {
        let error = match self.node.provider.send_raw_transaction(&attempt.raw).await {
            Ok(_) => return Ok(Sent::Taken),
            Err(error) => error,
        };
        // Nodes have no codes for these; the words are those of all that are widely run.
        let words = reason(&error).to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
        if has(&["already known", "already imported", "known transaction"]) {
            Ok(Sent::Taken)
        } else if has(&["nonce too low", "nonce is too low"]) {
            Ok(Sent::Used)
        } else if has(&["underpriced", "less than block base fee", "fee too low"]) {
            Ok(Sent::Cheap)
        } else {
            Err(asked("to take a transaction")(error))
        }
    }

    /// Who was paid and whom the token refused, from the logs of the transaction that paid the batch in a final block.
    ///
    /// # Errors
    /// When the node does not have it, or its logs do not add up to the batch.
    pub async fn conclude(&self, progress: &Progress) -> Result<Outcome> {
        let last = self.node.newest_final().await?.ok_or_else(nothing)?;
        for attempt in &progress.attempts {
            let receipt = self.node.provider.get_transaction_receipt(attempt.hash).await;
            let Some(receipt) = receipt.map_err(asked("a receipt"))? else {
                continue;
            };
            let is_final = receipt.block_number.is_some_and(|number| number <= last.number);
            if receipt.status() && is_final {
                return self.outcome(&progress.batch, &receipt);
            }
        }
        Err(self.wrong(
            &progress.batch,
            "no transaction that was signed for it has paid it",
        ))
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
