//! Who may read a dataset: grants to other accounts, and their end (container sections 10 and 12). Runs on the owner's
//! machine, where the keys are; finding what was granted runs on the reader's.

use crate::dataset::{Plan, Progress, PutOutcome, newest, open_own, publish_version};
use crate::encoding::hex_bytes;
use crate::find::find_grant;
use crate::grant::{GRANT_POST_TYPE, Grant, GrantTerms};
use crate::head::{SignedHead, to_json};
use crate::journal::Journal;
use crate::keys::{Address, DatasetId};
use crate::message::sign_post;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::registered::reader_keys_of;
use crate::seen::now;
use crate::source::SourceFile;
use crate::storage::{PostQuery, Storage};
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
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
    pub(crate) terms: GrantTerms,
}

/// Lets another account read the dataset, this version and every other of its epoch: wraps the epoch's secret for each key
/// that the account has registered.
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
    terms: GrantTerms,
) -> Result<()> {
    head.verify()?;
    let secret = find_grant(storage, head, reader_key).await?;
    let keys = reader_keys_of(storage, &reader.to_string()).await?;
    if keys.is_empty() {
        return Err(VaultError::NoReaderKey {
            account: reader.to_string(),
        });
    }
    let (id, epoch) = (head.head.dataset_id, head.head.epoch);
    for key in keys {
        let grant = Grant::seal(id, epoch, &secret, reader, &key, terms.clone())?;
        let post = sign_post(wallet, GRANT_POST_TYPE, grant.post_content()?, None)?;
        storage.publish(&post).await?;
    }
    Ok(())
}

/// Whether somebody who once had this epoch's secret should not have the next version's: a grant of it was ended, or has
/// expired.
pub(crate) fn is_spent(grants: &[Granted], epoch: u32, now: u64) -> bool {
    grants
        .iter()
        .any(|one| one.grant.epoch == epoch && !one.holds(epoch, now))
}

/// Whom the secret of the next epoch is wrapped for: all accounts whose grant holds, `without` apart, with each key that they
/// have registered, and this machine. Accounts that have no key any more cannot be, and are returned.
pub(crate) async fn next_readers(
    storage: &dyn Storage,
    owner: Address,
    reader_key: &ReaderKey,
    grants: &[Granted],
    epoch: u32,
    without: Option<Address>,
) -> Result<(Vec<Recipient>, Vec<Address>)> {
    let at = now();
    let mut given: BTreeMap<Address, GrantTerms> = BTreeMap::from([(owner, GrantTerms::default())]);
    // They come oldest first: the newest of each account decides, also when it holds no longer and an older one would.
    let newest: BTreeMap<Address, &Granted> = grants
        .iter()
        .filter(|one| one.grant.epoch == epoch)
        .map(|one| (one.grant.recipient, one))
        .collect();
    for (address, one) in newest {
        let (not_after, policy) = (one.grant.not_after, one.grant.policy.clone());
        if address == owner {
            // Nobody is shut out of what is theirs.
            given.insert(
                owner,
                GrantTerms {
                    policy,
                    ..GrantTerms::default()
                },
            );
        } else if Some(address) != without && one.holds(epoch, at) {
            given.insert(
                address,
                GrantTerms {
                    not_before: 0,
                    not_after,
                    policy,
                },
            );
        }
    }
    let (mut readers, mut keyless) = (Vec::new(), Vec::new());
    for (address, terms) in given {
        let mut keys = reader_keys_of(storage, &address.to_string()).await?;
        if address == owner && !keys.iter().any(|key| reader_key.publics().contains(key)) {
            keys.push(reader_key.public());
        }
        if keys.is_empty() {
            keyless.push(address);
        }
        readers.extend(keys.into_iter().map(|key| Recipient {
            address,
            key,
            terms: terms.clone(),
        }));
    }
    Ok((readers, keyless))
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
        let Some(grant) = Grant::from_post(&post.content)? else {
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

/// Datasets that other accounts have granted to this one: id, and who says so. Whether a grant opens anything is known when
/// it is opened: anybody can post one.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn granted_to(storage: &dyn Storage, reader: Address) -> Result<BTreeSet<(DatasetId, Address)>> {
    let query = PostQuery {
        types: vec![GRANT_POST_TYPE.to_owned()],
        tags: vec![reader.to_string()],
        ..PostQuery::default()
    };
    let posts = storage.posts(query).await?;
    let mine = posts.into_iter().filter_map(|post| {
        let grant: Grant = serde_json::from_value(post.content).ok()?;
        let sender: Address = post.sender.parse().ok()?;
        let is_gift = grant.recipient == reader && sender != reader;
        is_gift.then_some((grant.dataset_id, sender))
    });
    Ok(mine.collect())
}

/// Who is shut out, and how.
pub struct Revoking {
    /// The newest version.
    pub previous: SignedHead,
    /// Whom.
    pub reader: Address,
    /// How.
    pub how: Revoke,
    /// As in [`crate::Put`]: the same file for the same dataset.
    pub journal: Option<PathBuf>,
}

/// Shuts a reader out: ends its grants, and publishes the next version under a new secret, which is wrapped for all other
/// readers. What was read before can be kept by who read it. One that was stopped goes on when it is called again.
///
/// # Errors
/// `E_NOT_GRANTED` when the account was given no grant of this epoch, else as [`crate::put_resumable`].
pub async fn revoke_reader(
    storage: Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    revoking: Revoking,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PutOutcome> {
    let (reader, how) = (revoking.reader, revoking.how);
    let journal = revoking.journal.as_deref().map(Journal::open).transpose()?;
    let previous = newest(
        &*storage,
        journal.as_ref(),
        Some((revoking.previous, String::new())),
    )
    .await?;
    let (previous, _) = previous.ok_or(VaultError::NotGranted {
        reader: reader.to_string(),
    })?;
    let (open, _) = open_own(&storage, reader_key, &previous).await?;
    let grants = grants_of(&*storage, &previous).await?;
    let epoch = previous.head.epoch;
    // Expired ones and ended ones too: the secret that they held is the one in use.
    let given = |one: &&Granted| one.grant.epoch == epoch && one.grant.recipient == reader;
    let ended: Vec<&Granted> = grants.iter().filter(given).collect();
    if ended.is_empty() {
        return Err(VaultError::NotGranted {
            reader: reader.to_string(),
        });
    }
    let owner = wallet.owner();
    // Before anything is said: what can fail here must leave the reader as it was.
    let (readers, keyless) = next_readers(&*storage, owner, reader_key, &grants, epoch, Some(reader)).await?;
    for one in ended.into_iter().filter(|one| !one.revoked) {
        let revocation = Revocation {
            dataset_id: previous.head.dataset_id,
            grant_id: one.grant.grant_id,
            epoch,
            reason: String::new(),
            time: now(),
        };
        let post = sign_post(wallet, REVOKE_POST_TYPE, tagged(&revocation)?, None)?;
        storage.publish(&post).await?;
    }
    let entries = open.entries().iter();
    let files: Vec<SourceFile> = entries.map(|entry| SourceFile::sealed(&open, entry)).collect();
    let mut plan = Plan::rotated(&open, readers, how)?;
    plan.go_on(wallet, journal.as_ref())?;
    let mut outcome = publish_version(
        &storage,
        wallet,
        files,
        plan,
        (open.bytes(), journal.as_ref()),
        progress,
    )
    .await?;
    outcome.without_key = keyless;
    journal.as_ref().map_or(Ok(()), Journal::finish)?;
    Ok(outcome)
}

/// Posts of one type about a dataset, by those who may write it.
pub(crate) fn of_dataset(head: &SignedHead, post_type: &str) -> PostQuery {
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
