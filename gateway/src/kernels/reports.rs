//! What agents report of kernels: messages, states, kernels they no longer have, and the end of a lease.
//!
//! Called by the agent's connection and by the keeper of leases; everything else about kernels is one folder up.

use std::collections::HashSet;
use std::sync::PoisonError;
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
        if message.msg_type == "execute_input" && message.channel == Channel::Iopub {
            let mut newest = live.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
            *newest = Some(message.clone());
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
        let Some(before) = self.change(&live, state, detail.clone()).await else {
            return;
        };
        match (state, &detail) {
            (KernelState::Dead, _) if before != KernelState::Stopping => {
                say_dead(&live, None, detail.as_deref());
            }
            // Nobody asked: clients are told, as Jupyter's own servers do.
            (KernelState::Restarting, Some(detail)) => {
                live.relay.push(None, KernelMessage::sentence(detail));
                live.relay.push(None, status_message("restarting"));
            }
            _ => {}
        }
    }

    /// After a reconnection: kernels that the agent no longer has are dead. One that starts is so only when its order
    /// to start was written to an earlier connection; else the order still comes.
    pub(crate) async fn agent_knows(&self, lease: Uuid, kernels: &[Uuid], ordered: &HashSet<Uuid>) {
        for live in self.all() {
            let status = live.status();
            let waiting = match status.state {
                KernelState::Starting => !ordered.contains(&live.id),
                state => state == KernelState::Stopping || state.is_over(),
            };
            if live.lease.id == lease && !waiting && !kernels.contains(&live.id) {
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
                let _one = live.changing.lock().await;
                // The store did this already, for all kernels of the lease in one step.
                let died = live.status.send_if_modified(|status| {
                    let dies = !status.state.is_over();
                    if dies {
                        *status = Status {
                            state: KernelState::Dead,
                            reason: Some(reason.clone()),
                        };
                    }
                    dies
                });
                if died {
                    say_dead(&live, None, Some(&reason));
                }
            }
        }
        .boxed()
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
    use std::sync::Arc;

    use alephlab_api::jupyter::NewKernel;

    use super::super::Terms;
    use super::*;
    use crate::host::{HostConfig, Hosts, ThisMachine};
    use crate::receipts::ReceiptKey;
    use crate::store::Store;

    const OWNER: &str = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e";

    /// A kernel that starts, on a lease whose agent never comes.
    async fn starting(folder: &std::path::Path) -> (Arc<Kernels>, Arc<Live>) {
        let store = Store::open(folder).await.unwrap();
        store.configure(OWNER, &[1; 32], &[]).await.unwrap();
        let config = HostConfig {
            agent_program: "none".into(),
            kernel_program: "none".into(),
            broker_program: None,
            runtime_dir: "none".into(),
            engine: alephlab_api::agent::Engine::default(),
            work_dir: "none".into(),
            log: None,
            cache: None,
            kernel_argv: None,
        };
        let machine = ThisMachine::new(config, String::new(), folder.to_owned());
        let hosts = Arc::new(Hosts::new(Arc::new(machine), store.clone()));
        hosts.prepare().await.unwrap();
        let receipts = ReceiptKey::open(folder, OWNER.parse().unwrap()).unwrap();
        let terms = Terms {
            price: Default::default(),
            receipts: Arc::new(receipts),
        };
        let kernels = Arc::new(Kernels::new(store, hosts, String::new(), terms));
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
            kernels.state_reported(live.lease.id, live.id, Starting, None)
        );
        assert_eq!((stop, live.status().state), (Some(Starting), Stopping));
        kernels
            .state_reported(live.lease.id, live.id, Stopped, None)
            .await;
        assert_eq!(live.status().state, Stopped);
    }

    #[tokio::test]
    async fn a_state_that_the_database_refuses_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (kernels, live) = starting(folder.path()).await;
        kernels
            .store
            .set_kernel_state(live.id, KernelState::Dead, None)
            .await
            .unwrap();
        assert_eq!(kernels.change(&live, KernelState::Idle, None).await, None);
        assert_eq!(live.status().state, KernelState::Starting);
    }

    #[tokio::test]
    async fn a_kernel_whose_order_to_start_was_lost_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let (kernels, live) = starting(folder.path()).await;
        let lease = live.lease.id;
        kernels.agent_knows(lease, &[], &HashSet::new()).await;
        assert_eq!(
            live.status().state,
            KernelState::Starting,
            "its order still waits"
        );
        let ordered = HashSet::from([live.id]);
        kernels.agent_knows(lease, &[live.id], &ordered).await;
        assert_eq!(live.status().state, KernelState::Starting);
        kernels.agent_knows(lease, &[], &ordered).await;
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
