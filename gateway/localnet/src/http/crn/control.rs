//! What is done with instances: started, held, stopped, rebooted, erased.

use axum::{
    Json,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Host, Shared, caller, error, instance_of, with_status};
use crate::{
    compute::{
        Halt, Refusal, Started, halt, resume,
        spec::{self, Spec},
    },
    db,
    http::failure::{Answer, Failure},
    ledger,
};

/// Seconds of its own price that an owner must have for an instance to be started.
const COVERED_SECONDS: f64 = 3_600.0;

#[derive(Deserialize)]
struct Notification {
    instance: String,
}

/// `POST /control/allocation/notify`: anybody may say that there is an INSTANCE for this CRN.
pub(crate) async fn notify(State(host): Shared, body: axum::body::Bytes) -> Answer<Response> {
    let Ok(notification) = serde_json::from_slice::<Notification>(&body) else {
        return Err(error(StatusCode::BAD_REQUEST, "Body is not a notification"));
    };
    let hash = notification.instance;
    let mut connection = host.node.db.acquire().await?;
    let Some(spec) = spec::one(&mut connection, &hash).await? else {
        return Err(error(StatusCode::NOT_FOUND, "Instance not found"));
    };
    drop(connection);
    if spec
        .node
        .as_ref()
        .is_some_and(|node| *node != host.crn.facts.hash)
    {
        return Ok(outcome(&hash, Some("the instance asks for another node")));
    }
    match begin(&host, &spec).await? {
        Ok(()) => Ok(outcome(&hash, None)),
        Err(Refusal::NoCapacity) => Err(no_capacity()),
        Err(refusal) => Ok(outcome(&hash, Some(refusal.reason()))),
    }
}

/// Of one instance, which either runs or does not: never 207.
fn outcome(hash: &str, failure: Option<&str>) -> Response {
    let (status, failing, errors) = match failure {
        None => (StatusCode::OK, json!([]), json!({})),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!([hash]),
            json!({ hash: reason }),
        ),
    };
    let is_success = failure.is_none();
    let body = json!({"success": is_success, "successful": is_success, "failing": failing, "errors": errors});
    with_status(status, body)
}

fn no_capacity() -> Failure {
    error(StatusCode::SERVICE_UNAVAILABLE, Refusal::NoCapacity.reason())
}

/// Starts an instance that is paid for, also one that its owner has stopped.
async fn begin(host: &Host, spec: &Spec) -> Answer<Started<()>> {
    let mut transaction = host.node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let credits = ledger::balance(&mut transaction, &host.node.settings, &spec.owner).await?;
    transaction.commit().await?;
    if !spec.is_paid || credits < spec.rate * COVERED_SECONDS {
        return Err(error(StatusCode::PAYMENT_REQUIRED, "Insufficient balance"));
    }
    let started = host.crn.start(spec).await;
    if started.is_ok() {
        let mut connection = host.node.db.acquire().await?;
        resume(&mut connection, &spec.hash).await?;
    }
    Ok(started)
}

/// `POST /control/reserve_resources`: holds cards for the content of an INSTANCE that is still to be sent.
pub(crate) async fn reserve(
    State(host): Shared,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Answer<Json<Value>> {
    let address = caller(&host, "POST", uri.path(), &headers)?;
    let content: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(mut spec) = Spec::parse(&content) else {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "The body is not the content of an instance",
        ));
    };
    spec.chain = "ETH".into();
    let mut connection = host.node.db.acquire().await?;
    if !spec.may(&mut connection, &address).await? {
        return Err(error(StatusCode::FORBIDDEN, "Unauthorized sender"));
    }
    drop(connection);
    match host.crn.reserve(&spec) {
        Ok(term) => {
            let expires = db::iso(db::now() + term.as_secs_f64());
            Ok(Json(
                json!({"status": "reserved", "errors": {}, "expires": expires}),
            ))
        }
        Err(Refusal::NoCapacity) => Err(no_capacity()),
        Err(refusal) => Err(error(StatusCode::BAD_REQUEST, refusal.reason())),
    }
}

/// `POST /control/machine/{hash}/{operation}`, signed.
pub(crate) async fn operate(
    State(host): Shared,
    Path((hash, operation)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Answer<Response> {
    let is_known = ["start", "stop", "reboot", "erase", "reinstall"].contains(&operation.as_str());
    if !is_known {
        return Err(Failure::not_found("404: Not Found"));
    }
    let address = caller(&host, "POST", uri.path(), &headers)?;
    let spec = instance_of(&host, &hash, &address).await?;
    match operation.as_str() {
        "start" => start(&host, &spec).await,
        "stop" => stop(&host, &hash).await,
        "reboot" => again(&host, &spec, false).await,
        "reinstall" => again(&host, &spec, true).await,
        _ => erase(&host, &hash).await,
    }
}

async fn start(host: &Host, spec: &Spec) -> Answer<Response> {
    if host.crn.seen(&spec.hash).is_some() {
        return Ok(format!("VM with ref {} is already running", spec.hash).into_response());
    }
    begin(host, spec)
        .await?
        .map_err(|refusal| not_started(&refusal))?;
    Ok(format!("Started VM with ref {}", spec.hash).into_response())
}

/// Stops without ending the bill: only a FORGET does that.
async fn stop(host: &Host, hash: &str) -> Answer<Response> {
    keep_down(host, hash, Halt::Stopped).await?;
    if host.crn.stop(hash).await {
        return Ok(format!("Stopped VM with ref {hash}").into_response());
    }
    Ok(format!("VM with ref {hash} is already stopped").into_response())
}

async fn erase(host: &Host, hash: &str) -> Answer<Response> {
    keep_down(host, hash, Halt::Erased).await?;
    host.crn.erase(hash).await?;
    Ok(format!("Erased VM with ref {hash}").into_response())
}

/// Boots anew, with its files or without them.
async fn again(host: &Host, spec: &Spec, is_erased: bool) -> Answer<Response> {
    let hash = &spec.hash;
    if is_erased {
        host.crn.erase(hash).await?;
    } else if !host.crn.stop(hash).await {
        return Ok(format!("VM with ref {hash} is not running").into_response());
    }
    begin(host, spec)
        .await?
        .map_err(|refusal| not_started(&refusal))?;
    Ok(format!("Rebooted VM with ref {hash}").into_response())
}

/// Remembered before it ends, so that the scheduler does not start it in between.
async fn keep_down(host: &Host, hash: &str, why: Halt) -> Answer<()> {
    let mut connection = host.node.db.acquire().await?;
    Ok(halt(&mut connection, hash, why).await?)
}

fn not_started(refusal: &Refusal) -> Failure {
    error(StatusCode::SERVICE_UNAVAILABLE, refusal.reason())
}

/// `POST /control/machine/{hash}/update`: port 22 is always mapped, and no other can be, so there is nothing to read.
pub(crate) async fn update(State(host): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    if host.crn.seen(&hash).is_none() {
        return Err(Failure::not_found(format!("No virtual machine with ref {hash}")));
    }
    Ok(Json(json!({"status": "ok", "msg": "VM networking is as it was"})))
}
