//! What agents report of kernels: messages, states, kernels they no longer have, and the end of a lease. Each message and
//! each state has a number, and is taken once.
//!
//! Called by the agent's connection and by the keeper of leases; everything else about kernels is one folder up.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use alephlab_api::agent::{Held, ToAgent};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use alephlab_api::time;
use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::{Kernels, Live, Status};
use crate::error::Result;
use crate::framing::KernelMessage;
use crate::recorder::Noted;
use crate::relay::Arrival;

impl Kernels {
    /// A kernel of this lease whose frame with this number is not known yet.
    fn comes_now(&self, (lease, kernel): (Uuid, Uuid), number: u64) -> Option<Arc<Live>> {
        let live = self.live().get(&kernel).cloned();
        let Some(live) = live.filter(|live| live.lease.id == lease) else {
            // The agent would keep it for ever.
            if let Some(lease) = self.hosts.find(lease) {
                lease.forget(kernel, number);
            }
            return None;
        };
        match live.relay.expects(number) {
            Arrival::Next => {}
            Arrival::Known => return None,
            Arrival::After { lost, unheard } => {
                live.recorder.lost(lost);
                // Once, also when this frame has to come again.
                live.relay.accept(number - 1);
                let sentence = format!(
                    "{unheard} messages of the kernel are lost: more came than its host keeps while nobody listens."
                );
                // What the recorder alone would have taken is nobody's loss who listens.
                if unheard > 0 {
                    live.relay.push(None, KernelMessage::sentence(&sentence));
                }
            }
        }
        Some(live)
    }

    /// An agent passed a kernel's message on.
    pub(crate) fn message_came(
        self: Arc<Self>,
        place: (Uuid, Uuid),
        number: u64,
        client: Option<Uuid>,
        channel: Channel,
        parts: Vec<Bytes>,
    ) {
        let Some(live) = self.comes_now(place, number) else {
            return;
        };
        live.relay.accept(number);
        match KernelMessage::new(channel, parts) {
            Ok(message) => self.said(&live, number, client, message),
            Err(reason) => tracing::warn!(kernel = %live.id, reason, "a message of a kernel was left out"),
        }
        live.relay.settle(number);
    }

    fn said(self: &Arc<Self>, live: &Arc<Live>, number: u64, client: Option<Uuid>, message: KernelMessage) {
        let missed = live
            .recorder
            .said(number, &message, |session| live.relay.is_here(session));
        if missed {
            self.write_missed_soon(live);
        }
        live.tell_followed_soon();
        if message.msg_type == "execute_input" && message.channel == Channel::Iopub {
            let mut newest = live.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
            *newest = Some(message.clone());
        }
        if live.relay.is_heard(number) {
            // An earlier run of the gateway has told everybody, and knew what follows from it.
            return;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        live.touch();
        let said = message.execution_state().as_deref().and_then(KernelState::parse);
        if let Some(said @ (KernelState::Idle | KernelState::Busy)) = said {
            if said == KernelState::Idle && live.ends_cell(&message) {
                live.work();
            }
            live.becomes(said);
        }
        if message.channel == Channel::Iopub && message.msg_type != "status" {
            live.work();
        }
        live.relay.push_numbered(number, client, message);
    }

    /// An agent reported a kernel's state.
    ///
    /// # Errors
    /// When it could not be written: the frame is not accepted, and comes again on the next connection.
    pub(crate) async fn state_came(
        self: &Arc<Self>,
        place: (Uuid, Uuid),
        number: u64,
        (state, detail): (KernelState, Option<String>),
        at: u64,
    ) -> Result<()> {
        let Some(live) = self.comes_now(place, number) else {
            return Ok(());
        };
        if number > live.known_until.load(Ordering::Acquire) {
            live.ends(state, at);
            self.report(&live, state, bounded(detail), Some(number)).await?;
        }
        // In the order of its output: what cells put out until here has come.
        if matches!(state, KernelState::Dead | KernelState::Restarting) {
            self.cells_ended(&live, number);
        }
        live.relay.accept(number);
        live.relay.settle(number);
        Ok(())
    }

    /// The agent tells a state whose frame waits for room.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn state_ahead(
        self: &Arc<Self>,
        (lease, kernel): (Uuid, Uuid),
        number: u64,
        (state, detail): (KernelState, Option<String>),
        at: u64,
    ) -> Result<()> {
        let live = self.live().get(&kernel).cloned();
        let Some(live) = live.filter(|live| live.lease.id == lease) else {
            return Ok(());
        };
        let is_known = live.known_until.load(Ordering::Acquire) >= number
            || live.relay.expects(number) == Arrival::Known;
        if is_known {
            return Ok(());
        }
        let is_ready = matches!(live.status().state, KernelState::Idle | KernelState::Busy);
        if is_ready && matches!(state, KernelState::Idle | KernelState::Busy) {
            // Whether that was a cell is not told; it is taken for one.
            live.work();
            live.becomes(state);
            return Ok(());
        }
        live.ends(state, at);
        self.report(&live, state, bounded(detail), Some(number)).await?;
        live.known_until.fetch_max(number, Ordering::AcqRel);
        Ok(())
    }

    /// Moves a kernel on and tells its clients what they should know; `number` is the agent's, if it comes from there.
    pub(super) async fn report(
        self: &Arc<Self>,
        live: &Arc<Live>,
        state: KernelState,
        detail: Option<String>,
        number: Option<u64>,
    ) -> Result<()> {
        let is_dead = live.status().state == KernelState::Dead;
        if is_dead && !state.is_over() && number.is_some() && self.is_paid(live) {
            // What was set aside for it was given back; a restart that crossed its death must not make it free.
            let order = ToAgent::StopKernel { kernel_id: live.id };
            return live.lease.send::<&[u8]>(&order, &[]).await;
        }
        let Some(before) = self.change_heard(live, state, detail.clone(), number).await? else {
            return Ok(());
        };
        if before == KernelState::Dead && state == KernelState::Restarting {
            self.revived(live);
        }
        if number.is_none() && state == KernelState::Dead {
            self.cells_ended(live, u64::MAX);
        }
        match (state, &detail) {
            (KernelState::Dead, _) if before != KernelState::Stopping => {
                say_dead(live, None, detail.as_deref());
            }
            // Nobody asked: clients are told, as Jupyter's own servers do.
            (KernelState::Restarting, Some(detail)) => {
                live.relay.push(None, KernelMessage::sentence(detail));
                live.relay.push(None, status_message("restarting"));
            }
            _ => {}
        }
        Ok(())
    }

    /// A dead kernel is started again.
    pub(super) fn revived(self: &Arc<Self>, live: &Arc<Live>) {
        live.ended.store(0, Ordering::Release);
        live.work();
        tokio::spawn(Arc::clone(self).watch_idle(Arc::clone(live)));
    }

    /// No cell of the process goes on that ended under this number of the agent's.
    fn cells_ended(self: &Arc<Self>, live: &Arc<Live>, number: u64) {
        live.recorder.ended(number);
        self.write_missed_soon(live);
    }

    /// At a connection: kernels that the agent no longer has are dead. One that starts is so only when its order to start
    /// `came` to the agent; else the order still comes. Gives the kernels of the lease and how much is known of each.
    pub(crate) async fn agent_knows(
        self: &Arc<Self>,
        lease: Uuid,
        kernels: &[Held],
        came: impl Fn(Uuid) -> bool,
    ) -> BTreeMap<Uuid, u64> {
        let mut known = BTreeMap::new();
        for live in self.all().into_iter().filter(|live| live.lease.id == lease) {
            let held = kernels.iter().find(|held| held.kernel_id == live.id);
            let null = serde_json::Value::Null;
            let note = held.map_or(&null, |held| &held.note);
            let (kept, oldest, newest) = held.map_or((&[][..], 0, 0), |held| {
                (held.cells.as_slice(), held.oldest, held.newest)
            });
            let cells = Noted::of_agent(kept, oldest);
            if let Some(busy) = live.relay.restore(note, Noted::since(&cells), newest) {
                live.recorder.restore(kept, cells, newest);
                live.tell_followed_soon();
                if busy {
                    live.becomes(KernelState::Busy);
                }
            }
            let waiting = match live.status().state {
                KernelState::Starting => !came(live.id),
                state => state == KernelState::Stopping || state.is_over(),
            };
            if held.is_none() && !waiting {
                let reason = "the host no longer has this kernel; its variables are gone";
                let reported = self.report(&live, KernelState::Dead, Some(reason.to_owned()), None);
                if let Err(error) = reported.await {
                    tracing::error!(kernel = %live.id, %error, "the end of a kernel could not be written");
                }
            }
            known.insert(live.id, live.relay.accepted());
        }
        known
    }

    /// Notes for the agent of a lease, of kernels of which there is something new to keep.
    pub(crate) fn notes(&self, lease: Uuid) -> Vec<ToAgent> {
        let kernels = self.all().into_iter().filter(|live| live.lease.id == lease);
        let note = |live: Arc<Live>| {
            let busy = || live.status().state == KernelState::Busy;
            let note = live.relay.take_note(|| live.recorder.since(), busy)?;
            Some(ToAgent::Note {
                kernel_id: live.id,
                taken: note.taken,
                keep: note.keep,
                note: note.note,
            })
        };
        kernels.filter_map(note).collect()
    }
}

impl Kernels {
    /// A lease ended: its kernels are dead.
    pub(crate) async fn lease_ended(&self, lease: Uuid, reason: &str) {
        for live in self.all().into_iter().filter(|live| live.lease.id == lease) {
            let _one = live.changing.lock().await;
            // The store did this already, for all kernels of the lease in one step.
            let died = live.status.send_if_modified(|status| {
                let dies = !status.state.is_over();
                if dies {
                    *status = Status {
                        state: KernelState::Dead,
                        reason: Some(reason.to_owned()),
                    };
                }
                dies
            });
            if died {
                live.recorder.ended(u64::MAX);
                say_dead(&live, None, Some(reason));
            }
        }
    }
}

/// A reason as it is shown and stored.
fn bounded(detail: Option<String>) -> Option<String> {
    detail.map(|detail| detail.chars().take(1000).collect())
}

impl Live {
    /// Whether this idle is that of the newest cell, and not of a completion that was asked for beside it.
    fn ends_cell(&self, idle: &KernelMessage) -> bool {
        let newest = self.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
        newest
            .as_ref()
            .is_none_or(|cell| cell.parent_id() == idle.parent_id())
    }

    /// Keeps when it ended, which may have been while no gateway was there.
    pub(super) fn ends(&self, state: KernelState, at: u64) {
        if state.is_over() && at > 0 {
            self.ended.store(at.min(time::unix_now()), Ordering::Release);
        }
    }

    /// Idle or busy, as its messages tell; only of one that is ready.
    fn becomes(&self, said: KernelState) {
        self.status.send_if_modified(|status| {
            let ready = matches!(status.state, KernelState::Idle | KernelState::Busy);
            if ready {
                status.state = said;
            }
            ready
        });
    }
}

/// Tells one client, or all.
pub(super) fn say_dead(live: &Live, to: Option<Uuid>, reason: Option<&str>) {
    let reason = reason.unwrap_or("no reason was reported");
    let sentence = format!("The kernel is dead: {reason}.");
    live.relay.push(to, KernelMessage::sentence(&sentence));
    live.relay.push(to, status_message("dead"));
}

fn status_message(state: &str) -> KernelMessage {
    KernelMessage::notice("status", &json!({ "execution_state": state }))
}

#[cfg(test)]
mod tests {
    use alephlab_api::jupyter::NewKernel;

    use super::super::testing::{OWNER, kernels_at};
    use super::*;

    /// A kernel that starts, on a lease whose agent never comes.
    async fn starting(folder: &std::path::Path) -> (Arc<Kernels>, Arc<Live>) {
        let kernels = kernels_at(folder, Default::default()).await;
        let live = kernels.start(OWNER, &NewKernel::default()).await.unwrap();
        (kernels, live)
    }

    #[tokio::test]
    async fn a_report_that_crosses_a_stop_does_not_undo_it() {
        use KernelState::{Starting, Stopped, Stopping};
        let folder = tempfile::tempdir().unwrap();
        let (kernels, live) = starting(folder.path()).await;
        let (stop, _) = tokio::join!(
            kernels.change(&live, Stopping, None),
            kernels.state_came((live.lease.id, live.id), 1, (Starting, None), 0)
        );
        assert_eq!((stop, live.status().state), (Some(Starting), Stopping));
        kernels
            .state_came((live.lease.id, live.id), 2, (Stopped, None), 0)
            .await
            .unwrap();
        assert_eq!(live.status().state, Stopped);
    }

    #[tokio::test]
    async fn a_state_that_the_database_refuses_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (kernels, live) = starting(folder.path()).await;
        kernels
            .store
            .set_kernel_state(live.id, KernelState::Dead, None, None)
            .await
            .unwrap();
        assert_eq!(kernels.change(&live, KernelState::Idle, None).await, None);
        assert_eq!(live.status().state, KernelState::Starting);
    }

    #[tokio::test]
    async fn a_kernel_of_an_account_without_a_folder_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("work"), "").unwrap();
        let (_kernels, live) = starting(folder.path()).await;
        let status = live.status();
        assert_eq!(status.state, KernelState::Dead);
        let reason = status.reason.unwrap_or_default();
        assert!(reason.contains("the account's folder"), "{reason}");
    }

    #[tokio::test]
    async fn a_kernel_whose_order_to_start_was_lost_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let (kernels, live) = starting(folder.path()).await;
        let lease = live.lease.id;
        kernels.agent_knows(lease, &[], |_| false).await;
        assert_eq!(
            live.status().state,
            KernelState::Starting,
            "its order still waits"
        );
        let held = Held {
            kernel_id: live.id,
            oldest: 1,
            newest: 0,
            note: json!(null),
            cells: Vec::new(),
        };
        let known = kernels.agent_knows(lease, &[held], |_| true).await;
        assert_eq!(known, [(live.id, 0)].into());
        assert_eq!(live.status().state, KernelState::Starting);
        kernels.agent_knows(lease, &[], |_| true).await;
        assert_eq!(live.status().state, KernelState::Dead);
    }

    #[tokio::test]
    async fn dead_kernels_do_not_count_and_only_so_many_stay_at_hand() {
        let folder = tempfile::tempdir().unwrap();
        let (kernels, first) = starting(folder.path()).await;
        let dies = |live: Arc<Live>| {
            let kernels = Arc::clone(&kernels);
            async move { kernels.change(&live, KernelState::Dead, None).await }
        };
        dies(Arc::clone(&first)).await.unwrap();
        for _ in 0..66 {
            let live = kernels.start(OWNER, &NewKernel::default()).await.unwrap();
            dies(live).await.unwrap();
        }
        kernels.start(OWNER, &NewKernel::default()).await.unwrap();
        assert_eq!(kernels.of(OWNER).len(), 64 + 1);
        assert_eq!(
            kernels.earlier(OWNER, first.id).await.unwrap().state,
            KernelState::Dead
        );
    }
}
