//! `/api/v0/aggregates/{address}.json`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Shared,
    failure::{Answer, Failure},
    params::Params,
};
use crate::{
    aggregates::{self, Fields},
    foundation,
};

/// Keys shown when the request does not say how many.
const DEFAULT_KEYS: u64 = 1_000;

/// Aggregates of an address.
#[derive(Debug, Serialize)]
pub(crate) struct Aggregates {
    address: String,
    data: BTreeMap<String, Fields>,
    info: Map<String, Value>,
}

/// `GET /api/v0/aggregates/{address}.json?keys=&limit=&with_info=`.
pub(crate) async fn of_address(
    State(node): Shared,
    Path(file): Path<String>,
    Query(params): Query<Params>,
) -> Answer<Json<Aggregates>> {
    let address = file
        .strip_suffix(".json")
        .ok_or_else(|| Failure::not_found("404: Not Found"))?;
    let keys = params.list("keys");
    let limit = usize::try_from(params.integer("limit")?.unwrap_or(DEFAULT_KEYS)).unwrap_or(usize::MAX);
    let mut all = aggregates::all(&mut *node.db.acquire().await?, address).await?;
    if address.eq_ignore_ascii_case(foundation::ADDRESS) {
        let mut said = node.foundation.aggregates();
        // Its own messages, where somebody has brought them here, are more than our stand-in for them.
        said.retain(|said| all.iter().all(|signed| signed.key != said.key));
        all.extend(said);
    }
    let asked = |key: &String| keys.is_empty() || keys.contains(key);
    let (mut data, mut info) = (BTreeMap::new(), Map::new());
    for aggregate in all
        .into_iter()
        .filter(|aggregate| asked(&aggregate.key))
        .take(limit)
    {
        if params.flag("with_info") && !aggregate.info.is_null() {
            info.insert(aggregate.key.clone(), aggregate.info);
        }
        data.insert(aggregate.key, aggregate.value);
    }
    if data.is_empty() {
        return Err(Failure::not_found("No aggregate found for this address"));
    }
    Ok(Json(Aggregates {
        address: address.to_owned(),
        data,
        info,
    }))
}
