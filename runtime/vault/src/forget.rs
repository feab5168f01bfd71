//! Having the network forget a dataset, or its older versions: the FORGETs of what this owner stored and posted.
//!
//! In an order that can be stopped anywhere and begun again: files' objects first; then, version by version, what its
//! manifest lies in together with its head, in one message; the grants last. So whatever is left can still be opened by
//! its owner, who finds in it what else there is. Nodes keep forgotten files for a while, and whoever copied an object
//! still has it: what must not be read any more needs a revocation before.

use crate::find::find_grant;
use crate::grant::GRANT_POST_TYPE;
use crate::head::{HEAD_POST_TYPE, SignedHead};
use crate::message::sign_forget;
use crate::reader::Reader;
use crate::readerkey::ReaderKey;
use crate::ring::Keys;
use crate::sharing::{REVOKE_POST_TYPE, of_dataset};
use crate::storage::{PostQuery, Storage};
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Hashes in one FORGET: its text has to fit inside the message, which the SDK does below 50,000 bytes.
const HASHES_MAX: usize = 500;
/// Objects that are asked for at once: their hashes are in an address.
const ASKED_MAX: usize = 50;

/// What is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// The dataset.
    Everything,
    /// All versions but the newest, and what only they use.
    Older,
}

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Versions whose heads are gone.
    pub versions: u64,
    /// Objects that the owner no longer stores, nor pays for.
    pub objects: u64,
    /// Versions that this machine cannot open, so that it does not know their objects: they stay as they are.
    pub unopened: Vec<u64>,
}

/// Objects of one version.
#[derive(Default)]
struct Objects {
    files: BTreeSet<String>,
    manifest: BTreeSet<String>,
}

/// Has a dataset forgotten whose newest version is `newest`.
///
/// # Errors
/// `E_FORBIDDEN` for another's, those of opening its versions, those of storage. What was
/// forgotten before an error stays so; called again it goes on.
pub async fn forget_dataset(
    storage: &Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    newest: &SignedHead,
    what: Forget,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Forgotten> {
    let owner = newest.head.owner;
    if owner != wallet.owner() {
        return Err(VaultError::Forbidden {
            what: "the dataset".into(),
            reason: format!("it belongs to {owner}"),
        });
    }
    let forgetter = Forgetter {
        storage,
        wallet,
        owner: owner.to_string(),
    };
    let mut versions = forgetter.heads(newest).await?;
    let kept = match what {
        Forget::Everything => Objects::default(),
        Forget::Older => {
            versions.retain(|(head, _)| head.hash() != newest.hash());
            forgetter.objects(newest, reader_key).await?
        }
    };
    let mut done = Forgotten::default();
    let mut known = Vec::new();
    for (head, posts) in versions {
        match forgetter.objects(&head, reader_key).await {
            Ok(objects) => known.push((objects, posts)),
            // Its head stays: without it nobody would find what there is to forget.
            Err(VaultError::GrantOpen { .. }) => done.unopened.push(head.head.version),
            Err(error) => return Err(error),
        }
    }
    let is_kept = |name: &&String| !kept.files.contains(*name) && !kept.manifest.contains(*name);
    let files: BTreeSet<String> = known
        .iter()
        .flat_map(|(one, _)| &one.files)
        .filter(is_kept)
        .cloned()
        .collect();
    let manifests: usize = known.iter().map(|(one, _)| one.manifest.len()).sum();
    let total = (files.len() + manifests) as u64;
    for batch in files.into_iter().collect::<Vec<_>>().chunks(HASHES_MAX) {
        done.objects += forgetter.forget(batch, Vec::new()).await?;
        progress(done.objects, total);
    }
    for (objects, posts) in known {
        let manifest: Vec<String> = objects.manifest.iter().filter(is_kept).cloned().collect();
        done.objects += forgetter.forget(&manifest, posts).await?;
        done.versions += 1;
        progress(done.objects, total);
    }
    // Grants are what a version that is left could still be opened with somewhere.
    if what == Forget::Everything && done.unopened.is_empty() {
        let mut rest = Vec::new();
        for kind in [GRANT_POST_TYPE, REVOKE_POST_TYPE] {
            rest.extend(forgetter.posts(of_dataset(newest, kind)).await?);
        }
        forgetter
            .forget(&[], rest.into_iter().map(|(hash, _)| hash).collect())
            .await?;
    }
    Ok(done)
}

struct Forgetter<'a> {
    storage: &'a Arc<dyn Storage>,
    wallet: &'a Wallet,
    owner: String,
}

impl Forgetter<'_> {
    /// All heads of the dataset, oldest first, each with the POSTs that say it.
    async fn heads(&self, newest: &SignedHead) -> Result<Vec<(SignedHead, Vec<String>)>> {
        let mut found: BTreeMap<(u64, [u8; 32]), (SignedHead, Vec<String>)> = BTreeMap::new();
        for (hash, content) in self.posts(of_dataset(newest, HEAD_POST_TYPE)).await? {
            if let Ok(head) = SignedHead::from_post(&content)
                && head.head.dataset_id == newest.head.dataset_id
            {
                let key = (head.head.version, head.hash());
                found
                    .entry(key)
                    .or_insert_with(|| (head, Vec::new()))
                    .1
                    .push(hash);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Own posts: hash and content. Nobody may have another's forgotten.
    async fn posts(&self, query: PostQuery) -> Result<Vec<(String, serde_json::Value)>> {
        let posts = self.storage.posts(query).await?;
        let own = posts
            .into_iter()
            .filter(|post| post.sender.eq_ignore_ascii_case(&self.owner));
        Ok(own.map(|post| (post.item_hash, post.content)).collect())
    }

    async fn objects(&self, head: &SignedHead, key: &ReaderKey) -> Result<Objects> {
        let secret = find_grant(&**self.storage, head, key).await?;
        let reader = Reader::open(Arc::clone(self.storage), head, Keys::Epoch(secret)).await?;
        let (files, manifest) = reader.object_names();
        Ok(Objects { files, manifest })
    }

    /// Forgets the STOREs of these objects that are not forgotten yet, and these posts; how many objects.
    async fn forget(&self, objects: &[String], posts: Vec<String>) -> Result<u64> {
        let (mut stored, mut hashes) = (BTreeSet::new(), Vec::new());
        for asked in objects.chunks(ASKED_MAX) {
            for store in self.storage.stores(&self.owner, asked).await? {
                stored.insert(store.stored_file()?);
                hashes.push(store.item_hash());
            }
        }
        hashes.extend(posts);
        for batch in hashes.chunks(HASHES_MAX) {
            self.storage.publish(&sign_forget(self.wallet, batch)?).await?;
        }
        Ok(stored.len() as u64)
    }
}
