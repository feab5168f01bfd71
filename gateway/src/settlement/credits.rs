//! Credits to accounts' own addresses on the network: a signed message each, written down before it is posted.
//!
//! A message is named by its content's hash and carried out once, however often it is posted. So nothing that may have been posted is
//! given back before the network has refused it for good: too few credits is no such refusal, since the same message could be
//! carried out later.

use std::time::Duration;

use alephlab_vault::Wallet;
use tokio::sync::Notify;

use super::CreditsConfig;
use crate::aleph::{Transfers, Verdict};
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
            if let Err(error) = self.step(store).await {
                tracing::warn!(%error, "credits on their way to the network wait");
            }
            let _ = tokio::time::timeout(EVERY, wake.notified()).await;
        }
    }

    /// Moves everything that is on its way by one step; one that fails does not hold up the others.
    pub(super) async fn step(&self, store: &Store) -> Result<()> {
        let mut failed = Ok(());
        for open in store.open_conversions().await? {
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
        if matches!(verdict, Verdict::Unknown | Verdict::TooFew) {
            self.transfers.post(&message).await?;
            store.note_transfer(open.id, true, None).await?;
            verdict = self.transfers.verdict(&message).await?;
        }
        match verdict {
            Verdict::CarriedOut => {
                store.settle_transfer(open.id).await?;
                tracing::info!(id = %open.id, credits = %open.credits, to = open.address, "credits were sent");
            }
            Verdict::Refused(reason) => store.return_transfer(open.id, &reason).await?,
            Verdict::TooFew => {
                let reason = "the gateway's account has too few credits on the network; it is tried again";
                store.note_transfer(open.id, true, Some(reason)).await?;
            }
            Verdict::Pending if !open.is_posted => store.note_transfer(open.id, true, None).await?,
            Verdict::Pending | Verdict::Unknown => {}
        }
        Ok(())
    }

    /// Signs the message, where the account can pay it; else nothing was posted, and it goes back.
    async fn write(&self, store: &Store, open: &OpenConversion) -> Result<Option<String>> {
        let whole = open.credits.whole().ok_or_else(|| GatewayError::Host {
            reason: "more credits than the network counts".to_owned(),
        })?;
        if self.transfers.balance(&self.wallet).await? < whole {
            let reason = "the gateway's account has too few credits on the network";
            store.return_transfer(open.id, reason).await?;
            return Ok(None);
        }
        let (message, hash) = Transfers::sign(&self.wallet, &open.address, whole)?;
        store.write_transfer(open.id, &message, &hash).await.map(Some)
    }
}
