//! The list of CRNs and the scheduler's API, which on the real network have addresses of their own.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    crn::{VERSION, usage},
    failure::{Answer, Failure},
};
use crate::{
    compute::{Compute, Crn, spec, status},
    node::Node,
};

/// Most entries of a page.
const MAX_PAGE: usize = 200;

/// Most INSTANCE messages that the scheduler knows; the newest.
const MAX_KNOWN: i64 = 10_000;

type Shared = State<(Arc<Node>, Arc<Compute>)>;

/// The routes that exist once for all CRNs.
pub(crate) fn routes(node: Arc<Node>, compute: Arc<Compute>) -> Router {
    Router::new()
        .route("/crns.json", get(crns))
        .route("/api/v1/vms", get(vms))
        .route("/api/v1/vms/{hash}", get(vm))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/nodes/{hash}", get(node_of))
        .with_state((node, compute))
}

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    #[serde(default)]
    filter_inactive: bool,
}

/// `GET /crns.json`.
async fn crns(State((_, compute)): Shared, Query(query): Query<ListQuery>) -> Json<Value> {
    let listed = compute.crns.iter().map(|crn| (crn, !crn.is_unreachable()));
    let listed = listed.filter(|(_, is_active)| *is_active || !query.filter_inactive);
    let crns: Vec<Value> = listed.map(|(crn, is_active)| entry(crn, is_active)).collect();
    Json(json!({ "crns": crns }))
}

/// What the list knows of a CRN; of one that does not answer it knows no usage.
fn entry(crn: &Crn, is_active: bool) -> Value {
    let facts = &crn.facts;
    let usage = if is_active { usage(crn) } else { Value::Null };
    let (all, free) = (&usage["gpu"]["devices"], &usage["gpu"]["available_devices"]);
    json!({
        "hash": facts.hash, "name": facts.name, "address": facts.address(),
        "score": if is_active { 1.0 } else { 0.0 }, "version": is_active.then_some(VERSION),
        "payment_receiver_address": null, "gpu_support": !facts.gpus.is_empty(),
        "confidential_support": false, "qemu_support": true,
        // Instances are reached by the mapped port only.
        "ipv6_check": {"host": false, "vm": false},
        "compatible_gpus": all, "compatible_available_gpus": free,
        "system_usage": usage, "terms_and_conditions": null,
    })
}

#[derive(Deserialize)]
pub(crate) struct Filters {
    owner: Option<String>,
    sender: Option<String>,
    vm_hash: Option<String>,
    vm_type: Option<String>,
    /// Beginning or end of a node's hash.
    hash: Option<String>,
    page: Option<usize>,
    page_size: Option<usize>,
}

/// An INSTANCE message, forgotten or not.
#[derive(Debug, sqlx::FromRow)]
struct Known {
    item_hash: String,
    owner: String,
    sender: String,
}

const KNOWN: &str = "SELECT item_hash, owner, sender FROM messages
     WHERE type = 'INSTANCE' AND status IN ('processed', 'forgotten')";

/// `GET /api/v1/vms`.
async fn vms(State((node, compute)): Shared, Query(filters): Query<Filters>) -> Answer<Json<Value>> {
    let query = format!("{KNOWN} ORDER BY received DESC, item_hash LIMIT $1");
    let known: Vec<Known> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(MAX_KNOWN)
        .fetch_all(&node.db)
        .await?;
    let equals = |filter: &Option<String>, value: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.eq_ignore_ascii_case(value))
    };
    let found = known.iter().filter(|vm| {
        equals(&filters.owner, &vm.owner)
            && equals(&filters.sender, &vm.sender)
            && equals(&filters.vm_type, "instance")
            && filters
                .vm_hash
                .as_ref()
                .is_none_or(|start| vm.item_hash.starts_with(start.as_str()))
    });
    let found: Vec<&Known> = found.collect();
    let mut items = Vec::new();
    for vm in page_of(&found, &filters) {
        items.push(vm_entry(&node, &compute, vm).await?);
    }
    Ok(page(&items, found.len(), &filters))
}

/// `GET /api/v1/vms/{hash}`.
async fn vm(State((node, compute)): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let known: Option<Known> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{KNOWN} AND item_hash = $1")))
        .bind(&hash)
        .fetch_optional(&node.db)
        .await?;
    let known = known.ok_or_else(|| unknown("VM not found"))?;
    Ok(Json(vm_entry(&node, &compute, &known).await?))
}

async fn vm_entry(node: &Node, compute: &Compute, known: &Known) -> Answer<Value> {
    let mut connection = node.db.acquire().await?;
    let spec = spec::one(&mut connection, &known.item_hash).await?;
    let status = status(compute, &known.item_hash, spec.as_ref());
    Ok(json!({
        "vm_hash": known.item_hash, "vm_type": "instance", "allocated_node": status.node,
        "status": status.status, "scheduling_status": status.scheduling, "migration_target": null,
        "owner": known.owner, "sender": known.sender, "payment_type": "credit",
        "requirements_vcpus": spec.as_ref().map(|spec| spec.vcpus),
        "requirements_memory": spec.as_ref().map(|spec| spec.memory_mib),
    }))
}

/// `GET /api/v1/nodes`.
async fn nodes(State((_, compute)): Shared, Query(filters): Query<Filters>) -> Json<Value> {
    let found: Vec<&Arc<Crn>> = compute
        .crns
        .iter()
        .filter(|crn| {
            let hash = &crn.facts.hash;
            let part = filters.hash.as_deref();
            part.is_none_or(|part| hash.starts_with(part) || hash.ends_with(part))
        })
        .collect();
    let items: Vec<Value> = page_of(&found, &filters)
        .iter()
        .map(|crn| node_entry(crn))
        .collect();
    page(&items, found.len(), &filters)
}

/// `GET /api/v1/nodes/{hash}`.
async fn node_of(State((_, compute)): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let crn = compute.crns.iter().find(|crn| crn.facts.hash == hash);
    crn.map(|crn| Json(node_entry(crn)))
        .ok_or_else(|| unknown("Node not found"))
}

fn node_entry(crn: &Crn) -> Value {
    let status = if crn.is_unreachable() {
        "Unreachable"
    } else {
        "Healthy"
    };
    json!({
        "node_hash": crn.facts.hash, "name": crn.facts.name, "address": crn.facts.address(), "status": status,
    })
}

fn unknown(reason: &str) -> Failure {
    Failure::Json(StatusCode::NOT_FOUND, json!({ "detail": reason }))
}

fn bounds(filters: &Filters) -> (usize, usize) {
    let size = filters.page_size.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    (filters.page.unwrap_or(1).max(1), size)
}

fn page_of<'a, T>(all: &'a [T], filters: &Filters) -> &'a [T] {
    let (page, size) = bounds(filters);
    all.chunks(size).nth(page - 1).unwrap_or_default()
}

fn page(items: &[Value], total: usize, filters: &Filters) -> Json<Value> {
    let (page, size) = bounds(filters);
    let pagination = json!({
        "page": page, "page_size": size, "total_items": total, "total_pages": total.div_ceil(size),
    });
    Json(json!({"items": items, "pagination": pagination}))
}
