//! `/v1/agent`: the WebSocket of an agent, proved by its answer to a challenge.
//!
//! What comes from an agent is taken as hostile: sizes are limited, kernels must be of its lease, messages must be
//! Jupyter messages. Until its hello is accepted it is anybody: it gets ten seconds and 64 KiB.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alephlab_api::agent::{FromAgent, MAX_FRAME, ToAgent, decode, encode};
use alephlab_api::isolation::Walls;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::Lease;
use super::lease::{Outgoing, Proved};
use crate::error::Result;
use crate::gate::{Allowance, Peer};
use crate::state::App;

const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a connection until its hello is accepted.
const HELLO_ALLOWANCE: usize = 64 << 10;
const PING: Duration = Duration::from_secs(30);
const CLOSE_REFUSED: u16 = 4401;
/// Between two notes of a kernel: what a client hears twice when the gateway is killed is at most what it heard in this time.
const NOTES_EVERY: Duration = Duration::from_millis(2);

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
    let Some((lease, host, walls)) = hello(&app, &mut socket).await else {
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
    let Some(first) = welcome(&app, &lease, &mut socket, &mut outgoing).await else {
        return;
    };
    let told = walls.as_ref().map(ToString::to_string);
    lease.is_connected(host.clone(), walls);
    if !lease.is_rented() {
        app.hosts.clear_trouble();
    }
    tracing::info!(lease = %lease.id, host, walls = told, "an agent is connected");
    let (sink, stream) = socket.split();
    let reason = tokio::select! {
        reason = write(&app, &lease, sink, first, &mut outgoing) => reason,
        reason = read(&app, &lease, stream) => reason,
        _ = turn.changed() => "a newer connection",
    };
    if !turn.has_changed().unwrap_or(true) {
        lease.disconnected();
    }
    tracing::info!(lease = %lease.id, reason, "an agent's connection ended");
}

/// Challenges whoever dialled; none when it is no agent of ours.
async fn hello(app: &App, socket: &mut WebSocket) -> Option<(Arc<Lease>, String, Option<Walls>)> {
    let nonce = hex::encode(rand::random::<[u8; 32]>());
    let challenge = ToAgent::Challenge { nonce: nonce.clone() };
    let FromAgent::Hello {
        lease,
        proof,
        host,
        walls,
    } = ask(socket, &challenge).await?
    else {
        return None;
    };
    let current = app.hosts.find(lease);
    let proved = current
        .as_ref()
        .map_or(Proved::No, |lease| lease.check(&proof, &nonce));
    let current = current?;
    match proved {
        Proved::Known => {}
        Proved::New(key) => {
            if let Err(error) = app.hosts.know(&current, &key).await {
                tracing::warn!(%lease, %error, "an agent's key could not be written down");
                return None;
            }
        }
        Proved::No => {
            tracing::warn!(%lease, "an agent was refused");
            return None;
        }
    }
    let host = host.chars().filter(|c| !c.is_control()).take(64).collect();
    Some((current, host, walls.map(short)))
}

/// What an agent says is shown to people, so it has a length.
fn short(mut walls: Walls) -> Walls {
    for list in [&mut walls.limits, &mut walls.missing] {
        list.truncate(16);
        for text in list {
            *text = text.chars().filter(|c| !c.is_control()).take(256).collect();
        }
    }
    walls
}

/// Says something that the agent answers at once.
async fn ask(socket: &mut WebSocket, said: &ToAgent) -> Option<FromAgent> {
    let frame = encode::<_, &[u8]>(said, &[]).ok()?;
    socket.send(Message::Binary(frame.into())).await.ok()?;
    match timeout(HELLO_PATIENCE, socket.recv()).await {
        Ok(Some(Ok(Message::Binary(frame)))) => decode(&frame).ok().map(|(_, said, _)| said),
        _ => None,
    }
}

/// Asks what the agent has; gives what a connection begins with: what the gateway has, and orders that the agent does not
/// have.
async fn welcome(
    app: &App,
    lease: &Lease,
    socket: &mut WebSocket,
    outgoing: &mut Outgoing,
) -> Option<Vec<Bytes>> {
    let welcome = ToAgent::Welcome { run: lease.run };
    let FromAgent::Holds {
        kernels,
        received,
        terminals,
    } = ask(socket, &welcome).await?
    else {
        return None;
    };
    let again = outgoing.again(lease.run, received);
    let has = received.filter(|received| received.run == lease.run);
    let has = has.map_or(0, |received| received.number);
    let came = |id| outgoing.ordered.get(&id).is_some_and(|order| *order <= has);
    let known = app.kernels.agent_knows(lease.id, &kernels, came).await;
    let holds = |id| kernels.iter().any(|held| held.kernel_id == id);
    outgoing.ordered.retain(|id, order| *order > has || holds(*id));
    let resume = ToAgent::Resume {
        kernels: known,
        terminals: app.terminals.agent_knows(lease.id, &terminals).await,
    };
    let resume = encode::<_, &[u8]>(&resume, &[]).ok()?;
    Some(std::iter::once(resume.into()).chain(again).collect())
}

async fn write(
    app: &App,
    lease: &Lease,
    mut sink: SplitSink<WebSocket, Message>,
    first: Vec<Bytes>,
    outgoing: &mut Outgoing,
) -> &'static str {
    const BROKEN: &str = "it could not be written to";
    for frame in first {
        if sink.send(Message::Binary(frame)).await.is_err() {
            return BROKEN;
        }
    }
    let mut ping = interval(PING);
    ping.reset();
    let (mut notes, mut notes_after) = (true, Instant::now());
    loop {
        outgoing.acknowledge(lease.acknowledged.load(Ordering::Acquire));
        let written = tokio::select! {
            frame = outgoing.next() => sink.send(Message::Binary(frame)).await,
            () = lease.notes.notified(), if !notes => {
                notes = true;
                Ok(())
            }
            () = sleep_until(notes_after), if notes => {
                notes = false;
                let begun = Instant::now();
                let written = write_notes(app, lease, &mut sink, outgoing).await;
                // Where there are thousands of sessions or kernels, notes must not be all that is done.
                notes_after = Instant::now() + NOTES_EVERY.max(begun.elapsed() * 10);
                written
            }
            () = app.stop.cancelled() => {
                // So that the next run tells nobody what this one has told.
                let _ = write_notes(app, lease, &mut sink, outgoing).await;
                return "the gateway stops";
            }
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await,
        };
        if written.is_err() {
            return BROKEN;
        }
    }
}

async fn write_notes(
    app: &App,
    lease: &Lease,
    sink: &mut SplitSink<WebSocket, Message>,
    outgoing: &mut Outgoing,
) -> Result<(), axum::Error> {
    let forgotten = lease.take_forgotten().into_iter();
    let forgotten = forgotten.map(|(kernel_id, number)| ToAgent::Note {
        kernel_id,
        taken: number,
        keep: number.saturating_add(1),
        note: serde_json::Value::Null,
    });
    let notes = app.kernels.notes(lease.id);
    // What a note says need not be kept may follow from an order that waits: which cells are followed.
    while let Some(order) = outgoing.try_next() {
        sink.feed(Message::Binary(order)).await?;
    }
    let notes = notes.into_iter().chain(forgotten);
    for note in notes.chain(app.terminals.notes(lease.id)) {
        if let Ok(frame) = encode::<_, &[u8]>(&note, &[]) {
            sink.feed(Message::Binary(frame.into())).await?;
        }
    }
    sink.flush().await
}

async fn read(app: &App, lease: &Lease, mut stream: SplitStream<WebSocket>) -> &'static str {
    loop {
        match timeout(PING * 3, stream.next()).await {
            Err(_) => return "it was silent for 90 s",
            Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return "it went away",
            Ok(Some(Ok(Message::Binary(frame)))) => {
                if let Err(error) = take(app, lease, &frame).await {
                    tracing::error!(%error, "a report of an agent could not be written; it is to send it again");
                    return "what it reported could not be written";
                }
            }
            Ok(Some(Ok(_))) => {}
        }
    }
}

/// # Errors
/// When a state could not be written.
async fn take(app: &App, lease: &Lease, frame: &Bytes) -> Result<()> {
    match decode::<FromAgent>(frame) {
        Ok((
            number,
            FromAgent::State {
                kernel_id,
                state,
                detail,
                at,
            },
            _,
        )) => {
            let came = app
                .kernels
                .state_came((lease.id, kernel_id), number, (state, detail), at);
            return came.await;
        }
        Ok((
            _,
            FromAgent::Ahead {
                kernel_id,
                number,
                state,
                detail,
                at,
            },
            _,
        )) => {
            let told = app
                .kernels
                .state_ahead((lease.id, kernel_id), number, (state, detail), at);
            return told.await;
        }
        Ok((
            number,
            FromAgent::Message {
                kernel_id,
                client,
                channel,
            },
            parts,
        )) => {
            let parts = parts.into_iter().map(|range| frame.slice(range)).collect();
            Arc::clone(&app.kernels).message_came((lease.id, kernel_id), number, client, channel, parts);
        }
        Ok((_, FromAgent::Received { number }, _)) => {
            lease.acknowledged.fetch_max(number, Ordering::AcqRel);
            lease.notes.notify_one();
        }
        Ok((_, FromAgent::Load { host, kernels }, _)) => lease.is_loaded(host, kernels),
        Ok((_, FromAgent::TerminalOutput { terminal_id, offset }, parts)) => {
            let bytes = parts.first().and_then(|part| frame.get(part.clone()));
            app.terminals
                .output_came((lease.id, terminal_id), offset, bytes.unwrap_or_default());
        }
        Ok((_, FromAgent::TerminalTook { terminal_id, input }, _)) => {
            app.terminals.took((lease.id, terminal_id), input);
        }
        Ok((_, FromAgent::TerminalEnded { terminal_id, reason }, _)) => {
            app.terminals.ended((lease.id, terminal_id), reason).await;
        }
        Ok((_, FromAgent::Hello { .. } | FromAgent::Holds { .. }, _)) => {}
        Err(problem) => tracing::warn!(%problem, "a frame of an agent was left out"),
    }
    Ok(())
}
