//! The cap of a kernel that costs something: what is set aside for it, and raising that while it runs.
//!
//! Between the last charge and the kernel's end somebody may raise the cap. Which of the two came first is decided under
//! `Live::spent`: either the kernel goes on, or nothing is set aside for one that stops.

use std::sync::Arc;

use alephlab_api::kernel::KernelState;
use alephlab_api::ledger::KernelCap;
use alephlab_api::money::Amount;
use uuid::Uuid;

use super::metering::more_time;
use super::{Kernels, Live};
use crate::error::Result;
use crate::store::{Hold, hold_ended};

/// What raising a cap would do.
pub(crate) struct Raise {
    /// Set aside beside what is.
    pub(crate) more: Amount,
    /// For how many seconds the kernel then lasts.
    pub(crate) seconds: u64,
    pub(crate) balance_after: Amount,
}

impl Kernels {
    /// The cap of a kernel of this account, also of one that has ended.
    ///
    /// # Errors
    /// 404 `hold_unknown`, also for another account's and for one that is free.
    pub(crate) async fn cap(&self, account: &str, id: Uuid) -> Result<KernelCap> {
        let hold = self.store.own_hold(account, &id.to_string()).await?;
        Ok(shown(id, &hold))
    }

    /// The cap of this kernel; none of one that is free.
    pub(crate) async fn cap_of(&self, live: &Live) -> Result<Option<KernelCap>> {
        if !self.is_paid(live) {
            return Ok(None);
        }
        let hold = self.store.hold_of(&live.id.to_string()).await?;
        Ok(hold.map(|hold| shown(live.id, &hold)))
    }

    /// A kernel of this account, unless it is over or about to be.
    pub(crate) fn running(&self, account: &str, id: Uuid) -> Option<Arc<Live>> {
        self.get(account, id).ok().filter(|live| {
            let state = live.status().state;
            state != KernelState::Stopping && !state.is_over()
        })
    }

    /// What raising the cap to this amount would do. Nothing is set aside.
    ///
    /// # Errors
    /// Those of [`Kernels::raise_cap`].
    pub(crate) async fn would_raise(&self, account: &str, id: Uuid, cap: Amount) -> Result<Raise> {
        let (_, mut hold) = self.with_hold(account, id).await?;
        let available = self.available(account).await?;
        let more = hold.more_for(cap, available)?;
        hold.amount = cap;
        Ok(Raise {
            more,
            seconds: hold.seconds_left(),
            balance_after: available.saturating_sub(more),
        })
    }

    /// Raises the cap of a kernel that runs to this whole amount, and tells its notebook. Asked for again, it changes nothing.
    ///
    /// # Errors
    /// 404 `hold_unknown`, 409 `hold_ended`, 400 `cap_too_small` for less than it is, 402 `balance_too_small`.
    pub(crate) async fn raise_cap(&self, account: &str, id: Uuid, cap: Amount) -> Result<KernelCap> {
        let (live, _) = self.with_hold(account, id).await?;
        let spent = live.spent.lock().await;
        if *spent {
            return Err(hold_ended());
        }
        // Once more: it may have ended, or been raised, while this one waited.
        let (_, before) = self.with_hold(account, id).await?;
        let hold = self.store.raise_hold(account, &before.key, cap).await?;
        drop(spent);
        if hold.amount > before.amount {
            live.say(&format!(
                "The cap of this kernel was raised to {} credits: they last {}.",
                hold.amount,
                more_time(hold.seconds_left())
            ));
        }
        Ok(shown(id, &hold))
    }

    /// A kernel of this account that costs something and runs, and what is set aside for it.
    async fn with_hold(&self, account: &str, id: Uuid) -> Result<(Arc<Live>, Hold)> {
        let hold = self.store.own_hold(account, &id.to_string()).await?;
        let live = self.running(account, id).filter(|_| hold.is_open);
        live.map(|live| (live, hold)).ok_or_else(hold_ended)
    }

    /// Whether nothing is left of a hold. If so its kernel stops, and nobody can raise its cap from now on.
    pub(super) async fn is_spent(&self, live: &Live, hold: &Hold) -> bool {
        let mut spent = live.spent.lock().await;
        if !*spent {
            // One that cannot be read is as it was when it was charged: no kernel runs beyond its cap.
            let newest = self.store.hold_of(&hold.key).await.ok().flatten();
            *spent = newest.is_none_or(|newest| newest.seconds_left() == 0);
        }
        *spent
    }
}

fn shown(id: Uuid, hold: &Hold) -> KernelCap {
    KernelCap {
        id,
        cap: hold.amount,
        charged: hold.charged,
        seconds: hold.seconds,
        price: hold.price,
        seconds_left: hold.seconds_left(),
        ended: !hold.is_open,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alephlab_api::jupyter::NewKernel;
    use alephlab_api::money::Asset;

    use super::super::testing::{OWNER, kernels_at};
    use super::*;

    fn whole(credits: u64) -> Amount {
        Amount::from_whole(credits)
    }

    /// A machine where a second costs a credit, and an account with a thousand.
    async fn kernels(folder: &Path) -> Arc<Kernels> {
        let kernels = kernels_at(folder, whole(3_600)).await;
        let given = kernels
            .store
            .credit((OWNER, OWNER), Asset::Credit, whole(1_000), "one", "");
        given.await.unwrap();
        kernels
    }

    #[tokio::test]
    async fn of_a_raise_and_the_end_of_the_credits_the_first_one_decides() {
        let folder = tempfile::tempdir().unwrap();
        let kernels = kernels(folder.path()).await;
        let wanted = NewKernel {
            env: [("KERNEL_MAX_COST".to_owned(), "10".to_owned())].into(),
            ..NewKernel::default()
        };
        let live = kernels.start(OWNER, &wanted).await.unwrap();
        let charged = async |seconds: u64| {
            let hold = kernels.store.own_hold(OWNER, &live.id.to_string()).await;
            kernels.store.charge(hold.unwrap().id, seconds).await.unwrap()
        };
        let used = charged(10).await;
        assert_eq!(used.seconds_left(), 0);
        let raised = kernels.raise_cap(OWNER, live.id, whole(100)).await.unwrap();
        assert_eq!((raised.cap, raised.seconds_left), (whole(100), 90));
        assert!(
            !kernels.is_spent(&live, &used).await,
            "it was raised before the end was decided"
        );
        let used = charged(100).await;
        assert!(kernels.is_spent(&live, &used).await);
        let late = kernels.raise_cap(OWNER, live.id, whole(200)).await;
        assert_eq!(late.unwrap_err().code(), "hold_ended");
        let cap = kernels.cap(OWNER, live.id).await.unwrap();
        assert_eq!((cap.cap, cap.charged), (whole(100), whole(100)));
        assert_eq!(kernels.available(OWNER).await.unwrap(), whole(900));
    }
}
