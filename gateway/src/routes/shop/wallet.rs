//! `/wallet`: what an account can spend, where ALEPH is sent to, and how it came to what it has.

use std::sync::Arc;

use alephlab_api::ledger::{Balance, Entry, EntryKind};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::usd;
use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::words::{at_rate, base_units, dollars, figure, moment};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::routes::browser::sentence;
use crate::routes::pages::short;
use crate::routes::registry::see;
use crate::routes::top::own_page;
use crate::state::App;

/// Entries of one page.
const PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "wallet.html")]
struct WalletPage {
    version: &'static str,
    address: String,
    short: String,
    proven: Option<String>,
    /// ALEPH and credits.
    purses: [Purse; 2],
    deposit: Option<Deposit>,
    /// Why there is no place for deposits.
    off: Option<String>,
    entries: Vec<Row>,
    is_first: bool,
    older: Option<u64>,
}

/// What there is of an asset.
struct Purse {
    available: String,
    unit: &'static str,
    note: String,
}

/// Where tokens are sent to.
struct Deposit {
    address: String,
    token: String,
    chain: String,
    confirmations: String,
}

struct Row {
    when: String,
    kind: &'static str,
    memo: String,
    amount: String,
    base: String,
    incoming: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Before {
    before: Option<u64>,
}

/// `GET /wallet?before=`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(Before { before }): Query<Before>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(see("/?next=/wallet"));
    };
    let balances = app.store.balances(&account.id).await?;
    let entries = app
        .store
        .statement_before(&account.id, before.unwrap_or(u64::MAX), PAGE)
        .await?;
    let older = entries.last().filter(|_| entries.len() == PAGE as usize);
    let (deposit, off) = match app.settlement.terms() {
        Ok(terms) => {
            let watched = &terms.watched;
            let place = Deposit {
                address: watched.address.to_string(),
                token: watched.token.to_string(),
                chain: chain(watched.chain_id),
                confirmations: match terms.confirmations {
                    Some(blocks) => format!("after {blocks} blocks upon it"),
                    None => "when the chain says that its block is final".to_owned(),
                },
            };
            (Some(place), None)
        }
        Err(error @ GatewayError::Refused { .. }) => (None, Some(sentence(&error))),
        Err(error) => return Err(error),
    };
    let rate = app.settlement.rate().ok();
    let shown = WalletPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        proven: account.proof.address.clone(),
        purses: [
            Purse::of(&balances, Asset::Aleph, |all| {
                at_rate(all, rate)
                    .unwrap_or_else(|| "Buys models, becomes credits, can be withdrawn".to_owned())
            }),
            Purse::of(&balances, Asset::Credit, |_| "Pays for kernels here".to_owned()),
        ],
        deposit,
        off,
        is_first: before.is_none(),
        older: older.map(|last| last.seq),
        entries: entries.iter().map(row).collect(),
        address: account.id.clone(),
    };
    own_page(&app, &account.id, &headers, &shown).await
}

impl Purse {
    fn of(balances: &[Balance], asset: Asset, note: impl Fn(Amount) -> String) -> Self {
        let own = balances.iter().find(|one| one.asset == asset);
        let (available, held) = own.map_or((Amount::ZERO, Amount::ZERO), |one| (one.available, one.held));
        let shown = |amount: Amount| match asset {
            Asset::Aleph => figure(amount),
            Asset::Credit => usd(amount),
        };
        let unit = match asset {
            Asset::Aleph => "ALEPH",
            Asset::Credit => "USD",
        };
        Self {
            note: match held.is_zero() {
                true => note(available),
                false => format!("{} {unit} more are held for kernels", shown(held)),
            },
            available: shown(available),
            unit,
        }
    }
}

fn row(entry: &Entry) -> Row {
    let amount = match entry.asset {
        Asset::Aleph => format!("{} ALEPH", figure(entry.amount)),
        // A kernel of some seconds costs something, however little.
        Asset::Credit => dollars(entry.amount),
    };
    let sign = if entry.incoming { "+" } else { "−" };
    Row {
        when: moment(entry.time),
        kind: kind(entry.kind),
        memo: entry.memo.clone(),
        amount: format!("{sign}{amount}"),
        base: format!("{} base units", base_units(entry.amount)),
        incoming: entry.incoming,
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Credit => "Given",
        EntryKind::Charge => "Kernel",
        EntryKind::Deposit => "Deposit",
        EntryKind::Sale => "Model",
        EntryKind::Royalty => "Royalty",
        EntryKind::Fee => "Fee",
        EntryKind::Use => "Use of a model",
        EntryKind::Refund => "Paid back",
        EntryKind::Release => "Earned",
        EntryKind::Convert => "Converted",
        EntryKind::Withdraw => "Sent",
        EntryKind::Settle => "Settled",
        EntryKind::Return => "Returned",
    }
}

/// A chain as EIP-155 counts them, by name where many know it.
fn chain(id: u64) -> String {
    let name = match id {
        1 => "Ethereum",
        8_453 => "Base",
        43_114 => "Avalanche",
        _ => return format!("chain {id}"),
    };
    format!("{name}, chain {id}")
}
