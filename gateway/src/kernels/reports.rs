//! What agents report of kernels: messages, states, kernels they no longer have, and the end of a lease.
//!
//! Called by the agent's connection and by the keeper of leases; everything else about kernels is one folder up.

use std::sync::atomic::Ordering;

use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::json;
use uuid::Uuid;

use super::{Kernels, Live, Status};
use crate::framing::KernelMessage;
use crate::host::LeaseEvents;

impl Kernels {
    /// An agent passed a kernel's message on.
    pub(crate) fn message_came(
        &self,
        lease: Uuid,
        kernel: Uuid,
        client: Option<Uuid>,
        channel: Channel,
        parts: Vec<Bytes>,
    ) {
        let Some(live) = self
            .live()
            .get(&kernel)
            .filter(|live| live.lease.id == lease)
            .cloned()
        else {
            return;
        };
        let message = match KernelMessage::new(channel, parts) {
            Ok(message) => message,
            Err(reason) => {
                tracing::warn!(%kernel, reason, "a message of a kernel was left out");
                return;
            }
        };
        self.messages.fetch_add(1, Ordering::Relaxed);
        live.touch();
        let said = message.execution_state().as_deref().and_then(KernelState::parse);
        if let Some(said @ (KernelState::Idle | KernelState::Busy)) = said {
            live.status.send_if_modified(|status| {
                let ready = matches!(status.state, KernelState::Idle | KernelState::Busy);
                if ready {
                    status.state = said;
                }
                ready
            });
        }
        live.relay.push(client, message);
    }

    /// An agent reported a kernel's state.
    pub(crate) async fn state_reported(
        &self,
        lease: Uuid,
        kernel: Uuid,
        state: KernelState,
        detail: Option<String>,
    ) {
        let Some(live) = self
            .live()
            .get(&kernel)
            .filter(|live| live.lease.id == lease)
            .cloned()
        else {
            return;
        };
        let detail = detail.map(|detail| detail.chars().take(1000).collect::<String>());
        let before = live.status().state;
        if !before.may_become(state) || (before == KernelState::Stopping && !state.is_over()) {
            return;
        }
        self.change(&live, state, detail.clone()).await;
        match (state, &detail) {
            (KernelState::Dead, _) if before != KernelState::Stopping => say_dead(&live, detail.as_deref()),
            // Nobody asked: clients are told, as Jupyter's own servers do.
            (KernelState::Restarting, Some(detail)) => {
                live.relay.push(None, KernelMessage::sentence(detail));
                live.relay.push(None, status_message("restarting"));
            }
            _ => {}
        }
    }

    /// After a reconnection: kernels that the agent no longer has are dead.
    pub(crate) async fn agent_knows(&self, lease: Uuid, kernels: &[Uuid]) {
        for live in self.all() {
            let status = live.status();
            let waiting = matches!(status.state, KernelState::Starting | KernelState::Stopping);
            if live.lease.id == lease && !waiting && !status.state.is_over() && !kernels.contains(&live.id) {
                let reason = "the host no longer has this kernel; its variables are gone";
                self.state_reported(lease, live.id, KernelState::Dead, Some(reason.to_owned()))
                    .await;
            }
        }
    }
}

impl LeaseEvents for Kernels {
    fn lease_ended(&self, lease: Uuid, reason: &str) -> BoxFuture<'_, ()> {
        let reason = reason.to_owned();
        async move {
            for live in self.all().into_iter().filter(|live| live.lease.id == lease) {
                let before = live.status().state;
                if !before.is_over() {
                    // The store did this already, for all kernels of the lease in one step.
                    let state = KernelState::Dead;
                    live.status.send_replace(Status {
                        state,
                        reason: Some(reason.clone()),
                    });
                    say_dead(&live, Some(&reason));
                }
            }
        }
        .boxed()
    }
}

pub(super) fn say_dead(live: &Live, reason: Option<&str>) {
    let reason = reason.unwrap_or("no reason was reported");
    live.relay.push(
        None,
        KernelMessage::sentence(&format!("The kernel is dead: {reason}.")),
    );
    live.relay.push(None, status_message("dead"));
}

fn status_message(state: &str) -> KernelMessage {
    KernelMessage::notice("status", &json!({ "execution_state": state }))
}
