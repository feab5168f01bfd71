//! `/api/v0/addresses/{address}/credit_history`: what an address got, sent and spent.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde_json::{Value, json};
use sqlx::QueryBuilder;

use super::{
    Shared,
    failure::{Answer, Failure},
    listing,
    params::{Frame, Params},
};
use crate::{db, ledger};

/// One row of the history; the amount is negative for what left the address.
#[derive(Debug, sqlx::FromRow)]
struct Entry {
    amount: i64,
    method: String,
    origin: Option<String>,
    origin_ref: Option<String>,
    credit_ref: String,
    credit_index: i64,
    /// Tells rows of one time and message apart.
    place: String,
    expiration: Option<f64>,
    time: f64,
}

/// Transfers in and out, and one expense for each message that has cost something: the real network writes an
/// expense for every hour.
const HISTORY: &str = "
    WITH asked (address) AS (SELECT ";
const ROWS: &str = " COLLATE NOCASE),
    history AS (
        SELECT amount, 'credit_transfer' AS method, sender AS origin, NULL AS origin_ref, message AS credit_ref,
               position AS credit_index, expiration, time
        FROM credits, asked WHERE credits.address = asked.address
        UNION ALL
        SELECT -amount, 'credit_transfer', credits.address, NULL, message, position, expiration, time
        FROM credits, asked WHERE sender = asked.address
        UNION ALL
        SELECT -CAST(consumed AS INTEGER), 'credit_expense', NULL, item_hash, item_hash, 0, NULL, since
        FROM charges, asked WHERE owner = asked.address AND consumed >= 1)
    ";

/// Begins a query over the history of `address`, as `direction` limits it.
fn history(select: &str, address: &str, params: &Params) -> Answer<QueryBuilder<sqlx::Sqlite>> {
    let mut query = QueryBuilder::new(HISTORY);
    query
        .push_bind(address.to_owned())
        .push(ROWS)
        .push(select)
        .push(" FROM history WHERE 1");
    match params.text("direction") {
        None => {}
        Some("incoming") => _ = query.push(" AND amount > 0"),
        Some("outgoing") => _ = query.push(" AND amount < 0"),
        Some(_) => return Err(Failure::invalid("direction", "it is incoming or outgoing")),
    }
    Ok(query)
}

/// `GET /api/v0/addresses/{address}/credit_history`.
pub(crate) async fn list(
    State(node): Shared,
    Path(address): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Frame<Value>>> {
    let paging = params.paging()?;
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let mut query = history(
        "SELECT *, credit_ref || printf(':%08d', credit_index) AS place",
        &address,
        &params,
    )?;
    listing::push_order(&mut query, &paging, "time", "place");
    let rows: Vec<Entry> = query.build_query_as().fetch_all(&mut *transaction).await?;
    let total: i64 = history("SELECT COUNT(*)", &address, &params)?
        .build_query_scalar()
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    if rows.is_empty() {
        return Err(Failure::not_found("No credit history found for this address"));
    }
    let key = |row: &Entry| (row.time, row.place.clone());
    let show = |row: Entry| show(&row);
    let frame = paging.frame("credit_history", rows, db::unsigned(total), key, show);
    Ok(Json(frame.with("address", json!(address))))
}

fn show(entry: &Entry) -> Value {
    json!({
        "amount": entry.amount,
        "price": null,
        "bonus_amount": null,
        "tx_hash": null,
        "token": null,
        "chain": null,
        "provider": "ALEPH",
        "origin": entry.origin,
        "origin_ref": entry.origin_ref,
        "payment_method": entry.method,
        "credit_ref": entry.credit_ref,
        "credit_index": entry.credit_index,
        "expiration_date": entry.expiration.map(db::iso),
        "message_timestamp": db::iso(entry.time),
    })
}

/// `GET /api/v0/addresses/{address}/credit_history/summary`: zeros for an address without one.
pub(crate) async fn summary(
    State(node): Shared,
    Path(address): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Value>> {
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let select = "SELECT COUNT(*), COALESCE(SUM(MAX(amount, 0)), 0), COALESCE(SUM(MIN(amount, 0)), 0)";
    let (count, incoming, outgoing): (i64, i64, i64) = history(select, &address, &params)?
        .build_query_as()
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Json(json!({
        "address": address,
        "entry_count": count,
        "total_amount": incoming + outgoing,
        "total_incoming": incoming,
        "total_outgoing": outgoing,
    })))
}
