//! Who may read a dataset: grants to other accounts, and their end (container sections 10 and 12). Runs on the owner's
//! machine, where the keys are; finding what was granted runs on the reader's.

use crate::dataset::{Plan, Progress, PutOutcome, find_grant, open_own, publish_version};
use crate::encoding::hex_bytes;
use crate::grant::{GRANT_POST_TYPE, Grant};
use crate::head::{SignedHead, to_json};
use crate::keys::{Address, DatasetId};
use crate::message::sign_post;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::registered::reader_key_of;
use crate::seen::now;
use crate::source::SourceFile;
use crate::storage::{PostQuery, Storage};
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// POST type of revocations.
pub const REVOKE_POST_TYPE: &str = "aleph-dataset-revoke";

/// The public end of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Of which dataset.
    pub dataset_id: DatasetId,
    /// Which grant.
    #[serde(with = "hex_bytes")]
    pub grant_id: [u8; 16],
    /// Epoch of the grant.
    pub epoch: u32,
    /// In the owner's words; public.
    #[serde(default)]
    pub reason: String,
    /// Unix seconds.
    pub time: u64,
}

/// A grant as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// The grant itself.
    pub grant: Grant,
    /// Who signed it.
    pub sender: String,
    /// The owner has ended it.
    pub revoked: bool,
}

impl Granted {
    /// Whether it opens anything at `now`, unix seconds, in this epoch.
    pub fn holds(&self, epoch: u32, now: u64) -> bool {
        let grant = &self.grant;
        !self.revoked
            && grant.epoch == epoch
            && grant.not_before <= now
            && grant.not_after.is_none_or(|end| now <= end)
    }
}

/// How a reader is shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// What is added from now on is sealed under a new secret; objects that the reader could read already stay.
    Lazy,
    /// All objects are sealed anew, so that the old secret opens nothing of the new version.
    Eager,
}

/// Somebody that a version's secret is wrapped for.
#[derive(Clone, Debug)]
pub(crate) struct Recipient {
    pub(crate) address: Address,
    pub(crate) key: ReaderPublic,
    pub(crate) not_after: Option<u64>,
}

/// Lets another account read the dataset: wraps the epoch's secret for the key that it has registered.
///
/// # Errors
/// `E_GRANT_OPEN` when this machine cannot open the dataset itself, `E_NO_READER_KEY` when the account has registered
/// no key, those of storage.
pub async fn grant_dataset(
    storage: &dyn Storage,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    head: &SignedHead,
    reader: Address,
    not_after: Option<u64>,
) -> Result<Grant> {
    head.verify()?;
    let secret = find_grant(storage, head, reader_key).await?;
    let key = registered_key(storage, reader).await?;
    let (id, epoch) = (head.head.dataset_id, head.head.epoch);
    let grant = Grant::seal(id, epoch, &secret, reader, &key, 0, not_after)?;
    let post = sign_post(wallet, GRANT_POST_TYPE, grant.post_content()?, None)?;
    storage.publish(&post).await?;
    Ok(grant)
}

async fn registered_key(storage: &dyn Storage, reader: Address) -> Result<ReaderPublic> {
    let key = reader_key_of(storage, &reader.to_string()).await?;
    key.ok_or_else(|| VaultError::NoReaderKey {
        account: reader.to_string(),
    })
}

/// All grants of a dataset that its owner or a listed writer made, oldest first, of every epoch.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn grants_of(storage: &dyn Storage, head: &SignedHead) -> Result<Vec<Granted>> {
    let revoked = revoked(storage, head).await?;
    let posts = storage.posts(of_dataset(head, GRANT_POST_TYPE)).await?;
    let mut found = Vec::new();
    for post in posts {
        let Ok(grant) = serde_json::from_value::<Grant>(post.content) else {
            continue;
        };
        if grant.dataset_id == head.head.dataset_id && may_write(head, &post.sender) {
            found.push(Granted {
                revoked: revoked.contains(&grant.grant_id),
                grant,
                sender: post.sender,
            });
        }
    }
    Ok(found)
}

/// Ids of the grants of this dataset that have been ended.
pub(crate) async fn revoked(storage: &dyn Storage, head: &SignedHead) -> Result<BTreeSet<[u8; 16]>> {
    let posts = storage.posts(of_dataset(head, REVOKE_POST_TYPE)).await?;
    let ended = posts.into_iter().filter_map(|post| {
        let revocation: Revocation = serde_json::from_value(post.content).ok()?;
        let counts = revocation.dataset_id == head.head.dataset_id && may_write(head, &post.sender);
        counts.then_some(revocation.grant_id)
    });
    Ok(ended.collect())
}

/// Datasets that other accounts have granted to this one: id and owner as the grants say. Whether a grant opens anything
/// is known when it is opened.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn granted_to(storage: &dyn Storage, reader: Address) -> Result<BTreeMap<DatasetId, Address>> {
    let query = PostQuery {
        types: vec![GRANT_POST_TYPE.to_owned()],
        tags: vec![reader.to_string()],
        ..PostQuery::default()
    };
    let posts = storage.posts(query).await?;
    let mine = posts.into_iter().filter_map(|post| {
        let grant: Grant = serde_json::from_value(post.content).ok()?;
        let owner: Address = post.address.parse().ok()?;
        (grant.recipient == reader && owner != reader).then_some((grant.dataset_id, owner))
    });
    Ok(mine.collect())
}

/// Shuts a reader out: ends its grants, and publishes the next version under a new secret, which is wrapped for all other
/// readers. What was read before can be kept by who read it.
///
/// # Errors
/// `E_NOT_GRANTED` when the account holds no grant, else as [`crate::put_dataset`].
pub async fn revoke_reader(
    storage: Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    previous: SignedHead,
    reader: Address,
    how: Revoke,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PutOutcome> {
    let (open, _) = open_own(&storage, reader_key, &previous).await?;
    let grants = grants_of(&*storage, &previous).await?;
    let (epoch, at) = (previous.head.epoch, now());
    let holds = |one: &&Granted| one.holds(epoch, at);
    let (ended, kept): (Vec<&Granted>, Vec<&Granted>) = grants
        .iter()
        .filter(holds)
        .partition(|one| one.grant.recipient == reader);
    if ended.is_empty() {
        return Err(VaultError::NotGranted {
            reader: reader.to_string(),
        });
    }
    for one in ended {
        let revocation = Revocation {
            dataset_id: previous.head.dataset_id,
            grant_id: one.grant.grant_id,
            epoch,
            reason: String::new(),
            time: at,
        };
        let post = sign_post(wallet, REVOKE_POST_TYPE, tagged(&revocation)?, None)?;
        storage.publish(&post).await?;
    }
    let mut readers: BTreeMap<[u8; 16], Recipient> = BTreeMap::new();
    for one in kept {
        let (address, not_after) = (one.grant.recipient, one.grant.not_after);
        // The key that is registered now: the one that the grant was made for may have been replaced.
        let own = address == wallet.owner();
        let key = if own {
            reader_key.public()
        } else {
            registered_key(&*storage, address).await?
        };
        let recipient = Recipient {
            address,
            key,
            not_after,
        };
        let longest = readers.entry(key.id()).or_insert_with(|| recipient.clone());
        if not_after.is_none() || longest.not_after.is_some_and(|end| Some(end) < not_after) {
            *longest = recipient;
        }
    }
    let files: Vec<SourceFile> = open
        .entries()
        .iter()
        .map(|entry| SourceFile::sealed(&open, entry))
        .collect();
    let plan = Plan::rotated(&open, readers.into_values().collect(), how)?;
    publish_version(&storage, wallet, files, plan, (open.bytes(), None), progress).await
}

fn of_dataset(head: &SignedHead, post_type: &str) -> PostQuery {
    let writers = head.head.writers.iter().map(|writer| writer.address.to_string());
    PostQuery {
        addresses: std::iter::once(head.head.owner.to_string())
            .chain(writers)
            .collect(),
        types: vec![post_type.to_owned()],
        tags: vec![head.head.dataset_id.to_string()],
        ..PostQuery::default()
    }
}

fn may_write(head: &SignedHead, sender: &str) -> bool {
    sender
        .parse()
        .is_ok_and(|sender: Address| head.may_write(&sender))
}

fn tagged(revocation: &Revocation) -> Result<serde_json::Value> {
    let mut content = to_json(revocation)?;
    content["tags"] = serde_json::json!([revocation.dataset_id.to_string()]);
    Ok(content)
}
