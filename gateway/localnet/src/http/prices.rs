//! `/api/v0/price/…`: what a STORE costs, before and after it is posted.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{
    Shared,
    failure::{Answer, Failure},
};
use crate::{
    content::{Body, Content, Payment},
    db,
    envelope::parse_hash,
    ledger,
};

/// `GET /api/v0/price/{hash}` of a STORE message.
pub(crate) async fn of_message(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    check_hash(&hash)?;
    let found: Option<(String, String, Option<String>, Option<String>)> =
        sqlx::query_as("SELECT status, type, owner, payment FROM messages WHERE item_hash = ?")
            .bind(&hash)
            .fetch_optional(&node.db)
            .await?;
    let Some((status, kind, owner, payment)) = found else {
        return Err(Failure::not_found(format!("Message not found with hash: {hash}")));
    };
    if status == "rejected" {
        return Err(Failure::not_found(format!("This message was rejected: {hash}")));
    }
    if kind != "STORE" {
        let text = format!("Message is not an executable or store message: {hash}");
        return Err(Failure::text(StatusCode::BAD_REQUEST, text));
    }
    // The pin outlives a FORGET, so a forgotten STORE can still be priced, as on the real node.
    let size: i64 = sqlx::query_scalar("SELECT size FROM pins WHERE item_hash = ?")
        .bind(&hash)
        .fetch_one(&node.db)
        .await?;
    let payment = if payment.as_deref() == Some("credit") {
        Payment::Credit
    } else {
        Payment::Hold
    };
    let price = ledger::price(ledger::mebibytes(db::unsigned(size)));
    Ok(Json(show(price, payment, owner.as_deref().unwrap_or_default())))
}

/// `POST /api/v0/price/estimate` `{"message": envelope}`; the signature does not matter.
pub(crate) async fn estimate(State(node): Shared, Json(request): Json<Value>) -> Answer<Json<Value>> {
    let message = request
        .get("message")
        .ok_or_else(|| Failure::invalid("message", "Field required"))?;
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "STORE" {
        return Err(Failure::invalid(
            "type",
            "this local node prices STORE messages only",
        ));
    }
    let content = match message.get("item_content").and_then(Value::as_str) {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => message.get("content").cloned().unwrap_or_default(),
    };
    let content = Content::parse(aleph_types::message::MessageType::Store, &content)
        .map_err(|rejection| Failure::Json(StatusCode::UNPROCESSABLE_ENTITY, rejection.details()))?;
    let Body::Store(store) = &content.body else {
        return Err(Failure::invalid(
            "type",
            "this local node prices STORE messages only",
        ));
    };
    let stored: Option<i64> = sqlx::query_scalar("SELECT size FROM files WHERE hash = ?")
        .bind(&store.file_hash)
        .fetch_optional(&node.db)
        .await?;
    let size_mib = match (store.estimated_size_mib, stored) {
        (Some(estimated), _) if estimated >= 0.0 => estimated,
        (_, Some(stored)) => ledger::mebibytes(db::unsigned(stored)),
        _ => {
            return Err(Failure::not_found(
                "the size of the file is not known: store it, or send estimated_size_mib",
            ));
        }
    };
    Ok(Json(show(
        ledger::price(size_mib),
        store.payment,
        &content.address,
    )))
}

/// `GET /api/v0/messages/{hash}/consumed_credits`.
pub(crate) async fn consumed(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    check_hash(&hash)?;
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let consumed: Option<f64> = sqlx::query_scalar("SELECT consumed FROM pins WHERE item_hash = ?")
        .bind(&hash)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "consumption is zero or more, in whole credits"
    )]
    let consumed = consumed.unwrap_or(0.0).floor() as u64;
    Ok(Json(json!({ "item_hash": hash, "consumed_credits": consumed })))
}

fn check_hash(hash: &str) -> Answer<()> {
    match parse_hash(hash) {
        Some(_) => Ok(()),
        None => Err(Failure::text(
            StatusCode::BAD_REQUEST,
            format!("Invalid message hash: {hash}"),
        )),
    }
}

fn show(price: ledger::Price, payment: Payment, owner: &str) -> Value {
    let required = match payment {
        Payment::Hold => price.tokens,
        Payment::Credit => price.credits_per_second,
    };
    json!({
        "required_tokens": required,
        "payment_type": payment.name(),
        "cost": decimal(required),
        "detail": [{
            "type": "STORAGE",
            "name": "STORAGE",
            "cost_hold": decimal(price.tokens),
            "cost_stream": "0",
            "cost_credit": decimal(price.credits_per_second),
            "size_mib": price.size_mib,
        }],
        "charged_address": owner,
    })
}

/// Eighteen decimals, as many as a token has.
fn decimal(amount: f64) -> String {
    format!("{amount:.18}")
}
