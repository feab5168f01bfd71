//! What the gateway says of itself: version, status, identity, health, figures.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alephlab_api::account::Health;
use alephlab_api::jupyter::Status;
use alephlab_api::kernel::KernelState;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::auth::Account;
use crate::state::App;

/// The version of the Jupyter Server API that clients test for.
const JUPYTER_VERSION: &str = "2.21.0";

/// `GET /api`, open to all as in Jupyter's server.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": JUPYTER_VERSION, "alephlab": env!("CARGO_PKG_VERSION") }))
}

/// `GET /api/status`.
pub(crate) async fn status(State(app): State<Arc<App>>, account: Account) -> Json<Status> {
    let kernels = app.kernels.of(&account.id);
    Json(Status {
        connections: kernels.iter().map(|live| live.relay.connections()).sum(),
        kernels: u64::try_from(kernels.len()).unwrap_or(u64::MAX),
        last_activity: kernels
            .iter()
            .map(|live| live.last_activity())
            .max()
            .unwrap_or_else(|| app.started.clone()),
        started: app.started.clone(),
    })
}

/// `GET /api/me`.
pub(crate) async fn me(account: Account) -> Json<Value> {
    let short = crate::routes::pages::short(&account.id);
    let own = account.id.trim_start_matches("acct_").trim_start_matches("0x");
    let initials = own.get(..2);
    Json(json!({
        "identity": {
            "username": account.id, "name": short, "display_name": short,
            "initials": initials, "avatar_url": null, "color": null,
        },
        "permissions": {},
    }))
}

/// `GET /health`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    let agent = match (app.hosts.machine(), app.hosts.trouble()) {
        (Some(_), _) => "connected",
        (None, None) => "connecting",
        (None, Some(_)) => "off",
    };
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        aleph: app.aleph_url.clone(),
        agent: agent.to_owned(),
        isolation: app.hosts.walls().map(|walls| walls.to_string()),
    })
}

/// `GET /metrics`, in Prometheus' text form; figures only, no names.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kernels = app.kernels.all();
    let mut text = String::from("# TYPE alephlab_kernels gauge\n");
    for state in KernelState::ALL {
        let count = kernels.iter().filter(|live| live.status().state == state).count();
        let _ = writeln!(text, "alephlab_kernels{{state=\"{state}\"}} {count}");
    }
    let connections: u64 = kernels.iter().map(|live| live.relay.connections()).sum();
    let figures = [
        ("alephlab_kernel_connections", "gauge", connections),
        (
            "alephlab_kernel_messages_total",
            "counter",
            app.kernels.messages.load(Ordering::Relaxed),
        ),
        (
            "alephlab_key_requests_waiting",
            "gauge",
            u64::try_from(app.keys.pending()).unwrap_or(u64::MAX),
        ),
        (
            "alephlab_refused_total",
            "counter",
            app.refusals.load(Ordering::Relaxed),
        ),
        (
            "alephlab_agent_connected",
            "gauge",
            u64::from(app.hosts.machine().is_some()),
        ),
    ];
    for (name, kind, value) in figures {
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
