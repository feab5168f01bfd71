//! Credits to accounts' own addresses on the network: a signed message each, written down before it is posted.
//!
//! A message is named by its content's hash and carried out once, however often and by whomever it is posted. So nothing that may have
//! been posted is given back before the network has refused it for good: hardly any rejection is that, since a rejected message
//! that is posted again is judged anew.

use std::time::Duration;

use alephlab_api::money::Amount;
use alephlab_api::time::unix_now;
use alephlab_vault::Wallet;
use tokio::sync::Notify;

use super::CreditsConfig;
use crate::aleph::{Transfers, Verdict, kept_for};
use crate::error::{GatewayError, Result};
use crate::store::{OpenConversion, Store};

/// How often the network is asked while something is on its way.
const EVERY: Duration = Duration::from_secs(10);

/// The account that sends credits, and the network.
pub(super) struct Credits {
    transfers: Transfers,
    wallet: Wallet,
}

impl Credits {
    pub(super) fn new(config: CreditsConfig) -> Self {
        Self {
            transfers: Transfers::new(config.node),
            wallet: config.wallet,
        }
    }

    /// Moves what is on its way again and again. Never ends.
    pub(super) async fn run(&self, store: &Store, wake: &Notify) {
        loop {
            if let Err(error) = self.step(store, unix_now()).await {
                tracing::warn!(%error, "credits on their way to the network wait");
            }
            let _ = tokio::time::timeout(EVERY, wake.notified()).await;
        }
    }

    /// Moves everything that is on its way by one step; one that fails does not hold up the others.
    pub(super) async fn step(&self, store: &Store, now: u64) -> Result<()> {
        let is_stopped = store.settlement_stop().await?.is_some();
        let mut failed = Ok(());
        for open in store.open_conversions(now).await? {
            // What is written goes on: anybody who has seen it could post it.
            if is_stopped && open.message.is_none() {
                continue;
            }
            if let Err(error) = self.send(store, &open).await {
                failed = Err(error);
            }
        }
        failed
    }

    async fn send(&self, store: &Store, open: &OpenConversion) -> Result<()> {
        let message = match &open.message {
            Some(message) => message.clone(),
            None => match self.write(store, open).await? {
                Some(message) => message,
                None => return Ok(()),
            },
        };
        let mut verdict = self.transfers.verdict(&message).await?;
        if matches!(verdict, Verdict::Unknown | Verdict::NotNow(_)) {
            self.transfers.post(&message).await?;
            store.note_transfer(open.id).await?;
            verdict = self.transfers.verdict(&message).await?;
        }
        match verdict {
            Verdict::CarriedOut => {
                store.settle_transfer(open.id).await?;
                tracing::info!(id = %open.id, credits = %open.credits, to = open.address, "credits were sent");
            }
            Verdict::Refused(reason) => store.return_transfer(open.id, &reason).await?,
            Verdict::NotNow(reason) => store.delay_transfer(open, &reason).await?,
            Verdict::Pending if !open.is_posted => store.note_transfer(open.id).await?,
            Verdict::Pending | Verdict::Unknown => {}
        }
        Ok(())
    }

    /// Signs the message, where the account can pay it beside what it rents and what is written already; else nothing was posted, and
    /// the ALEPH goes back.
    async fn write(&self, store: &Store, open: &OpenConversion) -> Result<Option<String>> {
        let uncounted = || GatewayError::Host {
            reason: "more credits than the network counts".to_owned(),
        };
        let whole = open.credits.whole().ok_or_else(uncounted)?;
        let kept = kept_for(&store.open_drafts().await?)?;
        let needs = store.credits_written().await?.checked_add(kept);
        let needs = needs.and_then(|needs| needs.checked_add(open.credits));
        let has = Amount::from_whole(self.transfers.balance(&self.wallet).await?);
        if has < needs.ok_or_else(uncounted)? {
            let reason = "the gateway's account has too few credits on the network";
            store.return_transfer(open.id, reason).await?;
            return Ok(None);
        }
        let (message, hash) = Transfers::sign(&self.wallet, &open.address, whole)?;
        store.write_transfer(open.id, &message, &hash).await.map(Some)
    }
}
