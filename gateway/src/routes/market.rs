//! `/v1/market`, `/v1/deposits`, `/v1/orders`, `/v1/sales` and `/v1/earnings`: what is for sale, who bought it, and what it brought.

use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::market::{
    AskedPurchase, Bought, Earnings, MarketInfo, NewDeposit, NewOrder, Order, Released, Sale, SaleQuote,
};
use alephlab_api::time::unix_now;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::{body, has_nul};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::market;
use crate::state::App;
use crate::store::order_unknown;

/// Which revision.
#[derive(Debug, Deserialize)]
pub(crate) struct Of {
    revision: Option<String>,
}

/// Which sales.
#[derive(Debug, Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    waiting: bool,
}

/// `GET /v1/market/{owner}/{name}?revision=`, open to all.
pub(crate) async fn quote(
    State(app): State<Arc<App>>,
    Path((owner, name)): Path<(String, String)>,
    Query(of): Query<Of>,
) -> Result<Json<SaleQuote>> {
    let revision = of.revision.as_deref();
    if [owner.as_str(), &name, revision.unwrap_or_default()]
        .into_iter()
        .any(has_nul)
    {
        return Err(GatewayError::not_found(
            "model_unknown",
            "this gateway knows no such model",
        ));
    }
    Ok(Json(
        market::quote(&app, &format!("{owner}/{name}"), revision).await?,
    ))
}

/// `GET /v1/market`, open to all.
pub(crate) async fn info(State(app): State<Arc<App>>) -> Json<MarketInfo> {
    Json(market::info(&app))
}

/// `PUT /v1/deposits`, by the owner of the model.
pub(crate) async fn deposit(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<StatusCode> {
    let new: NewDeposit = body(&bytes)?;
    market::deposit(&app, &account, new).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/deposits/{owner}/{name}`, by the owner of the model.
pub(crate) async fn forget(
    State(app): State<Arc<App>>,
    account: Account,
    Path((owner, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    market::forget(&app, &account, &format!("{owner}/{name}")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/orders`.
pub(crate) async fn buy(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let new: NewOrder = body(&bytes)?;
    let bought: Bought = market::buy(&app, &account, &new).await?;
    // It may hold a token.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(bought)).into_response())
}

/// `GET /v1/orders`: the account's, newest first.
pub(crate) async fn orders(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<Order>>> {
    Ok(Json(app.store.orders_of(&account.id).await?))
}

/// `GET /v1/orders/{id}`, for its buyer and its seller.
pub(crate) async fn order(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
) -> Result<Json<Order>> {
    let order = app.store.order(id).await?;
    let order = order.filter(|order| [&order.buyer, &order.seller].contains(&&account.id));
    Ok(Json(market::shown(&app, order.ok_or_else(order_unknown)?).await?))
}

/// `GET /v1/purchases`: what somebody in a browser wants to buy, for a machine with the account's wallet.
pub(crate) async fn purchases(State(app): State<Arc<App>>, account: Account) -> Json<Vec<AskedPurchase>> {
    Json(app.market.wanted.waiting(&account.id))
}

/// `POST /v1/purchases/{id}/refuse`, by that machine. What remains is the answer.
pub(crate) async fn refuse_purchase(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
    bytes: Bytes,
) -> Result<Json<Vec<AskedPurchase>>> {
    let why: Problem = body(&bytes)?;
    app.market.wanted.refuse(&account.id, id, why);
    Ok(Json(app.market.wanted.waiting(&account.id)))
}

/// `POST /v1/orders/{id}/refund`, by its buyer, while no key came.
pub(crate) async fn refund(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
) -> Result<Json<Order>> {
    let order = app.store.refund_order(Some(&account.id), id, unix_now()).await?;
    tracing::info!(order = %id, "an order was refunded");
    Ok(Json(market::shown(&app, order).await?))
}

/// `GET /v1/sales?waiting=`: what the account has sold.
pub(crate) async fn sales(
    State(app): State<Arc<App>>,
    account: Account,
    Query(which): Query<Which>,
) -> Result<Json<Vec<Sale>>> {
    Ok(Json(app.store.sales_of(&account.id, which.waiting).await?))
}

/// `POST /v1/sales/{id}/claim`, by the seller's machine.
pub(crate) async fn claim(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
) -> Result<Json<Order>> {
    Ok(Json(market::claim(&app, &account, id).await?))
}

/// `POST /v1/sales/{id}/release`, by the seller's machine.
pub(crate) async fn release(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
    bytes: Bytes,
) -> Result<Json<Order>> {
    let said: Released = body(&bytes)?;
    Ok(Json(market::released(&app, &account, id, &said).await?))
}

/// `GET /v1/earnings`.
pub(crate) async fn earnings(State(app): State<Arc<App>>, account: Account) -> Result<Json<Earnings>> {
    Ok(Json(app.store.earnings(&account.id).await?))
}
