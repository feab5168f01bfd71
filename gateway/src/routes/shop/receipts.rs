//! `/receipts`: what an account bought, sold and paid, and one receipt with everything that is signed in it.

use std::sync::Arc;

use alephlab_api::market::Order;
use alephlab_api::receipt::{Receipt, ReceiptProof, SignedReceipt};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::orders::state_badge;
use super::words::{aleph, base_units, exact, in_usd, moment};
use crate::auth::Account;
use crate::error::Result;
use crate::routes::pages::short;
use crate::routes::registry::{Command, not_found, see, short_name};
use crate::routes::top::own_page;
use crate::routes::words::{grouped, short_hash};
use crate::state::App;

/// Receipts of one page, and orders.
const PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "receipts.html")]
struct ReceiptsPage {
    version: &'static str,
    address: String,
    short: String,
    bought: Vec<OrderRow>,
    sold: Vec<OrderRow>,
    receipts: Vec<ReceiptRow>,
    is_first: bool,
    older: Option<u64>,
    signer: String,
}

struct OrderRow {
    address: String,
    model: String,
    short: String,
    when: String,
    badge: (&'static str, &'static str, &'static str),
    amount: String,
}

struct ReceiptRow {
    sequence: u64,
    number: String,
    kind: String,
    when: String,
    amount: String,
}

#[derive(Template)]
#[template(path = "receipt.html")]
struct ReceiptPage {
    version: &'static str,
    address: String,
    short: String,
    number: String,
    kind: String,
    when: String,
    amount: String,
    usd: Option<String>,
    base: String,
    asset: &'static str,
    /// As they are signed, in the order in which they are.
    fields: Vec<(String, String)>,
    signature: String,
    signer: String,
    hash: String,
    previous: Option<(u64, String)>,
    /// The root that it stands under.
    proof: Option<ReceiptProof>,
    /// Address and name of the file that shows all of this to anybody.
    file: (String, String),
    command: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Before {
    before: Option<u64>,
}

/// `GET /receipts?before=`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(Before { before }): Query<Before>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(see("/?next=/receipts"));
    };
    let (bought, sold) = match before {
        // Orders stand on the first page.
        Some(_) => (Vec::new(), Vec::new()),
        None => {
            let sales = app.store.sales_of(&account.id, false).await?;
            let sold = sales.into_iter().map(|sale| sale.order).collect();
            (app.store.orders_of(&account.id).await?, sold)
        }
    };
    let found = app
        .store
        .receipts_before(&account.id, before.unwrap_or(u64::MAX), PAGE)
        .await?;
    let older = found.last().filter(|_| found.len() == PAGE as usize);
    let older = older.map(|last| last.receipt.sequence).filter(|first| *first > 1);
    let shown = ReceiptsPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        bought: rows(&bought),
        sold: rows(&sold),
        receipts: found.iter().map(|one| row(&one.receipt)).collect(),
        is_first: before.is_none(),
        older,
        signer: app.market.signer(),
    };
    own_page(&app, &account.id, &headers, &shown).await
}

/// `GET /receipts/{sequence}`: one of the account's.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(sequence): Path<String>,
) -> Result<Response> {
    let Ok(sequence) = sequence.parse::<u64>() else {
        return not_found(&app, Some(&account), &headers).await;
    };
    let before = sequence.saturating_add(1);
    let found = app.store.receipts_before(&account.id, before, 1).await?;
    let found = found.into_iter().find(|one| one.receipt.sequence == sequence);
    let Some(found) = found else {
        return not_found(&app, Some(&account), &headers).await;
    };
    let proof = app.store.receipt_proof(found.receipt.id).await?;
    let shown = ReceiptPage::of(&app, &account, (&found, proof));
    own_page(&app, &account.id, &headers, &shown).await
}

fn rows(orders: &[Order]) -> Vec<OrderRow> {
    let row = |order: &Order| OrderRow {
        address: format!("/orders/{}", order.purchase.order),
        short: short_name(&order.purchase.model),
        model: order.purchase.model.clone(),
        when: moment(order.paid),
        badge: state_badge(order.state),
        amount: aleph(order.purchase.price),
    };
    orders.iter().take(PAGE as usize).map(row).collect()
}

fn row(receipt: &Receipt) -> ReceiptRow {
    ReceiptRow {
        sequence: receipt.sequence,
        number: grouped(receipt.sequence),
        kind: kind(receipt),
        when: moment(receipt.time),
        amount: amount(receipt),
    }
}

/// What it is for, in the word that is signed.
fn kind(receipt: &Receipt) -> String {
    let word = serde_json::to_value(receipt)
        .ok()
        .and_then(|value| value.get("kind").and_then(Value::as_str).map(str::to_owned));
    crate::routes::registry::capital(&word.unwrap_or_default())
}

fn amount(receipt: &Receipt) -> String {
    match receipt.asset {
        alephlab_api::money::Asset::Aleph => exact(receipt.amount),
        asset @ alephlab_api::money::Asset::Credit => receipt.amount.of(asset),
    }
}

impl ReceiptPage {
    fn of(app: &App, account: &Account, (signed, proof): (&SignedReceipt, Option<ReceiptProof>)) -> Self {
        let receipt = &signed.receipt;
        let rate = app.settlement.rate().ok();
        let usd = match receipt.asset {
            alephlab_api::money::Asset::Aleph => in_usd(receipt.amount, rate),
            alephlab_api::money::Asset::Credit => {
                Some(format!("{} USD", alephlab_api::offer::usd(receipt.amount)))
            }
        };
        let file = file(receipt);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            number: grouped(receipt.sequence),
            kind: kind(receipt),
            command: Command::new("alephlab receipt verify")
                .word(&file.1)
                .flag("--signer", &app.market.signer())
                .flag("--gateway", app.public_url.as_str().trim_end_matches('/'))
                .flag("--node", &app.aleph_url)
                .text(),
            file,
            proof,
            when: moment(receipt.time),
            amount: amount(receipt),
            usd,
            base: base_units(receipt.amount),
            asset: receipt.asset.label(),
            fields: fields(receipt),
            signature: signed.signature.clone(),
            signer: app.market.signer(),
            hash: crate::receipts::hash(receipt).map_or_else(|_| String::new(), hex::encode),
            previous: (receipt.sequence > 1)
                .then(|| (receipt.sequence - 1, short_hash(&receipt.previous, 12))),
        }
    }
}

/// Where a receipt is with its proof, and what it is called when it is saved.
pub(super) fn file(receipt: &Receipt) -> (String, String) {
    (
        format!("/v1/receipts/{}", receipt.id),
        format!("receipt-{}.json", receipt.id),
    )
}

/// Every field that is signed, whatever this gateway's receipts have.
fn fields(receipt: &Receipt) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(receipt) else {
        return Vec::new();
    };
    let named = |name: &str| crate::routes::registry::capital(&name.replace('_', " "));
    fields
        .iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (named(name), text)
        })
        .collect()
}
