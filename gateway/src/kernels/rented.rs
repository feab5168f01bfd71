//! Kernels on hosts that are rented for them: chosen, paid for, and kept until their host is given back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alephlab_api::agent::ToAgent;
use alephlab_api::kernel::KernelState;
use alephlab_api::money::Amount;
use alephlab_api::offer::{AllocationModel, Stage};
use alephlab_api::time::unix_now;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::quotes::{Choice, Terms};
use super::start::Start;
use super::{Kernels, Live, Status};
use crate::allocations::Next;
use crate::error::{GatewayError, Result};
use crate::host::Lease;
use crate::relay::Relay;
use crate::store::{Allocation, Hold, NewAllocation, NewHold, sha256};

/// Between two looks at a host: one that starts is waited for, one that runs is looked after.
const LOOK: Duration = Duration::from_secs(2);
/// The same of one that runs.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// After a failure; doubled up to a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a host may be silent before the notebook says so.
const TOLD_AFTER: Duration = Duration::from_secs(6);

/// Since when a host is silent, and whether that was told.
#[derive(Default)]
struct Away {
    since: Option<(Instant, u64)>,
    told: bool,
}

impl Kernels {
    /// Rents a host for a kernel: what it may cost is set aside and everything is written down when this returns.
    pub(super) async fn rent(
        self: &Arc<Self>,
        (id, account): (Uuid, &str),
        choice: Choice,
        start: Start,
        idle_limit: Option<u64>,
    ) -> Result<Arc<Live>> {
        let terms = self.terms_of(account, choice, &start.env).await?;
        // A client that goes away half-way must not leave a hold or a row that nobody looks after.
        let (kernels, account) = (Arc::clone(self), account.to_owned());
        let begun =
            tokio::spawn(async move { kernels.begin((id, &account), terms, start, idle_limit).await });
        begun.await.unwrap_or_else(|error| {
            Err(GatewayError::Host {
                reason: format!("the allocation could not begin: {error}"),
            })
        })
    }

    async fn begin(
        self: &Arc<Self>,
        (id, account): (Uuid, &str),
        terms: Terms,
        start: Start,
        idle_limit: Option<u64>,
    ) -> Result<Arc<Live>> {
        let _one = self.beginning.lock().await;
        if let Some(begun) = self.begun_before(account, id).await? {
            return Ok(begun);
        }
        let hold = self
            .store
            .hold(NewHold {
                owner: account,
                key: &id.to_string(),
                amount: terms.cap,
                price: terms.offer.price,
                memo: &format!("kernel {id} on {}", terms.offer.hardware),
            })
            .await?;
        let (token, lease) = (self.allocations.kernel_token(id), Uuid::new_v4());
        let new = NewAllocation {
            id,
            account,
            kernelspec: &terms.offer.kernelspec,
            idle_limit: idle_limit.or(terms.idle),
            kernel_token_sha256: &sha256(token.expose().as_bytes()),
            lease,
            lease_token_sha256: &self.allocations.token_sha256(lease),
            hold: hold.id,
            offer: &terms.offer,
            start: &serde_json::to_value(&start).unwrap_or_default(),
            quote: terms.quote,
        };
        let begun = self.store.begin_allocation(&new).await;
        if begun.is_err() {
            self.store.end_hold(hold.id, 0, &self.terms.receipts).await?;
        }
        let begun = begun?;
        let lease = Arc::new(Lease::of_rented(lease, *new.lease_token_sha256, None));
        let live = Live {
            idle_limit: new.idle_limit,
            rental: Some(terms.offer.clone()),
            ..Live::new(
                id,
                (account, &terms.offer.kernelspec),
                &lease,
                Relay::new(Arc::clone(&lease.notes)),
                KernelState::Starting,
            )
        };
        let live = self.enlist(live, Some(hold));
        lease
            .send::<&[u8]>(&self.order_to_start(&live, start, token)?, &[])
            .await?;
        self.keep_soon(&live, begun);
        Ok(live)
    }

    /// Takes over allocations of an earlier run: hosts that start, run, or are to be given back.
    pub(crate) async fn take_allocations_over(self: &Arc<Self>) -> Result<()> {
        for allocation in self.store.open_allocations().await? {
            let (Some(lease), Some(kernel)) = (
                self.store.lease(allocation.lease).await?,
                self.store.kernel(allocation.id).await?,
            ) else {
                continue;
            };
            let rented = Lease::of_rented(lease.id, lease.token_sha256, lease.host_key);
            let live = Live {
                rental: Some(allocation.offer.clone()),
                ..super::adoption::adopted(&kernel, &Arc::new(rented))
            };
            let live = match live.status().state.is_over() {
                true => Arc::new(live),
                // What was set aside for it is taken over with all other holds.
                false => self.enlist(live, None),
            };
            match live.status() {
                Status {
                    state: KernelState::Starting,
                    ..
                } => self.order_again(&live, &allocation).await?,
                // What it was told is not known.
                Status {
                    state: KernelState::Restarting,
                    reason: None,
                } => {
                    let order = ToAgent::RestartKernel { kernel_id: live.id };
                    live.lease.send::<&[u8]>(&order, &[]).await?;
                }
                Status {
                    state: KernelState::Stopping,
                    ..
                } => self.stopped(&live).await,
                _ => {}
            }
            self.keep_soon(&live, allocation);
        }
        Ok(())
    }

    /// A kernel that was to start when the gateway was killed: its agent starts it once, however often it is told.
    async fn order_again(&self, live: &Live, allocation: &Allocation) -> Result<()> {
        let token = self.allocations.kernel_token(live.id);
        let start: Start =
            serde_json::from_value(allocation.start.clone()).map_err(|error| GatewayError::Host {
                reason: format!("how the kernel is started cannot be read: {error}"),
            })?;
        live.lease
            .send::<&[u8]>(&self.order_to_start(live, start, token)?, &[])
            .await
    }

    fn keep_soon(self: &Arc<Self>, live: &Arc<Live>, allocation: Allocation) {
        if !matches!(allocation.stage, Stage::Ending | Stage::Ended) {
            self.hosts.expect(&live.lease);
        }
        let keeping = Arc::clone(self).keep(Arc::clone(live), allocation);
        self.keeping.spawn(keeping);
    }

    /// Takes an allocation through its stages until its host is given back.
    async fn keep(self: Arc<Self>, live: Arc<Live>, mut allocation: Allocation) {
        let (mut pause, mut status) = (FIRST_PAUSE, live.status.subscribe());
        let (mut away, mut told) = (Away::default(), None);
        loop {
            if allocation.stage == Stage::Running {
                self.watch_absence(&live, &mut away).await;
            }
            if told != Some(allocation.stage) {
                told = Some(allocation.stage);
                live.comes_to(&said_of(&allocation, None));
            }
            match self.allocations.step(&allocation).await {
                Ok(Some((_, Next::Done))) => return self.given_back(&live),
                Ok(Some((moved, next))) => {
                    pause = FIRST_PAUSE;
                    if moved.stage == Stage::Ending && allocation.stage != Stage::Ending {
                        self.lost(&live, moved.detail.as_deref()).await;
                    }
                    allocation = moved;
                    if let Next::Wait(text) = next {
                        live.waits_for(&said_of(&allocation, Some(&text)));
                        self.wait(&live, &mut status, allocation.stage).await;
                    }
                }
                // Another gateway has moved it.
                Ok(None) => match self.store.allocation(allocation.id).await {
                    Ok(Some(newer)) => allocation = newer,
                    Ok(None) => return,
                    Err(error) => tracing::error!(%error, "an allocation could not be read"),
                },
                Err(error) => {
                    tracing::warn!(allocation = %allocation.id, stage = allocation.stage.name(), %error, "a step failed; it is done again");
                    live.waits_for(&said_of(&allocation, Some(&error.to_string())));
                    let is_over = status.borrow().state.is_over();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = over(&mut status), if !is_over => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A host whose agent stays away longer than kernels go on without the gateway has none any more. The time that it was
    /// away is not charged.
    async fn watch_absence(self: &Arc<Self>, live: &Arc<Live>, away: &mut Away) {
        if live.lease.machine().is_some() {
            live.away.store(0, Ordering::Release);
            if std::mem::take(away).told {
                live.say("Its host answers again.");
            }
            return;
        }
        let (since, at) = *away.since.get_or_insert_with(|| (Instant::now(), unix_now()));
        live.away.store(at, Ordering::Release);
        let patience = self.allocations.outlive();
        let minutes = patience.as_secs().div_ceil(60);
        if since.elapsed() < patience || live.status().state.is_over() {
            // A connection that is lost for a moment is nobody's concern.
            if since.elapsed() >= TOLD_AFTER && !std::mem::replace(&mut away.told, true) {
                live.say(&format!(
                    "Its host does not answer. Nothing is charged meanwhile; after {minutes} minutes the kernel counts as lost and \
                     the host is given back. To end it now, stop the kernel."
                ));
            }
            return;
        }
        live.ends(KernelState::Dead, at);
        let reason = format!("its host has not answered for {minutes} minutes");
        let reported = self.report(live, KernelState::Dead, Some(reason), None).await;
        if let Err(error) = reported {
            tracing::error!(kernel = %live.id, %error, "the end of a kernel could not be written");
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self, live: &Live, status: &mut watch::Receiver<Status>, stage: Stage) {
        let pause = match stage {
            Stage::Running if live.lease.machine().is_some() => LOOK_AFTER,
            _ => LOOK,
        };
        let mut connection = live.lease.connection();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = over(status), if stage != Stage::Ending => {}
            // It came, which a joining one waits for, or went, which is watched.
            _ = connection.changed() => {}
        }
    }

    /// Its host is not, or no more, for this kernel.
    async fn lost(&self, live: &Live, reason: Option<&str>) {
        self.hosts.dismiss(live.lease.id);
        self.lease_ended(live.lease.id, reason.unwrap_or("its host was given back"))
            .await;
    }

    fn given_back(&self, live: &Live) {
        self.hosts.dismiss(live.lease.id);
        tracing::info!(kernel = %live.id, "a host is given back, and its provider bills nothing more");
    }

    /// Ends what is rented when the gateway stops for good; what does not end in time is ended by the next run.
    pub(crate) async fn give_all_back(&self, patience: Duration) {
        let all = self.all();
        let rented = all.iter().filter(|live| live.rental.is_some());
        // Their agents are not asked: connections end with the gateway, and the hosts go with the kernels.
        join_all(rented.map(|live| self.stopped(live))).await;
        self.keeping.close();
        if tokio::time::timeout(patience, self.keeping.wait()).await.is_err() {
            tracing::warn!("a rented host is not given back yet; the next start does that");
        }
    }

    /// A kernel is over without a word of its host, which is given back.
    async fn stopped(&self, live: &Arc<Live>) {
        self.write_missed(live, Duration::ZERO).await;
        self.change(live, KernelState::Stopping, None).await;
        self.change(live, KernelState::Stopped, None).await;
    }

    /// Whether a kernel costs something.
    pub(super) fn is_paid(&self, live: &Live) -> bool {
        live.rental.is_some() || !self.terms.price.is_zero()
    }

    /// What an account has rented, newest first.
    pub(crate) async fn allocations_of(&self, account: &str, limit: u32) -> Result<Vec<AllocationModel>> {
        let mut models = Vec::new();
        for stored in self.store.allocations_of(account, limit).await? {
            let hold: Option<Hold> = self.store.hold_of(&stored.id.to_string()).await?;
            let waits = self.get(account, stored.id).ok().map(|live| live.status());
            let waits = waits.filter(|status| status.state == KernelState::Starting);
            models.push(AllocationModel {
                id: stored.id,
                stage: stored.stage,
                detail: stored.detail.or(waits.and_then(|status| status.reason)),
                cap: hold.as_ref().map_or(Amount::ZERO, |hold| hold.amount),
                charged: hold.as_ref().map_or(Amount::ZERO, |hold| hold.charged),
                seconds: hold.as_ref().map_or(0, |hold| hold.seconds),
                offer: stored.offer,
                created: stored.created,
                changed: stored.changed,
            });
        }
        Ok(models)
    }
}

/// Waits until the kernel is over.
async fn over(status: &mut watch::Receiver<Status>) {
    // An error says the same: nobody changes it any more.
    let _ = status.wait_for(|status| status.state.is_over()).await;
}

/// What a person is told of a stage.
fn said_of(allocation: &Allocation, waits: Option<&str>) -> String {
    let offer = &allocation.offer;
    let now = match allocation.stage {
        Stage::Held => "credits are set aside".to_owned(),
        Stage::Renting => format!("renting {} at {}", offer.hardware, offer.place),
        Stage::Booting => format!("{} is rented and boots", offer.hardware),
        Stage::Joining => "the host is reached, and the kernel is being set up".to_owned(),
        Stage::Running => "the kernel starts".to_owned(),
        Stage::Ending | Stage::Ended => "the host is given back".to_owned(),
    };
    match waits.filter(|_| allocation.stage != Stage::Running) {
        Some(waits) => format!("{now} ({waits})"),
        None => now,
    }
}
