//! The agent's WebSocket to its gateway: dials, says who it is, pumps frames both ways, dials again.
//!
//! Kernels go on while it is away; their output waits in the bounded queue, in order, and when that is full kernels'
//! sockets are not read. What was written to a connection that then broke may be lost: nothing is numbered or
//! acknowledged here.

use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{AgentBootstrap, FromAgent, MAX_FRAME, encode};
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{AgentError, Result};
use crate::kernels::Kernels;

/// Before a lost gateway is dialled again; doubled up to the longest, so that a gateway that comes back is not run over.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const DIAL: Duration = Duration::from_secs(10);
/// The gateway is pinged at this pace and given three of them to answer, or to take a frame.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(90);
/// Close code of a gateway that does not know the lease.
const CLOSE_REFUSED: u16 = 4401;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The connection of one lease, over all its dials.
pub(crate) struct Connection {
    url: String,
    lease: Uuid,
    token: Secret,
    patience: Duration,
    queue: mpsc::Receiver<Vec<u8>>,
    // Taken from the queue and not yet known to be sent.
    unsent: Option<Vec<u8>>,
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
        queue: mpsc::Receiver<Vec<u8>>,
    ) -> Result<Self> {
        let Some(rest) = gateway.strip_prefix("http") else {
            return Err(AgentError::Address {
                address: gateway.to_owned(),
            });
        };
        let url = format!("ws{}/v1/agent", rest.trim_end_matches('/'));
        let token = bootstrap.token.clone();
        Ok(Self {
            url,
            lease: bootstrap.lease,
            token,
            patience,
            queue,
            unsent: None,
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
        match timeout(
            DIAL,
            connect_async_with_config(self.url.as_str(), Some(config), true),
        )
        .await
        {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer within 10 s".to_owned()),
        }
    }

    async fn serve(&mut self, mut socket: Socket, kernels: &mut Kernels) -> Gone {
        let hello = FromAgent::Hello {
            lease: self.lease,
            token: self.token.clone(),
            host: hostname(),
            kernels: kernels.ids(),
        };
        let hello = match encode::<_, &[u8]>(&hello, &[]) {
            Ok(hello) => hello,
            Err(problem) => return Gone::Refused(problem.to_string()),
        };
        if let Err(reason) = send(&mut socket, Message::binary(hello)).await {
            return Gone::Lost(reason);
        }
        let (mut sink, mut stream) = socket.split();
        let mut ping = interval(PING);
        ping.reset();
        let mut heard = Instant::now();
        loop {
            if let Some(frame) = &self.unsent {
                // A copy, because a failed send must not lose the frame.
                if let Err(reason) = send(&mut sink, Message::binary(frame.clone())).await {
                    return Gone::Lost(reason);
                }
                self.unsent = None;
            }
            tokio::select! {
                frame = self.queue.recv() => self.unsent = frame,
                message = stream.next() => {
                    heard = Instant::now();
                    if let Some(gone) = take(message, kernels).await {
                        return gone;
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Gone::Lost("it does not answer pings".to_owned());
                    }
                    if let Err(reason) = send(&mut sink, Message::Ping(Vec::new().into())).await {
                        return Gone::Lost(reason);
                    }
                }
            }
        }
    }
}

async fn send(
    sink: &mut (impl Sink<Message, Error = WsError> + Unpin),
    message: Message,
) -> Result<(), String> {
    match timeout(SILENCE, sink.send(message)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err("it does not read".to_owned()),
    }
}

async fn take(message: Option<Result<Message, WsError>>, kernels: &mut Kernels) -> Option<Gone> {
    match message {
        Some(Ok(Message::Binary(frame))) => {
            if let Err(problem) = kernels.obey(frame).await {
                tracing::warn!(%problem, "a frame of the gateway was left out");
            }
            None
        }
        Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == CLOSE_REFUSED => {
            Some(Gone::Refused(close.reason.to_string()))
        }
        Some(Ok(Message::Close(_))) | None => Some(Gone::Lost("it closed the connection".to_owned())),
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(Gone::Lost(error.to_string())),
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
