//! `/api/v0/addresses/{address}/…`: credits and stored files of an address.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde_json::{Value, json};

use super::{
    Shared,
    failure::{Answer, Failure},
    listing,
    params::{Frame, Params, Place},
};
use crate::{db, ledger};

/// `GET /api/v0/addresses/{address}/balance`. An address that was never seen has its starting credits.
pub(crate) async fn balance(State(node): Shared, Path(address): Path<String>) -> Answer<Json<Value>> {
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let credits = ledger::balance(&mut transaction, &node.settings, &address).await?;
    transaction.commit().await?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a balance is zero or more, in whole credits"
    )]
    let credits = credits.floor() as u64;
    Ok(Json(json!({
        "address": address,
        "balance": 0,
        "details": {},
        "locked_amount": 0,
        "credit_balance": credits,
        "credit_balance_details": [],
    })))
}

/// A stored file of an address.
#[derive(Debug, sqlx::FromRow)]
struct FileRow {
    item_hash: String,
    file_hash: String,
    size: i64,
    created: f64,
}

/// `GET /api/v0/addresses/{address}/files`.
pub(crate) async fn files(
    State(node): Shared,
    Path(address): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Frame<Value>>> {
    let paging = params.paging()?;
    let mut query = sqlx::QueryBuilder::new(
        "SELECT item_hash, file_hash, size, created FROM pins WHERE active = 1 AND owner = ",
    );
    query.push_bind(address.clone());
    let file_hash: Vec<String> = params.text("file_hash").map(str::to_owned).into_iter().collect();
    listing::push_accepted(&mut query, "file_hash", &file_hash);
    listing::push_order(&mut query, &paging, "created", "item_hash");
    let rows: Vec<FileRow> = query.build_query_as().fetch_all(&node.db).await?;
    if rows.is_empty() {
        return Err(Failure::not_found("404: Not Found"));
    }
    let (total, bytes): (i64, i64) =
        sqlx::query_as("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM pins WHERE active = 1 AND owner = ?")
            .bind(&address)
            .fetch_one(&node.db)
            .await?;
    // The real node writes the time as a number in cursor mode and as text in page mode.
    let is_page = matches!(paging.place, Place::Page(_));
    let show = |row: FileRow| {
        json!({
            "file_hash": row.file_hash,
            "size": row.size,
            "type": "file",
            "created": if is_page { json!(db::iso(row.created)) } else { json!(row.created) },
            "item_hash": row.item_hash,
        })
    };
    let key = |row: &FileRow| (row.created, row.item_hash.clone());
    let frame = paging.frame("files", rows, db::unsigned(total), key, show);
    Ok(Json(
        frame
            .with("address", json!(address))
            .with("total_size", json!(bytes)),
    ))
}
