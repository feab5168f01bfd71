//! `/api/v0/posts.json` and `/api/v1/posts.json`: posts with the content of their newest amend.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{QueryBuilder, Sqlite};

use super::{
    Shared,
    failure::Answer,
    listing,
    params::{Frame, Paging, Params, Place},
};
use crate::{db, node::Node};

/// A post merged with its newest amend.
#[derive(Debug, sqlx::FromRow)]
struct PostRow {
    original_item_hash: String,
    original_type: String,
    original_signature: String,
    owner: String,
    reference: Option<String>,
    channel: Option<String>,
    created: f64,
    item_hash: String,
    content_type: String,
    content: String,
    last_updated: f64,
    chain: String,
    item_type: String,
    item_content: Option<String>,
    signature: String,
    size: i64,
}

/// Original posts (`o`) with what they read as now (`n`): the newest amend, or themselves.
const MERGED: &str = "SELECT * FROM (
    SELECT o.item_hash AS original_item_hash, o.content_type AS original_type, o.signature AS original_signature,
           o.owner AS owner, o.content_ref AS reference, o.channel AS channel, o.content_time AS created,
           n.item_hash AS item_hash, n.content_type AS content_type, n.content AS content,
           n.content_time AS last_updated, n.chain AS chain, n.item_type AS item_type,
           n.item_content AS item_content, n.signature AS signature, n.size AS size, n.tags AS tags
    FROM messages o JOIN messages n ON n.item_hash = COALESCE(
        (SELECT a.item_hash FROM messages a
         WHERE a.content_ref = o.item_hash AND a.type = 'POST' AND a.content_type = 'amend' AND a.status = 'processed'
         ORDER BY a.content_time DESC, a.item_hash DESC LIMIT 1), o.item_hash)
    WHERE o.type = 'POST' AND o.status = 'processed' AND o.content_type != 'amend')
    WHERE 1";

/// `GET /api/v0/posts.json`: with the whole envelope.
pub(crate) async fn list_v0(
    State(node): Shared,
    Query(params): Query<Params>,
) -> Answer<Json<Frame<PostV0>>> {
    list(&node, &params, show_v0).await
}

/// `GET /api/v1/posts.json`: lean.
pub(crate) async fn list_v1(
    State(node): Shared,
    Query(params): Query<Params>,
) -> Answer<Json<Frame<PostV1>>> {
    list(&node, &params, show_v1).await
}

async fn list<S>(node: &Node, params: &Params, show: fn(PostRow) -> S) -> Answer<Json<Frame<S>>> {
    let paging = params.paging()?;
    let mut query = QueryBuilder::new(MERGED);
    push_filters(&mut query, params)?;
    listing::push_order(&mut query, &paging, "last_updated", "original_item_hash");
    let rows: Vec<PostRow> = query.build_query_as().fetch_all(&node.db).await?;
    let total = total(node, params, &paging).await?;
    let key = |row: &PostRow| (row.last_updated, row.original_item_hash.clone());
    Ok(Json(paging.frame("posts", rows, total, key, show)))
}

async fn total(node: &Node, params: &Params, paging: &Paging) -> Answer<u64> {
    if matches!(paging.place, Place::Cursor(_)) {
        return Ok(0);
    }
    let mut query = QueryBuilder::new(format!("SELECT COUNT(*) FROM ({MERGED}"));
    push_filters(&mut query, params)?;
    query.push(")");
    let count: i64 = query.build_query_scalar().fetch_one(&node.db).await?;
    Ok(db::unsigned(count))
}

fn push_filters(query: &mut QueryBuilder<Sqlite>, params: &Params) -> Answer<()> {
    for (column, name) in [
        ("owner", "addresses"),
        ("original_item_hash", "hashes"),
        ("reference", "refs"),
        ("original_type", "types"),
        ("channel", "channels"),
    ] {
        listing::push_accepted(query, column, &params.list(name));
    }
    listing::push_tags(query, "tags", &params.list("tags"));
    listing::push_dates(query, "last_updated", params.dates()?);
    Ok(())
}

/// A post with its envelope.
#[derive(Debug, Serialize)]
pub(crate) struct PostV0 {
    chain: String,
    item_hash: String,
    sender: String,
    #[serde(rename = "type")]
    kind: String,
    channel: Option<String>,
    confirmed: bool,
    content: Box<RawValue>,
    item_content: Option<String>,
    item_type: String,
    signature: Box<RawValue>,
    size: i64,
    time: f64,
    confirmations: [(); 0],
    original_item_hash: String,
    original_signature: Box<RawValue>,
    original_type: String,
    hash: String,
    address: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
}

/// A post alone.
#[derive(Debug, Serialize)]
pub(crate) struct PostV1 {
    item_hash: String,
    content: Box<RawValue>,
    original_item_hash: String,
    original_type: String,
    address: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    channel: Option<String>,
    created: String,
    last_updated: String,
}

fn show_v0(row: PostRow) -> PostV0 {
    PostV0 {
        content: listing::nested(&row.content),
        signature: listing::raw(&row.signature),
        original_signature: listing::raw(&row.original_signature),
        chain: row.chain,
        item_hash: row.item_hash,
        // The real node shows the owner here, also when a delegate signed.
        sender: row.owner.clone(),
        kind: row.content_type,
        channel: row.channel,
        confirmed: false,
        item_content: row.item_content,
        item_type: row.item_type,
        size: row.size,
        time: row.last_updated,
        confirmations: [],
        hash: row.original_item_hash.clone(),
        original_item_hash: row.original_item_hash,
        original_type: row.original_type,
        address: row.owner,
        reference: row.reference,
    }
}

fn show_v1(row: PostRow) -> PostV1 {
    PostV1 {
        content: listing::nested(&row.content),
        item_hash: row.item_hash,
        original_item_hash: row.original_item_hash,
        original_type: row.original_type,
        address: row.owner,
        reference: row.reference,
        channel: row.channel,
        created: db::iso(row.created),
        last_updated: db::iso(row.last_updated),
    }
}
