//! `/api/v0/storage/…`: what is known of a stored file, found by its hash, by the STORE or by a name.

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
use crate::{envelope::parse_hash, node::Node};

/// A pinned file.
#[derive(Debug, sqlx::FromRow)]
struct PinRow {
    item_hash: String,
    owner: String,
    file_hash: String,
    reference: Option<String>,
    size: i64,
}

/// `GET /api/v0/storage/metadata/{hash}` of a file hash.
pub(crate) async fn metadata(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let size: Option<i64> = sqlx::query_scalar("SELECT size FROM files WHERE hash = ?")
        .bind(&hash)
        .fetch_optional(&node.db)
        .await?;
    let size = size.ok_or_else(|| Failure::not_found(format!("No file found for hash {hash}")))?;
    Ok(Json(json!({
        "file_hash": hash,
        "type": "file",
        "size": size,
        "download_url": format!("/api/v0/storage/raw/{hash}"),
    })))
}

/// `GET /api/v0/storage/by-message-hash/{hash}` of a STORE.
pub(crate) async fn by_message(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    if parse_hash(&hash).is_none() {
        return Err(Failure::text(
            StatusCode::BAD_REQUEST,
            format!("Invalid message hash: {hash}"),
        ));
    }
    let pin: Option<PinRow> = sqlx::query_as(
        "SELECT item_hash, owner, file_hash, reference, size FROM pins WHERE item_hash = ? AND active = 1",
    )
    .bind(&hash)
    .fetch_optional(&node.db)
    .await?;
    let pin = pin.ok_or_else(|| Failure::not_found(format!("No file found for message {hash}")))?;
    let reference = pin.reference.clone().unwrap_or_else(|| pin.item_hash.clone());
    Ok(Json(show(&pin, &reference)))
}

/// `GET /api/v0/storage/by-ref/{hash}`: the newest file of the series that this STORE began.
pub(crate) async fn by_first_message(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    if parse_hash(&hash).is_none() {
        return Err(Failure::text(
            StatusCode::BAD_REQUEST,
            "address is required for user-defined ref",
        ));
    }
    // A later STORE of the series has the owner of the first: that was checked when it was accepted.
    let pin: Option<PinRow> = sqlx::query_as(
        "SELECT item_hash, owner, file_hash, reference, size FROM pins
         WHERE active = 1 AND (reference = ?1 OR (item_hash = ?1 AND reference IS NULL))
         ORDER BY created DESC, item_hash DESC LIMIT 1",
    )
    .bind(&hash)
    .fetch_optional(&node.db)
    .await?;
    let pin = pin.ok_or_else(|| Failure::not_found(format!("No file found for tag {hash}")))?;
    Ok(Json(show(&pin, &hash)))
}

/// `GET /api/v0/storage/by-ref/{owner}/{name}`: the owner's newest file of that name.
pub(crate) async fn by_name(
    State(node): Shared,
    Path((owner, name)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let pin = newest_of_name(&node, &owner, &name).await?;
    let pin = pin.ok_or_else(|| Failure::not_found(format!("No file found for tag {owner}/{name}")))?;
    Ok(Json(show(&pin, &name)))
}

async fn newest_of_name(node: &Node, owner: &str, name: &str) -> Answer<Option<PinRow>> {
    Ok(sqlx::query_as(
        "SELECT item_hash, owner, file_hash, reference, size FROM pins
         WHERE active = 1 AND owner = ? AND reference = ? ORDER BY created DESC, item_hash DESC LIMIT 1",
    )
    .bind(owner)
    .bind(name)
    .fetch_optional(&node.db)
    .await?)
}

/// `GET /api/v0/storage/count/{hash}`: how many STOREs pin a file.
pub(crate) async fn count(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<i64>> {
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM pins WHERE file_hash = ? AND active = 1")
        .bind(&hash)
        .fetch_one(&node.db)
        .await?;
    Ok(Json(count))
}

fn show(pin: &PinRow, reference: &str) -> Value {
    json!({
        "ref": reference,
        "owner": pin.owner,
        "file_hash": pin.file_hash,
        "download_url": format!("/api/v0/storage/raw/{}", pin.file_hash),
        "size": pin.size,
    })
}
