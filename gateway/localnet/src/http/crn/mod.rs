//! The HTTP face of a CRN (reference, section 8): what it says of itself, and what owners do with their instances.
//!
//! Statuses and bodies are those of the real one as far as the reference and the SDK tell them. Not there: backups,
//! restoring, expiry, certificates and confidential instances.

mod about;
mod control;
mod logs;
mod signature;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::failure::{Answer, Failure};
use crate::{
    compute::{
        Compute, Crn,
        spec::{self, Spec},
    },
    node::Node,
};

pub(crate) use about::{VERSION, usage};

/// One CRN and the network that it is part of.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) node: Arc<Node>,
    pub(crate) compute: Arc<Compute>,
    pub(crate) crn: Arc<Crn>,
}

/// State of a CRN's handlers.
type Shared = State<Host>;

/// All routes of one CRN.
pub(crate) fn routes(host: Host) -> Router {
    Router::new()
        .route("/about/usage/system", get(about::usage_system))
        .route("/about/capability", get(about::capability))
        .route("/about/executions/list", get(about::executions_v1))
        .route("/v2/about/executions/list", get(about::executions_v2))
        .route("/status/config", get(about::config))
        .route("/control/allocation/notify", post(control::notify))
        .route("/control/reserve_resources", post(control::reserve))
        .route("/control/machine/{hash}/logs", get(logs::past))
        .route("/control/machine/{hash}/stream_logs", get(logs::stream))
        .route("/control/machine/{hash}/update", post(control::update))
        .route("/control/machine/{hash}/{operation}", post(control::operate))
        .layer(middleware::from_fn_with_state(host.clone(), reach))
        .with_state(host)
}

/// Lets nobody through while a fault switch says that the CRN is not there.
async fn reach(State(host): Shared, request: Request, next: Next) -> Response {
    if host.crn.is_unreachable() {
        return (StatusCode::BAD_GATEWAY, "the CRN does not answer").into_response();
    }
    next.run(request).await
}

/// An answer that is not a success, in the CRN's form.
fn error(status: StatusCode, reason: &str) -> Failure {
    Failure::Json(status, json!({ "error": reason }))
}

/// Who signed a request, by the two headers.
fn caller(host: &Host, method: &str, path: &str, headers: &HeaderMap) -> Answer<String> {
    let header = |name: &str| -> Answer<Value> {
        let missing = || error(StatusCode::BAD_REQUEST, &format!("Missing {name} header"));
        let text = headers.get(name).ok_or_else(missing)?;
        serde_json::from_slice(text.as_bytes())
            .map_err(|_| error(StatusCode::BAD_REQUEST, &format!("Invalid {name} format")))
    };
    let (key, operation) = (header("X-SignedPubKey")?, header("X-SignedOperation")?);
    let expected = signature::Expected {
        domain: host.crn.facts.domain(),
        method,
        path,
    };
    signature::check(&key, &operation, &expected).map_err(|refusal| error(refusal.status, &refusal.reason))
}

/// The instance of this CRN that a signed request is about, if its signer may do it.
async fn instance_of(host: &Host, hash: &str, address: &str) -> Answer<Spec> {
    let mut connection = host.node.db.acquire().await.map_err(crate::Error::from)?;
    let message = spec::one(&mut connection, hash).await?;
    let here = |spec: &Spec| spec.node.as_ref().is_none_or(|node| *node == host.crn.facts.hash);
    // What runs is its owner's also when its message is forgotten.
    let spec = message.filter(here).or_else(|| host.crn.spec(hash));
    let Some(spec) = spec else {
        return Err(Failure::not_found(format!("No virtual machine with ref {hash}")));
    };
    if spec.may(&mut connection, address).await? {
        return Ok(spec);
    }
    Err(Failure::text(StatusCode::FORBIDDEN, "Unauthorized sender"))
}

/// An answer in JSON with a status.
fn with_status(status: StatusCode, body: Value) -> Response {
    (status, Json(body)).into_response()
}
