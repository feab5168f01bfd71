//! `/v1/withdrawals`, `/v1/deposit`, `/v1/conversions` and, for the operator, `/v1/settlement`: ALEPH that comes in, goes out and
//! becomes credits.

use std::sync::Arc;

use alephlab_api::money::{Amount, Asset};
use alephlab_api::payout::{
    Conversion, Conversions, DepositPlace, Moved, NewConversion, NewWithdrawal, Settlement, Target,
    Withdrawal, Withdrawals,
};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use uuid::Uuid;

use super::ledger::operators_only;
use super::{body, has_nul};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::settlement::{WITHDRAWALS_A_DAY, least_converted};
use crate::state::App;
use crate::store::{AskedConversion, AskedWithdrawal};

/// Bytes of a key and of a memo.
const MAX_TEXT: usize = 200;

/// `GET /v1/withdrawals`.
pub(crate) async fn withdrawals(State(app): State<Arc<App>>, account: Account) -> Result<Json<Withdrawals>> {
    let withdrawals = app.store.payouts_of(&account.id).await?;
    let terms = match app.settlement.terms() {
        Ok(terms) => Some(terms),
        // Who has asked for one sees it, and can take it back, without a chain too.
        Err(_) if !withdrawals.is_empty() => None,
        Err(error) => return Err(error),
    };
    let stop = app.store.settlement_stop().await?.map(|stop| stop.code);
    Ok(Json(Withdrawals {
        minimum: terms.map_or(Amount::ZERO, |terms| terms.minimum),
        daily: terms.and_then(|terms| terms.daily),
        fee: Amount::ZERO,
        address: account.proof.address,
        chain_id: terms.map_or(0, |terms| terms.watched.chain_id),
        stopped: stop.or_else(|| terms.is_none().then(|| "settlement_off".to_owned())),
        withdrawals,
    }))
}

/// `POST /v1/withdrawals`: to the account's own address, and no other. Repeated with the same id it changes nothing.
pub(crate) async fn withdraw(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<Withdrawal>> {
    Ok(Json(withdraw_now(&app, &account, &body(&bytes)?).await?))
}

/// Asks for a withdrawal.
pub(super) async fn withdraw_now(app: &App, account: &Account, new: &NewWithdrawal) -> Result<Withdrawal> {
    let terms = app.settlement.terms()?;
    let known = app.store.known_withdrawal(&account.id, new.id).await?;
    if let Some(known) = known.filter(|known| known.amount == new.amount) {
        return Ok(known);
    }
    let address = own_address(account)?;
    let is_own = address.parse().is_ok_and(|address| terms.is_own(address));
    if is_own {
        let text = format!("{address} is one of the gateway's own, where nobody would have it");
        return Err(GatewayError::refused(
            StatusCode::CONFLICT,
            "address_refused",
            text,
        ));
    }
    if new.amount < terms.minimum {
        let text = format!("least that is paid out is {}", terms.minimum.of(Asset::Aleph));
        return Err(GatewayError::bad_request("withdrawal_too_small", text));
    }
    let asked = app
        .store
        .ask_withdrawal(AskedWithdrawal {
            id: new.id,
            account: &account.id,
            address,
            amount: new.amount,
            daily: terms.daily,
            times: WITHDRAWALS_A_DAY,
        })
        .await?;
    app.settlement.wake();
    Ok(asked)
}

/// `DELETE /v1/withdrawals/{id}`: as long as it is in no batch.
pub(crate) async fn take_back(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
) -> Result<Json<Withdrawal>> {
    Ok(Json(app.store.take_withdrawal_back(&account.id, id).await?))
}

/// `GET /v1/deposit`.
pub(crate) async fn deposit(State(app): State<Arc<App>>, account: Account) -> Result<Json<DepositPlace>> {
    let terms = app.settlement.terms()?;
    Ok(Json(DepositPlace {
        address: terms.watched.address.to_string(),
        token: terms.watched.token.to_string(),
        chain_id: terms.watched.chain_id,
        confirmations: terms.confirmations,
        from: account.proof.address,
    }))
}

/// `GET /v1/conversions`.
pub(crate) async fn conversions(State(app): State<Arc<App>>, account: Account) -> Result<Json<Conversions>> {
    Ok(Json(Conversions {
        rate: app.settlement.rate().ok(),
        network: app.settlement.sends_credits(),
        minimum: least_converted(),
        conversions: app.store.conversions(&account.id).await?,
    }))
}

/// `POST /v1/conversions`: one way. Repeated with the same id it changes nothing.
pub(crate) async fn convert(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<Conversion>> {
    Ok(Json(convert_now(&app, &account, &body(&bytes)?).await?))
}

/// Turns ALEPH into credits.
pub(super) async fn convert_now(app: &App, account: &Account, new: &NewConversion) -> Result<Conversion> {
    let known = app.store.known_conversion(&account.id, new.id).await?;
    if let Some(known) = known.filter(|known| (known.aleph, known.to) == (new.amount, new.to)) {
        return Ok(known);
    }
    let address = match new.to {
        Target::Compute => None,
        Target::Network if !app.settlement.sends_credits() => {
            let text = "this gateway sends no credits to the network";
            return Err(
                GatewayError::refused(StatusCode::CONFLICT, "settlement_off", text)
                    .with_hint("convert to compute: the credits are for kernels here"),
            );
        }
        Target::Network => Some(own_address(account)?),
    };
    let rate = app.settlement.rate()?;
    if rate.credits != new.rate {
        let text = format!(
            "{} is {} now, not {}",
            Amount::from_whole(1).of(Asset::Aleph),
            rate.credits.of(Asset::Credit),
            new.rate.of(Asset::Credit)
        );
        return Err(GatewayError::refused(StatusCode::CONFLICT, "rate_changed", text)
            .with_hint("look at the new rate, and ask again"));
    }
    let credits = rate
        .converted(new.amount, new.to)
        .filter(|credits| !credits.is_zero());
    let credits = credits.ok_or_else(|| {
        GatewayError::bad_request(
            "amount_unusable",
            "the amount becomes no credits, or more than there can be",
        )
    })?;
    if new.amount < least_converted() {
        let text = format!(
            "least that is converted is {}",
            least_converted().of(Asset::Aleph)
        );
        return Err(GatewayError::bad_request("conversion_too_small", text));
    }
    let asked = app
        .store
        .convert(AskedConversion {
            id: new.id,
            account: &account.id,
            aleph: new.amount,
            credits,
            rate,
            address,
        })
        .await?;
    if asked.ended.is_none() {
        app.settlement.wake_credits();
    }
    Ok(asked)
}

/// `GET /v1/settlement`, by the operator.
pub(crate) async fn settlement(State(app): State<Arc<App>>, account: Account) -> Result<Json<Settlement>> {
    operators_only(&account, "sees how settlement stands")?;
    shown(&app).await
}

/// `POST /v1/settlement/moves`, by the operator: tokens that the contract's owner put in or took out.
pub(crate) async fn moved(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<Settlement>> {
    operators_only(&account, "records what was put in or taken out")?;
    app.settlement.terms()?;
    let moved: Moved = body(&bytes)?;
    let is_text = |text: &str| text.len() <= MAX_TEXT && !has_nul(text);
    if moved.amount.is_zero() || moved.key.is_empty() || !is_text(&moved.key) || !is_text(&moved.memo) {
        let text =
            "the amount is nothing, the key empty, or key or memo over 200 bytes or with the character NUL";
        return Err(GatewayError::bad_request("move_malformed", text));
    }
    let words = (moved.key.as_str(), moved.memo.as_str());
    let recorded = app
        .store
        .move_custody(&account.id, moved.way, moved.amount, words)
        .await;
    // Refused or not: what is there now is what counts for the next one.
    app.settlement.compare();
    recorded?;
    shown(&app).await
}

/// `POST /v1/settlement/resume`, by the operator, who has looked why withdrawals were stopped.
pub(crate) async fn resume(State(app): State<Arc<App>>, account: Account) -> Result<Json<Settlement>> {
    operators_only(&account, "has withdrawals go on")?;
    let terms = app.settlement.terms()?;
    if let Some(standing) = app.store.settlement(&terms.watched).await?
        && standing.stop.is_some()
    {
        let cursor = app.settlement.cursor_to_resume(&standing).await?;
        let at = cursor.map(|cursor| (&terms.watched, standing.cursor, cursor));
        app.store.resume_settlement(&account.id, at).await?;
        // What is still missing stops them again.
        app.settlement.compare();
    }
    shown(&app).await
}

async fn shown(app: &App) -> Result<Json<Settlement>> {
    let terms = app.settlement.terms()?;
    let standing = app.store.settlement(&terms.watched).await?;
    let (asked, asked_total) = app.store.payouts_asked().await?;
    let (unknown, unknown_total) = app.store.unknown_deposits().await?;
    let open = app.store.open_batch().await?;
    Ok(Json(Settlement {
        chain_id: terms.watched.chain_id,
        token: terms.watched.token.to_string(),
        contract: terms.watched.contract.to_string(),
        deposit: terms.watched.address.to_string(),
        payout_key: terms.payout_address.clone(),
        read_to: standing.as_ref().map(|standing| standing.cursor.number),
        trouble: app.settlement.trouble(),
        stopped: standing.as_ref().and_then(|standing| standing.stop.clone()),
        compared: standing.and_then(|standing| standing.compared),
        batch: open.map(|open| open.shown()),
        asked,
        asked_total,
        unknown,
        unknown_total,
    }))
}

/// Where the account's own things go.
fn own_address(account: &Account) -> Result<&str> {
    account.proof.address.as_deref().ok_or_else(|| {
        let text = "this account has proven no address to which anything could be sent";
        GatewayError::refused(StatusCode::CONFLICT, "address_missing", text)
            .with_hint("link one first: alephlab account link, or the page Settings")
    })
}
