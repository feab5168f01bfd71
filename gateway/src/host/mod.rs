//! Hosts: who gives one ([`HostProvider`]), and the lease that connects its agent to kernels.
//!
//! One lease at a time: the agent of this machine. When it is lost its kernels are dead, and a new lease begins.

mod agents;
mod this_machine;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{ToAgent, encode};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{GatewayError, Result};
use crate::store::{Store, sha256};

pub(crate) use agents::agent_channel;
pub use this_machine::{HostConfig, ThisMachine};

/// Frames that may wait for an agent. When it is full, the sender waits.
const QUEUE: usize = 4096;
/// Before a host is rented again after a failure; doubled up to the longest, so that a broken one is not hammered.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Gives a host for a lease and takes it back. Every call may be repeated.
pub trait HostProvider: Send + Sync + 'static {
    /// Name of the provider, for the lease's row.
    fn name(&self) -> &'static str;

    /// The trust line of its hosts, one of the interface's four strings.
    fn trust(&self) -> &'static str;

    /// Brings up a host whose agent will dial the gateway with this lease and token. A second call for the same lease
    /// changes nothing.
    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<()>>;

    /// Waits until the lease's host is gone and says why.
    fn gone(&self, lease: Uuid) -> BoxFuture<'_, String>;

    /// Gives the host back, with everything that runs there.
    fn end(&self, lease: Uuid) -> BoxFuture<'_, ()>;
}

/// One lease: the queue to its agent, and whether the agent is connected.
pub(crate) struct Lease {
    pub(crate) id: Uuid,
    token_sha256: [u8; 32],
    queue: mpsc::Sender<Frame>,
    outgoing: tokio::sync::Mutex<Outgoing>,
    /// Counts connections, so that a newer one ends an older.
    turn: watch::Sender<u64>,
    /// Name of the machine while connected.
    connected: watch::Sender<Option<String>>,
}

struct Outgoing {
    queue: mpsc::Receiver<Frame>,
    // Taken from the queue and not yet known to be sent.
    unsent: Option<Frame>,
    /// Kernels whose order to start was written to a connection.
    ordered: HashSet<Uuid>,
}

struct Frame {
    bytes: Vec<u8>,
    /// The kernel that it orders to start.
    starts: Option<Uuid>,
}

impl Lease {
    fn new(token: &Secret) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            id: Uuid::new_v4(),
            token_sha256: sha256(token.expose().as_bytes()),
            queue: sender,
            outgoing: tokio::sync::Mutex::new(Outgoing {
                queue,
                unsent: None,
                ordered: HashSet::new(),
            }),
            turn: watch::Sender::new(0),
            connected: watch::Sender::new(None),
        }
    }

    /// Puts a frame in the agent's queue, in order.
    pub(crate) async fn send<P: AsRef<[u8]>>(&self, order: &ToAgent, parts: &[P]) -> Result<()> {
        let too_large = |problem| GatewayError::Refused {
            status: axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            problem,
        };
        let starts = match order {
            ToAgent::StartKernel { kernel_id, .. } => Some(*kernel_id),
            _ => None,
        };
        let bytes = encode(order, parts).map_err(too_large)?;
        let gone = || GatewayError::Host {
            reason: "its agent is gone".to_owned(),
        };
        self.queue
            .send_timeout(Frame { bytes, starts }, Duration::from_secs(10))
            .await
            .map_err(|_| gone())
    }
}

/// What happens to kernels of a lease, told to whoever keeps kernels.
pub(crate) trait LeaseEvents: Send + Sync + 'static {
    /// The lease ended: its kernels are dead.
    fn lease_ended(&self, lease: Uuid, reason: &str) -> BoxFuture<'_, ()>;
}

/// The current lease, renewed for as long as the gateway runs.
pub(crate) struct Hosts {
    provider: Arc<dyn HostProvider>,
    store: Store,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    lease: Option<Arc<Lease>>,
    trouble: Option<String>,
}

impl Hosts {
    pub(crate) fn new(provider: Arc<dyn HostProvider>, store: Store) -> Self {
        Self {
            provider,
            store,
            current: Mutex::default(),
        }
    }

    pub(crate) fn trust(&self) -> &'static str {
        self.provider.trust()
    }

    /// The lease that new kernels go to.
    pub(crate) fn lease(&self) -> Result<Arc<Lease>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = || {
            current
                .trouble
                .clone()
                .unwrap_or_else(|| "the gateway is starting or stopping".to_owned())
        };
        current
            .lease
            .clone()
            .ok_or_else(|| GatewayError::Host { reason: reason() })
    }

    /// Name of the connected machine; none while its agent is away.
    pub(crate) fn machine(&self) -> Option<String> {
        self.lease()
            .ok()
            .and_then(|lease| lease.connected.borrow().clone())
    }

    /// What keeps hosts from starting, if anything.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .trouble
            .clone()
    }

    /// Begins the first lease, so that kernels can be asked for at once.
    pub(crate) async fn prepare(&self) -> Result<(Arc<Lease>, Secret)> {
        let token = crate::auth::random_token();
        let lease = Arc::new(Lease::new(&token));
        self.store.begin_lease(lease.id, self.provider.name()).await?;
        self.current.lock().unwrap_or_else(PoisonError::into_inner).lease = Some(Arc::clone(&lease));
        Ok((lease, token))
    }

    /// Keeps a host until `stop`, then gives it back.
    pub(crate) async fn run(
        &self,
        first: (Arc<Lease>, Secret),
        events: Arc<dyn LeaseEvents>,
        stop: CancellationToken,
    ) {
        let (mut held, mut pause) = (Some(first), FIRST_PAUSE);
        while !stop.is_cancelled() {
            let (lease, token) = match held.take() {
                Some(held) => held,
                None => match self.prepare().await {
                    Ok(held) => held,
                    Err(error) => {
                        tracing::error!(%error, "a lease could not be written");
                        wait(&mut pause, &stop).await;
                        continue;
                    }
                },
            };
            let rented = self.provider.rent(lease.id, &token).await;
            let reason = match rented {
                Ok(()) => tokio::select! {
                    reason = self.provider.gone(lease.id) => reason,
                    () = stop.cancelled() => "the gateway was stopped".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            if lease.connected.borrow().is_some() {
                pause = FIRST_PAUSE;
            }
            self.lose(&reason);
            self.provider.end(lease.id).await;
            lease.connected.send_replace(None);
            if let Err(error) = self.store.end_lease(lease.id, &reason).await {
                tracing::error!(%error, "the end of a lease could not be written");
            }
            events.lease_ended(lease.id, &reason).await;
            if !stop.is_cancelled() {
                tracing::warn!(%reason, "this machine's agent ended; starting another");
                wait(&mut pause, &stop).await;
            }
        }
    }

    /// There is no host now. In one step, and before its kernels are dead, so that whoever sees that also sees why.
    fn lose(&self, reason: &str) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.lease = None;
        current.trouble = Some(reason.to_owned());
    }

    fn clear_trouble(&self) {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .trouble = None;
    }
}

async fn wait(pause: &mut Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(*pause) => {}
        () = stop.cancelled() => {}
    }
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
