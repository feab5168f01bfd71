//! Finding what was published of a dataset: its heads, and the grant that opens one. Nodes are not trusted: only what is
//! validly signed counts.

use crate::grant::{GRANT_POST_TYPE, Grant};
use crate::head::{HEAD_POST_TYPE, SignedHead};
use crate::keys::{DatasetId, EpochSecret};
use crate::policy::Policy;
use crate::readerkey::ReaderKey;
use crate::seen::{fork, now};
use crate::sharing::{of_dataset, revoked};
use crate::storage::{PostQuery, Storage, StoredPost};
use crate::{Result, VaultError};
use std::collections::BTreeSet;

/// The current head of a dataset and the item hash of its POST: the highest validly signed version.
///
/// # Errors
/// `E_FORK` when two heads claim that version, `E_UNAVAILABLE`.
pub async fn find_head(
    storage: &dyn Storage,
    owner: &str,
    dataset: &DatasetId,
) -> Result<Option<(SignedHead, String)>> {
    let mut heads = heads_of(storage, owner, dataset).await?;
    let Some((newest, message)) = heads.pop() else {
        return Ok(None);
    };
    match heads.pop() {
        Some((other, _)) if other.head.version == newest.head.version => Err(fork(
            newest.head.version,
            hex::encode(newest.hash()),
            hex::encode(other.hash()),
        )),
        _ => Ok(Some((newest, message))),
    }
}

/// All validly signed heads of a dataset with the item hashes of their POSTs, by version; a head that was posted
/// twice counts once. Looks among the posts of `owner` only, so heads posted by extra writers are not found.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn heads_of(
    storage: &dyn Storage,
    owner: &str,
    dataset: &DatasetId,
) -> Result<Vec<(SignedHead, String)>> {
    let query = PostQuery {
        addresses: vec![owner.to_owned()],
        types: vec![HEAD_POST_TYPE.to_owned()],
        tags: vec![dataset.to_string()],
        ..PostQuery::default()
    };
    let mut heads = Vec::new();
    for post in storage.posts(query).await? {
        // Anybody may post what looks like a head; only signed ones of this dataset count.
        if let Ok(head) = SignedHead::from_post(&post.content)
            && head.head.dataset_id == *dataset
            && head.verify().is_ok()
        {
            heads.push((head, post.item_hash));
        }
    }
    heads.sort_by_key(|(head, _)| (head.head.version, head.hash()));
    heads.dedup_by_key(|(head, _)| head.hash());
    Ok(heads)
}

/// Finds and opens a grant of `head`'s epoch for this reader key.
///
/// # Errors
/// `E_GRANT_OPEN` when there is none; the error of the newest one when that does not open.
pub async fn find_grant(storage: &dyn Storage, head: &SignedHead, key: &ReaderKey) -> Result<EpochSecret> {
    let (secret, _) = find_grant_and_policy(storage, head, key).await?;
    Ok(secret)
}

/// As [`find_grant`], with what the owner asks of the hosts that the secret is passed on to. The newest grant counts.
///
/// # Errors
/// As [`find_grant`].
pub async fn find_grant_and_policy(
    storage: &dyn Storage,
    head: &SignedHead,
    key: &ReaderKey,
) -> Result<(EpochSecret, Option<Policy>)> {
    let query = of_dataset(head, GRANT_POST_TYPE);
    let ended = revoked(storage, head).await?;
    among(&storage.posts(query).await?, &ended, head, key)
}

/// The grants of several heads of one dataset, in their order: what there is of it is fetched once.
///
/// # Errors
/// `E_UNAVAILABLE`. Each head has its own answer, as that of [`find_grant`].
pub async fn find_grants(
    storage: &dyn Storage,
    heads: &[SignedHead],
    key: &ReaderKey,
) -> Result<Vec<Result<EpochSecret>>> {
    let Some(newest) = heads.last() else {
        return Ok(Vec::new());
    };
    let posts = storage.posts(of_dataset(newest, GRANT_POST_TYPE)).await?;
    let ended = revoked(storage, newest).await?;
    let found = heads.iter().map(|head| {
        let (secret, _) = among(&posts, &ended, head, key)?;
        Ok(secret)
    });
    Ok(found.collect())
}

/// The newest grant of `head`'s epoch for this key among `posts`, oldest first, opened.
fn among(
    posts: &[StoredPost],
    ended: &BTreeSet<[u8; 16]>,
    head: &SignedHead,
    key: &ReaderKey,
) -> Result<(EpochSecret, Option<Policy>)> {
    for post in posts.iter().rev() {
        let Some(grant) = Grant::from_post(&post.content)? else {
            continue;
        };
        if !key.has(grant.kem_id, &grant.key_id)
            || grant.epoch != head.head.epoch
            || grant.dataset_id != head.head.dataset_id
        {
            continue;
        }
        // The secret was this reader's once; a program that keeps to the rules does not use it any more.
        if ended.contains(&grant.grant_id) {
            return Err(VaultError::GrantOpen {
                reason: "the owner has ended this account's grant".into(),
            });
        }
        // No older one, which may ask for less or last longer, takes the place of one that does not open.
        return Ok((grant.open(key, &post.sender, head, now())?, grant.policy));
    }
    Err(VaultError::GrantOpen {
        reason: "no grant for this machine's reader key was found".into(),
    })
}
