//! `/v1/balance`, `/v1/ledger` and `/v1/credits`: what an account has, how it came to that, and what the operator gives.

use std::sync::Arc;

use alephlab_api::ledger::{Balances, Entry, LedgerAudit, NewCredit};
use alephlab_vault::Address;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use serde::Deserialize;

use super::{body, has_nul};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;

/// Entries of one answer.
pub(super) const PAGE: u32 = 200;
/// Bytes of a key and of a memo.
const MAX_TEXT: usize = 200;

/// `GET /v1/balance`.
pub(crate) async fn balance(State(app): State<Arc<App>>, account: Account) -> Result<Json<Balances>> {
    of(&app, account.id).await
}

/// Where a statement goes on.
#[derive(Debug, Deserialize)]
pub(crate) struct After {
    #[serde(default)]
    pub(super) after: u64,
}

/// `GET /v1/ledger?after=SEQ`: entries of the account, oldest first, 200 at a time.
pub(crate) async fn statement(
    State(app): State<Arc<App>>,
    account: Account,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<Entry>>> {
    Ok(Json(app.store.statement(&account.id, after, PAGE).await?))
}

/// `GET /v1/ledger/audit`, by the operator: the whole ledger added up again.
pub(crate) async fn audit(State(app): State<Arc<App>>, account: Account) -> Result<Json<LedgerAudit>> {
    operators_only(&account, "audits the ledger")?;
    let audit = app.store.audit().await?;
    Ok(Json(LedgerAudit {
        entries: audit.entries,
        purses: audit.purses,
        faults: audit.faults,
    }))
}

/// `POST /v1/credits`, by the operator. Repeated with the same key it changes nothing.
pub(crate) async fn credit(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<Balances>> {
    let new: NewCredit = body(&bytes)?;
    let bad = |message: &str| GatewayError::bad_request("credit_malformed", message);
    operators_only(&account, "gives credits")?;
    let named = new.address.trim();
    if [named, &new.key, &new.memo].into_iter().any(has_nul) {
        return Err(bad("address, key or memo has the character NUL"));
    }
    // To whoever has the address, now or later; or to an account that has none.
    let to = match named.parse::<Address>() {
        Ok(address) => address.to_string(),
        Err(_) => match app.store.account(named).await? {
            Some(found) => found.account,
            None => return Err(bad("it names no address and no account")),
        },
    };
    if new.amount.is_zero() {
        return Err(bad("the amount is nothing"));
    }
    if new.key.is_empty() || new.key.len() > MAX_TEXT || new.memo.len() > MAX_TEXT {
        return Err(bad("key is empty, or key or memo is over 200 bytes"));
    }
    app.store
        .credit((&account.id, &to), new.asset, new.amount, &new.key, &new.memo)
        .await?;
    tracing::info!(%to, amount = %new.amount, asset = new.asset.name(), "the operator gave something to spend");
    // What was given to an address is with its account.
    let owner = match app.store.account(&to).await? {
        Some(found) => found.account,
        None => to,
    };
    of(&app, owner).await
}

/// Refuses who is not the operator, or shows a token that may not do what the operator may.
pub(super) fn operators_only(account: &Account, what: &str) -> Result<()> {
    if account.operator {
        return Ok(());
    }
    let message = format!("only the gateway's operator {what}");
    Err(GatewayError::refused(
        StatusCode::FORBIDDEN,
        "not_operator",
        message,
    ))
}

async fn of(app: &App, address: String) -> Result<Json<Balances>> {
    let balances = app.store.balances(&address).await?;
    Ok(Json(Balances { address, balances }))
}
