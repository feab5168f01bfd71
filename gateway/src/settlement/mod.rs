//! ALEPH that comes in and goes out, as the gateway does it: what is set, the keys, and the tasks that keep it going.
//!
//! `chain` looks at the chain and moves the open batch by one step at a time, `credits` sends credits to accounts' own addresses,
//! `rates` says what an ALEPH is worth. Rows and entries are in `store::payouts`, what to do next with a batch in the crate
//! `alephlab-settlement`. One gateway at a time runs this: the one that has the database (ADR 27).

mod chain;
mod credits;
mod rates;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_settlement::{Address, Cursor, Deposits, Finality, Node, Policy, SettlementError};
use alephlab_vault::{Wallet, random_key};
use axum::http::StatusCode;
use tokio::sync::Notify;
use url::Url;

use crate::error::{GatewayError, Result};
use crate::store::{SettlementStanding, Store, Watched};

use chain::Chain;
use credits::Credits;

/// How long a batch may take: it is given up when no final block up to then has it, and holds those after it up as long.
const DEADLINE: u64 = 3_600;
/// Nothing is signed for a batch whose deadline is nearer.
const MARGIN: u64 = 120;
/// After so long a transaction is replaced by one with higher fees.
const PATIENCE: u64 = 180;

/// Withdrawals of one account in 24 hours: each costs the gateway gas.
pub(crate) const WITHDRAWALS_A_DAY: usize = 10;

/// Least that is converted at once: each conversion is some entries and perhaps a message.
pub(crate) fn least_converted() -> Amount {
    Amount::from_base(10_u128.pow(17))
}

/// How ALEPH comes in and goes out. The default is not at all.
#[derive(Default)]
pub struct SettlementConfig {
    /// The chain on which tokens are deposited and withdrawn; none does neither.
    pub chain: Option<ChainConfig>,
    /// What an ALEPH is worth in credits; without it none is converted.
    pub rate: Option<RateSource>,
    /// Sends credits to accounts' own addresses; without it they stay here.
    pub credits: Option<CreditsConfig>,
}

/// A chain, the token on it and the contract that pays.
pub struct ChainConfig {
    /// Address of a node; a key is often in it.
    pub node: Secret,
    /// As EIP-155 counts them.
    pub chain_id: u64,
    /// The token's contract.
    pub token: String,
    /// The contract that pays batches.
    pub contract: String,
    /// Where deposits are taken; the address of `deposit.key` when not given.
    pub deposit: Option<String>,
    /// Blocks upon one before it is final; none where the chain says so itself.
    pub confirmations: Option<u64>,
    /// Least that is paid out.
    pub minimum: Amount,
    /// Most that an account has paid out in 24 hours; none for no limit.
    pub daily: Option<Amount>,
    /// Most that one gas may cost, in wei.
    pub fee_max: u128,
    /// How often the chain is looked at.
    pub every: Duration,
}

/// Where the rate comes from.
pub enum RateSource {
    /// What the operator has set: it holds as long as it is set.
    Fixed(Amount),
    /// A file with one number, which somebody keeps new: it is refused when it was not written for an hour.
    File(PathBuf),
}

/// The account that sends credits.
pub struct CreditsConfig {
    /// The renting account.
    pub wallet: Wallet,
    /// A core node of the network.
    pub node: Url,
}

/// What is set, and what routes and tasks tell each other.
pub(crate) struct Settlement {
    terms: Option<Terms>,
    rate: Option<RateSource>,
    credits: Option<Credits>,
    /// One for each task: each is to look.
    wake_chain: Notify,
    wake_credits: Notify,
    /// What is wrong with the node or the settings, as it was last.
    trouble: Mutex<Option<String>>,
    /// Tokens and books are to be compared at the next look.
    compare: AtomicBool,
}

/// The chain's settings, checked, with the payout key.
pub(crate) struct Terms {
    node: Secret,
    finality: Finality,
    key: Secret,
    policy: Policy,
    every: Duration,
    deadline: u64,
    pub(crate) watched: Watched,
    pub(crate) payout_address: String,
    pub(crate) confirmations: Option<u64>,
    pub(crate) minimum: Amount,
    pub(crate) daily: Option<Amount>,
}

impl Settlement {
    /// As it is set; keys are made in `folder` where there are none.
    pub(crate) fn open(folder: &Path, config: SettlementConfig) -> Result<Self> {
        Ok(Self {
            terms: config.chain.map(|chain| terms(folder, chain)).transpose()?,
            rate: config.rate,
            credits: config.credits.map(Credits::new),
            wake_chain: Notify::new(),
            wake_credits: Notify::new(),
            trouble: Mutex::default(),
            compare: AtomicBool::new(true),
        })
    }

    /// The chain's settings.
    ///
    /// # Errors
    /// 409 `settlement_off` where no chain is set.
    pub(crate) fn terms(&self) -> Result<&Terms> {
        self.terms.as_ref().ok_or_else(|| {
            let text =
                "this gateway takes and pays no ALEPH: its operator has set no chain (settlement.node)";
            GatewayError::refused(StatusCode::CONFLICT, "settlement_off", text)
        })
    }

    /// What an ALEPH is worth now.
    ///
    /// # Errors
    /// 409 `rate_unknown` or `rate_stale`.
    pub(crate) fn rate(&self) -> Result<alephlab_api::payout::Rate> {
        rates::rate(self.rate.as_ref())
    }

    /// Whether credits can be sent to the network.
    pub(crate) fn sends_credits(&self) -> bool {
        self.credits.is_some()
    }

    /// There is something to do on the chain.
    pub(crate) fn wake(&self) {
        self.wake_chain.notify_one();
    }

    /// There are credits to be sent.
    pub(crate) fn wake_credits(&self) {
        self.wake_credits.notify_one();
    }

    /// Has tokens and books compared soon.
    pub(crate) fn compare(&self) {
        self.compare.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says it once, not at every look.
    fn set_trouble(&self, now: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *trouble == now {
            return;
        }
        match &now {
            Some(reason) => tracing::warn!(reason, "settlement waits"),
            None => tracing::info!("settlement goes on"),
        }
        *trouble = now;
    }

    /// From which block deposits are read on when the operator has withdrawals go on; none where that is known.
    ///
    /// # Errors
    /// When the node does not answer.
    pub(crate) async fn cursor_to_resume(&self, standing: &SettlementStanding) -> Result<Option<Cursor>> {
        let terms = self.terms()?;
        // Elsewhere the cursor is right, and a node that is on another fork for a moment would set it back.
        let changed = SettlementError::FinalChanged { number: 0 }.code();
        if standing.is_here && standing.stop.as_ref().is_none_or(|stop| stop.code != changed) {
            return Ok(None);
        }
        let read = async {
            let node = terms.connect().await?;
            let deposits = Deposits::new(node, terms.watched.token, terms.watched.address);
            if !standing.is_here {
                return deposits.now().await.map(Some);
            }
            // The block there has another name now. Nothing is read twice: what the lost blocks had is for the operator to compare.
            deposits.at(standing.cursor.number).await
        };
        let cursor = read.await.map_err(|error| {
            GatewayError::refused(StatusCode::BAD_GATEWAY, error.code(), error.to_string())
                .with_hint(error.hint())
        })?;
        Ok(cursor.filter(|cursor| !standing.is_here || *cursor != standing.cursor))
    }
}

impl Terms {
    /// A node of the right chain.
    pub(crate) async fn connect(&self) -> alephlab_settlement::Result<Node> {
        Node::connect(self.node.expose(), self.watched.chain_id, self.finality).await
    }

    /// Most that one gas may cost, in wei.
    pub(crate) fn fee_max(&self) -> u128 {
        self.policy.fee_max
    }

    /// Whether nothing may be paid to an address: it is one of the gateway's own, and would count as a deposit or be lost.
    pub(crate) fn is_own(&self, address: Address) -> bool {
        let Watched {
            token,
            address: deposit,
            contract,
            ..
        } = self.watched;
        [token, deposit, contract].contains(&address)
    }
}

/// Keeps deposits, withdrawals and transfers going. Never ends.
pub(crate) async fn run(store: &Store, settlement: &Settlement) {
    let chain = async {
        if let Some(terms) = &settlement.terms {
            Chain::new(store, settlement, terms).run().await;
        }
        std::future::pending::<()>().await;
    };
    let credits = async {
        if let Some(credits) = &settlement.credits {
            credits.run(store, &settlement.wake_credits).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(chain, credits);
}

fn terms(folder: &Path, config: ChainConfig) -> Result<Terms> {
    let key =
        random_key(&folder.join("payout.key")).map_err(|error| wrong("the payout key", error.to_string()))?;
    let payout = Wallet::from_secret(&key).map_err(|error| wrong("the payout key", error.to_string()))?;
    let deposit = match config.deposit {
        Some(address) => address,
        None => deposit_wallet(folder)?.address(),
    };
    let watched = Watched {
        chain_id: config.chain_id,
        token: address("settlement.token", &config.token)?,
        address: address("settlement.deposit", &deposit)?,
        contract: address("settlement.contract", &config.contract)?,
    };
    if watched.address == watched.contract {
        let reason = "it is the contract: what its owner puts in would count as deposits";
        return Err(wrong("settlement.deposit", reason.to_owned()));
    }
    let finality = match config.confirmations {
        Some(blocks) => Finality::Confirmations(blocks),
        None => Finality::Tag,
    };
    Ok(Terms {
        node: config.node,
        finality,
        key: Secret::new(hex::encode(*key)),
        policy: Policy {
            margin_s: MARGIN,
            patience_s: PATIENCE,
            fee_max: config.fee_max,
        },
        every: config.every,
        deadline: DEADLINE,
        watched,
        payout_address: payout.address(),
        confirmations: config.confirmations,
        minimum: config.minimum,
        daily: config.daily,
    })
}

/// The key of the address that takes deposits; nothing here signs with it, the operator does, to fill the contract.
fn deposit_wallet(folder: &Path) -> Result<Wallet> {
    let unusable = |error: alephlab_vault::VaultError| wrong("the deposit key", error.to_string());
    let key = random_key(&folder.join("deposit.key")).map_err(unusable)?;
    Wallet::from_secret(&key).map_err(unusable)
}

fn address(setting: &'static str, text: &str) -> Result<Address> {
    let parsed = text
        .trim()
        .parse::<Address>()
        .ok()
        .filter(|address| !address.is_zero());
    parsed.ok_or_else(|| wrong(setting, format!("`{text}` is no address")))
}

fn wrong(setting: &'static str, reason: String) -> GatewayError {
    GatewayError::Setting { setting, reason }
}
