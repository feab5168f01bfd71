//! `/api/v0/authorizations/…`: delegations read from `security` aggregates, grouped by the other side.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    failure::{Answer, Failure},
    params::{Paging, Params, Place},
};
use crate::{
    aggregates::{self, Fields},
    permission::{self, SECURITY_KEY},
};

/// `GET /api/v0/authorizations/granted/{address}.json`: whom the address lets act for it.
pub(crate) async fn granted(
    State(node): Shared,
    Path(file): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Value>> {
    let owner = address(&file)?;
    let security = aggregates::value(&mut *node.db.acquire().await?, owner, SECURITY_KEY).await?;
    let mut grouped = Map::new();
    for (delegate, entry) in entries(security) {
        add(&mut grouped, &delegate, entry);
    }
    page(owner, grouped, params.text("grantee"), &params)
}

/// `GET /api/v0/authorizations/received/{address}.json`: for whom the address may act.
pub(crate) async fn received(
    State(node): Shared,
    Path(file): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Value>> {
    let delegate = address(&file)?;
    let mut connection = node.db.acquire().await?;
    let mut grouped = Map::new();
    for owner in aggregates::owners(&mut connection, SECURITY_KEY).await? {
        let security = aggregates::value(&mut connection, &owner, SECURITY_KEY).await?;
        for (_, entry) in entries(security)
            .into_iter()
            .filter(|(named, _)| named.eq_ignore_ascii_case(delegate))
        {
            add(&mut grouped, &owner, entry);
        }
    }
    page(delegate, grouped, params.text("granter"), &params)
}

fn address(file: &str) -> Answer<&str> {
    file.strip_suffix(".json")
        .ok_or_else(|| Failure::not_found("404: Not Found"))
}

/// Delegates of a `security` aggregate, each with the rest of its entry.
fn entries(security: Option<Fields>) -> Vec<(String, Value)> {
    let split = |entry: Value| match entry {
        Value::Object(mut entry) => match entry.shift_remove("address") {
            Some(Value::String(address)) if !address.is_empty() => Some((address, Value::Object(entry))),
            _ => None,
        },
        _ => None,
    };
    permission::entries(security)
        .into_iter()
        .filter_map(split)
        .collect()
}

fn add(grouped: &mut Map<String, Value>, address: &str, entry: Value) {
    match grouped.get_mut(address) {
        Some(Value::Array(entries)) => entries.push(entry),
        _ => {
            grouped.insert(address.to_owned(), json!([entry]));
        }
    }
}

fn page(
    address: &str,
    grouped: Map<String, Value>,
    other: Option<&str>,
    params: &Params,
) -> Answer<Json<Value>> {
    let Paging { per_page, place, .. } = params.paging()?;
    let Place::Page(page) = place else {
        return Err(Failure::invalid("cursor", "this list has pages only"));
    };
    let wanted: Vec<_> = grouped
        .into_iter()
        .filter(|(address, _)| other.is_none_or(|other| other == address))
        .collect();
    let total = wanted.len();
    let skip = usize::try_from((page - 1).saturating_mul(per_page)).unwrap_or(usize::MAX);
    let take = usize::try_from(per_page).unwrap_or(usize::MAX);
    let shown: Map<String, Value> = wanted.into_iter().skip(skip).take(take).collect();
    Ok(Json(json!({
        "authorizations": shown,
        "pagination_page": page,
        "pagination_per_page": per_page,
        "pagination_total": total,
        "pagination_item": "authorizations",
        "address": address,
    })))
}
