//! Posts the root of all receipts on Aleph, now and then and only when there are new ones.
//!
//! A message is written down before it is sent, and sent again until it has arrived: each names the one before, so a gateway that
//! lost its node or was killed goes on where it was. Only the gateway that leads comes here.
//!
//! Before the first one of a run it is looked up what stands there already. A database that is an older copy does not know of it, and
//! what would be posted from there would contradict it: then nothing is.

use std::time::Duration;

use alephlab_api::receipt::RECEIPT_HEAD_TYPE;
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{PostQuery, Storage};
use alephlab_vault::{VaultError, Wallet};
use futures_util::TryStreamExt as _;
use tokio::time::MissedTickBehavior;

use super::{ReceiptKey, check_head};
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{Store, StoredHead};

/// What the clocks of two machines may differ by.
const SKEW: Duration = Duration::from_secs(3_600);

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
    let mut is_looked_up = false;
    loop {
        every.tick().await;
        let posted = post(
            &app.store,
            &*app.storage,
            &app.receipts,
            &wallet,
            &mut is_looked_up,
        );
        if let Err(error) = posted.await {
            tracing::warn!(%error, code = error.code(), "the root of receipts is not posted; it is tried again");
        }
        if let Some(fault) = app.receipts.fault.get() {
            tracing::error!(fault, "no more roots of receipts are posted");
            return std::future::pending().await;
        }
    }
}

/// Posts what was signed and may not have arrived, then what is new; nothing where it would contradict what stands on Aleph, which is
/// looked up once.
pub(crate) async fn post(
    store: &Store,
    storage: &dyn Storage,
    key: &ReceiptKey,
    wallet: &Wallet,
    is_looked_up: &mut bool,
) -> Result<()> {
    if !*is_looked_up {
        if let Some(fault) = contradiction(store, storage, key, wallet).await? {
            key.fault.get_or_init(|| fault);
            return Ok(());
        }
        *is_looked_up = true;
    }
    let mut newest = store.newest_receipt_head().await?;
    if let Some(waits) = newest.take_if(|newest| !newest.is_posted) {
        if waits.message.sender().eq_ignore_ascii_case(&wallet.address()) {
            send(store, storage, &waits).await?;
        } else {
            // Of an account that posts no more.
            store.drop_receipt_head(waits.size).await?;
        }
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

/// What stands on Aleph by this key and not in the database, where there is something: a larger root, or another one of as many.
async fn contradiction(
    store: &Store,
    storage: &dyn Storage,
    key: &ReceiptKey,
    wallet: &Wallet,
) -> Result<Option<String>> {
    let (newest, count) = (store.newest_receipt_head().await?, store.receipt_count().await?);
    let (mut addresses, mut since) = (vec![wallet.address()], 0);
    if let Some(newest) = newest {
        addresses.push(newest.message.sender().to_owned());
        // What is older than the newest that is known is known as well.
        let time = Duration::try_from_secs_f64(newest.message.time()?).unwrap_or_default();
        since = time.saturating_sub(SKEW).as_secs();
    }
    let query = PostQuery {
        addresses,
        types: vec![RECEIPT_HEAD_TYPE.to_owned()],
        ..PostQuery::default()
    };
    let mut posts = storage.each_post(query, since);
    while let Some(post) = posts.try_next().await? {
        let Ok(head) = check_head(&post, &key.address()) else {
            continue;
        };
        let (size, message) = (head.size, &post.item_hash);
        if size > count {
            return Ok(Some(format!(
                "the root of {size} receipts stands on Aleph as {message}, and the database has {count}: it is an older copy, or lost some"
            )));
        }
        if !head
            .root
            .eq_ignore_ascii_case(&hex::encode(store.receipt_root(size).await?))
        {
            return Ok(Some(format!(
                "the root of {size} receipts that stands on Aleph as {message} is not that of the database: it went on from an older copy, \
                 or lost some"
            )));
        }
    }
    Ok(None)
}

async fn send(store: &Store, storage: &dyn Storage, head: &StoredHead) -> Result<()> {
    let (size, message) = (head.size, head.message.item_hash());
    match storage.publish(&head.message).await {
        Ok(()) => {
            store.receipt_head_posted(size).await?;
            tracing::info!(size, message, "the root of receipts stands on Aleph");
            Ok(())
        }
        // This one never will be taken, also where the account is paid up or allowed later. Should it stand there after all, the
        // next one continues the same receipts.
        Err(
            error @ (VaultError::Rejected { .. }
            | VaultError::Payment { .. }
            | VaultError::Forbidden { .. }
            | VaultError::TooLarge { .. }),
        ) => {
            store.drop_receipt_head(size).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}
