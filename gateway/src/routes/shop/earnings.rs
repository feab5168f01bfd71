//! `/earnings`: what sales brought, by model and day, and what is done with it.

use std::sync::Arc;

use alephlab_api::market::{Earnings, Waiting, WaitingReason};
use alephlab_api::money::Asset;
use alephlab_api::offer::usd;
use alephlab_api::payout::{Conversion, ConversionState, Rate, Target, Withdrawal, WithdrawalState};
use alephlab_api::time::unix_now;
use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::chart::{self, Chart, ModelRow};
use super::moves::{self, MoveBox};
use super::offer::available;
use super::words::{self, aleph, figure, in_usd};
use crate::auth::Account;
use crate::error::Result;
use crate::routes::pages::short;
use crate::routes::registry::see;
use crate::routes::top::own_page;
use crate::routes::words::short_hash;
use crate::state::App;

/// Rows of the history.
const ROWS: usize = 100;

#[derive(Template)]
#[template(path = "earnings.html")]
struct EarningsPage {
    version: &'static str,
    address: String,
    short: String,
    done: Option<&'static str>,
    fee: String,
    /// Together they are all that was earned.
    tiles: [Tile; 3],
    waiting: Vec<WaitingRow>,
    /// In the balance, whatever it came from.
    balance: String,
    chart: Option<Chart>,
    models: Vec<ModelRow>,
    total: String,
    boxes: Vec<MoveBox>,
    history: Vec<Row>,
}

struct Tile {
    name: &'static str,
    figure: String,
    note: String,
}

/// What is pending for one reason.
struct WaitingRow {
    reason: &'static str,
    /// What becomes of it, and when.
    then: String,
    sales: u64,
    amount: String,
}

/// One withdrawal or conversion.
struct Row {
    time: u64,
    when: String,
    kind: &'static str,
    class: &'static str,
    icon: &'static str,
    state: &'static str,
    reason: Option<String>,
    /// Whole and short, and what it is.
    proof: Option<(String, String, &'static str)>,
    amount: String,
    becomes: Option<String>,
    take_back: Option<Uuid>,
}

/// What was typed into one of the forms.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Typed {
    #[serde(rename = "do")]
    pub(super) way: String,
    pub(super) amount: String,
    #[serde(skip)]
    pub(super) trouble: Option<String>,
}

/// What the address asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EarningsQuery {
    done: String,
    #[serde(rename = "do")]
    way: String,
    amount: String,
}

/// `GET /earnings?do=&amount=`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(query): Query<EarningsQuery>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(see("/?next=/earnings"));
    };
    let done = match query.done.as_str() {
        "spend" => Some("Converted. The credits are in your account and start kernels now."),
        "send" => {
            Some("Converted. The credits are on their way to your address; the history below says how far.")
        }
        "withdraw" => Some("Asked. It goes out with the next batch; the history below says how far."),
        "back" => Some("The withdrawal was taken back. Its amount is in your balance."),
        _ => None,
    };
    let typed = Typed {
        way: query.way,
        amount: query.amount.chars().take(90).collect(),
        trouble: None,
    };
    page(&app, &account, &headers, (&typed, done)).await
}

/// The page with what was typed, and what was done.
pub(super) async fn page(
    app: &App,
    account: &Account,
    headers: &HeaderMap,
    (typed, done): (&Typed, Option<&'static str>),
) -> Result<Response> {
    let earnings = app.store.earnings(&account.id).await?;
    let withdrawals = app.store.payouts_of(&account.id).await?;
    let conversions = app.store.conversions(&account.id).await?;
    let rate = app.settlement.rate().ok();
    let own = available(app, &account.id, Asset::Aleph).await?;
    let shown = EarningsPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        done,
        fee: super::selling::percent(app.market.fee()),
        tiles: tiles(&earnings, rate),
        waiting: earnings.waiting.iter().map(WaitingRow::of).collect(),
        balance: aleph(own),
        chart: Chart::of(&earnings.rows, unix_now()),
        models: chart::models(&earnings.rows),
        total: aleph(chart::sum([earnings.pending, earnings.earned].into_iter())),
        boxes: moves::boxes(app, account, typed).await?,
        history: history(&withdrawals, &conversions),
    };
    own_page(app, &account.id, headers, &shown).await
}

fn tiles(earnings: &Earnings, rate: Option<Rate>) -> [Tile; 3] {
    let first = earnings.waiting.iter().map(|one| one.first).min();
    [
        Tile {
            name: "Pending",
            figure: figure(earnings.pending),
            note: first.map_or_else(
                || "No sale waits".to_owned(),
                |first| format!("Settled from {} on", words::moment(first)),
            ),
        },
        Tile {
            name: "Available",
            figure: figure(earnings.available),
            note: in_usd(earnings.available, rate).unwrap_or_else(|| "To spend, send or withdraw".to_owned()),
        },
        Tile {
            name: "Paid out",
            figure: figure(earnings.paid_out),
            note: "Withdrawn, converted or spent".to_owned(),
        },
    ]
}

impl WaitingRow {
    fn of(one: &Waiting) -> Self {
        let (first, last) = (words::moment(one.first), words::moment(one.last));
        let until = match first == last {
            true => format!("{first} UTC"),
            false => format!("{first} to {last} UTC"),
        };
        let (reason, then) = match one.reason {
            WaitingReason::NoKey => (
                "The buyer has no key yet",
                format!(
                    "Goes back to the buyer at {until}, unless your machine gives the key before: keep alephlab keys running"
                ),
            ),
            WaitingReason::Settling => (
                "The key went out; the sale is settled later",
                format!("Yours at {until}"),
            ),
        };
        Self {
            reason,
            then,
            sales: one.sales,
            amount: aleph(one.amount),
        }
    }
}

fn history(withdrawals: &[Withdrawal], conversions: &[Conversion]) -> Vec<Row> {
    let mut rows: Vec<Row> = withdrawals.iter().map(Row::of_withdrawal).collect();
    rows.extend(conversions.iter().map(Row::of_conversion));
    rows.sort_by_key(|row| std::cmp::Reverse(row.time));
    rows.truncate(ROWS);
    rows
}

impl Row {
    fn of_withdrawal(one: &Withdrawal) -> Self {
        let (class, icon, state) = match one.state {
            WithdrawalState::Asked => ("plain", "i-clock", "Asked"),
            WithdrawalState::InBatch => ("warn", "i-clock", "In a batch"),
            WithdrawalState::Sent => ("warn", "i-clock", "Sent"),
            WithdrawalState::Mined => ("warn", "i-clock", "Mined, not final"),
            WithdrawalState::Paid => ("good", "i-check", "Final"),
            WithdrawalState::Returned => ("plain", "i-repeat", "Returned"),
        };
        let hash = one.transaction.as_ref();
        Self {
            time: one.asked,
            when: words::moment(one.asked),
            kind: "Withdrawal",
            class,
            icon,
            state,
            reason: one.reason.clone(),
            proof: hash.map(|hash| (hash.clone(), short_hash(hash, 10), "transaction on the chain")),
            amount: aleph(one.amount),
            becomes: None,
            take_back: (one.state == WithdrawalState::Asked).then_some(one.id),
        }
    }

    fn of_conversion(one: &Conversion) -> Self {
        let (class, icon, state) = match one.state {
            ConversionState::Done => ("good", "i-check", "Final"),
            ConversionState::Asked => ("plain", "i-clock", "Asked"),
            ConversionState::Posted => ("warn", "i-clock", "Sent"),
            ConversionState::Seen => ("good", "i-check", "Final"),
            ConversionState::Returned => ("plain", "i-repeat", "Credits stayed here"),
        };
        let message = one.message.as_ref();
        Self {
            time: one.asked,
            when: words::moment(one.asked),
            kind: match one.to {
                Target::Compute => "Converted to compute",
                Target::Network => "Sent as credits",
            },
            class,
            icon,
            state,
            reason: one.reason.clone(),
            proof: message.map(|hash| (hash.clone(), short_hash(hash, 8), "message on Aleph")),
            amount: aleph(one.aleph),
            becomes: Some(format!("{} USD", usd(one.credits))),
            take_back: None,
        }
    }
}
