//! `/v1/agent`: the WebSocket of an agent, proved by lease and token in its first frame.
//!
//! What comes from an agent is taken as hostile: sizes are limited, kernels must be of its lease, messages must be
//! Jupyter messages. Until its first frame is accepted it is anybody: it gets ten seconds and 64 KiB.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::{FromAgent, MAX_FRAME, decode};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use subtle::ConstantTimeEq as _;
use tokio::time::{interval, timeout};
use uuid::Uuid;

use super::{Lease, Outgoing};
use crate::gate::{Allowance, Peer};
use crate::state::App;
use crate::store::sha256;

const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a connection until its hello is accepted: a hello names at most some hundred kernels.
const HELLO_ALLOWANCE: usize = 64 << 10;
const PING: Duration = Duration::from_secs(30);
const CLOSE_REFUSED: u16 = 4401;

/// `GET /v1/agent`.
pub(crate) async fn agent_channel(
    State(app): State<Arc<App>>,
    ConnectInfo(Peer { allowance, .. }): ConnectInfo<Peer>,
    upgrade: WebSocketUpgrade,
) -> Response {
    allowance.limit(HELLO_ALLOWANCE);
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| async move { serve(app, socket, allowance).await })
}

async fn serve(app: Arc<App>, mut socket: WebSocket, allowance: Allowance) {
    let Some((lease, host, kernels)) = hello(&app, &mut socket).await else {
        let close = CloseFrame {
            code: CLOSE_REFUSED,
            reason: "this lease is not known here".into(),
        };
        let _ = socket.send(Message::Close(Some(close))).await;
        return;
    };
    allowance.lift();
    lease.turn.send_modify(|turn| *turn += 1);
    let mut turn = lease.turn.subscribe();
    turn.mark_unchanged();
    // The connection before this one lets go of the queue when it sees that its turn is over.
    let mut outgoing = lease.outgoing.lock().await;
    app.kernels
        .agent_knows(lease.id, &kernels, &outgoing.ordered)
        .await;
    outgoing.ordered.retain(|id| kernels.contains(id));
    lease.connected.send_replace(Some(host.clone()));
    app.hosts.clear_trouble();
    tracing::info!(lease = %lease.id, host, "an agent is connected");
    let (sink, stream) = socket.split();
    let reason = tokio::select! {
        reason = write(sink, &mut outgoing) => reason,
        reason = read(&app, &lease, stream) => reason,
        _ = turn.changed() => "a newer connection",
        () = app.stop.cancelled() => "the gateway stops",
    };
    if !turn.has_changed().unwrap_or(true) {
        lease.connected.send_replace(None);
    }
    tracing::info!(lease = %lease.id, reason, "an agent's connection ended");
}

async fn hello(app: &App, socket: &mut WebSocket) -> Option<(Arc<Lease>, String, Vec<Uuid>)> {
    let Ok(Some(Ok(Message::Binary(frame)))) = timeout(HELLO_PATIENCE, socket.recv()).await else {
        return None;
    };
    let (
        FromAgent::Hello {
            lease,
            token,
            host,
            kernels,
        },
        _,
    ) = decode(&frame).ok()?
    else {
        return None;
    };
    let current = app.hosts.lease().ok()?;
    let right = bool::from(sha256(token.expose().as_bytes()).ct_eq(&current.token_sha256));
    if lease != current.id || !right {
        tracing::warn!("an agent was refused");
        return None;
    }
    let host: String = host.chars().filter(|c| !c.is_control()).take(64).collect();
    Some((current, host, kernels))
}

async fn write(mut sink: SplitSink<WebSocket, Message>, outgoing: &mut Outgoing) -> &'static str {
    let mut ping = interval(PING);
    ping.reset();
    loop {
        if let Some(frame) = &outgoing.unsent {
            // A copy, because a failed send must not lose the frame.
            if sink
                .send(Message::Binary(frame.bytes.clone().into()))
                .await
                .is_err()
            {
                return "it could not be written to";
            }
            outgoing.ordered.extend(frame.starts);
            outgoing.unsent = None;
        }
        tokio::select! {
            frame = outgoing.queue.recv() => match frame {
                Some(frame) => outgoing.unsent = Some(frame),
                None => return "the lease ended",
            },
            _ = ping.tick() => {
                if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return "it could not be written to";
                }
            }
        }
    }
}

async fn read(app: &App, lease: &Lease, mut stream: SplitStream<WebSocket>) -> &'static str {
    loop {
        match timeout(PING * 3, stream.next()).await {
            Err(_) => return "it was silent for 90 s",
            Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return "it went away",
            Ok(Some(Ok(Message::Binary(frame)))) => take(app, lease, &frame).await,
            Ok(Some(Ok(_))) => {}
        }
    }
}

async fn take(app: &App, lease: &Lease, frame: &Bytes) {
    match decode::<FromAgent>(frame) {
        Ok((
            FromAgent::State {
                kernel_id,
                state,
                detail,
            },
            _,
        )) => {
            app.kernels
                .state_reported(lease.id, kernel_id, state, detail)
                .await;
        }
        Ok((
            FromAgent::Message {
                kernel_id,
                client,
                channel,
            },
            parts,
        )) => {
            let parts = parts.into_iter().map(|range| frame.slice(range)).collect();
            app.kernels
                .message_came(lease.id, kernel_id, client, channel, parts);
        }
        Ok((FromAgent::Hello { .. }, _)) => {}
        Err(problem) => tracing::warn!(%problem, "a frame of an agent was left out"),
    }
}
