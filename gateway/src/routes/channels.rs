//! `/api/kernels/{id}/channels`: a client's WebSocket, in either framing.
//!
//! One task per socket: it reads from the client and writes from the relay's journal. A peer that answers no ping or
//! takes no message for 90 s is cut. `jupyter_server`'s gateway client breaks on binary frames, so it gets messages
//! without their buffers, and a sentence that says so; and its connections of one session share it, because it leaves
//! open what it has given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alephlab_api::agent::MAX_FRAME;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::time::{Instant, interval, timeout};
use uuid::Uuid;

use super::kernels::kernel_id;
use crate::auth::{Account, own_pages_only};
use crate::error::{GatewayError, Result};
use crate::framing::{KernelMessage, Legacy, V1};
use crate::kernels::{Kernels, Live};
use crate::relay::{Hold, Step};
use crate::state::App;

pub(super) const PING: Duration = Duration::from_secs(30);
/// Longest silence of a peer, and longest that it may take to accept one message, seconds.
const SILENCE: u64 = 90;
/// Pings after which a connection ends whose session another one uses.
const SPARE_PINGS: u32 = 3;
/// Messages written before the socket is flushed; more would only grow its buffer.
const BATCH: usize = 64;
/// Bytes of a socket's buffer for reading, which an idle one keeps; the usual 128 KiB would be all that it needs.
pub(super) const READ_BUFFER: usize = 8 << 10;
/// The rule that a token stands behind a connection is broken (RFC 6455).
pub(super) const CLOSE_TOKEN: u16 = 1008;
/// Longest session id, bytes.
const MAX_SESSION: usize = 256;

#[derive(Deserialize)]
pub(crate) struct ChannelsQuery {
    session_id: Option<String>,
}

/// How this peer wants its messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    V1,
    Legacy,
    /// Legacy without binary frames.
    TextOnly,
}

/// `GET /api/kernels/{id}/channels`.
pub(crate) async fn channels(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
    Query(query): Query<ChannelsQuery>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    own_pages_only(&app, &headers, "connect to kernels")?;
    let live = app.kernels.get(&account.id, kernel_id(&id)?)?;
    let session = query.session_id.filter(|session| !session.is_empty());
    if session
        .as_ref()
        .is_some_and(|session| session.len() > MAX_SESSION)
    {
        return Err(GatewayError::bad_request(
            "session_id",
            "the session_id is over 256 bytes",
        ));
    }
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    let tornado = agent.starts_with("Tornado/");
    let upgrade = upgrade
        .protocols([V1])
        .read_buffer_size(READ_BUFFER)
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let framing = match socket.protocol() {
            Some(_) => Framing::V1,
            None if tornado => Framing::TextOnly,
            None => Framing::Legacy,
        };
        serve((app, account.proof.sha256), live, session, framing, socket).await;
    }))
}

/// Until the peer goes, or its token is over.
async fn serve(
    (app, token): (Arc<App>, [u8; 32]),
    live: Arc<Live>,
    session: Option<String>,
    framing: Framing,
    socket: WebSocket,
) {
    let nameless = session.is_none();
    let session = session.unwrap_or_else(|| Uuid::new_v4().to_string());
    live.relay.restored().await;
    let hold = live.relay.attach(&session, framing == Framing::TextOnly);
    Kernels::client_came(&live, &hold);
    let (mut sink, stream) = socket.split();
    let clock = Clock::new();
    let is_over = tokio::select! {
        () = read(&app, &live, &hold, framing, stream, &clock) => false,
        () = write(&live, &hold, framing, &mut sink, &clock) => false,
        () = app.store.token_ends(&token) => true,
    };
    if is_over {
        close(&mut sink, CLOSE_TOKEN, "the token of this connection is over").await;
    }
    if nameless {
        live.relay.forget(&hold);
        app.kernels.client_gone(&live, &hold).await;
    } else {
        live.relay.detach(&hold);
    }
}

/// When the peer was heard last.
pub(super) struct Clock {
    start: Instant,
    heard: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    pub(super) fn hear(&self) {
        self.heard
            .store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    pub(super) fn silent(&self) -> bool {
        self.start
            .elapsed()
            .as_secs()
            .saturating_sub(self.heard.load(Ordering::Relaxed))
            > SILENCE
    }
}

async fn read(
    app: &App,
    live: &Live,
    hold: &Hold,
    framing: Framing,
    mut stream: SplitStream<WebSocket>,
    clock: &Clock,
) {
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                if framing == Framing::TextOnly && error.to_string().contains("UTF-8") {
                    let sentence = "A message with binary data did not arrive: `jupyter lab --gateway-url` cannot send it. Open \
                                    the gateway directly to hand files over.";
                    live.relay
                        .push(Some(hold.client), KernelMessage::sentence(sentence));
                }
                return;
            }
        };
        clock.hear();
        if let Message::Text(_) | Message::Binary(_) = message {
            live.relay.spoke(hold);
        }
        let message = match message {
            Message::Text(text) => KernelMessage::from_legacy_text(text.as_str()),
            Message::Binary(frame) if framing == Framing::V1 => KernelMessage::from_v1(&frame),
            Message::Binary(frame) => KernelMessage::from_legacy_binary(&frame),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let refused = match message {
            Ok(message) => app
                .kernels
                .message_sent(live, hold, &message)
                .await
                .err()
                .map(|error| error.to_string()),
            Err(reason) => Some(reason.to_owned()),
        };
        if let Some(reason) = refused {
            let sentence = format!("A message was not passed to the kernel: {reason}.");
            live.relay
                .push(Some(hold.client), KernelMessage::sentence(&sentence));
        }
    }
}

async fn write(
    live: &Live,
    hold: &Hold,
    framing: Framing,
    sink: &mut SplitSink<WebSocket, Message>,
    clock: &Clock,
) {
    let mut changes = live.relay.changes();
    let mut ping = interval(PING);
    ping.reset();
    let mut spare = 0;
    loop {
        changes.mark_unchanged();
        let written = match live.relay.next(hold) {
            Step::Deliver(number, message) => deliver(live, hold, framing, sink, number, &message).await,
            Step::Missed(count) => {
                let sentence = format!(
                    "{count} messages of the kernel were left out: they came faster than they were read."
                );
                feed(sink, framing, &KernelMessage::sentence(&sentence)).await
            }
            Step::Replaced => return close(sink, 1000, "a newer connection has this session").await,
            Step::Close(code, reason) => return close(sink, code, reason).await,
            Step::Wait => {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    _ = ping.tick() => {
                        if clock.silent() || in_time(sink.send(Message::Ping(Bytes::new()))).await.is_err() {
                            return;
                        }
                        spare = if live.relay.is_spare(hold) { spare + 1 } else { 0 };
                        if spare == SPARE_PINGS {
                            return close(sink, 1000, "another connection has this session").await;
                        }
                    }
                }
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Writes what waits, up to a batch, flushes, and only then moves the session's place on.
async fn deliver(
    live: &Live,
    hold: &Hold,
    framing: Framing,
    sink: &mut SplitSink<WebSocket, Message>,
    mut number: u64,
    first: &Arc<KernelMessage>,
) -> Result<(), axum::Error> {
    feed(sink, framing, first).await?;
    for _ in 1..BATCH {
        let Some((next, message)) = live.relay.after(hold, number) else {
            break;
        };
        feed(sink, framing, &message).await?;
        number = next;
    }
    in_time(sink.flush()).await?;
    live.relay.delivered(hold, number);
    Ok(())
}

async fn feed(
    sink: &mut SplitSink<WebSocket, Message>,
    framing: Framing,
    message: &KernelMessage,
) -> Result<(), axum::Error> {
    if framing == Framing::V1 {
        return in_time(sink.feed(Message::Binary(message.to_v1().into()))).await;
    }
    if framing == Framing::TextOnly && message.has_buffers() {
        let sentence = "Binary data of a message was left out: `jupyter lab --gateway-url` cannot receive it. Open the \
                        gateway directly to see it.";
        let sentence = KernelMessage::sentence(sentence).beside(message);
        Box::pin(feed(sink, framing, &sentence)).await?;
        return Box::pin(feed(sink, framing, &message.without_buffers())).await;
    }
    match message.to_legacy() {
        Ok(Legacy::Text(text)) => in_time(sink.feed(Message::Text(text.into()))).await,
        Ok(Legacy::Binary(frame)) => in_time(sink.feed(Message::Binary(frame.into()))).await,
        // Checked when it came; nothing to write.
        Err(_) => Ok(()),
    }
}

pub(super) async fn close(sink: &mut SplitSink<WebSocket, Message>, code: u16, reason: &'static str) {
    let reason = reason.into();
    let _ = in_time(sink.send(Message::Close(Some(CloseFrame { code, reason })))).await;
}

/// A write that the peer must take within [`SILENCE`]: one that stopped reading would hold its journal for ever.
pub(super) async fn in_time(write: impl Future<Output = Result<(), axum::Error>>) -> Result<(), axum::Error> {
    let late = |_| Err(axum::Error::new("the peer does not read"));
    timeout(Duration::from_secs(SILENCE), write)
        .await
        .unwrap_or_else(late)
}
