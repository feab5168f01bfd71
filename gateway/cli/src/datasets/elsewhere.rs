//! Own datasets that another machine of the account has published: on Aleph they have an id and no name, but their sealed
//! title is the name that they were given there.

use std::collections::{BTreeMap, BTreeSet};

use alephlab_api::model::{MODEL_RECORD_TYPE, ModelRecord};
use alephlab_vault::storage::PostQuery;
use alephlab_vault::{DatasetId, HEAD_POST_TYPE, SignedHead};

use super::{Library, NOT_FOUND, check_name, fail, title_of};
use crate::error::Result;
use crate::keys::DatasetEntry;

/// One own dataset as Aleph has it.
struct OnAleph {
    newest: SignedHead,
    /// When its first version that is still there was made, unix seconds.
    created: u64,
    /// Item hashes of the messages of its heads.
    messages: BTreeSet<String>,
}

impl Library {
    /// Writes down the own datasets that this machine has no name for, each under its title, or under its id where another
    /// has that title. Returns how many do not open here, being for a key of another machine only: their names are not known.
    ///
    /// # Errors
    /// When the node does not answer: whoever asks must not take that for "there is none".
    pub(crate) async fn learn(&self) -> Result<usize> {
        let named: BTreeSet<String> = self
            .books
            .datasets()?
            .into_values()
            .map(|entry| entry.dataset_id.to_lowercase())
            .collect();
        let mut unknown = self.heads_on_aleph().await?;
        unknown.retain(|id, _| !named.contains(&id.to_string()));
        if unknown.is_empty() {
            return Ok(0);
        }
        let models = self.heads_of_models().await?;
        unknown.retain(|_, one| one.messages.is_disjoint(&models));
        // The oldest first, so that all machines give one title to the same dataset.
        let mut in_order: Vec<(DatasetId, OnAleph)> = unknown.into_iter().collect();
        in_order.sort_by_key(|(id, one)| (one.created, *id));
        let mut closed = 0;
        for (id, one) in in_order {
            let title = match title_of(&self.storage, &self.account, &one.newest).await {
                Ok(title) => title,
                Err(error) if error.code() == "E_UNAVAILABLE" => return Err(error),
                Err(error) => {
                    tracing::debug!(dataset = %id, %error, "an own dataset does not open on this machine");
                    closed += 1;
                    continue;
                }
            };
            let dataset_id = id.to_string();
            let name = title.filter(|title| check_name(title).is_ok());
            let entry = DatasetEntry {
                dataset_id: dataset_id.clone(),
            };
            let given = match name {
                Some(name) => self.books.adopt_dataset(&name, entry.clone())?,
                None => false,
            };
            if !given {
                self.books.adopt_dataset(&dataset_id, entry)?;
            }
        }
        Ok(closed)
    }

    /// [`Library::learn`], unless this account has a dataset of that name already.
    pub(crate) async fn learn_unless_named(&self, name: &str) -> Result<usize> {
        if self.books.datasets()?.contains_key(name) {
            return Ok(0);
        }
        self.learn().await
    }

    /// Everything that this account has published and not had forgotten, models too.
    async fn heads_on_aleph(&self) -> Result<BTreeMap<DatasetId, OnAleph>> {
        let own = self.account.wallet().owner();
        let mut found: BTreeMap<DatasetId, OnAleph> = BTreeMap::new();
        for post in self
            .storage
            .posts(self.own_posts(HEAD_POST_TYPE))
            .await
            .map_err(fail(NOT_FOUND))?
        {
            let Ok(head) = SignedHead::from_post(&post.content) else {
                continue;
            };
            if head.head.owner != own || head.verify().is_err() {
                continue;
            }
            let known = found.entry(head.head.dataset_id).or_insert_with(|| OnAleph {
                newest: head.clone(),
                created: head.head.created,
                messages: BTreeSet::new(),
            });
            known.messages.insert(post.item_hash);
            known.created = known.created.min(head.head.created);
            if head.head.version > known.newest.head.version {
                known.newest = head;
            }
        }
        Ok(found)
    }

    /// Messages of the heads that are models.
    async fn heads_of_models(&self) -> Result<BTreeSet<String>> {
        let records = self.storage.posts(self.own_posts(MODEL_RECORD_TYPE)).await;
        let heads = records.map_err(fail(NOT_FOUND))?.into_iter().filter_map(|post| {
            let record: ModelRecord = serde_json::from_value(post.content).ok()?;
            Some(record.head)
        });
        Ok(heads.collect())
    }

    fn own_posts(&self, post_type: &str) -> PostQuery {
        PostQuery {
            addresses: vec![self.account.address()],
            types: vec![post_type.to_owned()],
            ..PostQuery::default()
        }
    }
}
