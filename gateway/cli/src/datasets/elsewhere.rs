//! Own datasets that another machine of the account has published: on Aleph they have an id and no name, but their sealed
//! title is the name that they were given there. What is sealed beside a kernel is signed only with the title that was agreed
//! to (`keys/upload.rs`), so no host can give a dataset the name of another.

use std::collections::{BTreeMap, BTreeSet};

use alephlab_api::model::MODEL_RECORD_TYPE;
use alephlab_vault::storage::{PostQuery, is_absent};
use alephlab_vault::{DatasetId, HEAD_POST_TYPE, Keys, Meta, Reader, SignedHead, VaultError, find_grant};

use super::{Library, NOT_FOUND, check_name, fail};
use crate::error::Result;
use crate::keys::DatasetEntry;

/// Datasets that were found on Aleph and have no name here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovered {
    /// Name to be, and id.
    pub(crate) named: Vec<(String, DatasetId)>,
    /// How many do not open here, being for a key of another machine only, or no longer there as a whole: their names are not
    /// known.
    pub(crate) closed: usize,
}

/// One own dataset as Aleph has it.
struct OnAleph {
    newest: SignedHead,
    /// Signed time of its oldest post, unix seconds.
    since: f64,
    /// Item hashes of the messages of its heads.
    messages: BTreeSet<String>,
}

impl Library {
    /// Looks for own datasets that this machine has no name for, and gives each its title, or its id where another has that
    /// title. Writes nothing.
    ///
    /// # Errors
    /// When the node does not answer: whoever asks must not take that for "there is none".
    pub(crate) async fn discover(&self) -> Result<Discovered> {
        let all = self.books.datasets()?;
        let mut names: BTreeSet<String> = all.keys().cloned().collect();
        let mut known: BTreeSet<String> = all.into_values().map(|entry| entry.dataset_id).collect();
        known.extend(self.books.models()?.into_values().map(|entry| entry.dataset_id));
        let mut unknown = self.heads_on_aleph().await?;
        unknown.retain(|id, _| !known.contains(&id.to_string()));
        let mut discovered = Discovered::default();
        if unknown.is_empty() {
            return Ok(discovered);
        }
        let models = self.heads_of_models().await?;
        unknown.retain(|_, one| one.messages.is_disjoint(&models));
        // The oldest first, so that all machines give one title to the same dataset.
        let mut in_order: Vec<(DatasetId, OnAleph)> = unknown.into_iter().collect();
        in_order
            .sort_by(|(id, one), (other_id, other)| one.since.total_cmp(&other.since).then(id.cmp(other_id)));
        for (id, one) in in_order {
            let meta = match self.meta_of(&one.newest).await {
                Ok(meta) => meta,
                Err(error @ (VaultError::Unavailable { .. } | VaultError::Listing { .. }))
                    if !is_absent(&error) =>
                {
                    return Err(fail(NOT_FOUND)(error));
                }
                Err(error) => {
                    tracing::debug!(dataset = %id, %error, "an own dataset does not open on this machine");
                    discovered.closed += 1;
                    continue;
                }
            };
            // A model, whose record the node does not have: models are sealed without a time.
            if meta.created.is_none() {
                continue;
            }
            let title = meta.title.filter(|title| check_name(title).is_ok());
            let name = title
                .filter(|title| !names.contains(title))
                .unwrap_or_else(|| id.to_string());
            names.insert(name.clone());
            discovered.named.push((name, id));
        }
        Ok(discovered)
    }

    /// Writes down what [`Library::discover`] finds. Returns how many do not open here.
    pub(crate) async fn learn(&self) -> Result<usize> {
        let discovered = self.discover().await?;
        for (name, id) in &discovered.named {
            let dataset_id = id.to_string();
            let entry = DatasetEntry {
                dataset_id: dataset_id.clone(),
            };
            // Another process may have taken the name meanwhile.
            if !self.books.adopt_dataset(name, entry.clone())? {
                self.books.adopt_dataset(&dataset_id, entry)?;
            }
        }
        Ok(discovered.closed)
    }

    /// [`Library::learn`], unless this account has a dataset of that name already.
    pub(crate) async fn learn_unless_named(&self, name: &str) -> Result<usize> {
        if self.books.datasets()?.contains_key(name) {
            return Ok(0);
        }
        self.learn().await
    }

    async fn meta_of(&self, head: &SignedHead) -> alephlab_vault::Result<Meta> {
        let secret = find_grant(&*self.storage, head, self.account.reader()).await?;
        let reader = Reader::open(self.storage.clone(), head, Keys::Epoch(secret)).await?;
        Ok(reader.meta().clone())
    }

    /// Everything that this account has published and not had forgotten, models too.
    async fn heads_on_aleph(&self) -> Result<BTreeMap<DatasetId, OnAleph>> {
        let own = self.account.wallet().owner();
        let mut found: BTreeMap<DatasetId, OnAleph> = BTreeMap::new();
        let posts = self.storage.posts(self.own_posts(HEAD_POST_TYPE)).await;
        for post in posts.map_err(fail(NOT_FOUND))? {
            let Ok(head) = SignedHead::from_post(&post.content) else {
                continue;
            };
            if head.head.owner != own || head.verify().is_err() {
                continue;
            }
            let known = found.entry(head.head.dataset_id).or_insert_with(|| OnAleph {
                newest: head.clone(),
                since: post.time,
                messages: BTreeSet::new(),
            });
            known.messages.insert(post.item_hash);
            known.since = known.since.min(post.time);
            if head.head.version > known.newest.head.version {
                known.newest = head;
            }
        }
        Ok(found)
    }

    /// Messages of the heads that are models. Of a record that is otherwise unreadable this much still counts.
    async fn heads_of_models(&self) -> Result<BTreeSet<String>> {
        let records = self.storage.posts(self.own_posts(MODEL_RECORD_TYPE)).await;
        let records = records.map_err(fail(NOT_FOUND))?;
        let heads = records
            .iter()
            .filter_map(|post| post.content.get("head")?.as_str());
        Ok(heads.map(str::to_owned).collect())
    }

    fn own_posts(&self, post_type: &str) -> PostQuery {
        PostQuery {
            addresses: vec![self.account.address()],
            types: vec![post_type.to_owned()],
            ..PostQuery::default()
        }
    }
}
