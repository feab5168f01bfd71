//! The agent's WebSocket to its gateway: dials, proves who it is, sends what the gateway does not have, obeys; dials again.
//!
//! Kernels go on while it is away; what they say is in their journals. Both directions are numbered
//! (`alephlab_api::agent`), so a lost connection loses and repeats nothing.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::{AgentBootstrap, FromAgent, MAX_FRAME, Received, ToAgent, decode, encode};
use alephlab_api::isolation::Walls;
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::dial::{Dial, Socket};
use crate::error::{AgentError, Result};
use crate::identity::Identity;
use crate::journal::Journals;
use crate::kernels::Kernels;
use crate::load::{self, Load};
use crate::terminals::Terminals;

/// Before a lost gateway is dialled again; doubled up to the longest, so that a gateway that comes back is not run over.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const DIAL: Duration = Duration::from_secs(10);
/// The gateway is pinged at this pace and given three of them to answer, or to take a frame.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(90);
/// How long obeyed orders may go without being acknowledged: one frame for many of them.
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(20);
/// Close code of a gateway that does not know the lease.
const CLOSE_REFUSED: u16 = 4401;

/// The connection of one lease, over all its dials.
pub(crate) struct Connection {
    gateway: Dial,
    lease: Uuid,
    identity: Identity,
    patience: Duration,
    walls: Walls,
    journals: Arc<Journals>,
    terminals: Arc<Terminals>,
    loads: watch::Receiver<Option<Load>>,
    /// Newest order that was obeyed.
    received: Option<Received>,
}

enum Gone {
    /// Dial again.
    Lost(String),
    /// Do not dial again.
    Refused(String),
}

impl Connection {
    pub(crate) fn new(
        gateway: &str,
        bootstrap: &AgentBootstrap,
        patience: Duration,
        (walls, loads): (Walls, watch::Receiver<Option<Load>>),
        (journals, terminals): (Arc<Journals>, Arc<Terminals>),
    ) -> Result<Self> {
        Ok(Self {
            gateway: Dial::new(gateway, bootstrap.certificate.as_deref())?,
            lease: bootstrap.lease,
            identity: Identity::new(bootstrap.lease, bootstrap.token.clone()),
            patience,
            walls,
            journals,
            terminals,
            loads,
            received: None,
        })
    }

    /// Serves until told to stop, refused, or out of patience.
    pub(crate) async fn run(&mut self, kernels: &mut Kernels, stop: &CancellationToken) -> Result<()> {
        // Whatever it waits for, a dial or a write that hangs: being told to stop ends it.
        let served = stop.run_until_cancelled(self.keep(kernels)).await;
        served.unwrap_or(Ok(()))
    }

    async fn keep(&mut self, kernels: &mut Kernels) -> Result<()> {
        let (mut pause, mut since) = (FIRST_PAUSE, Instant::now());
        loop {
            let reason = match self.dial().await {
                Ok(socket) => {
                    pause = FIRST_PAUSE;
                    let gone = self.serve(socket, kernels).await;
                    self.terminals.away();
                    since = Instant::now();
                    match gone {
                        Gone::Refused(reason) => return Err(AgentError::Refused { reason }),
                        Gone::Lost(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            if since.elapsed() > self.patience {
                return Err(AgentError::GatewayGone {
                    seconds: since.elapsed().as_secs(),
                    reason,
                });
            }
            tracing::info!(%reason, "the gateway is away; dialling again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn dial(&self) -> Result<Socket, String> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        match timeout(DIAL, self.gateway.dial(config)).await {
            Ok(dialled) => dialled,
            Err(_) => Err("no answer within 10 s".to_owned()),
        }
    }

    async fn serve(&mut self, mut socket: Socket, kernels: &mut Kernels) -> Gone {
        // A gateway that accepts and says nothing is as good as none.
        match timeout(DIAL, self.introduce(&mut socket)).await {
            Ok(Ok(unknown)) => kernels.stop(unknown).await,
            Ok(Err(gone)) => return gone,
            Err(_) => return Gone::Lost("it does not answer a hello".to_owned()),
        }
        let (mut sink, mut stream) = socket.split();
        let mut ping = interval(PING);
        ping.reset();
        let (mut heard, mut unacknowledged) = (Instant::now(), None);
        let (journals, terminals) = (Arc::clone(&self.journals), Arc::clone(&self.terminals));
        let mut loads = self.loads.clone();
        // A gateway that has just come back knows nothing yet.
        loads.mark_changed();
        loop {
            let mut batch = journals.batch();
            terminals.batch(&mut batch);
            let more = !batch.is_empty();
            if let Err(reason) = send_all(&mut sink, batch).await {
                return Gone::Lost(reason);
            }
            let due = unacknowledged.unwrap_or(heard);
            tokio::select! {
                message = stream.next() => {
                    heard = Instant::now();
                    match self.take(message, kernels).await {
                        Ok(true) => { unacknowledged.get_or_insert(heard + ACKNOWLEDGED_AFTER); }
                        Ok(false) => {}
                        Err(gone) => return gone,
                    }
                }
                () = journals.changed.notified() => {}
                () = terminals.changed.notified() => {}
                () = std::future::ready(()), if more => {}
                Ok(()) = loads.changed() => {
                    let load = loads.borrow_and_update().as_ref().map(load::told);
                    if let Some(load) = load
                        && let Err(reason) = tell(&mut sink, &load).await
                    {
                        return Gone::Lost(reason);
                    }
                }
                () = sleep_until(due), if unacknowledged.is_some() => {
                    unacknowledged = None;
                    let number = self.received.map_or(0, |received| received.number);
                    if let Err(reason) = tell(&mut sink, &FromAgent::Received { number }).await {
                        return Gone::Lost(reason);
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Gone::Lost("it does not answer pings".to_owned());
                    }
                    if let Err(reason) = send(&mut sink, Message::Ping(Bytes::new())).await {
                        return Gone::Lost(reason);
                    }
                }
            }
        }
    }

    /// Answers the challenge and takes the welcome. Gives the kernels that the gateway does not know.
    async fn introduce(&mut self, socket: &mut Socket) -> Result<Vec<Uuid>, Gone> {
        let nonce = match first(socket.next().await)? {
            ToAgent::Challenge { nonce } => nonce,
            _ => return Err(Gone::Lost("it does not begin with a challenge".to_owned())),
        };
        let hello = FromAgent::Hello {
            lease: self.lease,
            proof: self.identity.prove(&nonce),
            host: hostname(),
            walls: Some(self.walls.clone()),
        };
        tell(socket, &hello).await.map_err(Gone::Lost)?;
        let ToAgent::Welcome { run } = first(socket.next().await)? else {
            return Err(Gone::Lost("it does not welcome this agent".to_owned()));
        };
        self.identity.is_known();
        let holds = || FromAgent::Holds {
            kernels: self.journals.held(),
            received: self.received,
            terminals: self.terminals.held(),
        };
        let mut holds_now = holds();
        if encode::<_, &[u8]>(&holds_now, &[]).is_err() {
            // Too much for one frame: better no cell is followed than no kernel had.
            self.journals.follow_none();
            holds_now = holds();
        }
        let holds = holds_now;
        tell(socket, &holds).await.map_err(Gone::Lost)?;
        let ToAgent::Resume { kernels, terminals } = first(socket.next().await)? else {
            return Err(Gone::Lost("it does not say what it has".to_owned()));
        };
        if self.received.is_none_or(|received| received.run != run) {
            self.received = Some(Received { run, number: 0 });
        }
        self.terminals.resume(&terminals);
        Ok(self.journals.resume(&kernels))
    }

    /// Obeys what came, each order once; tells whether an order was obeyed.
    async fn take(
        &mut self,
        message: Option<Result<Message, WsError>>,
        kernels: &mut Kernels,
    ) -> Result<bool, Gone> {
        let Some(frame) = binary(message)? else {
            return Ok(false);
        };
        let (number, order, parts) = match decode::<ToAgent>(&frame) {
            Ok(decoded) => decoded,
            Err(problem) => {
                tracing::warn!(%problem, "a frame of the gateway was left out");
                return Ok(false);
            }
        };
        match order {
            ToAgent::Note {
                kernel_id,
                taken,
                keep,
                note,
            } => {
                self.journals.note(kernel_id, (taken, keep), note);
                return Ok(false);
            }
            ToAgent::TerminalTaken { terminal_id, taken } => {
                self.terminals.taken(terminal_id, taken);
                return Ok(false);
            }
            _ => {}
        }
        if let Some(received) = &mut self.received {
            if number <= received.number {
                return Ok(true);
            }
            received.number = number;
        }
        if let ToAgent::Follow {
            kernel_id,
            cell,
            note,
        } = order
        {
            self.journals.follow(kernel_id, cell, note);
            return Ok(true);
        }
        self.terminals.obey(&frame, &order, &parts);
        kernels.obey(&frame, order, parts).await;
        Ok(true)
    }
}

/// A frame of the gateway before it has welcomed this agent.
fn first(message: Option<Result<Message, WsError>>) -> Result<ToAgent, Gone> {
    match binary(message)?.map(|frame| decode::<ToAgent>(&frame)) {
        Some(Ok((_, order, _))) => Ok(order),
        Some(Err(problem)) => Err(Gone::Lost(problem.to_string())),
        None => Err(Gone::Lost("it does not speak this protocol".to_owned())),
    }
}

/// The frame in a WebSocket message; none in a ping.
fn binary(message: Option<Result<Message, WsError>>) -> Result<Option<Bytes>, Gone> {
    match message {
        Some(Ok(Message::Binary(frame))) => Ok(Some(frame)),
        Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == CLOSE_REFUSED => {
            Err(Gone::Refused(close.reason.to_string()))
        }
        Some(Ok(Message::Close(_))) | None => Err(Gone::Lost("it closed the connection".to_owned())),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(Gone::Lost(error.to_string())),
    }
}

async fn tell(
    sink: &mut (impl Sink<Message, Error = WsError> + Unpin),
    said: &FromAgent,
) -> Result<(), String> {
    let frame = encode::<_, &[u8]>(said, &[]).map_err(|problem| problem.to_string())?;
    send(sink, Message::binary(frame)).await
}

async fn send(
    sink: &mut (impl Sink<Message, Error = WsError> + Unpin),
    message: Message,
) -> Result<(), String> {
    in_time(sink.send(message)).await
}

/// Writes frames and flushes once.
async fn send_all(
    sink: &mut (impl Sink<Message, Error = WsError> + Unpin),
    frames: Vec<Bytes>,
) -> Result<(), String> {
    if frames.is_empty() {
        return Ok(());
    }
    for frame in frames {
        in_time(sink.feed(Message::Binary(frame))).await?;
    }
    in_time(sink.flush()).await
}

async fn in_time(write: impl Future<Output = Result<(), WsError>>) -> Result<(), String> {
    match timeout(SILENCE, write).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("it does not read".to_owned()),
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "this machine".to_owned()
    } else {
        name.to_owned()
    }
}
