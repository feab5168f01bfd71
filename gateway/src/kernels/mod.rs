//! The kernels that run: started, asked, stopped, and what their agents report of them.
//!
//! Durable states go through the store, one transaction each; busy and idle change with each cell and live here only.
//! Not here: HTTP, WebSockets, and how a host is had.

mod adoption;
mod cap;
mod environment;
mod idle;
mod loads;
mod metering;
mod missed;
mod quotes;
mod rented;
mod reports;
mod start;
mod starting;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::agent::{EVCXR_KERNELSPEC, KERNELSPEC, ToAgent};
use alephlab_api::jupyter::{KernelModel, NewKernel};
use alephlab_api::kernel::KernelState;
use alephlab_api::offer::Offer;
use alephlab_api::time;
use axum::http::StatusCode;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::allocations::Allocations;
use crate::contents::Contents;
use crate::error::{GatewayError, Result};
use crate::framing::KernelMessage;
use crate::host::{Hosts, Lease};
use crate::recorder::Recorder;
use crate::relay::{ABSENCE, Hold, Relay};
use crate::store::{Store, StoredKernel};

pub(crate) use cap::Raise;
pub(crate) use metering::Terms;
use missed::GONE_AFTER;
use reports::say_dead;

/// The kernelspec that a kernel is of when nobody asks for one.
pub(crate) const SPEC: &str = KERNELSPEC;
/// Name and title of every kernelspec that this gateway has.
pub(crate) const SPECS: [(&str, &str); 2] = [
    (KERNELSPEC, "Rust (Alephlab)"),
    (EVCXR_KERNELSPEC, "Rust (evcxr)"),
];

/// The answer for a kernelspec that is none of ours.
pub(crate) fn unknown_spec(name: &str) -> GatewayError {
    let ours = SPECS.map(|(name, _)| format!("`{name}`")).join(" and ");
    let message = format!("this gateway has no kernelspec `{name}`; it has {ours}");
    GatewayError::not_found("kernelspec_unknown", message)
}
/// The kernelspec that is wanted.
fn spec_of(wanted: &NewKernel) -> &str {
    let name = wanted.name.as_deref().filter(|name| !name.is_empty());
    name.unwrap_or(SPEC)
}

/// How often absent sessions are looked for.
const TIDY: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Less than the 42 s after which Jupyter's gateway client gives up.
const RESTART_PATIENCE: Duration = Duration::from_secs(38);

/// A kernel that runs, starts, or died in this run of the gateway.
pub(crate) struct Live {
    pub(crate) id: Uuid,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) started: u64,
    pub(crate) relay: Relay,
    /// What cells put out whose page may go before they end.
    pub(crate) recorder: Recorder,
    lease: Arc<Lease>,
    /// An earlier run of the gateway started it.
    is_adopted: bool,
    /// Newest number of the agent's whose state is known: an earlier run has written it, or it was told before its turn.
    known_until: AtomicU64,
    /// When the agent says that it ended, unix seconds; 0 while it has not.
    ended: AtomicU64,
    /// Since when its rented host is silent, unix seconds; 0 while it is not.
    away: AtomicU64,
    /// Held while outputs are put into its notebook.
    writing: tokio::sync::Mutex<()>,
    /// Held while the agent is told which cells are followed.
    following: tokio::sync::Mutex<()>,
    /// It will be told soon.
    is_told_soon: AtomicBool,
    /// Outputs will be put into its notebook soon.
    is_written_soon: AtomicBool,
    /// Since when it can be used, unix seconds; 0 while it cannot yet.
    usable: AtomicU64,
    /// Whether what was set aside for it is used, for good. Held while that is found out, and while its cap is raised.
    spent: tokio::sync::Mutex<bool>,
    status: watch::Sender<Status>,
    /// Held from the check of a durable state to its publication, so that no two changes cross.
    changing: tokio::sync::Mutex<()>,
    /// Microseconds since 1970.
    activity: AtomicU64,
    /// When something ran in it last, unix seconds.
    worked: AtomicU64,
    /// Seconds without that after which it is stopped, as its client asked.
    idle_limit: Option<u64>,
    /// What was rented for it; none on this machine.
    pub(crate) rental: Option<Offer>,
    /// What told that the newest cell runs: what is said of the kernel stands under that cell.
    newest_cell: Mutex<Option<KernelMessage>>,
}

/// State and why.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: KernelState,
    pub(crate) reason: Option<String>,
}

impl Live {
    /// One that begins now, of which nothing is known but this.
    fn new(
        id: Uuid,
        (account, name): (&str, &str),
        lease: &Arc<Lease>,
        relay: Relay,
        state: KernelState,
    ) -> Self {
        Self {
            id,
            account: account.to_owned(),
            name: name.to_owned(),
            started: time::unix_now(),
            relay,
            recorder: Recorder::default(),
            lease: Arc::clone(lease),
            is_adopted: false,
            known_until: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            away: AtomicU64::new(0),
            writing: tokio::sync::Mutex::default(),
            following: tokio::sync::Mutex::default(),
            is_told_soon: AtomicBool::new(false),
            is_written_soon: AtomicBool::new(false),
            usable: AtomicU64::new(0),
            spent: tokio::sync::Mutex::default(),
            status: watch::Sender::new(Status { state, reason: None }),
            changing: tokio::sync::Mutex::default(),
            activity: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            idle_limit: None,
            rental: None,
            newest_cell: Mutex::default(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Tells all clients a sentence, under the newest cell where there was one: elsewhere JupyterLab shows it to nobody.
    fn say(&self, text: &str) {
        let sentence = KernelMessage::sentence(text);
        let cell = self.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
        let sentence = match cell.as_ref() {
            Some(cell) => sentence.beside(cell),
            None => sentence,
        };
        self.relay.push(None, sentence);
    }

    fn touch(&self) {
        self.activity.store(time::unix_micros(), Ordering::Relaxed);
    }

    /// Something runs in it. What only asks about the kernel is not that.
    fn work(&self) {
        self.worked.store(time::unix_now(), Ordering::Relaxed);
    }

    fn worked(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }

    pub(crate) fn last_activity(&self) -> String {
        time::format(UNIX_EPOCH + Duration::from_micros(self.activity.load(Ordering::Relaxed)))
    }
}

/// All kernels of this run.
pub(crate) struct Kernels {
    store: Store,
    contents: Contents,
    hosts: Arc<Hosts>,
    pub(crate) allocations: Allocations,
    aleph_url: String,
    terms: Terms,
    live: Mutex<HashMap<Uuid, Arc<Live>>>,
    /// Tasks that keep rented hosts.
    keeping: TaskTracker,
    /// Held while a kernel begins, so that two requests with one id begin one.
    beginning: tokio::sync::Mutex<()>,
    /// Messages passed either way, for `/metrics`.
    pub(crate) messages: AtomicU64,
}

impl Kernels {
    pub(crate) fn new(
        (store, contents): (Store, Contents),
        (hosts, allocations): (Arc<Hosts>, Allocations),
        aleph_url: String,
        terms: Terms,
    ) -> Self {
        Self {
            store,
            contents,
            hosts,
            allocations,
            aleph_url,
            terms,
            live: Mutex::default(),
            keeping: TaskTracker::new(),
            beginning: tokio::sync::Mutex::default(),
            messages: AtomicU64::new(0),
        }
    }

    /// A kernel of this account.
    pub(crate) fn get(&self, account: &str, id: Uuid) -> Result<Arc<Live>> {
        let live = self
            .live()
            .get(&id)
            .filter(|live| live.account == account)
            .cloned();
        live.ok_or_else(|| GatewayError::not_found("kernel_unknown", format!("there is no kernel {id}")))
    }

    /// All kernels of this account, oldest first.
    pub(crate) fn of(&self, account: &str) -> Vec<Arc<Live>> {
        let mut kernels: Vec<_> = self
            .live()
            .values()
            .filter(|live| live.account == account)
            .cloned()
            .collect();
        kernels.sort_by_key(|live| (live.started, live.id));
        kernels
    }

    /// Everybody's, for figures.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.live().values().cloned().collect()
    }

    /// What `/api/kernels` shows.
    pub(crate) fn model(&self, live: &Live) -> KernelModel {
        let Status { state, reason } = live.status();
        KernelModel {
            id: live.id,
            name: live.name.clone(),
            last_activity: live.last_activity(),
            execution_state: state.jupyter().to_owned(),
            connections: live.relay.connections(),
            reason,
            trust: Some(self.trust(live)),
        }
    }

    /// The trust line of its host.
    pub(crate) fn trust(&self, live: &Live) -> String {
        match &live.rental {
            Some(offer) => offer.trust.clone(),
            None => self.hosts.trust().to_owned(),
        }
    }

    /// The machine that a kernel is on, and its trust line.
    pub(crate) fn place_of(&self, kernel: Uuid) -> Option<(String, String)> {
        let live = self.live().get(&kernel).cloned()?;
        let machine = live.lease.machine();
        let machine = match &live.rental {
            Some(offer) => format!("{}, {}", offer.hardware, offer.place),
            None => machine.unwrap_or_else(|| "this machine".to_owned()),
        };
        Some((machine, self.trust(&live)))
    }

    /// What is between a kernel and the rest of its host, in one phrase.
    pub(crate) fn walls(&self, live: &Live) -> Option<String> {
        live.lease.walls().map(|walls| walls.to_string())
    }

    /// What it shows of a kernel of an earlier run: dead, and why.
    pub(crate) async fn earlier(&self, account: &str, id: Uuid) -> Result<StoredKernel> {
        let stored = self.store.kernel(id).await?;
        let stored = stored.filter(|kernel| kernel.account == account && !kernel.outside);
        stored
            .filter(|kernel| kernel.state == KernelState::Dead)
            .ok_or_else(|| GatewayError::not_found("kernel_unknown", format!("there is no kernel {id}")))
    }

    /// Stops a kernel and forgets it.
    pub(crate) async fn stop(&self, account: &str, id: Uuid) -> Result<()> {
        let Ok(live) = self.get(account, id) else {
            self.earlier(account, id).await?;
            return self
                .store
                .set_kernel_state(id, KernelState::Stopped, None, None)
                .await;
        };
        let mut status = live.status.subscribe();
        // Its session goes with it, and then nobody knows where its outputs belong.
        live.relay.caught_up().await;
        self.write_missed(&live, Duration::ZERO).await;
        self.change(&live, KernelState::Stopping, None).await;
        let hosted = self.hosts.find(live.lease.id).is_some();
        // A rented host that nobody has reached yet is given back as it is.
        let reached = !live.lease.is_rented() || live.lease.is_known();
        if hosted
            && reached
            && live
                .lease
                .send::<&[u8]>(&ToAgent::StopKernel { kernel_id: id }, &[])
                .await
                .is_ok()
        {
            let over = status.wait_for(|status| status.state.is_over());
            if tokio::time::timeout(STOP_PATIENCE, over).await.is_err() {
                tracing::warn!(kernel = %id, "a kernel's end was not reported");
            }
        }
        self.change(&live, KernelState::Stopped, None).await;
        self.live().remove(&id);
        live.relay.close(1000, "the kernel was stopped");
        Ok(())
    }

    /// Asks a kernel to interrupt its cell.
    pub(crate) async fn interrupt(&self, account: &str, id: Uuid) -> Result<()> {
        let live = self.get(account, id)?;
        live.touch();
        live.lease
            .send::<&[u8]>(&ToAgent::InterruptKernel { kernel_id: id }, &[])
            .await
    }

    /// Restarts a kernel in place; returns when it is ready or dead, or patience ends.
    pub(crate) async fn restart(self: &Arc<Self>, account: &str, id: Uuid) -> Result<Arc<Live>> {
        let live = self.get(account, id)?;
        if self.hosts.find(live.lease.id).is_none() {
            let message = "the host of this kernel is gone, so it cannot be restarted";
            return Err(GatewayError::refused(StatusCode::CONFLICT, "host_lost", message)
                .with_hint("start a new kernel"));
        }
        if live.rental.is_some() && live.status().state == KernelState::Starting {
            // There is nothing yet that could be restarted.
            return Ok(live);
        }
        let mut status = live.status.subscribe();
        let was_dead = live.status().state == KernelState::Dead;
        if was_dead && self.is_paid(&live) {
            let message = "this kernel is dead, and what was set aside for it was given back";
            return Err(
                GatewayError::refused(StatusCode::CONFLICT, "kernel_state", message)
                    .with_hint("start a new kernel"),
            );
        }
        if self.change(&live, KernelState::Restarting, None).await.is_none() {
            let message = format!("this kernel is {} and cannot be restarted", live.status().state);
            return Err(GatewayError::refused(
                StatusCode::CONFLICT,
                "kernel_state",
                message,
            ));
        }
        if was_dead {
            self.revived(&live);
        }
        live.lease
            .send::<&[u8]>(&ToAgent::RestartKernel { kernel_id: id }, &[])
            .await?;
        let settled = status.wait_for(|status| {
            matches!(status.state, KernelState::Idle | KernelState::Busy) || status.state.is_over()
        });
        if tokio::time::timeout(RESTART_PATIENCE, settled).await.is_err() {
            tracing::warn!(kernel = %id, "a restart takes longer than its caller waits");
        }
        Ok(live)
    }

    /// A client came. The agent hears of it with its first message: sockets of one that only listens would be for nothing.
    pub(crate) fn client_came(live: &Live, hold: &Hold) {
        live.touch();
        let Status { state, reason } = live.status();
        if state == KernelState::Dead {
            // The others heard it when it happened.
            say_dead(live, Some(hold.client), reason.as_deref());
        }
    }

    /// Forgets sessions that stay away, so that their sockets at the kernel are closed.
    pub(crate) async fn tidy(&self) {
        let mut tick = tokio::time::interval(TIDY);
        loop {
            tick.tick().await;
            for live in self.all() {
                Self::expire(&live);
                // What runs for long is written down as it comes.
                self.write_missed(&live, GONE_AFTER).await;
                live.tell_followed_soon();
            }
        }
    }

    fn expire(live: &Arc<Live>) {
        let gone = live.relay.expire(ABSENCE);
        if gone.is_empty() {
            return;
        }
        // A host that takes no orders holds up no other.
        let live = Arc::clone(live);
        tokio::spawn(async move {
            for client in gone {
                let order = ToAgent::ClientClose {
                    kernel_id: live.id,
                    client,
                };
                let _ = live.lease.send::<&[u8]>(&order, &[]).await;
            }
        });
    }

    /// Tells the agent of a client that will not come back.
    pub(crate) async fn client_gone(&self, live: &Live, hold: &Hold) {
        let order = ToAgent::ClientClose {
            kernel_id: live.id,
            client: hold.client,
        };
        let _ = live.lease.send::<&[u8]>(&order, &[]).await;
    }

    /// Passes a client's message on.
    pub(crate) async fn message_sent(&self, live: &Live, hold: &Hold, message: &KernelMessage) -> Result<()> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        live.touch();
        if live.answers_while_starting(hold.client, message) {
            return Ok(());
        }
        let order = ToAgent::Message {
            kernel_id: live.id,
            client: hold.client,
            channel: message.channel,
        };
        let newest = || live.relay.newest();
        if !live.recorder.asked(&hold.session, message, newest) {
            return live.lease.send(&order, message.parts()).await;
        }
        let sent = async {
            live.tell_followed().await?;
            live.lease.send(&order, message.parts()).await
        };
        let sent = sent.await;
        if sent.is_err() {
            live.recorder.not_asked(message.msg_id());
        }
        sent
    }

    /// Ends all connections, for a gateway that stops: clients may come back.
    pub(crate) fn close_all(&self) {
        for live in self.all() {
            live.relay.close(1012, "the gateway restarts");
        }
    }

    /// Moves a kernel on, checked, written and published as one step. Gives the state before, or none when `state` may
    /// not follow it or could not be written; then nothing is changed.
    async fn change(&self, live: &Live, state: KernelState, reason: Option<String>) -> Option<KernelState> {
        self.change_heard(live, state, reason, None).await.ok().flatten()
    }

    /// The same for what the agent said under this number.
    async fn change_heard(
        &self,
        live: &Live,
        state: KernelState,
        reason: Option<String>,
        number: Option<u64>,
    ) -> Result<Option<KernelState>> {
        let _one = live.changing.lock().await;
        let before = live.status().state;
        if !before.may_become(state) {
            return Ok(None);
        }
        let written = self
            .store
            .set_kernel_state(live.id, state, reason.as_deref(), number)
            .await;
        if let Err(error) = written {
            tracing::error!(kernel = %live.id, %state, %error, "a kernel's state could not be written");
            return Err(error);
        }
        live.touch();
        if state == KernelState::Idle {
            live.work();
            let now = time::unix_now();
            let _ = live
                .usable
                .compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
        // Only busy and idle changed meanwhile, and what may follow one may follow the other.
        let published = live.status.send_if_modified(|status| {
            let may = status.state.may_become(state);
            if may {
                *status = Status { state, reason };
            }
            may
        });
        Ok(published.then_some(before))
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
