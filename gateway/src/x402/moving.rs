//! Carries payments on: sent until the chain has them, sold when their deposit is booked. Each step asks chain and database anew, so a
//! gateway that was killed goes on where they say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alephlab_settlement::{B256, Moved, Relay};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Kept, Stored};
use crate::error::GatewayError;
use crate::market::complete;
use crate::state::App;
use crate::store::PaymentState;

/// Between two looks while a payment is open.
const OFTEN: Duration = Duration::from_secs(1);
/// Between two looks at whether payments can be taken.
const SELDOM: Duration = Duration::from_secs(60);
/// After so long a payment that is not mined is sent again, with higher fees.
const PATIENCE: Duration = Duration::from_secs(45);

/// When each was sent last, and how often.
type Sent = HashMap<Uuid, (Instant, u32)>;

/// Never ends.
pub(crate) async fn run(app: &App) {
    let Ok(terms) = app.settlement.terms() else {
        return std::future::pending().await;
    };
    let mut sent = Sent::new();
    let mut looked: Option<Instant> = None;
    loop {
        if looked.is_none_or(|last| last.elapsed() >= SELDOM) {
            looked = Some(Instant::now());
            look_whether(app, terms).await;
        }
        let open = match round(app, &mut sent).await {
            Ok(open) => open,
            Err(error) => {
                tracing::warn!(%error, code = error.code(), "payments could not be looked at");
                true
            }
        };
        let pause = if open { OFTEN } else { SELDOM };
        let _ = tokio::time::timeout(pause, app.x402.wake.notified()).await;
    }
}

/// Whether the token takes authorizations, and the key can pay gas. Where something is open its relay stays.
async fn look_whether(app: &App, terms: &crate::settlement::Terms) {
    let relay = match app.x402.relay() {
        Some(relay) => Some(relay),
        None => match terms.connect().await {
            Ok(node) => Relay::connect(node, terms.watched.token, app.x402.key.expose())
                .await
                .ok()
                .flatten()
                .map(Arc::new),
            Err(_) => None,
        },
    };
    let Some(relay) = relay else {
        return app.x402.set_relay(None);
    };
    let is_new = app.x402.relay().is_none();
    match relay.has_gas().await {
        Ok(true) => {
            if is_new {
                tracing::info!(sender = %relay.sender(), "payments by x402 are taken");
            }
            app.x402.set_relay(Some(relay));
        }
        Ok(false) => {
            tracing::warn!(sender = ?app.x402.sender(), "payments by x402 are not taken: the key that sends them has no gas");
            app.x402.set_relay(None);
        }
        Err(_) => {}
    }
}

/// One look at each that is open; whether there is one.
async fn round(app: &App, sent: &mut Sent) -> Result<bool, GatewayError> {
    let all = app.store.open_payments::<Kept>().await?;
    sent.retain(|id, _| all.iter().any(|one| one.id == *id));
    // A relay without gas still looks.
    let relay = match app.x402.relay() {
        Some(relay) => Some(relay),
        None if all.is_empty() => None,
        None => connect(app).await,
    };
    let Some(relay) = relay else {
        return Ok(!all.is_empty());
    };
    for one in &all {
        if let Err(error) = step(app, &relay, one, sent).await {
            tracing::warn!(order = %one.id, %error, code = error.code(), "a payment waits");
        }
    }
    Ok(!all.is_empty())
}

async fn connect(app: &App) -> Option<Arc<Relay>> {
    let terms = app.settlement.terms().ok()?;
    let node = terms.connect().await.ok()?;
    let relay = Relay::connect(node, terms.watched.token, app.x402.key.expose()).await;
    relay.ok().flatten().map(Arc::new)
}

async fn step(app: &App, relay: &Relay, one: &Stored, sent: &mut Sent) -> Result<(), GatewayError> {
    let (Some(authorization), Some(signature)) =
        (one.payment.exact.authorization(), one.payment.exact.signature())
    else {
        return end(
            app,
            one,
            PaymentState::Failed("what was signed cannot be read".to_owned()),
        )
        .await;
    };
    let waits = |error: alephlab_settlement::SettlementError| {
        tracing::warn!(order = %one.id, %error, code = error.code(), "a payment waits for the chain");
    };
    match relay.look(&authorization, one.block).await {
        Ok(Moved::Final { transaction, block }) => settle(app, one, (transaction, block)).await,
        Ok(Moved::Over) => {
            let reason = "the chain did not take it in its time: nothing was paid";
            end(app, one, PaymentState::Failed(reason.to_owned())).await
        }
        Ok(Moved::Used) => Ok(()),
        Ok(Moved::Open) => {
            let times = match sent.get(&one.id) {
                Some((when, _)) if when.elapsed() < PATIENCE => return Ok(()),
                Some((_, times)) => times + 1,
                None => 0,
            };
            // The payer may have moved the tokens meanwhile: what would be refused costs gas for nothing.
            if let Err(error) = relay.check(&authorization, &signature).await {
                waits(error);
                return Ok(());
            }
            let most = app.settlement.terms()?.fee_max();
            match relay.send(&authorization, &signature, (times, most)).await {
                Ok(transaction) => {
                    tracing::info!(order = %one.id, %transaction, "a payment was sent");
                    sent.insert(one.id, (Instant::now(), times));
                }
                Err(error) => waits(error),
            }
            Ok(())
        }
        Err(error) => {
            waits(error);
            Ok(())
        }
    }
}

/// Sells what was paid, once its deposit is booked.
async fn settle(app: &App, one: &Stored, (transaction, block): (B256, u64)) -> Result<(), GatewayError> {
    let terms = app.settlement.terms()?;
    let kept = &one.payment;
    let price = kept.agreed.purchase.price;
    let chain = terms.watched.chain_id;
    if !app
        .store
        .is_deposited(chain, transaction, (&one.payer, price))
        .await?
    {
        let read = app.store.settlement(&terms.watched).await?;
        if read.is_some_and(|read| read.is_here && read.cursor.number >= block) {
            app.store.claim_deposits().await?;
            if !app
                .store
                .is_deposited(chain, transaction, (&one.payer, price))
                .await?
            {
                let reason = format!("transaction {transaction} moved no such deposit");
                return end(app, one, PaymentState::Failed(reason)).await;
            }
        } else {
            app.settlement.wake();
            return Ok(());
        }
    }
    let sold = match app.x402.unseal(one.id, &kept.token) {
        Some(token) => complete(app, &kept.agreed, &token).await,
        None => Err(GatewayError::refused(
            axum::http::StatusCode::CONFLICT,
            "payment_sealed",
            "its token was sealed under another key file",
        )),
    };
    match sold {
        Ok(_) => end(app, one, PaymentState::Bought(transaction.to_string())).await,
        // It is in the payer's balance.
        Err(GatewayError::Refused { problem, .. }) => {
            let reason = format!(
                "{}; what was paid is in the balance of {}",
                problem.message, one.payer
            );
            end(app, one, PaymentState::Failed(reason)).await
        }
        Err(error) => Err(error),
    }
}

async fn end(app: &App, one: &Stored, state: PaymentState) -> Result<(), GatewayError> {
    if let PaymentState::Failed(reason) = &state {
        tracing::warn!(order = %one.id, reason, "a payment failed");
    }
    app.store.end_payment(one.id, &state).await?;
    app.x402.ended.send_modify(|count| *count += 1);
    Ok(())
}
