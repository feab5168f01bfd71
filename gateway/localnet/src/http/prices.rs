//! `/api/v0/price/…`: what a STORE or a machine costs, before and after it is posted.

use aleph_types::message::MessageType;
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
    content::{Body, Content, Payment, StoreBody},
    db,
    envelope::parse_hash,
    ledger,
    node::Node,
    rules,
};

/// `GET /api/v0/price/{hash}` of a STORE or a machine.
pub(crate) async fn of_message(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    check_hash(&hash)?;
    let found: Option<Priced> =
        sqlx::query_as("SELECT status, type, owner, payment, content FROM messages WHERE item_hash = ?")
            .bind(&hash)
            .fetch_optional(&node.db)
            .await?;
    let Some(found) = found else {
        return Err(Failure::not_found(format!("Message not found with hash: {hash}")));
    };
    if found.status == "rejected" {
        return Err(Failure::not_found(format!("This message was rejected: {hash}")));
    }
    let owner = found.owner.as_deref().unwrap_or_default();
    match (message_type(&found.kind), &found.content) {
        (Some(MessageType::Store), _) => {
            // The pin outlives a FORGET, so a forgotten STORE can still be priced, as on the real node.
            let size: i64 = sqlx::query_scalar("SELECT size FROM pins WHERE item_hash = ?")
                .bind(&hash)
                .fetch_one(&node.db)
                .await?;
            let payment = if found.payment.as_deref() == Some(Payment::Credit.name()) {
                Payment::Credit
            } else {
                Payment::Hold
            };
            let price = ledger::price(ledger::mebibytes(db::unsigned(size)));
            Ok(Json(show_store(price, payment, owner)))
        }
        (Some(kind @ (MessageType::Instance | MessageType::VProgram)), Some(content)) => {
            let content = parse(kind, &serde_json::from_str(content).unwrap_or_default())?;
            estimate_of(&node, &content).await.map(Json)
        }
        (Some(MessageType::Instance | MessageType::VProgram), None) => {
            let text = format!("This message was forgotten: {hash}");
            Err(Failure::text(StatusCode::GONE, text))
        }
        _ => {
            let text = format!("Message is not an executable or store message: {hash}");
            Err(Failure::text(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// What a price needs of a message.
#[derive(Debug, sqlx::FromRow)]
struct Priced {
    status: String,
    #[sqlx(rename = "type")]
    kind: String,
    owner: Option<String>,
    payment: Option<String>,
    content: Option<String>,
}

/// `POST /api/v0/price/estimate` `{"message": envelope}`; the signature does not matter.
pub(crate) async fn estimate(State(node): Shared, Json(request): Json<Value>) -> Answer<Json<Value>> {
    let message = request
        .get("message")
        .ok_or_else(|| Failure::invalid("message", "Field required"))?;
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    let kind = message_type(kind).ok_or_else(not_priced)?;
    let content = match message.get("item_content").and_then(Value::as_str) {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => message.get("content").cloned().unwrap_or_default(),
    };
    estimate_of(&node, &parse(kind, &content)?).await.map(Json)
}

fn parse(kind: MessageType, content: &Value) -> Answer<Content> {
    Content::parse(kind, content)
        .map_err(|rejection| Failure::Json(StatusCode::UNPROCESSABLE_ENTITY, rejection.details()))
}

fn message_type(name: &str) -> Option<MessageType> {
    serde_json::from_value(Value::from(name)).ok()
}

fn not_priced() -> Failure {
    Failure::invalid(
        "type",
        "this local node prices STORE, INSTANCE and V-PROGRAM messages only",
    )
}

async fn estimate_of(node: &Node, content: &Content) -> Answer<Value> {
    match &content.body {
        Body::Store(store) => {
            let size_mib = size_of(node, store).await?;
            Ok(show_store(
                ledger::price(size_mib),
                store.payment,
                &content.address,
            ))
        }
        Body::Machine(machine) => {
            let price = rules::machine::price(node, &mut *node.db.acquire().await?, machine).await?;
            Ok(show_machine(&price, &content.address))
        }
        _ => Err(not_priced()),
    }
}

/// Size in MiB that a STORE is priced for.
async fn size_of(node: &Node, store: &StoreBody) -> Answer<f64> {
    let stored: Option<i64> = sqlx::query_scalar("SELECT size FROM files WHERE hash = ?")
        .bind(&store.file_hash)
        .fetch_optional(&node.db)
        .await?;
    match (store.estimated_size_mib, stored) {
        (Some(estimated), _) if estimated >= 0.0 => Ok(estimated),
        (_, Some(stored)) => Ok(ledger::mebibytes(db::unsigned(stored))),
        _ => Err(Failure::not_found(
            "the size of the file is not known: store it, or send estimated_size_mib",
        )),
    }
}

/// `GET /api/v0/messages/{hash}/consumed_credits`.
pub(crate) async fn consumed(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    check_hash(&hash)?;
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let consumed: Option<f64> = sqlx::query_scalar("SELECT consumed FROM charges WHERE item_hash = ?")
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

fn show_store(price: ledger::Price, payment: Payment, owner: &str) -> Value {
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

/// Machines are paid with credits only, so the other prices are zero.
fn show_machine(price: &ledger::MachinePrice, owner: &str) -> Value {
    let line = |kind: &str, name: &str, credits: f64, size_mib: Option<u64>| {
        json!({
            "type": kind,
            "name": name,
            "cost_hold": "0",
            "cost_stream": "0",
            "cost_credit": decimal(credits),
            "size_mib": size_mib,
        })
    };
    json!({
        "required_tokens": price.credits_per_second(),
        "payment_type": Payment::Credit.name(),
        "cost": decimal(price.credits_per_second()),
        "detail": [
            line("EXECUTION", "EXECUTION", price.compute, None),
            line("EXECUTION_INSTANCE_VOLUME_ROOTFS", "VOLUMES", price.disk, Some(price.disk_mib)),
            line("EXECUTION_VOLUME_DISCOUNT", "EXECUTION_VOLUME_DISCOUNT", -price.included, None),
        ],
        "charged_address": owner,
    })
}

/// Eighteen decimals, as many as a token has.
fn decimal(amount: f64) -> String {
    format!("{amount:.18}")
}
