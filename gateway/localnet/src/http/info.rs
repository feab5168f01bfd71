//! What the node says of itself: version, limits, metrics, and that it has no IPFS.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{Shared, failure::Answer};
use crate::config::{MAX_FILE_BYTES, MAX_UNAUTHENTICATED_BYTES};

/// `GET /api/v0/version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": concat!("alephlab-localnet-", env!("CARGO_PKG_VERSION")) }))
}

/// `GET /api/v0/info/public.json`: the node has no peers, so no addresses for them.
pub(crate) async fn public() -> Json<Value> {
    Json(json!({ "node_multi_addresses": [] }))
}

/// `GET /api/v0/storage/limits.json`; IPFS takes nothing here.
pub(crate) async fn limits() -> Json<Value> {
    Json(json!({
        "storage": {
            "max_file_size": MAX_FILE_BYTES,
            "max_unauthenticated_upload_file_size": MAX_UNAUTHENTICATED_BYTES,
        },
        "ipfs": {
            "max_upload_file_size": 0,
            "max_upload_car_size": 0,
            "max_unauthenticated_upload_file_size": 0,
        },
    }))
}

/// The IPFS routes, in the words that the SDKs know.
pub(crate) async fn no_ipfs() -> impl IntoResponse {
    (StatusCode::FORBIDDEN, "IPFS is disabled on this node")
}

/// `GET /metrics` for Prometheus.
pub(crate) async fn metrics(State(node): Shared) -> Answer<impl IntoResponse> {
    let mut text = String::new();
    for (name, help, query) in [
        (
            "pyaleph_status_sync_messages_total",
            "Processed messages",
            "SELECT COUNT(*) FROM messages WHERE status = 'processed'",
        ),
        (
            "pyaleph_status_sync_pending_messages_total",
            "Messages without a verdict",
            "SELECT COUNT(*) FROM pending",
        ),
        (
            "pyaleph_status_sync_permanent_files_total",
            "Files pinned by a STORE",
            "SELECT COUNT(DISTINCT file_hash) FROM pins WHERE active = 1",
        ),
    ] {
        let value: i64 = sqlx::query_scalar(query).fetch_one(&node.db).await?;
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        ));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
