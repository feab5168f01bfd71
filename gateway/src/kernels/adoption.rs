//! Kernels that an earlier run of the gateway started and that go on: taken over with their host.
//!
//! The database tells whose they are and in which state; who has heard how much of their output comes from the agent
//! (`relay::note`) when it dials.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use alephlab_api::agent::ToAgent;
use alephlab_api::kernel::KernelState;
use tokio::sync::watch;

use super::{Kernels, Live, Status};
use crate::error::Result;
use crate::host::Lease;
use crate::recorder::Recorder;
use crate::relay::Relay;
use crate::store::StoredKernel;

impl Kernels {
    /// Takes over all kernels of a lease that goes on. Orders of which nobody knows whether they came are given again: each
    /// may be.
    pub(crate) async fn adopt(self: &Arc<Self>, lease: &Arc<Lease>) -> Result<()> {
        for stored in self.store.kernels_of(lease.id).await? {
            let again = match stored.state {
                KernelState::Stopping => Some(ToAgent::StopKernel { kernel_id: stored.id }),
                KernelState::Restarting => Some(ToAgent::RestartKernel { kernel_id: stored.id }),
                _ => None,
            };
            let live = Arc::new(adopted(stored, lease));
            live.touch();
            // When it was last is not known; it is not held against it.
            live.work();
            self.live().insert(live.id, Arc::clone(&live));
            tokio::spawn(Arc::clone(self).watch_idle(live));
            if let Some(order) = again {
                lease.send::<&[u8]>(&order, &[]).await?;
            }
        }
        Ok(())
    }
}

fn adopted(stored: StoredKernel, lease: &Arc<Lease>) -> Live {
    Live {
        id: stored.id,
        account: stored.account,
        name: stored.name,
        started: stored.started,
        relay: Relay::of_earlier_run(Arc::clone(&lease.notes)),
        recorder: Recorder::default(),
        lease: Arc::clone(lease),
        heard_before: stored.heard,
        usable: AtomicU64::new(stored.usable.unwrap_or(0)),
        status: watch::Sender::new(Status {
            state: stored.state,
            reason: stored.reason,
        }),
        changing: tokio::sync::Mutex::default(),
        activity: AtomicU64::new(0),
        worked: AtomicU64::new(0),
        idle_limit: stored.idle_limit,
        newest_cell: Mutex::default(),
    }
}
