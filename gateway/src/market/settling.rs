//! What becomes of orders: released when the seller's key is seen on Aleph, then the seller's; given back when none came in time.
//! Each step can be done again, so a gateway that was killed goes on where the database says.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use alephlab_api::market::{Order, OrderState, Released, release_spare};
use alephlab_api::time::unix_now;
use alephlab_vault::{Release, releases_of};
use axum::http::StatusCode;
use uuid::Uuid;

use super::shown;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{StoredOrder, order_unknown};

/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(30);
/// The shortest.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
/// The longest time between two looks for one order.
const SELDOM: Duration = Duration::from_secs(1_800);
/// Messages of one release, at most: one for each key of the buyer.
const MESSAGES_MAX: usize = 64;

/// Carries orders on for as long as the gateway runs. What needs Aleph does not keep what needs only the database waiting.
pub(crate) async fn settle(app: &App) {
    let pause = (app.market.config.settle / 10).clamp(LOOK_OFTEN, LOOK);
    let failed = |error: &GatewayError| {
        tracing::warn!(%error, code = error.code(), "orders could not be settled");
    };
    let due = async {
        loop {
            let _ = round(app).await.inspect_err(failed);
            tokio::time::sleep(pause).await;
        }
    };
    let claimed = async {
        let mut looks = Looks::new();
        loop {
            let _ = look(app, &mut looks, pause).await.inspect_err(failed);
            tokio::time::sleep(pause).await;
        }
    };
    tokio::join!(due, claimed);
}

async fn round(app: &App) -> Result<()> {
    for order in app.store.orders_to_settle(unix_now()).await? {
        said(&order, go_on(app, &order).await);
    }
    Ok(())
}

/// One that cannot be settled now must not keep others waiting.
fn said(order: &StoredOrder, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(order = %order.id(), %error, code = error.code(), "an order could not be settled");
    }
}

/// What is due, and needs no look at Aleph.
async fn go_on(app: &App, order: &StoredOrder) -> Result<()> {
    let (id, now) = (order.id(), unix_now());
    match order.state {
        OrderState::Paid => give_back(app, order).await,
        OrderState::Released => app.store.finish_order(id, now).await.map(drop),
        OrderState::Final | OrderState::Refunded => Ok(()),
    }
}

async fn give_back(app: &App, order: &StoredOrder) -> Result<()> {
    let id = order.id();
    app.store.refund_order(None, id, unix_now()).await?;
    tracing::info!(order = %id, "no key came: what was paid went back");
    Ok(())
}

/// When claimed orders are looked for next, and how long after the time before.
type Looks = HashMap<Uuid, (Instant, Duration)>;

/// Looks for the messages of claimed orders: the seller's machine may have gone between its message and its word. More and more
/// seldom, and always where one is due.
async fn look(app: &App, looks: &mut Looks, pause: Duration) -> Result<()> {
    let orders = app.store.orders_to_look_for().await?;
    let waiting: HashSet<Uuid> = orders.iter().map(StoredOrder::id).collect();
    looks.retain(|id, _| waiting.contains(id));
    for order in orders {
        let (next, wait) = looks.get(&order.id()).copied().unwrap_or((Instant::now(), pause));
        if next > Instant::now() {
            continue;
        }
        let left = Duration::from_secs(order.settles.saturating_sub(unix_now()));
        let least = if left.is_zero() { SELDOM } else { left.max(pause) };
        let wait = (wait * 2).min(SELDOM).min(least);
        looks.insert(order.id(), (Instant::now() + wait, wait));
        said(&order, look_for(app, &order).await);
    }
    Ok(())
}

async fn look_for(app: &App, order: &StoredOrder) -> Result<()> {
    let proof = found(app, order).await?;
    if !proof.is_empty() {
        app.store.release_order(order.id(), &proof, unix_now()).await?;
        return Ok(());
    }
    match order.settles <= unix_now() {
        true => give_back(app, order).await,
        false => Ok(()),
    }
}

/// Messages on Aleph by which the key of an order went out.
async fn found(app: &App, order: &StoredOrder) -> Result<Vec<String>> {
    let seller = seller_of(order);
    let releases = releases_of(&*app.storage, seller, &order.id().to_string()).await?;
    let all = releases
        .into_iter()
        .filter(|(_, release)| answers(release, order));
    Ok(all.map(|(message, _)| message).collect())
}

/// Address of the seller.
fn seller_of(order: &StoredOrder) -> &str {
    let model = &order.signed.purchase.model;
    model.split('/').next().unwrap_or_default()
}

/// Whether it is the key of what was bought, for who bought it. What is sealed in it only the buyer sees.
fn answers(release: &Release, order: &StoredOrder) -> bool {
    let purchase = &order.signed.purchase;
    release.order == purchase.order.to_string()
        && release.recipient.to_string() == purchase.buyer
        && release.revision() == purchase.revision
}

/// The seller's machine says that it is about to release an order.
pub(crate) async fn claim(app: &App, account: &Account, id: Uuid) -> Result<Order> {
    let known = app.store.order(id).await?.ok_or_else(order_unknown)?;
    // Late enough for the message to be seen before the order is settled.
    let spare = release_spare(known.settles.saturating_sub(known.created));
    let until = known.settles.saturating_sub(spare);
    let order = app.store.claim_order(&account.id, id, unix_now(), until).await?;
    shown(app, order).await
}

/// The seller's machine says where the key went out; that is looked at.
pub(crate) async fn released(app: &App, account: &Account, id: Uuid, said: &Released) -> Result<Order> {
    let order = app.store.order(id).await?.ok_or_else(order_unknown)?;
    if order.seller != account.id {
        return Err(order_unknown());
    }
    let refused =
        |text: String| GatewayError::refused(StatusCode::UNPROCESSABLE_ENTITY, "release_refused", text);
    if said.messages.is_empty() || said.messages.len() > MESSAGES_MAX {
        return Err(refused(
            "a release is one message for each key of the buyer".to_owned(),
        ));
    }
    for message in &said.messages {
        let post = app.storage.post(message).await?.ok_or_else(|| {
            let text = format!("the Aleph node does not have the message {message}");
            GatewayError::not_found("release_missing", text).with_hint("try again in a moment")
        })?;
        let is_sellers = post.sender.eq_ignore_ascii_case(seller_of(&order));
        let release = Release::from_post(&post).filter(|release| is_sellers && answers(release, &order));
        if release.is_none() {
            return Err(refused(format!(
                "the message {message} does not release this order"
            )));
        }
    }
    let order = app.store.release_order(id, &said.messages, unix_now()).await?;
    tracing::info!(order = %id, "the key of an order went out");
    shown(app, order).await
}
