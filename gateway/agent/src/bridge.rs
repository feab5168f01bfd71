//! ZeroMQ on one side, frames to the gateway on the other, for one running kernel.
//!
//! Each client has one identity on shell, control and stdin, because a kernel asks for input at the identity that sent
//! the request. Output is subscribed to once. The bridge reads no message but the answers to its own requests
//! and those that say whether a cell runs.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use alephlab_api::agent::{FromAgent, encode};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use uuid::Uuid;
use zeromq::util::PeerIdentity;
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, Socket as _, SocketOptions, SocketRecv as _,
    SocketSend as _, SubSocket, ZmqResult,
};

use crate::error::{AgentError, Result};
use crate::journal::Outbound;
use crate::launch::{CONTROL, Endpoints, IOPUB, SHELL, STDIN};
use crate::wire;

/// How often a starting kernel is asked again whether it is there.
const NUDGE: Duration = Duration::from_millis(250);
/// For a socket of a kernel that listens already; ZeroMQ would try for ever at one that is gone.
const CONNECT: Duration = Duration::from_secs(5);
/// Before a socket that failed is read again: it would fail at once, again and again, until it is connected.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of one running kernel.
pub(crate) struct Bridge {
    kernel_id: Uuid,
    ends: Endpoints,
    control: DealerSocket,
    clients: HashMap<Uuid, Client>,
    outbound: Outbound,
    // Aborts the output task when the bridge goes.
    _output: JoinSet<()>,
}

struct Client {
    shell: DealerSendHalf,
    control: DealerSendHalf,
    stdin: DealerSendHalf,
    // Aborts the client's readers when it goes.
    _readers: JoinSet<()>,
}

impl Bridge {
    /// Connects, and waits until the kernel answers on shell and its output arrives.
    pub(crate) async fn connect(
        kernel_id: Uuid,
        ends: Endpoints,
        outbound: Outbound,
        patience: Duration,
    ) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let silent = || AgentError::KernelSilent {
            seconds: patience.as_secs(),
        };
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        for port in [SHELL, IOPUB, STDIN, CONTROL] {
            timeout(until(deadline), bound(&ends.path(port)))
                .await
                .map_err(|_| silent())?;
        }
        let identity = Uuid::new_v4();
        let mut output = SubSocket::new();
        output.subscribe("").await.map_err(socket("iopub"))?;
        connected("iopub", output.connect(&ends.address(IOPUB))).await?;
        let mut shell = dealer(&ends, SHELL, identity, "shell").await?;
        let control = dealer(&ends, CONTROL, identity, "control").await?;
        timeout(until(deadline), answered(&mut shell, &mut output))
            .await
            .map_err(|_| silent())??;
        let mut tasks = JoinSet::new();
        tasks.spawn(read_output(kernel_id, output, outbound.clone()));
        Ok(Self {
            kernel_id,
            ends,
            control,
            clients: HashMap::new(),
            outbound,
            _output: tasks,
        })
    }

    /// Gives a client its sockets; a client that has them keeps them.
    async fn open(&mut self, client: Uuid) -> Result<()> {
        if self.clients.contains_key(&client) {
            return Ok(());
        }
        let mut readers = JoinSet::new();
        let mut halves = Vec::with_capacity(3);
        // Stdin first: a cell may ask as soon as shell has brought it.
        for (port, channel) in [
            (STDIN, Channel::Stdin),
            (CONTROL, Channel::Control),
            (SHELL, Channel::Shell),
        ] {
            let (send, receive) = dealer(&self.ends, port, client, channel.name()).await?.split();
            halves.push(send);
            let route = FromAgent::Message {
                kernel_id: self.kernel_id,
                client: Some(client),
                channel,
            };
            readers.spawn(read_replies(route, channel, receive, self.outbound.clone()));
        }
        if let Ok([stdin, control, shell]) = <[DealerSendHalf; 3]>::try_from(halves) {
            self.clients.insert(
                client,
                Client {
                    shell,
                    control,
                    stdin,
                    _readers: readers,
                },
            );
        }
        Ok(())
    }

    /// Closes a client's sockets.
    pub(crate) fn close(&mut self, client: Uuid) {
        self.clients.remove(&client);
    }

    /// Passes a client's message on.
    pub(crate) async fn send(&mut self, client: Uuid, channel: Channel, parts: &[Bytes]) -> Result<()> {
        let message = wire::to_zmq(parts)?;
        self.open(client).await?;
        let Some(sockets) = self.clients.get_mut(&client) else {
            return Ok(());
        };
        let half = match channel {
            Channel::Shell => &mut sockets.shell,
            Channel::Control => &mut sockets.control,
            Channel::Stdin => &mut sockets.stdin,
            Channel::Iopub => {
                return Err(AgentError::Message {
                    channel: "iopub",
                    reason: "clients do not send there",
                });
            }
        };
        half.send(message).await.map_err(socket(channel.name()))
    }

    /// Sends a request of the agent on control, without waiting for the answer.
    pub(crate) async fn control(&mut self, kind: &str, content: &serde_json::Value) -> Result<()> {
        let parts = wire::request(kind, content);
        self.control
            .send(wire::to_zmq(&parts)?)
            .await
            .map_err(socket("control"))
    }
}

async fn dealer(ends: &Endpoints, port: u16, identity: Uuid, channel: &'static str) -> Result<DealerSocket> {
    let mut options = SocketOptions::default();
    let identity =
        PeerIdentity::try_from(identity.simple().to_string().into_bytes()).map_err(socket(channel))?;
    options.peer_identity(identity);
    let mut dealer = DealerSocket::with_options(options);
    connected(channel, dealer.connect(&ends.address(port))).await?;
    Ok(dealer)
}

async fn connected(channel: &'static str, connecting: impl Future<Output = ZmqResult<()>>) -> Result<()> {
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(socket(channel)),
        Err(_) => Err(AgentError::Socket {
            channel,
            reason: format!("nobody took the connection within {} s", CONNECT.as_secs()),
        }),
    }
}

/// Waits until somebody listens at a Unix socket; kernels bind theirs at different times.
async fn bound(path: &Path) {
    let mut tick = interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        if path.exists() && tokio::net::UnixStream::connect(path).await.is_ok() {
            return;
        }
    }
}

/// Asks until both a reply and output came: only then is the subscription known to the kernel.
async fn answered(shell: &mut DealerSocket, output: &mut SubSocket) -> Result<()> {
    let (mut reply, mut heard) = (false, false);
    let mut tick = interval(NUDGE);
    while !(reply && heard) {
        tokio::select! {
            _ = tick.tick() => {
                let parts = wire::request("kernel_info_request", &json!({}));
                shell.send(wire::to_zmq(&parts)?).await.map_err(socket("shell"))?;
            }
            message = shell.recv() => {
                wire::from_zmq("shell", message.map_err(socket("shell"))?)?;
                reply = true;
            }
            message = output.recv() => {
                heard |= wire::from_zmq("iopub", message.map_err(socket("iopub"))?).is_ok();
            }
        }
    }
    Ok(())
}

async fn read_output(kernel_id: Uuid, mut output: SubSocket, outbound: Outbound) {
    let route = FromAgent::Message {
        kernel_id,
        client: None,
        channel: Channel::Iopub,
    };
    loop {
        match output.recv().await {
            Ok(message) => {
                let Some((frame, says)) = frame(&route, "iopub", message) else {
                    continue;
                };
                outbound.push(frame, says.map(|state| (state, None, 0)));
            }
            // ZeroMQ connects again by itself. When the process ended its watcher drops the bridge, and this task.
            Err(error) => {
                tracing::debug!(%kernel_id, %error, "output of a kernel was interrupted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn read_replies(route: FromAgent, channel: Channel, mut socket: DealerRecvHalf, outbound: Outbound) {
    while let Ok(message) = socket.recv().await {
        let Some((frame, _)) = frame(&route, channel.name(), message) else {
            continue;
        };
        outbound.push(frame, None);
    }
}

fn frame(
    route: &FromAgent,
    channel: &'static str,
    message: zeromq::ZmqMessage,
) -> Option<(Vec<u8>, Option<KernelState>)> {
    let parts = match wire::from_zmq(channel, message) {
        Ok(parts) => parts,
        // `iopub_welcome` of an XPUB kernel has a topic and no delimiter.
        Err(error) => {
            tracing::debug!(%error, "a message of a kernel was left out");
            return None;
        }
    };
    match encode(route, &parts) {
        Ok(frame) => Some((frame, says(&parts))),
        Err(problem) => {
            tracing::warn!(%problem, channel, "a message of a kernel was left out");
            None
        }
    }
}

/// Busy or idle, where a message says so; all others are passed on unread.
fn says(parts: &[Bytes]) -> Option<KernelState> {
    #[derive(Deserialize)]
    struct Header {
        msg_type: String,
    }
    #[derive(Deserialize)]
    struct Content {
        execution_state: String,
    }
    let [header, _, _, content, ..] = parts else {
        return None;
    };
    // Nothing else is as short, so nearly nothing else is looked at.
    if content.len() > 64 {
        return None;
    }
    let header: Header = serde_json::from_slice(header).ok()?;
    if header.msg_type != "status" {
        return None;
    }
    let content: Content = serde_json::from_slice(content).ok()?;
    KernelState::parse(&content.execution_state)
        .filter(|state| matches!(state, KernelState::Idle | KernelState::Busy))
}

fn socket(channel: &'static str) -> impl Fn(zeromq::ZmqError) -> AgentError {
    move |error| AgentError::Socket {
        channel,
        reason: error.to_string(),
    }
}
