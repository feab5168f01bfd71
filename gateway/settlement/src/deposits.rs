//! Deposits: the token's transfers to one address, from final blocks only, each once.

use alephlab_api::money::Amount;
use alloy_primitives::{Address, B256};
use alloy_provider::Provider as _;
use alloy_rpc_client::BatchRequest;
use alloy_rpc_types_eth::{BlockNumberOrTag, Filter, Log};
use alloy_sol_types::SolEvent as _;
use serde::{Deserialize, Serialize};

use crate::batch::to_amount;
use crate::contract::Token;
use crate::error::{Result, SettlementError};
use crate::rpc::{BLOCKS_MAX, Block, Node, asked, nothing};

/// Up to where deposits were read: a block, by its hash too, so that another chain is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The block's place.
    pub number: u64,
    /// The block's name.
    pub hash: B256,
}

/// Tokens that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// The transaction.
    pub transaction: B256,
    /// The log's place in its block: one transaction may have several.
    pub log: u64,
    /// Whose tokens they were.
    pub from: Address,
    /// In base units.
    pub amount: Amount,
}

/// What was read, and from where to go on. Both are written down in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the chain's order.
    pub deposits: Vec<Deposit>,
    /// After them.
    pub cursor: Cursor,
    /// Whether there is more that is final.
    pub has_more: bool,
}

/// Reads what comes to one address.
#[derive(Debug, Clone)]
pub struct Deposits {
    node: Node,
    token: Address,
    to: Address,
}

impl Deposits {
    /// Of this token, to this address.
    pub fn new(node: Node, token: Address, to: Address) -> Self {
        Self { node, token, to }
    }

    /// A cursor behind everything that is final now.
    ///
    /// # Errors
    /// When the node does not answer, or nothing is final yet.
    pub async fn now(&self) -> Result<Cursor> {
        self.node.newest_final().await?.map(cursor).ok_or_else(nothing)
    }

    /// A cursor at the block that is at a place now; none where there is none.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn at(&self, number: u64) -> Result<Option<Cursor>> {
        Ok(self.node.block(number).await?.map(cursor))
    }

    /// What an account has of the token, as of the cursor's block.
    ///
    /// # Errors
    /// When the node does not answer, or no longer has that block's state.
    pub async fn held(&self, account: Address, at: Cursor) -> Result<Amount> {
        self.node.balance(self.token, account, at.hash).await
    }

    /// What came after the cursor, up to the newest final block or as far as one question goes.
    ///
    /// # Errors
    /// When the node does not answer, or a block that was final has changed: then nothing is given.
    pub async fn after(&self, read: Cursor) -> Result<Found> {
        self.node.unchanged(read.number, read.hash).await?;
        let last = self.node.newest_final().await?.ok_or_else(nothing)?;
        let number = last.number.min(read.number.saturating_add(BLOCKS_MAX));
        if number <= read.number {
            return Ok(Found {
                deposits: Vec::new(),
                cursor: read,
                has_more: false,
            });
        }
        let end = self.node.block(number).await?.map(cursor).ok_or_else(nothing)?;
        let filter = Filter::new()
            .from_block(read.number + 1)
            .to_block(number)
            .address(self.token)
            .event_signature(Token::Transfer::SIGNATURE_HASH)
            .topic2(self.to.into_word());
        let (logs, block) = self.logs(&filter, number).await?;
        match block {
            Some(hash) if hash == end.hash => {}
            Some(_) => return Err(SettlementError::FinalChanged { number }),
            None => return Err(nothing()),
        }
        Ok(Found {
            deposits: logs
                .iter()
                .filter_map(|log| self.deposit(log).transpose())
                .collect::<Result<_>>()?,
            cursor: end,
            has_more: number < last.number,
        })
    }

    /// Logs, and the last block's hash, in one request: behind one address there may be nodes that are not equally far, and one without the
    /// last blocks would leave out what is in them. Asked apart, another node could answer for the hash.
    async fn logs(&self, filter: &Filter, number: u64) -> Result<(Vec<Log>, Option<B256>)> {
        let mut batch = BatchRequest::new(self.node.provider.client());
        let logs = batch.add_call::<_, Vec<Log>>("eth_getLogs", &(filter,));
        let logs = logs.map_err(asked("deposits"))?;
        let place = (BlockNumberOrTag::Number(number), false);
        let block = batch.add_call::<_, Option<alloy_rpc_types_eth::Block>>("eth_getBlockByNumber", &place);
        let block = block.map_err(asked("deposits"))?;
        batch.send().await.map_err(asked("deposits"))?;
        let logs = logs.await.map_err(asked("deposits"))?;
        let block = block.await.map_err(asked("a block"))?;
        Ok((logs, block.map(|block| block.header.hash)))
    }

    /// A deposit, or none if the log moves nothing.
    fn deposit(&self, log: &Log) -> Result<Option<Deposit>> {
        let unreadable = || SettlementError::Node {
            asked: "deposits",
            reason: "its answer cannot be read".to_owned(),
        };
        let moved = Token::Transfer::decode_log(&log.inner).map_err(|_| unreadable())?;
        // Whatever was asked for: what another contract says is no deposit.
        if moved.address != self.token || moved.to != self.to || log.removed {
            return Err(unreadable());
        }
        let (Some(transaction), Some(place)) = (log.transaction_hash, log.log_index) else {
            return Err(unreadable());
        };
        Ok((!moved.value.is_zero()).then_some(Deposit {
            transaction,
            log: place,
            from: moved.from,
            amount: to_amount(moved.value),
        }))
    }
}

fn cursor(block: Block) -> Cursor {
    Cursor {
        number: block.number,
        hash: block.hash,
    }
}
