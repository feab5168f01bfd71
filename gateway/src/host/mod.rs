//! Hosts: the one that is always there ([`ResidentHost`]), those that are rented ([`HostProvider`]), and the leases that
//! connect their agents to kernels ([`lease`]).
//!
//! This machine has one lease at a time, for all its kernels. When it is lost its kernels are dead, and a new lease begins.
//! A rented host has one lease and one kernel; `allocations` rents it and gives it back. A host may outlive a run of the
//! gateway: the next one takes it over, with its kernels.

mod agents;
mod lease;
mod process;
mod provider;
mod this_machine;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::isolation::Walls;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{GatewayError, Result};
use crate::store::Store;

pub(crate) use agents::agent_channel;
pub(crate) use lease::Lease;
pub use provider::{Bill, HostProvider, Rented, Seen};
pub use this_machine::{HostConfig, ThisMachine};

/// Before a host is rented again after a failure; doubled up to the longest, so that a broken one is not hammered.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The host that the gateway always has: gives it for a lease and takes it back. Every call may be repeated.
pub trait ResidentHost: Send + Sync + 'static {
    /// Its name, for the lease's row.
    fn name(&self) -> &'static str;

    /// Its trust line, one of the interface's four strings.
    fn trust(&self) -> &'static str;

    /// Brings up a host whose agent will dial the gateway with this lease and token. A second call for the same lease
    /// changes nothing.
    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<()>>;

    /// Whether it ends with the gateway, however that ends.
    fn ends_with_gateway(&self) -> bool {
        false
    }

    /// Takes over the host of a lease that an earlier run of the gateway began; false when it is gone, or cannot be reached
    /// any more and was ended.
    fn adopt(&self, lease: Uuid) -> BoxFuture<'_, bool>;

    /// Waits until the lease's host is gone and says why.
    fn gone(&self, lease: Uuid) -> BoxFuture<'_, String>;

    /// Gives the host back, with everything that runs there.
    fn end(&self, lease: Uuid) -> BoxFuture<'_, ()>;
}

/// What happens to kernels and terminals of a lease, told to whoever keeps them.
pub(crate) trait LeaseEvents: Send + Sync + 'static {
    /// The lease ended: its kernels are dead, its terminals over.
    fn lease_ended<'a>(&'a self, lease: Uuid, reason: &'a str) -> BoxFuture<'a, ()>;
}

/// The lease of this machine, renewed for as long as the gateway runs, and those of rented hosts.
pub(crate) struct Hosts {
    provider: Arc<dyn ResidentHost>,
    store: Store,
    current: Mutex<Current>,
    rented: Mutex<HashMap<Uuid, Arc<Lease>>>,
    /// Hosts are left to the next run when this one stops.
    keep: AtomicBool,
}

/// A lease whose host is to be rented with the token, or is there already.
pub(crate) struct Opened {
    pub(crate) lease: Arc<Lease>,
    token: Option<Secret>,
}

impl Opened {
    /// Its host is there, with what an earlier run started.
    pub(crate) fn is_adopted(&self) -> bool {
        self.token.is_none()
    }
}

#[derive(Default)]
struct Current {
    lease: Option<Arc<Lease>>,
    trouble: Option<String>,
}

impl Hosts {
    pub(crate) fn new(provider: Arc<dyn ResidentHost>, store: Store, keep: bool) -> Self {
        Self {
            provider,
            store,
            current: Mutex::default(),
            rented: Mutex::default(),
            keep: AtomicBool::new(keep),
        }
    }

    /// The trust line of this machine.
    pub(crate) fn trust(&self) -> &'static str {
        self.provider.trust()
    }

    /// A lease whose agent may come, or is there.
    pub(crate) fn find(&self, id: Uuid) -> Option<Arc<Lease>> {
        let resident = self.lease().ok().filter(|lease| lease.id == id);
        resident.or_else(|| self.rented().get(&id).cloned())
    }

    /// The agent of a rented host may come.
    pub(crate) fn expect(&self, lease: &Arc<Lease>) {
        self.rented().insert(lease.id, Arc::clone(lease));
    }

    /// A rented host is given back: its agent is nobody any more.
    pub(crate) fn dismiss(&self, lease: Uuid) {
        if let Some(lease) = self.rented().remove(&lease) {
            lease.turn.send_modify(|turn| *turn += 1);
            lease.disconnected();
        }
    }

    fn rented(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Lease>>> {
        self.rented.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.lease().ok().and_then(|lease| lease.machine())
    }

    /// What is between kernels and the rest of this machine, as its agent says; none while it is away.
    pub(crate) fn walls(&self) -> Option<Walls> {
        let lease = self.lease().ok()?;
        lease.machine().and_then(|_| lease.walls())
    }

    /// What keeps hosts from starting, if anything.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .trouble
            .clone()
    }

    /// Takes over this machine's lease of an earlier run whose host is still there, and ends all others; begins the first one
    /// otherwise, so that kernels can be asked for at once.
    pub(crate) async fn open(&self) -> Result<Opened> {
        let mut adopted = None;
        for stored in self.store.active_leases().await? {
            let ours = adopted.is_none() && stored.provider == self.provider.name();
            if ours && self.provider.adopt(stored.id).await {
                let kernels = self.store.kernels_of(stored.id).await?;
                adopted = Some(Arc::new(Lease::of_earlier_run(&stored, &kernels)));
            } else {
                let reason = "the gateway was stopped; variables are gone";
                self.store.end_lease(stored.id, reason).await?;
            }
        }
        self.store.end_sessions_before().await?;
        let Some(lease) = adopted else {
            return self.prepare().await;
        };
        tracing::info!(lease = %lease.id, "the host of the last run is still there");
        if self.provider.ends_with_gateway() {
            // It was not started to end with this run: whoever started it may come back.
            self.keep.store(true, Ordering::Relaxed);
        }
        self.set_current(&lease);
        Ok(Opened { lease, token: None })
    }

    async fn prepare(&self) -> Result<Opened> {
        let token = crate::auth::random_token();
        let lease = Arc::new(Lease::new(&token));
        self.store
            .begin_lease(lease.id, self.provider.name(), lease.token_sha256())
            .await?;
        self.set_current(&lease);
        Ok(Opened {
            lease,
            token: Some(token),
        })
    }

    fn set_current(&self, lease: &Arc<Lease>) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).lease = Some(Arc::clone(lease));
    }

    /// Writes down the key that the agent of a lease made.
    pub(crate) async fn know(&self, lease: &Lease, key: &[u8; 32]) -> Result<()> {
        self.store.set_host_key(lease.id, key).await?;
        lease.know(*key);
        Ok(())
    }

    /// Keeps a host until `stop`, then gives it back.
    pub(crate) async fn run(&self, first: Opened, events: Arc<dyn LeaseEvents>, stop: CancellationToken) {
        let (mut held, mut pause) = (Some(first), FIRST_PAUSE);
        while !stop.is_cancelled() {
            let Opened { lease, token } = match held.take() {
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
            let rented = match &token {
                Some(token) => self.provider.rent(lease.id, token).await,
                None => Ok(()),
            };
            let reason = match rented {
                Ok(()) => tokio::select! {
                    reason = self.provider.gone(lease.id) => reason,
                    () = stop.cancelled() => "the gateway was stopped".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            if lease.machine().is_some() {
                pause = FIRST_PAUSE;
            }
            self.lose(&reason);
            if self.keep.load(Ordering::Relaxed) && stop.is_cancelled() {
                tracing::info!("the host is left to the next run");
                return;
            }
            self.provider.end(lease.id).await;
            lease.disconnected();
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
