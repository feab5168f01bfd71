//! `/earnings`: what sales brought, by model and day, and what is done with it.

use std::sync::Arc;

use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::usd;
use alephlab_api::payout::{Conversion, ConversionState, Target, Withdrawal, WithdrawalState};
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
use crate::routes::words::{counted, short_hash};
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
    available: Tile,
    pending: Tile,
    settled: Tile,
    chart: Option<Chart>,
    models: Vec<ModelRow>,
    total: String,
    boxes: Vec<MoveBox>,
    history: Vec<Row>,
}

struct Tile {
    figure: String,
    note: String,
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
    let dollars = |amount: Amount| in_usd(amount, rate);
    let waiting = earnings.rows.iter().filter(|row| !row.pending.is_zero()).count();
    let term = words::term(app.market.settle_seconds());
    let (settled, times) = settled(&withdrawals, &conversions);
    let shown = EarningsPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        done,
        fee: super::selling::percent(app.market.fee()),
        available: Tile {
            figure: figure(own),
            note: dollars(own).unwrap_or_else(|| "To spend, send or withdraw".to_owned()),
        },
        pending: Tile {
            figure: figure(earnings.pending),
            note: match waiting {
                0 => "No sale waits".to_owned(),
                _ => format!("Yours {term} after each sale"),
            },
        },
        settled: Tile {
            figure: figure(settled),
            note: counted(times, "settlement", "settlements"),
        },
        chart: Chart::of(&earnings.rows, unix_now()),
        models: chart::models(&earnings.rows),
        total: aleph(chart::sum([earnings.pending, earnings.earned].into_iter())),
        boxes: moves::boxes(app, account, typed).await?,
        history: history(&withdrawals, &conversions),
    };
    own_page(app, &account.id, headers, &shown).await
}

/// What left the account for good as ALEPH or became credits, and how often.
fn settled(withdrawals: &[Withdrawal], conversions: &[Conversion]) -> (Amount, u64) {
    let paid = withdrawals
        .iter()
        .filter(|one| one.state == WithdrawalState::Paid)
        .map(|one| one.amount);
    let all: Vec<_> = paid.chain(conversions.iter().map(|one| one.aleph)).collect();
    (chart::sum(all.iter().copied()), all.len() as u64)
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
