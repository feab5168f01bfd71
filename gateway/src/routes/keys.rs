//! `/v1/keys`: the owner's machines, and the requests of kernels. Bodies are relayed and never logged; what little is
//! read of them stands in `keycalls`.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::keys::{KernelInfo, Pending};
use alephlab_api::time;
use axum::Json;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{MAX_KEYS_BODY, body};
use crate::allocations::HOST_READS_MEMORY;
use crate::auth::{Account, KernelBearer, needs_address, own_pages_only};
use crate::error::{GatewayError, Result};
use crate::keycalls::Outcome;
use crate::state::App;

/// How long a request is held before the broker is told to ask again.
const HOLD: Duration = Duration::from_secs(25);
const PING: Duration = Duration::from_secs(20);
/// A machine that sent no frame for so long is gone: it did not answer three pings.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
pub(crate) struct WaitQuery {
    #[serde(default)]
    wait: u64,
}

#[derive(Deserialize)]
struct Answer {
    id: Uuid,
    reply: Value,
}

/// `POST /v1/keys/requests`: 200 with the reply, or 202 with an id to ask again.
pub(crate) async fn ask(State(app): State<Arc<App>>, bearer: KernelBearer, bytes: Bytes) -> Result<Response> {
    let request: Value = body(&bytes)?;
    if request.get("ask").and_then(Value::as_str).is_none() {
        return Err(GatewayError::bad_request(
            "keys_request",
            "a key request says what it asks",
        ));
    }
    // Datasets are granted to addresses, and models are signed by them: nobody could answer.
    needs_address(
        bearer.address.as_deref(),
        "opening datasets and publishing models",
    )?;
    let kernel = describe(&app, &bearer).await?;
    let id = app.keys.ask(&bearer.account, &kernel, &request)?;
    outcome(&app, bearer.kernel, id, HOLD).await
}

/// `GET /v1/keys/requests/{id}?wait=25`.
pub(crate) async fn wait(
    State(app): State<Arc<App>>,
    bearer: KernelBearer,
    Path(id): Path<Uuid>,
    Query(query): Query<WaitQuery>,
) -> Result<Response> {
    outcome(&app, bearer.kernel, id, Duration::from_secs(query.wait).min(HOLD)).await
}

async fn outcome(app: &App, kernel: Uuid, id: Uuid, patience: Duration) -> Result<Response> {
    let waited = tokio::select! {
        waited = app.keys.wait(kernel, id, patience) => waited?,
        () = app.stop.cancelled() => Outcome::Pending,
    };
    Ok(match waited {
        Outcome::Answered(reply) => ([(header::CACHE_CONTROL, "no-store")], Json(reply)).into_response(),
        Outcome::Pending => (StatusCode::ACCEPTED, Json(Pending { id })).into_response(),
    })
}

/// What the owner is shown of the kernel that asks.
async fn describe(app: &App, bearer: &KernelBearer) -> Result<KernelInfo> {
    let stored = app.store.kernel(bearer.kernel).await?;
    let stored = stored.ok_or_else(|| GatewayError::not_found("kernel_unknown", "this kernel is gone"))?;
    let started = std::time::UNIX_EPOCH + Duration::from_secs(stored.started);
    // Where nothing is known of it, the weaker line stands.
    let unknown = || {
        (
            "a machine outside of this gateway".to_owned(),
            HOST_READS_MEMORY.to_owned(),
        )
    };
    let place = app.kernels.place_of(stored.id).filter(|_| !stored.outside);
    let (host, trust) = place.unwrap_or_else(unknown);
    Ok(KernelInfo {
        id: stored.id,
        host,
        trust,
        started: time::format(started),
    })
}

/// `GET /v1/keys`: a machine of the account, as a WebSocket.
pub(crate) async fn machine(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    own_pages_only(&app, &headers, "answer key requests")?;
    account.needs_address("answering for its keys")?;
    let (id, calls) = app.keys.connect(&account.id)?;
    let upgrade = upgrade
        .max_message_size(MAX_KEYS_BODY)
        .max_frame_size(MAX_KEYS_BODY);
    let failed = {
        let (app, address) = (Arc::clone(&app), account.id.clone());
        move |_| app.keys.disconnect(&address, id)
    };
    Ok(upgrade
        .on_failed_upgrade(failed)
        .on_upgrade(move |socket| async move {
            serve((&app, &account), id, calls, socket).await;
            app.keys.disconnect(&account.id, id);
        }))
}

/// Until the machine goes, or its token is over. Reading and writing are apart, so that a write which hangs does not keep a dead machine.
async fn serve(
    (app, account): (&App, &Account),
    machine: Uuid,
    calls: mpsc::Receiver<String>,
    socket: WebSocket,
) {
    let (sink, stream) = socket.split();
    tokio::select! {
        () = write(sink, calls, &app.stop) => {}
        () = read(stream, SILENCE, |text| take(app, &account.id, machine, text)) => {}
        () = app.store.token_ends(&account.proof.sha256) => {}
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut calls: mpsc::Receiver<String>,
    stop: &CancellationToken,
) {
    let mut ping = interval(PING);
    ping.reset();
    loop {
        let message = tokio::select! {
            call = calls.recv() => match call {
                Some(call) => Message::Text(call.into()),
                None => return,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
            () = stop.cancelled() => {
                let close = CloseFrame { code: 1012, reason: "the gateway restarts".into() };
                let _ = sink.send(Message::Close(Some(close))).await;
                return;
            }
        };
        let sent = stop.run_until_cancelled(sink.send(message)).await;
        if !matches!(sent, Some(Ok(()))) {
            return;
        }
    }
}

/// Takes texts until the connection ends or nothing came for `silence`.
async fn read<E>(
    mut stream: impl Stream<Item = Result<Message, E>> + Unpin,
    silence: Duration,
    take: impl Fn(&str),
) {
    while let Ok(Some(Ok(message))) = timeout(silence, stream.next()).await {
        match message {
            Message::Text(text) => take(text.as_str()),
            Message::Close(_) => return,
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

fn take(app: &App, account: &str, machine: Uuid, text: &str) {
    match serde_json::from_str::<Answer>(text) {
        Ok(Answer { id, reply }) => app.keys.answer(account, machine, id, reply),
        // Not the text: it can hold what only the kernel may have.
        Err(_) => tracing::warn!("an answer of a keys machine was unreadable"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_machine_that_falls_silent_is_gone() {
        let heard = RefCell::new(Vec::new());
        let said = [Message::Pong(Bytes::new()), Message::Text("yes".into())];
        let then_silent = stream::iter(said.map(Ok::<_, ()>)).chain(stream::pending());
        let take = |text: &str| heard.borrow_mut().push(text.to_owned());
        let reading = read(then_silent, Duration::from_millis(20), take);
        timeout(Duration::from_secs(20), reading).await.unwrap();
        assert_eq!(*heard.borrow(), ["yes"]);
    }
}
