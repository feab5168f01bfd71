//! `/v1/offers`, `/v1/quotes` and `/v1/allocations`: what can be rented, at which firm price, and what is.

use std::sync::Arc;

use alephlab_api::offer::{Allocations, NewQuote, Offers, Quote};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;

use super::body;
use crate::auth::Account;
use crate::error::Result;
use crate::state::App;

/// Allocations that one answer holds.
const MAX_ALLOCATIONS: u32 = 200;

/// `GET /v1/offers`.
pub(crate) async fn offers(State(app): State<Arc<App>>, _: Account) -> Json<Offers> {
    Json(app.kernels.allocations.offers().await)
}

/// `POST /v1/quotes`: a firm price for two minutes; a kernel is started by it with `KERNEL_QUOTE`.
pub(crate) async fn quote(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Quote>)> {
    let new: NewQuote = body(&bytes)?;
    let quote = app.kernels.quote(&account.id, &new).await?;
    Ok((StatusCode::CREATED, Json(quote)))
}

/// `GET /v1/allocations`: the account's, newest first.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Allocations>> {
    let allocations = app.kernels.allocations_of(&account.id, MAX_ALLOCATIONS).await?;
    Ok(Json(Allocations { allocations }))
}
