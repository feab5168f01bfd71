//! Allocations: an account's right to a kernel on a host that is rented for it, from the hold on its balance until the
//! provider bills nothing more.
//!
//! [`Allocations::step`] does what comes next of one allocation and writes down that it is done, in one transaction; what was
//! cut off is done again, by the same code. `kernels::rented` calls it for every allocation that has not ended.
//! Not here: what a host costs and how it is had (`host::HostProvider`), and kernels (`kernels`).

mod offers;
#[cfg(test)]
mod schedules;
mod secrets;

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::Join;
use alephlab_api::kernel::KernelState;
use alephlab_api::offer::Stage;
use alephlab_api::time::unix_now;

pub(crate) use offers::{HOST_READS_MEMORY, Hardware, MEASURED, kernelspec};
pub use secrets::LeaseSecrets;

use crate::error::{GatewayError, Result};
use crate::host::{Bill, HostProvider, Rented, Seen};
use crate::receipts::ReceiptKey;
use crate::store::{Allocation, Store, sha256};

/// How long a step may go on failing or waiting before the allocation is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The provider takes the order.
    pub(crate) rent: Duration,
    /// The host boots: images are large.
    pub(crate) boot: Duration,
    /// The agent comes, once the host can be reached.
    pub(crate) join: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            rent: Duration::from_secs(120),
            boot: Duration::from_secs(20 * 60),
            join: Duration::from_secs(180),
        }
    }
}

/// Where rented hosts find this gateway.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// Address for agents, `https` form.
    pub(crate) gateway: String,
    /// The certificate behind it (PEM).
    pub(crate) certificate: Option<String>,
    /// How long kernels go on without the gateway.
    pub(crate) outlive: Duration,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The allocation has moved on; there is more to do.
    Again,
    /// It waits for this, in words.
    Wait(String),
    /// It has ended.
    Done,
}

/// All allocations of this gateway.
pub(crate) struct Allocations {
    store: Store,
    providers: Vec<Arc<dyn HostProvider>>,
    receipts: Arc<ReceiptKey>,
    secrets: LeaseSecrets,
    door: Door,
    patience: Patience,
    known: offers::Known,
}

impl Allocations {
    pub(crate) fn new(
        store: Store,
        providers: Vec<Arc<dyn HostProvider>>,
        receipts: Arc<ReceiptKey>,
        secrets: LeaseSecrets,
        door: Door,
    ) -> Self {
        Self {
            store,
            providers,
            receipts,
            secrets,
            door,
            patience: Patience::default(),
            known: Default::default(),
        }
    }

    /// How long kernels of rented hosts go on without the gateway.
    pub(crate) fn outlive(&self) -> Duration {
        self.door.outlive
    }

    fn provider(&self, name: &str) -> Result<&Arc<dyn HostProvider>> {
        let found = self.providers.iter().find(|provider| provider.name() == name);
        found.ok_or_else(|| GatewayError::Host {
            reason: format!("the provider \"{name}\" is not set up at this gateway any more"),
        })
    }

    /// The token of a lease's agent, hashed as it is stored.
    pub(crate) fn token_sha256(&self, lease: uuid::Uuid) -> [u8; 32] {
        sha256(self.secrets.token(lease).expose().as_bytes())
    }

    /// The token of a kernel on a rented host.
    pub(crate) fn kernel_token(&self, kernel: uuid::Uuid) -> alephlab_api::Secret {
        self.secrets.kernel_token(kernel)
    }

    /// Does what comes next of an allocation and writes it down.
    ///
    /// Gives the allocation as it stands then; none when somebody else has moved it.
    ///
    /// # Errors
    /// When the provider or the database failed: the step may have had its effect, and is to be done again.
    pub(crate) async fn step(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        if let Some(reason) = self.unwanted(allocation).await? {
            return self.moved(allocation, Stage::Ending, Some(&reason)).await;
        }
        match allocation.stage {
            Stage::Held => self.draft(allocation).await,
            Stage::Renting => self.rent(allocation).await,
            Stage::Booting => self.boot(allocation).await,
            Stage::Joining => self.join(allocation).await,
            Stage::Running => self.look_after(allocation).await,
            Stage::Ending => self.give_back(allocation).await,
            Stage::Ended => Ok(Some((allocation.clone(), Next::Done))),
        }
    }

    /// Why it is to be given back, if its kernel is over.
    async fn unwanted(&self, allocation: &Allocation) -> Result<Option<String>> {
        if matches!(allocation.stage, Stage::Ending | Stage::Ended) {
            return Ok(None);
        }
        let kernel = self.store.kernel(allocation.id).await?;
        let over = kernel.filter(|kernel| kernel.state.is_over());
        Ok(over.map(|kernel| match (kernel.state, kernel.reason) {
            (KernelState::Stopped, None) => "it was stopped".to_owned(),
            (_, reason) => reason.unwrap_or_else(|| "its kernel is dead".to_owned()),
        }))
    }

    async fn draft(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        let provider = self.provider(&allocation.provider)?;
        let draft = match provider.draft(allocation.lease, &allocation.offer).await {
            Ok(draft) => draft,
            Err(error) => {
                let late = self.late(allocation, self.patience.rent, &error.to_string());
                return self.give_up(allocation, late, error).await;
            }
        };
        let moved = self
            .store
            .advance(allocation, Stage::Renting, None, Some(&draft))
            .await?;
        Ok(moved.map(|moved| (moved, Next::Again)))
    }

    async fn rent(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        let provider = self.provider(&allocation.provider)?;
        let rented = provider.rent(drafted(allocation)?).await;
        match rented {
            Ok(Rented::Accepted) => self.moved(allocation, Stage::Booting, None).await,
            Ok(Rented::Refused(reason)) => {
                let reason = format!("the host could not be rented: {reason}");
                self.moved(allocation, Stage::Ending, Some(&reason)).await
            }
            Err(error) => {
                let late = self.late(allocation, self.patience.rent, &error.to_string());
                self.give_up(allocation, late, error).await
            }
        }
    }

    async fn boot(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        let provider = self.provider(&allocation.provider)?;
        match provider.look(drafted(allocation)?).await {
            Ok(Seen::Reachable) => self.moved(allocation, Stage::Joining, None).await,
            Ok(Seen::Gone(reason)) => self.moved(allocation, Stage::Ending, Some(&reason)).await,
            Ok(Seen::Waiting(text)) => match self.late(allocation, self.patience.boot, &text) {
                Some(reason) => self.moved(allocation, Stage::Ending, Some(&reason)).await,
                None => Ok(Some((allocation.clone(), Next::Wait(text)))),
            },
            Err(error) => {
                let late = self.late(allocation, self.patience.boot, &error.to_string());
                self.give_up(allocation, late, error).await
            }
        }
    }

    async fn join(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        let lease = self.store.lease(allocation.lease).await?;
        if lease.is_some_and(|lease| lease.host_key.is_some()) {
            return self.moved(allocation, Stage::Running, None).await;
        }
        let provider = self.provider(&allocation.provider)?;
        let text = "its agent does not connect";
        let handed = provider
            .hand_over(drafted(allocation)?, &self.join_of(allocation))
            .await;
        let late = match &handed {
            Ok(()) => self.late(allocation, self.patience.join, text),
            Err(error) => self.late(allocation, self.patience.join, &error.to_string()),
        };
        match (handed, late) {
            (Ok(()), None) => {
                let text = "waiting for the agent".to_owned();
                Ok(Some((allocation.clone(), Next::Wait(text))))
            }
            (Ok(()), Some(reason)) => self.moved(allocation, Stage::Ending, Some(&reason)).await,
            (Err(error), late) => self.give_up(allocation, late, error).await,
        }
    }

    async fn look_after(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        let provider = self.provider(&allocation.provider)?;
        match provider.look(drafted(allocation)?).await? {
            Seen::Gone(reason) => {
                let reason = format!("its host is gone: {reason}");
                self.moved(allocation, Stage::Ending, Some(&reason)).await
            }
            Seen::Reachable | Seen::Waiting(_) => {
                Ok(Some((allocation.clone(), Next::Wait("it runs".to_owned()))))
            }
        }
    }

    async fn give_back(&self, allocation: &Allocation) -> Result<Option<(Allocation, Next)>> {
        if let Some(draft) = &allocation.draft {
            let provider = self.provider(&allocation.provider)?;
            if let Bill::Runs(text) = provider.end(draft).await? {
                return Ok(Some((allocation.clone(), Next::Wait(text))));
            }
        }
        let ended = self.store.end_allocation(allocation, &self.receipts).await?;
        Ok(ended.map(|ended| (ended, Next::Done)))
    }

    async fn moved(
        &self,
        allocation: &Allocation,
        stage: Stage,
        detail: Option<&str>,
    ) -> Result<Option<(Allocation, Next)>> {
        let moved = self.store.advance(allocation, stage, detail, None).await?;
        Ok(moved.map(|moved| (moved, Next::Again)))
    }

    /// After a failure: ended when it is too late, else the failure.
    async fn give_up(
        &self,
        allocation: &Allocation,
        late: Option<String>,
        error: GatewayError,
    ) -> Result<Option<(Allocation, Next)>> {
        match late {
            Some(reason) => self.moved(allocation, Stage::Ending, Some(&reason)).await,
            None => Err(error),
        }
    }

    /// Why an allocation is given up, when it has been in its stage for too long.
    fn late(&self, allocation: &Allocation, patience: Duration, text: &str) -> Option<String> {
        let waited = unix_now().saturating_sub(allocation.changed);
        let minutes = patience.as_secs().div_ceil(60);
        (waited >= patience.as_secs())
            .then(|| format!("the host did not become ready within {minutes} minutes: {text}"))
    }

    fn join_of(&self, allocation: &Allocation) -> Join {
        Join {
            lease: allocation.lease,
            token: self.secrets.token(allocation.lease),
            gateway: self.door.gateway.clone(),
            certificate: self.door.certificate.clone(),
            patience: self.door.outlive.as_secs(),
        }
    }
}

/// What its provider needs; the schema lets no stage without it begin.
fn drafted(allocation: &Allocation) -> Result<&serde_json::Value> {
    allocation.draft.as_ref().ok_or_else(|| GatewayError::Host {
        reason: "the allocation was never drafted".to_owned(),
    })
}
