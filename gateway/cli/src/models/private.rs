//! What owners have sealed of their private models: records and tags that open with the key of a revision.
//!
//! Only what this account may open comes of it; the rest is as if it was not there. Secrets of revisions are kept in memory: an
//! own one for as long as the process runs, another owner's for a while, because a grant can be ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::model::{MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, ModelRecord, ModelTags, is_tag};
use alephlab_vault::storage::{Storage, StoredPost};
use alephlab_vault::{
    DatasetId, EpochSecret, SignedHead, VaultError, find_grants, granted_to, heads_of, open_beside,
    seal_beside,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::vault;
use crate::account::Account;
use crate::error::{CliError, Result};

/// Models whose heads and grants are fetched at the same time.
const AT_ONCE: usize = 8;
/// How long the secret of another owner's revision is used before its grant is looked for again.
const GRANTED: Duration = Duration::from_secs(60);
const WHAT: &str = "private models were not opened";

/// The secret of one revision, and what it is of.
pub(crate) struct Secret {
    dataset: DatasetId,
    epoch: u32,
    secret: EpochSecret,
}

impl Secret {
    pub(crate) fn of(head: &SignedHead, secret: &EpochSecret) -> Self {
        Self::at(head.head.dataset_id, head.head.epoch, secret)
    }

    /// The secret of a head that is not signed yet.
    pub(crate) fn at(dataset: DatasetId, epoch: u32, secret: &EpochSecret) -> Self {
        Self {
            dataset,
            epoch,
            secret: secret.duplicate(),
        }
    }

    /// Seals the record of a private revision; what is to be posted.
    pub(crate) fn cover(&self, record: &ModelRecord) -> Result<ModelRecord> {
        let covered = record.covered(self.seal(&record.about(), record)?);
        let checked = covered.check();
        checked.map_err(|problem| CliError::Refused { problem })?;
        // As every reader will do.
        self.uncover(&covered)?;
        Ok(covered)
    }

    /// Seals what is said beside the revision.
    pub(super) fn seal(&self, about: &str, said: &impl serde::Serialize) -> Result<String> {
        let text = serde_json::to_string(said)
            .map_err(|error| super::refuse("keys_json", error.to_string(), "report this"))?;
        seal_beside(&self.secret, (&self.dataset, self.epoch), about, &text).map_err(vault(WHAT))
    }

    /// The record that is sealed in one of this revision.
    pub(crate) fn uncover(&self, outer: &ModelRecord) -> Result<ModelRecord> {
        let text = self.open(&outer.about(), outer.sealed.as_deref().unwrap_or_default());
        let text = text.map_err(vault(WHAT))?;
        outer
            .uncovered(&text)
            .map_err(|problem| CliError::Refused { problem })
    }

    fn open(&self, about: &str, sealed: &str) -> alephlab_vault::Result<zeroize::Zeroizing<String>> {
        open_beside(&self.secret, (&self.dataset, self.epoch), about, sealed)
    }
}

/// What opened, by the item hash of its message.
#[derive(Default)]
pub(super) struct Unsealed {
    pub(super) records: HashMap<String, ModelRecord>,
    pub(super) tags: HashMap<String, BTreeMap<String, String>>,
    /// Models of which there are revisions whose secret was not found.
    pub(super) closed: BTreeSet<Uuid>,
}

/// Opens what is sealed beside revisions, with the keys of one account.
pub(super) struct Unsealer {
    account: Arc<Account>,
    /// By commit.
    secrets: Mutex<HashMap<String, (Instant, Arc<Secret>)>>,
}

impl Unsealer {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            secrets: Mutex::default(),
        }
    }

    /// The secret of a private revision that was opened.
    pub(super) fn secret(&self, commit: &str) -> Option<Arc<Secret>> {
        self.lock().get(commit).map(|(_, secret)| Arc::clone(secret))
    }

    /// Opens what this account can of the posts of `owner`.
    ///
    /// # Errors
    /// When the network cannot be asked; what does not open is left out.
    pub(super) async fn unseal(
        &self,
        storage: &Arc<dyn Storage>,
        owner: &str,
        posts: &[StoredPost],
    ) -> Result<Unsealed> {
        let mut unsealed = Unsealed::default();
        let records: Vec<(&str, ModelRecord)> = sealed(posts, MODEL_RECORD_TYPE)
            .filter_map(|post| {
                let record: ModelRecord = serde_json::from_value(post.content.clone()).ok()?;
                let counts = record.check().is_ok() && record.owner.eq_ignore_ascii_case(owner);
                counts.then_some((post.item_hash.as_str(), record))
            })
            .collect();
        if records.is_empty() {
            return Ok(unsealed);
        }
        self.find_secrets(storage, owner, &records).await?;
        for (message, record) in &records {
            let opened = self.secret(&record.commit).map(|secret| secret.uncover(record));
            match opened {
                Some(Ok(opened)) => drop(unsealed.records.insert((*message).to_owned(), opened)),
                Some(Err(error)) => tracing::debug!(%error, message, "a private record is passed over"),
                None => drop(unsealed.closed.insert(record.uuid)),
            }
        }
        for post in sealed(posts, MODEL_TAGS_TYPE) {
            if let Some(tags) = self.tags(post) {
                unsealed.tags.insert(post.item_hash.clone(), tags);
            }
        }
        Ok(unsealed)
    }

    fn tags(&self, post: &StoredPost) -> Option<BTreeMap<String, String>> {
        let outer: ModelTags = serde_json::from_value(post.content.clone()).ok()?;
        let sealed = outer.check().ok().and(outer.sealed.as_ref())?;
        let text = self
            .secret(&sealed.commit)?
            .open(&outer.about(), &sealed.text)
            .ok()?;
        let mut tags: BTreeMap<String, String> = serde_json::from_str(&text).ok()?;
        tags.retain(|tag, _| is_tag(tag));
        Some(tags)
    }

    /// Finds the secrets of those revisions that are not known, model by model.
    async fn find_secrets(
        &self,
        storage: &Arc<dyn Storage>,
        owner: &str,
        records: &[(&str, ModelRecord)],
    ) -> Result<()> {
        let own = self.account.wallet().owner();
        let is_own = own.to_string().eq_ignore_ascii_case(owner);
        let mut wanted: BTreeMap<Uuid, Vec<&ModelRecord>> = BTreeMap::new();
        {
            let mut secrets = self.lock();
            if !is_own {
                let of_owner: BTreeSet<&str> = records.iter().map(|(_, one)| one.commit.as_str()).collect();
                secrets.retain(|commit, (found, _)| {
                    !of_owner.contains(commit.as_str()) || found.elapsed() < GRANTED
                });
            }
            for (_, record) in records {
                if !secrets.contains_key(&record.commit) {
                    wanted.entry(record.uuid).or_default().push(record);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let granted: Option<BTreeSet<DatasetId>> = match is_own {
            true => None,
            false => {
                let all = granted_to(&**storage, own).await.map_err(vault(WHAT))?;
                let of_owner = all
                    .into_iter()
                    .filter(|(_, by)| by.to_string().eq_ignore_ascii_case(owner));
                Some(of_owner.map(|(id, _)| id).collect())
            }
        };
        if granted.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(());
        }
        // Owned futures in a list: one that borrowed from here could not be sent to another thread.
        let finding: Vec<_> = wanted
            .into_values()
            .map(|records| {
                let commits: BTreeSet<String> = records.iter().map(|one| one.commit.clone()).collect();
                let heads: Vec<String> = records.iter().map(|one| one.head.clone()).collect();
                let (storage, account) = (Arc::clone(storage), Arc::clone(&self.account));
                secrets_of(
                    storage,
                    account,
                    owner.to_owned(),
                    granted.clone(),
                    heads,
                    commits,
                )
            })
            .collect();
        let found: Vec<_> = futures_util::stream::iter(finding)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
            .map_err(vault(WHAT))?;
        let mut secrets = self.lock();
        for (commit, secret) in found.into_iter().flatten() {
            secrets.insert(commit, (Instant::now(), Arc::new(secret)));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<Secret>)>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Posts of a type beside which something is sealed.
fn sealed<'a>(posts: &'a [StoredPost], kind: &'a str) -> impl Iterator<Item = &'a StoredPost> {
    posts
        .iter()
        .filter(move |post| post.post_type == kind && post.content.get("sealed").is_some())
}

/// The secrets of these revisions of one model, as far as they are granted. Its heads and grants are fetched once.
async fn secrets_of(
    storage: Arc<dyn Storage>,
    account: Arc<Account>,
    owner: String,
    granted: Option<BTreeSet<DatasetId>>,
    heads: Vec<String>,
    commits: BTreeSet<String>,
) -> alephlab_vault::Result<Vec<(String, Secret)>> {
    // The newest says which dataset all of them are.
    let mut dataset = None;
    for message in heads.iter().rev() {
        let post = storage.post(message).await?;
        if let Some(head) = post.and_then(|post| SignedHead::from_post(&post.content).ok()) {
            dataset = Some(head.head.dataset_id);
            break;
        }
    }
    let is_granted = |id: &DatasetId| granted.as_ref().is_none_or(|granted| granted.contains(id));
    let Some(dataset) = dataset.filter(is_granted) else {
        return Ok(Vec::new());
    };
    let line = heads_of(&*storage, &owner, &dataset).await?;
    let line: Vec<SignedHead> = line
        .into_iter()
        .map(|(head, _)| head)
        .filter(|head| commits.contains(&head.revision()))
        .collect();
    let secrets = find_grants(&*storage, &line, account.reader()).await?;
    let mut found = Vec::new();
    for (head, secret) in line.iter().zip(secrets) {
        match secret {
            Ok(secret) => found.push((head.revision(), Secret::of(head, &secret))),
            Err(error @ VaultError::Unavailable { .. }) => return Err(error),
            // Not for this account, or not any more.
            Err(_) => {}
        }
    }
    Ok(found)
}
