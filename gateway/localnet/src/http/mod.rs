//! The node's HTTP face: routes of the CCN's REST API, and the fault switches in front of them.
//!
//! Paths, statuses and bodies follow the reference (`aleph-protocol.md`, sections 5 and 6).

mod accounts;
mod aggregates;
mod authorizations;
mod credits;
pub(crate) mod crn;
mod download;
mod failure;
mod faults;
mod info;
mod listing;
mod live;
mod messages;
mod params;
mod posts;
mod prices;
mod scheduler;
mod storage;
mod upload;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State, connect_info::IntoMakeServiceWithConnectInfo},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{compute::Compute, node::Node};

/// Largest body of an ordinary request: an envelope with 200,000 characters, each escaped.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// State of all handlers.
pub(crate) type Shared = State<Arc<Node>>;

/// All routes; `with_faults` adds the operator's fault switches, and a CRN that answers at the node's address its own.
pub(crate) fn router(
    node: &Arc<Node>,
    compute: Option<Arc<Compute>>,
    with_faults: bool,
) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    let mut routes = Router::new()
        .route("/api/v0/messages", post(messages::publish))
        .route("/api/v0/messages.json", get(messages::list))
        .route("/api/v0/messages/hashes", get(messages::hashes))
        .route("/api/v0/messages/{hash}", get(messages::one))
        .route("/api/v0/messages/{hash}/status", get(messages::status))
        .route("/api/v0/messages/{hash}/content", get(messages::content))
        .route("/api/v0/messages/{hash}/consumed_credits", get(prices::consumed))
        .route("/api/ws0/messages", get(live::messages))
        .route("/api/v0/posts.json", get(posts::list_v0))
        .route("/api/v1/posts.json", get(posts::list_v1))
        .route("/api/v0/aggregates/{file}", get(aggregates::of_address))
        .route(
            "/api/v0/authorizations/granted/{file}",
            get(authorizations::granted),
        )
        .route(
            "/api/v0/authorizations/received/{file}",
            get(authorizations::received),
        )
        .route("/api/v0/addresses/{address}/balance", get(accounts::balance))
        .route("/api/v0/addresses/{address}/files", get(accounts::files))
        .route("/api/v0/addresses/{address}/credit_history", get(credits::list))
        .route(
            "/api/v0/addresses/{address}/credit_history/summary",
            get(credits::summary),
        )
        .route("/api/v0/price/{hash}", get(prices::of_message))
        .route("/api/v0/price/estimate", post(prices::estimate))
        .route("/api/v0/version", get(info::version))
        .route("/api/v0/info/public.json", get(info::public))
        .route("/metrics", get(info::metrics))
        .merge(storage_routes());
    if with_faults {
        routes = routes.route(
            "/localnet/v0/faults",
            get(faults::list).post(faults::add).delete(faults::clear),
        );
    }
    let mut routes = routes.with_state(Arc::clone(node));
    if let Some(compute) = compute {
        let scheduler = scheduler::routes(Arc::clone(node), Arc::clone(&compute));
        routes = routes.merge(scheduler);
        let own = compute.crns.iter().find(|crn| !crn.facts.is_apart).cloned();
        if let Some(crn) = own {
            routes = routes.merge(crn::routes(crn::Host {
                node: Arc::clone(node),
                compute,
                crn,
            }));
        }
    }
    routes
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(node), misbehave))
        .into_make_service_with_connect_info()
}

fn storage_routes() -> Router<Arc<Node>> {
    Router::new()
        // Uploads count their bytes themselves and refuse with 413 where the real node does.
        .route(
            "/api/v0/storage/add_file",
            post(upload::add_file).layer(DefaultBodyLimit::disable()),
        )
        .route(
            "/api/v0/storage/add_json",
            post(upload::add_json).layer(DefaultBodyLimit::disable()),
        )
        .route("/api/v0/storage/limits.json", get(info::limits))
        .route(
            "/api/v0/storage/raw/{hash}",
            get(download::raw).head(download::raw_head),
        )
        .route("/api/v0/storage/metadata/{hash}", get(storage::metadata))
        .route("/api/v0/storage/by-message-hash/{hash}", get(storage::by_message))
        .route("/api/v0/storage/by-ref/{hash}", get(storage::by_first_message))
        .route("/api/v0/storage/by-ref/{owner}/{name}", get(storage::by_name))
        .route("/api/v0/storage/count/{hash}", get(storage::count))
        .route("/api/v0/storage/{hash}", get(download::base64))
        .route("/api/v0/ipfs/add_file", post(info::no_ipfs))
        .route("/api/v0/ipfs/add_json", post(info::no_ipfs))
        .route("/api/v0/ipfs/add_car", post(info::no_ipfs))
}

/// Applies the fault switches to API requests; the switches' own route is never disturbed.
async fn misbehave(State(node): Shared, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/api/") {
        return next.run(request).await;
    }
    let (delay_ms, status) = node.faults.on_request(request.uri().path());
    if delay_ms > 0 {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {}
            () = node.stop.cancelled() => {}
        }
    }
    match status {
        Some(status) => StatusCode::from_u16(status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            .into_response(),
        None => next.run(request).await,
    }
}

/// Whether a caller is on this machine.
pub(crate) fn is_local(ConnectInfo(peer): &ConnectInfo<SocketAddr>) -> bool {
    peer.ip().is_loopback()
}
