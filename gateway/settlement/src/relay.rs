//! Payments that their payer signed and somebody else sends (EIP-3009): looked at, sent with a key that only pays gas, and found again.
//!
//! The token moves an authorization once, whoever sends it and however often. So nothing here keeps a transaction: one that was lost is
//! signed anew, and one too many moves nothing.

use alephlab_api::money::Amount;
use alloy_consensus::{SignableTransaction as _, TxEip1559};
use alloy_network::TxSignerSync as _;
use alloy_network::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_provider::Provider as _;
use alloy_rpc_types_eth::{Filter, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{Eip712Domain, SolCall as _, SolEvent as _, SolStruct as _, eip712_domain};

use crate::batch::to_u256;
use crate::contract::{Authorizing, TransferWithAuthorization};
use crate::error::{Result, SettlementError};
use crate::payer::{Sent, said};
use crate::progress::Fees;
use crate::rpc::{BLOCKS_MAX, Node, asked, reason};

/// Blocks before the one at which an authorization was new in which it is looked for too: the chain may have lost that one.
const BEFORE: u64 = 64;
/// Most gas of one payment: an ordinary token needs a third.
const GAS_MAX: u64 = 300_000;
/// How many times [`BLOCKS_MAX`] blocks are searched at once.
const SEARCHES_MAX: u64 = 20;

/// What a payer signed: so much of the token from one address to another, within a time, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorization {
    /// Whose tokens.
    pub from: Address,
    /// Who gets them.
    pub to: Address,
    /// In base units.
    pub value: Amount,
    /// Not in a block of this second or before it.
    pub valid_after: u64,
    /// Not in a block of this second or after it.
    pub valid_before: u64,
    /// Drawn by the payer; the token takes it once.
    pub nonce: B256,
}

/// How an authorization stands on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Moved in a block that stays.
    Final {
        /// By this transaction.
        transaction: B256,
        /// In this block.
        block: u64,
    },
    /// Used, in a block that may go; or cancelled.
    Used,
    /// Not used, and may be for some time.
    Open,
    /// Not moved and not usable any more, in the newest block that stays.
    Over,
}

/// Sends authorizations for one token.
#[derive(Debug, Clone)]
pub struct Relay {
    node: Node,
    token: Address,
    domain: Eip712Domain,
    key: PrivateKeySigner,
}

impl Relay {
    /// Looks whether the token takes authorizations; none where it does not, or says of itself what is not so.
    ///
    /// # Errors
    /// When the key (32 bytes, hex) is none, or the node does not answer.
    pub async fn connect(node: Node, token: Address, key: &str) -> Result<Option<Self>> {
        let key: PrivateKeySigner = key.trim().parse().map_err(|_| SettlementError::Setting {
            what: "the key for payments",
            reason: "it is not 32 bytes in hex".to_owned(),
        })?;
        let newest = node.newest().await?.hash;
        let state = Authorizing::authorizationStateCall {
            authorizer: key.address(),
            nonce: B256::ZERO,
        };
        let (name, version, separator, state) = (
            node.call(token, Authorizing::nameCall {}, newest).await,
            node.call(token, Authorizing::versionCall {}, newest).await,
            node.call(token, Authorizing::DOMAIN_SEPARATORCall {}, newest)
                .await,
            node.call(token, state, newest).await,
        );
        let (Ok(name), Ok(version), Ok(separator), Ok(_)) = (name, version, separator, state) else {
            return Ok(None);
        };
        let domain = eip712_domain! {
            name: name,
            version: version,
            chain_id: node.chain_id(),
            verifying_contract: token,
        };
        Ok((domain.separator() == separator).then_some(Self {
            node,
            token,
            domain,
            key,
        }))
    }

    /// Name and version of the token, which are part of what is signed.
    pub fn domain(&self) -> (&str, &str) {
        (
            self.domain.name.as_deref().unwrap_or_default(),
            self.domain.version.as_deref().unwrap_or_default(),
        )
    }

    /// Who pays the gas.
    pub fn sender(&self) -> Address {
        self.key.address()
    }

    /// What the payer signs (EIP-712).
    pub fn digest(&self, authorization: &Authorization) -> [u8; 32] {
        let signed = TransferWithAuthorization {
            from: authorization.from,
            to: authorization.to,
            value: to_u256(authorization.value),
            validAfter: U256::from(authorization.valid_after),
            validBefore: U256::from(authorization.valid_before),
            nonce: authorization.nonce,
        };
        signed.eip712_signing_hash(&self.domain).0
    }

    /// Whether it could be moved upon the newest block; else the contract's or node's own words. Gives the number of that block.
    ///
    /// # Errors
    /// When the node does not answer, or the token would refuse it.
    pub async fn check(&self, authorization: &Authorization, signature: &[u8; 65]) -> Result<u64> {
        let newest = self.node.newest().await?;
        let request = self.request(authorization, signature);
        let gas = self
            .node
            .provider
            .estimate_gas(request)
            .block(newest.hash.into())
            .await;
        match gas.map_err(asked("whether a payment can be made"))? {
            gas if gas <= GAS_MAX => Ok(newest.number),
            gas => Err(SettlementError::Node {
                asked: "what a payment costs",
                reason: format!("{gas} gas is more than {GAS_MAX}"),
            }),
        }
    }

    /// How it stands, when it was new at block `since`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn look(&self, authorization: &Authorization, since: u64) -> Result<Moved> {
        // The final block first: it must not be newer than the other.
        let last = self.node.newest_final().await?;
        let newest = self.node.newest().await?;
        let is_used = async |block| {
            let call = Authorizing::authorizationStateCall {
                authorizer: authorization.from,
                nonce: authorization.nonce,
            };
            self.node.call(self.token, call, block).await
        };
        let Some(last) = last else {
            return Ok(if is_used(newest.hash).await? {
                Moved::Used
            } else {
                Moved::Open
            });
        };
        if is_used(last.hash).await? {
            let found = self
                .find(authorization, since.saturating_sub(BEFORE), last.number)
                .await?;
            self.node.unchanged(last.number, last.hash).await?;
            let is_over = last.time >= authorization.valid_before;
            return Ok(found.unwrap_or(if is_over { Moved::Over } else { Moved::Used }));
        }
        if is_used(newest.hash).await? {
            return Ok(Moved::Used);
        }
        Ok(if last.time >= authorization.valid_before {
            Moved::Over
        } else {
            Moved::Open
        })
    }

    /// The transaction that moved it; a cancelled one has none.
    async fn find(&self, authorization: &Authorization, from: u64, to: u64) -> Result<Option<Moved>> {
        let mut from = from;
        for _ in 0..SEARCHES_MAX {
            if from > to {
                break;
            }
            let filter = Filter::new()
                .from_block(from)
                .to_block(to.min(from.saturating_add(BLOCKS_MAX)))
                .address(self.token)
                .event_signature(Authorizing::AuthorizationUsed::SIGNATURE_HASH)
                .topic1(authorization.from.into_word())
                .topic2(authorization.nonce);
            let logs = self.node.provider.get_logs(&filter).await;
            for log in logs.map_err(asked("a payment"))? {
                if let (Some(transaction), Some(block), false) =
                    (log.transaction_hash, log.block_number, log.removed)
                    && log.address() == self.token
                {
                    return Ok(Some(Moved::Final { transaction, block }));
                }
            }
            from = from.saturating_add(BLOCKS_MAX + 1);
        }
        Ok(None)
    }

    /// Sends it, with fees that are usual now, `times` doubled, and at most `most` wei for one gas.
    ///
    /// # Errors
    /// When the node does not answer or take it, or gas costs more.
    pub async fn send(
        &self,
        authorization: &Authorization,
        signature: &[u8; 65],
        (times, most): (u32, u128),
    ) -> Result<B256> {
        let provider = &self.node.provider;
        let fees = provider
            .estimate_eip1559_fees()
            .await
            .map_err(asked("the usual fees"))?;
        let doubled = |fee: u128| fee.saturating_mul(1 << times.min(16)).min(most);
        let fees = Fees {
            most: doubled(fees.max_fee_per_gas),
            tip: doubled(fees.max_priority_fee_per_gas),
        };
        // Of a payment that is sent again the number is the same, so that it takes the place of the one that waits.
        let count = provider.get_transaction_count(self.key.address());
        let count = if times == 0 {
            count.pending()
        } else {
            count.latest()
        };
        let mut transaction = TxEip1559 {
            chain_id: self.node.chain_id(),
            nonce: count
                .await
                .map_err(asked("the transactions of the key for payments"))?,
            gas_limit: GAS_MAX,
            max_fee_per_gas: fees.most,
            max_priority_fee_per_gas: fees.tip.min(fees.most),
            to: TxKind::Call(self.token),
            input: call(authorization, signature).into(),
            ..TxEip1559::default()
        };
        let signed = self.key.sign_transaction_sync(&mut transaction);
        let signed = transaction.into_signed(signed.map_err(|_| SettlementError::Setting {
            what: "the key for payments",
            reason: "it cannot sign".to_owned(),
        })?);
        let hash = *signed.hash();
        match provider.send_raw_transaction(&signed.encoded_2718()).await {
            Ok(_) => Ok(hash),
            Err(error) if said(&reason(&error)) == Some(Sent::Taken) => Ok(hash),
            Err(error) => Err(asked("to take a payment")(error)),
        }
    }

    /// Whether the key can pay for one payment at this price of gas.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn has_gas(&self) -> Result<bool> {
        let provider = &self.node.provider;
        let held = provider.get_balance(self.key.address()).await;
        let price = provider.get_gas_price().await.map_err(asked("the usual fees"))?;
        let needs = U256::from(price).saturating_mul(U256::from(GAS_MAX));
        Ok(held.map_err(asked("what the key for payments has"))? >= needs)
    }

    fn request(&self, authorization: &Authorization, signature: &[u8; 65]) -> TransactionRequest {
        TransactionRequest::default()
            .from(self.key.address())
            .to(self.token)
            .input(call(authorization, signature).into())
    }
}

fn call(authorization: &Authorization, signature: &[u8; 65]) -> Vec<u8> {
    Authorizing::transferWithAuthorizationCall {
        from: authorization.from,
        to: authorization.to,
        value: to_u256(authorization.value),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    }
    .abi_encode()
}
