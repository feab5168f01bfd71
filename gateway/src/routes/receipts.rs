//! `/v1/receipts`: what an account paid, and what shows anybody that it stands under a root on Aleph.
//!
//! Proofs and roots are for all: a receipt's id is no secret of the gateway's but one of who has the receipt, and a proof says
//! nothing of it or of others but hashes.

use std::sync::Arc;

use alephlab_api::receipt::{Consistency, ReceiptFile, ReceiptLog, ReceiptProof, Receipts};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use uuid::Uuid;

use super::ledger::{After, PAGE};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;

/// `GET /v1/receipts?after=SEQUENCE`: receipts of the account, in order, 200 at a time.
pub(crate) async fn all(
    State(app): State<Arc<App>>,
    account: Account,
    Query(After { after }): Query<After>,
) -> Result<Json<Receipts>> {
    let receipts = app.store.receipts(&account.id, after, PAGE).await?;
    Ok(Json(Receipts {
        signer: app.receipts.address(),
        receipts,
    }))
}

/// `GET /v1/receipts/{id}`: a receipt with its proof, for who paid and who was paid, to hand to anybody.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<Uuid>,
) -> Result<Json<ReceiptFile>> {
    let found = app.store.receipt(id).await?;
    let found = found.filter(|found| {
        [&found.receipt.payer, &found.receipt.payee].contains(&&account.id) || account.operator
    });
    let receipt = found.ok_or_else(unknown)?;
    Ok(Json(ReceiptFile {
        signer: app.receipts.address(),
        receipt,
        proof: app.store.receipt_proof(id).await?,
    }))
}

/// `GET /v1/receipts/{id}/proof`, without an account.
pub(crate) async fn proof(State(app): State<Arc<App>>, Path(id): Path<Uuid>) -> Result<Json<ReceiptProof>> {
    if let Some(proof) = app.store.receipt_proof(id).await? {
        return Ok(Json(proof));
    }
    match app.store.receipt(id).await? {
        None => Err(unknown()),
        Some(_) => {
            let text = "this receipt is younger than the newest root that stands on Aleph";
            Err(GatewayError::not_found("receipt_not_posted", text)
                .with_hint("ask again when the gateway has posted the next one"))
        }
    }
}

/// `GET /v1/receipts/head`, without an account: who signs, and the newest root that stands on Aleph.
pub(crate) async fn head(State(app): State<Arc<App>>) -> Result<Json<ReceiptLog>> {
    let head = app.store.posted_receipt_head().await?;
    Ok(Json(ReceiptLog {
        signer: app.receipts.address(),
        posted: head.map(|head| head.posted()).transpose()?,
        fault: app.receipts.fault.get().cloned(),
    }))
}

/// From how many receipts to how many.
#[derive(Debug, Deserialize)]
pub(crate) struct Sizes {
    from: u64,
    to: u64,
}

/// `GET /v1/receipts/consistency?from=SIZE&to=SIZE`, without an account.
pub(crate) async fn consistency(
    State(app): State<Arc<App>>,
    Query(Sizes { from, to }): Query<Sizes>,
) -> Result<Json<Consistency>> {
    let proof = app.store.receipt_consistency(from, to).await?;
    let none = || {
        let text = format!("{from} to {to} are no sizes up to that of the newest root of receipts");
        GatewayError::not_found("receipts_not_posted", text)
    };
    Ok(Json(proof.ok_or_else(none)?))
}

fn unknown() -> GatewayError {
    GatewayError::not_found(
        "receipt_unknown",
        "there is no such receipt, or it is of other accounts",
    )
}
