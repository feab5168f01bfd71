//! Kernels that an earlier run of the gateway started and that go on: taken over with their host.
//!
//! The database tells whose they are and in which state; who has heard how much of their output comes from the agent
//! (`relay::note`) when it dials.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use alephlab_api::agent::ToAgent;
use alephlab_api::kernel::KernelState;
use tokio::sync::watch;

use super::{Kernels, Live, Status};
use crate::error::Result;
use crate::host::Lease;
use crate::relay::Relay;
use crate::store::StoredKernel;

impl Kernels {
    /// Takes over all kernels of a lease that goes on. Orders of which nobody knows whether they came are given again: each
    /// may be.
    pub(crate) async fn adopt(self: &Arc<Self>, lease: &Arc<Lease>) -> Result<()> {
        for stored in self.store.kernels_of(lease.id).await? {
            // One that restarts by itself says why.
            let is_restarting = stored.state == KernelState::Restarting && stored.reason.is_none();
            let is_stopping = stored.state == KernelState::Stopping;
            // What was set aside for it is taken over with all other holds.
            let live = self.enlist(adopted(&stored, lease), None);
            if is_restarting {
                let order = ToAgent::RestartKernel { kernel_id: live.id };
                lease.send::<&[u8]>(&order, &[]).await?;
            }
            if is_stopping {
                let kernels = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = kernels.stop(&live.account, live.id).await {
                        tracing::error!(kernel = %live.id, %error, "a kernel could not be stopped");
                    }
                });
            }
        }
        Ok(())
    }
}

pub(super) fn adopted(stored: &StoredKernel, lease: &Arc<Lease>) -> Live {
    let (owner, relay) = (
        (stored.account.as_str(), stored.name.as_str()),
        Relay::of_earlier_run(Arc::clone(&lease.notes)),
    );
    Live {
        started: stored.started,
        is_adopted: true,
        known_until: AtomicU64::new(stored.heard),
        usable: AtomicU64::new(stored.usable.unwrap_or(0)),
        status: watch::Sender::new(Status {
            state: stored.state,
            reason: stored.reason.clone(),
        }),
        idle_limit: stored.idle_limit,
        ..Live::new(stored.id, owner, lease, relay, stored.state)
    }
}
