//! Posts the root of all receipts on Aleph, now and then and only when there are new ones.
//!
//! A message is written down before it is sent, and sent again until it has arrived: each names the one before, so a gateway that
//! lost its node or was killed goes on where it was. Only the gateway that leads comes here.

use std::time::Duration;

use alephlab_api::receipt::RECEIPT_HEAD_TYPE;
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::Storage;
use alephlab_vault::{VaultError, Wallet};
use tokio::time::MissedTickBehavior;

use super::ReceiptKey;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{Store, StoredHead};

/// Who posts the roots of receipts, and how often at most.
pub struct Posting {
    /// Signs the messages.
    pub wallet: Wallet,
    /// How long between two.
    pub every: Duration,
}

/// Posts whenever it is time and something is new. Never ends.
pub(crate) async fn keep_posting(app: &App, posting: Option<Posting>) {
    let Some(Posting { wallet, every }) = posting else {
        return std::future::pending().await;
    };
    let mut every = tokio::time::interval(every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = post(&app.store, &*app.storage, &app.receipts, &wallet).await {
            tracing::warn!(%error, code = error.code(), "the root of receipts is not posted; it is tried again");
        }
    }
}

/// Posts what was signed and may not have arrived, then what is new.
pub(crate) async fn post(
    store: &Store,
    storage: &dyn Storage,
    key: &ReceiptKey,
    wallet: &Wallet,
) -> Result<()> {
    let mut newest = store.newest_receipt_head().await?;
    if let Some(waits) = newest.take_if(|newest| !newest.is_posted) {
        send(store, storage, &waits).await?;
        newest = store.newest_receipt_head().await?;
    }
    let size = store.receipt_count().await?;
    if newest.as_ref().map_or(0, |newest| newest.size) >= size {
        return Ok(());
    }
    let root = store.receipt_root(size).await?;
    let previous = newest.map(|newest| newest.message.item_hash());
    let head = key.sign_head((size, &root), &wallet.address(), previous)?;
    let content = serde_json::to_value(&head).map_err(|error| GatewayError::Server {
        source: std::io::Error::other(error),
    })?;
    let head = StoredHead {
        size,
        message: sign_post(wallet, RECEIPT_HEAD_TYPE, content, None)?,
        is_posted: false,
    };
    store.add_receipt_head(&head).await?;
    send(store, storage, &head).await
}

async fn send(store: &Store, storage: &dyn Storage, head: &StoredHead) -> Result<()> {
    let (size, message) = (head.size, head.message.item_hash());
    match storage.publish(&head.message).await {
        Ok(()) => {
            store.receipt_head_posted(size).await?;
            tracing::info!(size, message, "the root of receipts stands on Aleph");
            Ok(())
        }
        // It never will be taken. Should it stand there after all, the next one continues the same receipts.
        Err(error @ VaultError::Rejected { .. }) => {
            store.drop_receipt_head(size).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}
