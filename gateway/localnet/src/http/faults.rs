//! `/localnet/v0/faults`: the fault switches, for an operator on this machine.
//!
//! The route exists only when the settings say so. A page in a browser cannot use it: it takes JSON,
//! for which browsers ask first, and nobody answers that question.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};

use super::{
    Shared,
    failure::{Answer, Failure},
    is_local,
};
use crate::faults::Switch;

type Peer = ConnectInfo<SocketAddr>;

/// `GET`: the faults that are on.
pub(crate) async fn list(State(node): Shared, peer: Peer) -> Answer<Json<Vec<Switch>>> {
    only_local(&peer)?;
    Ok(Json(node.faults.list()))
}

/// `POST`: turns one on.
pub(crate) async fn add(State(node): Shared, peer: Peer, Json(switch): Json<Switch>) -> Answer<StatusCode> {
    only_local(&peer)?;
    if node.faults.on(switch.fault, switch.times) {
        return Ok(StatusCode::CREATED);
    }
    Err(Failure::text(
        StatusCode::CONFLICT,
        "too many faults are on: clear them first",
    ))
}

/// `DELETE`: turns all off.
pub(crate) async fn clear(State(node): Shared, peer: Peer) -> Answer<StatusCode> {
    only_local(&peer)?;
    node.faults.clear();
    Ok(StatusCode::NO_CONTENT)
}

fn only_local(peer: &Peer) -> Answer<()> {
    if is_local(peer) {
        Ok(())
    } else {
        Err(Failure::not_found("404: Not Found"))
    }
}
