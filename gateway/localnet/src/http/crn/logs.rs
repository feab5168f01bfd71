//! The console of an instance, for whoever may do with it what its owner may.

use axum::{
    extract::{
        OriginalUri, Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{Host, Shared, caller, instance_of, signature};
use crate::{
    compute::Line,
    db,
    http::failure::{Answer, Failure},
};

/// Longest first frame: two headers.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// `GET /control/machine/{hash}/logs`, signed: the lines that are kept.
pub(crate) async fn past(
    State(host): Shared,
    Path(hash): Path<String>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Answer<String> {
    let address = caller(&host, "GET", uri.path(), &headers)?;
    instance_of(&host, &hash, &address).await?;
    let console = host.crn.console(&hash).ok_or_else(|| nowhere(&hash))?;
    let lines = console.past();
    Ok(lines
        .iter()
        .map(|line| format!("{}> {}\n", db::iso(line.time), line.text))
        .collect())
}

/// `GET /control/machine/{hash}/stream_logs`: a WebSocket whose first frame is signed.
pub(crate) async fn stream(
    State(host): Shared,
    Path(hash): Path<String>,
    OriginalUri(uri): OriginalUri,
    upgrade: WebSocketUpgrade,
) -> Response {
    let path = uri.path().to_owned();
    upgrade
        .max_message_size(MAX_FRAME_BYTES)
        .on_upgrade(async move |mut socket| {
            if let Err(failure) = admit(&host, &hash, &path, &mut socket).await {
                let answer = json!({"status": "failed", "reason": reason(failure)});
                let _ = socket.send(Message::text(answer.to_string())).await;
                return;
            }
            let answer = json!({"status": "connected"}).to_string();
            if socket.send(Message::text(answer)).await.is_ok() {
                tell(&host, &hash, socket).await;
            }
        })
}

async fn admit(host: &Host, hash: &str, path: &str, socket: &mut WebSocket) -> Answer<()> {
    let refuse = |reason: &str| Failure::text(StatusCode::BAD_REQUEST, reason);
    let frame = tokio::select! {
        frame = socket.recv() => frame,
        () = host.node.stop.cancelled() => None,
    };
    let Some(Ok(Message::Text(text))) = frame else {
        return Err(refuse("the first frame is not an authentication"));
    };
    let frame: Value = serde_json::from_str(&text).unwrap_or_default();
    let auth = &frame["auth"];
    let expected = signature::Expected {
        domain: host.crn.facts.domain(),
        method: "GET",
        path,
    };
    let address = signature::check(&auth["X-SignedPubKey"], &auth["X-SignedOperation"], &expected)
        .map_err(|refusal| Failure::text(refusal.status, refusal.reason))?;
    instance_of(host, hash, &address).await?;
    Ok(())
}

fn reason(failure: Failure) -> String {
    match failure {
        Failure::Text(_, text) => text,
        Failure::Json(_, body) => body["error"].as_str().unwrap_or_default().to_owned(),
        Failure::Internal(error) => {
            tracing::error!(%error, "a console could not be shown");
            "internal error of the local node".into()
        }
    }
}

fn nowhere(hash: &str) -> Failure {
    Failure::not_found(format!("No virtual machine with ref {hash}"))
}

/// Sends what is kept and then what comes, until the listener leaves or the node stops.
async fn tell(host: &Host, hash: &str, mut socket: WebSocket) {
    let Some(console) = host.crn.console(hash) else {
        return;
    };
    let (past, mut live) = console.follow();
    drop(console);
    for line in past {
        if socket.send(frame(&line)).await.is_err() {
            return;
        }
    }
    loop {
        let line = tokio::select! {
            line = live.recv() => line,
            received = socket.recv() => match received {
                Some(Ok(_)) => continue,
                _ => return,
            },
            () = host.node.stop.cancelled() => return,
        };
        match line {
            Ok(line) if socket.send(frame(&line)).await.is_ok() => {}
            // Lines that were missed stay in the log.
            Err(RecvError::Lagged(_)) => {}
            _ => return,
        }
    }
}

fn frame(line: &Line) -> Message {
    let frame = json!({"type": line.source.name(), "message": &*line.text});
    Message::text(frame.to_string())
}
