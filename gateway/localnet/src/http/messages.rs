//! `/api/v0/messages…`: publishing a message, asking what became of one, listing many.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Shared,
    failure::{Answer, Failure},
    listing::{self, ContentFormat, Filter, MessageRow, Shown},
    params::{Frame, Params, Place},
};
use crate::{
    db,
    envelope::{Envelope, Malformed, parse_hash},
    node::{Node, Status},
};

/// `POST /api/v0/messages`.
pub(crate) async fn publish(State(node): Shared, body: Bytes) -> Answer<Response> {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return Err(Failure::text(
            StatusCode::UNPROCESSABLE_ENTITY,
            "422: Unprocessable Entity",
        ));
    };
    let sync = match request.get("sync") {
        None => false,
        Some(Value::Bool(sync)) => *sync,
        Some(_) => return Err(Failure::invalid("sync", "Input should be a valid boolean")),
    };
    let message = match request.get("message") {
        Some(message) if message.is_object() => message,
        Some(_) => return Err(Failure::invalid("message", "Input should be a valid dictionary")),
        None => return Err(missing_message(&request)),
    };
    let envelope = Envelope::parse(message).map_err(malformed)?;
    let status = node.submit(&envelope, sync).await?;
    Ok(publication(status))
}

/// The answer to a published message.
pub(crate) fn publication(status: Status) -> Response {
    let (code, name) = match status {
        Status::Processed => (StatusCode::OK, "processed"),
        Status::Pending => (StatusCode::ACCEPTED, "pending"),
        Status::Rejected => (StatusCode::UNPROCESSABLE_ENTITY, "rejected"),
    };
    let body = json!({
        "publication_status": { "status": "success", "failed": [] },
        "message_status": name,
    });
    (code, Json(body)).into_response()
}

/// The real node's one word for all that is wrong with an envelope; the reason goes to the log.
pub(crate) fn malformed(Malformed(reason): Malformed) -> Failure {
    tracing::info!(reason, "malformed message refused");
    Failure::text(StatusCode::UNPROCESSABLE_ENTITY, "InvalidMessageFormat")
}

fn missing_message(request: &Value) -> Failure {
    let error = json!([{ "type": "missing", "loc": ["message"], "msg": "Field required", "input": request }]);
    Failure::Json(StatusCode::UNPROCESSABLE_ENTITY, error)
}

/// What is known of one hash.
#[derive(Debug)]
enum Known {
    Pending(Vec<(String, f64)>),
    Decided(Box<Decided>),
}

/// A message with a verdict.
#[derive(Debug, sqlx::FromRow)]
struct Decided {
    #[sqlx(flatten)]
    row: MessageRow,
    status: String,
    received: f64,
    owner: Option<String>,
    payment: Option<String>,
    error_code: Option<i64>,
    details: Option<String>,
    forgotten_by: Option<String>,
    forgotten_at: Option<f64>,
}

/// A verdict that took effect counts before a copy that waits, and that before a rejection.
async fn known(node: &Node, hash: &str) -> Answer<Known> {
    if parse_hash(hash).is_none() {
        return Err(Failure::text(
            StatusCode::BAD_REQUEST,
            format!("Invalid message hash: {hash}"),
        ));
    }
    // First what waits: a message moves from there to its verdict, so it is always found in one of the two.
    let pending = pending(node, hash).await?;
    let decided: Option<Decided> = sqlx::query_as("SELECT * FROM messages WHERE item_hash = ?")
        .bind(hash)
        .fetch_optional(&node.db)
        .await?;
    match decided {
        Some(decided) if decided.status != "rejected" || pending.is_empty() => {
            Ok(Known::Decided(Box::new(decided)))
        }
        _ if pending.is_empty() => Err(Failure::not_found("404: Not Found")),
        _ => Ok(Known::Pending(pending)),
    }
}

async fn pending(node: &Node, hash: &str) -> Answer<Vec<(String, f64)>> {
    Ok(
        sqlx::query_as("SELECT envelope, received FROM pending WHERE item_hash = ? ORDER BY id")
            .bind(hash)
            .fetch_all(&node.db)
            .await?,
    )
}

/// What is told of one message; fields that a status does not have are absent.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    status: String,
    item_hash: String,
    reception_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Shown>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten_by: Option<Box<RawValue>>,
}

/// `GET /api/v0/messages/{hash}`.
pub(crate) async fn one(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Told>> {
    Ok(Json(match known(&node, &hash).await? {
        Known::Pending(pending) => Told {
            status: "pending".into(),
            item_hash: hash,
            reception_time: db::iso(pending.first().map_or(0.0, |(_, received)| *received)),
            messages: Some(pending.iter().filter_map(show_pending).collect()),
            message: None,
            error_code: None,
            details: None,
            forgotten_by: None,
        },
        Known::Decided(decided) => show_decided(*decided),
    }))
}

fn show_pending((envelope, received): &(String, f64)) -> Option<Shown> {
    let fields: Value = serde_json::from_str(envelope).ok()?;
    let text = |name: &str| fields[name].as_str().map(str::to_owned);
    let row = MessageRow {
        item_hash: text("item_hash")?,
        kind: text("type")?,
        chain: text("chain")?,
        sender: text("sender")?,
        signature: fields["signature"].to_string(),
        item_type: text("item_type")?,
        content: text("item_content"),
        item_content: text("item_content"),
        time: 0.0,
        channel: text("channel"),
        size: 0,
    };
    let mut shown = undecided(listing::show(row, ContentFormat::Full));
    // Unlike everywhere else, the real node shows the time of a pending message as text.
    shown.time = json!(db::iso(fields["time"].as_f64()?));
    shown.reception_time = Some(db::iso(*received));
    Some(shown)
}

/// Without what the node adds to an accepted message.
fn undecided(mut shown: Shown) -> Shown {
    (shown.confirmed, shown.confirmations, shown.size) = (None, None, None);
    shown
}

fn show_decided(decided: Decided) -> Told {
    let mut told = Told {
        status: decided.status,
        item_hash: decided.row.item_hash.clone(),
        reception_time: db::iso(decided.received),
        messages: None,
        message: None,
        error_code: decided.error_code,
        details: decided.details.as_deref().map(listing::raw),
        forgotten_by: decided.forgotten_by.as_deref().map(listing::raw),
    };
    let mut row = decided.row;
    told.message = Some(match told.status.as_str() {
        "rejected" => {
            row.content.clone_from(&row.item_content);
            undecided(listing::show(row, ContentFormat::Full))
        }
        "forgotten" => {
            let size = row.size;
            let mut shown = undecided(listing::show(row, ContentFormat::None));
            shown.item_content = None;
            (shown.size, shown.owner) = (Some(size), decided.owner);
            (shown.payment_type, shown.forgotten_at) = (decided.payment, decided.forgotten_at);
            shown
        }
        _ => listing::show(row, ContentFormat::Full),
    });
    told
}

/// `GET /api/v0/messages/{hash}/status`.
pub(crate) async fn status(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let (status, received) = match known(&node, &hash).await? {
        Known::Pending(pending) => (
            "pending".to_owned(),
            pending.first().map_or(0.0, |(_, received)| *received),
        ),
        Known::Decided(decided) => (decided.status, decided.received),
    };
    Ok(Json(
        json!({ "status": status, "item_hash": hash, "reception_time": db::iso(received) }),
    ))
}

/// `GET /api/v0/messages/{hash}/content`: the content of a POST alone.
pub(crate) async fn content(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Box<RawValue>>> {
    let refuse = |what: &str, value: &str| {
        let text = format!("Invalid message hash {what} {value} for hash {hash}");
        Err(Failure::text(StatusCode::UNPROCESSABLE_ENTITY, text))
    };
    match known(&node, &hash).await? {
        Known::Decided(decided) if decided.status == "processed" => {
            if decided.row.kind != "POST" {
                return refuse("type", &decided.row.kind);
            }
            Ok(Json(listing::nested(
                decided.row.content.as_deref().unwrap_or_default(),
            )))
        }
        Known::Decided(decided) => refuse("status", &decided.status),
        Known::Pending(_) => refuse("status", "pending"),
    }
}

/// `GET /api/v0/messages.json`.
pub(crate) async fn list(State(node): Shared, Query(params): Query<Params>) -> Answer<Json<Frame<Shown>>> {
    let filter = Filter::of(&params)?;
    let paging = params.paging()?;
    let mut connection = node.db.acquire().await?;
    let rows = filter.page(&mut connection, &paging).await?;
    let total = match paging.place {
        Place::Page(_) => filter.count(&mut connection).await?,
        Place::Cursor(_) => 0,
    };
    let key = |row: &MessageRow| (row.time, row.item_hash.clone());
    Ok(Json(paging.frame("messages", rows, total, key, |row| {
        listing::show(row, filter.format)
    })))
}

/// A hash with its status.
#[derive(Debug, sqlx::FromRow)]
struct HashRow {
    item_hash: String,
    status: String,
    received: f64,
}

/// Hashes of all messages with their status; a hash that waits again after a rejection is pending.
const ALL_HASHES: &str = "SELECT item_hash, status, received FROM (
        SELECT item_hash, status, received FROM messages
        WHERE status != 'rejected' OR item_hash NOT IN (SELECT item_hash FROM pending)
        UNION ALL
        SELECT item_hash, 'pending', MIN(received) FROM pending
        WHERE item_hash NOT IN (SELECT item_hash FROM messages WHERE status != 'rejected')
        GROUP BY item_hash)
    WHERE 1";

/// `GET /api/v0/messages/hashes`: hashes by status, by the time they were received.
pub(crate) async fn hashes(State(node): Shared, Query(params): Query<Params>) -> Answer<Json<Frame<Value>>> {
    let paging = params.paging()?;
    let status: Vec<String> = params.text("status").map(str::to_owned).into_iter().collect();
    let dates = params.dates()?;
    let conditions = |query: &mut sqlx::QueryBuilder<sqlx::Sqlite>| {
        listing::push_accepted(query, "status", &status);
        listing::push_dates(query, "received", dates);
    };
    let mut query = sqlx::QueryBuilder::new(ALL_HASHES);
    conditions(&mut query);
    listing::push_order(&mut query, &paging, "received", "item_hash");
    let rows: Vec<HashRow> = query.build_query_as().fetch_all(&node.db).await?;
    let mut query = sqlx::QueryBuilder::new(format!("SELECT COUNT(*) FROM ({ALL_HASHES}"));
    conditions(&mut query);
    query.push(")");
    let total: i64 = query.build_query_scalar().fetch_one(&node.db).await?;
    let hash_only = params.text("hash_only").is_none() || params.flag("hash_only");
    let show = |row: HashRow| {
        if hash_only {
            return json!(row.item_hash);
        }
        json!({ "item_hash": row.item_hash, "status": row.status, "reception_time": db::iso(row.received) })
    };
    let key = |row: &HashRow| (row.received, row.item_hash.clone());
    Ok(Json(paging.frame("hashes", rows, db::unsigned(total), key, show)))
}
