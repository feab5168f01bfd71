//! One node of the chain: blocks, calls as of a block, logs. It is asked, never trusted with a key.

use std::time::Duration;

use alephlab_api::money::Amount;
use alloy_network::Ethereum;
use alloy_primitives::{Address, B256};
use alloy_provider::{Provider as _, RootProvider};
use alloy_rpc_client::RpcClient;
use alloy_rpc_types_eth::{BlockNumberOrTag, TransactionRequest};
use alloy_sol_types::SolCall;
use alloy_transport::{RpcError, TransportError, TransportErrorKind};

use crate::batch::to_amount;
use crate::contract::Token;
use crate::error::{Result, SettlementError};

/// Longest that one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Most blocks of one question for logs: what public nodes answer.
pub(crate) const BLOCKS_MAX: u64 = 1_000;
/// Most that is kept of a node's own words.
const REASON_MAX: usize = 200;

/// When a block counts as one that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finality {
    /// When the chain says so, by its tag `finalized`.
    Tag,
    /// When so many blocks, at least one, lie upon it: for chains that say nothing.
    Confirmations(u64),
}

/// A block, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its place.
    pub number: u64,
    /// Its name.
    pub hash: B256,
    /// Seconds since 1970.
    pub time: u64,
}

/// A node that answers for one chain.
#[derive(Clone)]
pub struct Node {
    pub(crate) provider: RootProvider<Ethereum>,
    chain_id: u64,
    finality: Finality,
}

impl std::fmt::Debug for Node {
    /// Without its address, which often carries a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            chain_id, finality, ..
        } = self;
        f.debug_struct("Node")
            .field("chain_id", chain_id)
            .field("finality", finality)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Reaches a node by `https`, or on this machine by `http`, and checks that it is of this chain.
    ///
    /// # Errors
    /// When it is not reached, or is of another chain.
    pub async fn connect(address: &str, chain_id: u64, finality: Finality) -> Result<Self> {
        let refused = |reason: &str| SettlementError::Setting {
            what: "the address of the chain's node",
            reason: reason.to_owned(),
        };
        // The newest block goes with every reorganisation.
        if finality == Finality::Confirmations(0) {
            return Err(SettlementError::Setting {
                what: "the number of confirmations",
                reason: "no block stays without any".to_owned(),
            });
        }
        let address: url::Url = address
            .parse()
            .map_err(|_| refused("it cannot be read as an address"))?;
        let is_here = matches!(address.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        // Who stands in between could show a chain on which deposits were made.
        if address.scheme() != "https" && !(address.scheme() == "http" && is_here) {
            return Err(refused("it must begin with https://"));
        }
        let client = reqwest::Client::builder()
            .timeout(ANSWER_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| refused("no client can be made for it"))?;
        let provider = RootProvider::new(RpcClient::new_http_with_client(client, address));
        let found = provider.get_chain_id().await.map_err(asked("its chain's id"))?;
        same("the chain's id", found, chain_id)?;
        Ok(Self {
            provider,
            chain_id,
            finality,
        })
    }

    /// Which chain this is, as EIP-155 counts them.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The newest block.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn newest(&self) -> Result<Block> {
        self.at(BlockNumberOrTag::Latest).await?.ok_or_else(nothing)
    }

    /// The newest block that stays; none while there is none.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn newest_final(&self) -> Result<Option<Block>> {
        match self.finality {
            Finality::Tag => self.at(BlockNumberOrTag::Finalized).await,
            Finality::Confirmations(blocks) => match self.newest().await?.number.checked_sub(blocks) {
                Some(number) => self.block(number).await,
                None => Ok(None),
            },
        }
    }

    /// The block at a place, if there is one.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn block(&self, number: u64) -> Result<Option<Block>> {
        self.at(BlockNumberOrTag::Number(number)).await
    }

    /// Says so if a block is no longer part of the chain.
    pub(crate) async fn unchanged(&self, number: u64, hash: B256) -> Result<()> {
        match self.block(number).await? {
            Some(block) if block.hash == hash => Ok(()),
            Some(_) => Err(SettlementError::FinalChanged { number }),
            None => Err(nothing()),
        }
    }

    async fn at(&self, place: BlockNumberOrTag) -> Result<Option<Block>> {
        let block = self
            .provider
            .get_block_by_number(place)
            .await
            .map_err(asked("a block"))?;
        Ok(block.map(|block| Block {
            number: block.header.number,
            hash: block.header.hash,
            time: block.header.timestamp,
        }))
    }

    /// An account's tokens as of a block, by its hash.
    pub(crate) async fn balance(&self, token: Address, account: Address, block: B256) -> Result<Amount> {
        let call = Token::balanceOfCall { account };
        self.call(token, call, block).await.map(to_amount)
    }

    /// What a contract answers as of a block. A node that no longer has that state says so: never an older or newer answer.
    pub(crate) async fn call<C: SolCall>(&self, to: Address, call: C, block: B256) -> Result<C::Return> {
        let request = TransactionRequest::default()
            .to(to)
            .input(call.abi_encode().into());
        let answer = self
            .provider
            .call(request)
            .hash(block)
            .await
            .map_err(asked("a contract"))?;
        C::abi_decode_returns(&answer).map_err(|_| SettlementError::Node {
            asked: "a contract",
            reason: "what answered is another contract, or none".to_owned(),
        })
    }
}

/// An error if the chain says something else than the settings.
pub(crate) fn same<T: Copy + PartialEq + std::fmt::Display>(
    what: &'static str,
    found: T,
    expected: T,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(SettlementError::NotOurs {
        what,
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// The error for a question that was not answered.
pub(crate) fn asked(asked: &'static str) -> impl Fn(TransportError) -> SettlementError {
    move |error| SettlementError::Node {
        asked,
        reason: reason(&error),
    }
}

/// A node that should have an answer has none.
pub(crate) fn nothing() -> SettlementError {
    SettlementError::Node {
        asked: "a block",
        reason: "it has none".to_owned(),
    }
}

/// What went wrong, in words that do not have the node's address in them.
pub(crate) fn reason(error: &TransportError) -> String {
    match error {
        RpcError::ErrorResp(answer) => answer.message.chars().take(REASON_MAX).collect(),
        RpcError::Transport(TransportErrorKind::HttpError(answer)) => {
            format!("HTTP status {}", answer.status)
        }
        RpcError::Transport(_) => "it was not reached, or broke off".to_owned(),
        _ => "its answer cannot be read".to_owned(),
    }
}
