//! What an account calls its datasets and models, and how far each has come: `datasets.json`, `models.json`, and
//! `uploads.json` for versions that kernels are uploading.
//!
//! Names are local: on Aleph a dataset has only its id. The books hold no key: a lost book loses names, never content.
//! Several processes may use one account at a time, so every change reads, changes and writes under a lock of its book.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::model::private_uuid;
use alephlab_vault::share::ShareToken;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::engine::refuse;
use crate::account::Account;
use crate::data::{FileLock, read_json, write_json};
use crate::error::Result;

/// A publish holds the book of models while it posts its messages, which a slow node may draw out.
const MODELS_PATIENCE: Duration = Duration::from_secs(90);
/// How often a held book is tried again.
const MODELS_CHECK: Duration = Duration::from_millis(20);

/// The books of one account.
#[derive(Clone)]
pub(crate) struct Books {
    datasets: PathBuf,
    models: PathBuf,
    uploads: PathBuf,
    seen: PathBuf,
    shares: PathBuf,
}

/// A dataset that this account calls by a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct DatasetEntry {
    /// Its id, hex.
    pub dataset_id: String,
}

/// A model that this account publishes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct ModelEntry {
    /// Its identity across revisions.
    pub uuid: Uuid,
    /// Its dataset id, hex.
    pub dataset_id: String,
    /// The random part of that id, hex.
    pub id_random: String,
    /// What was published, oldest first.
    #[serde(default)]
    pub revisions: Vec<Revision>,
    /// What is being published.
    #[serde(default)]
    pub pending: Option<Pending>,
}

/// One published revision.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Revision {
    /// 40 hex digits.
    pub revision: String,
    /// Version of the head.
    pub version: u64,
    /// Epoch it is sealed under.
    pub epoch: u32,
    /// Hash of the head, hex.
    pub head_hash: String,
    /// Item hash of the head's message.
    pub head: String,
    /// Item hash of the record's message.
    pub record: String,
    /// Whether that record is sealed.
    #[serde(default)]
    pub private: bool,
}

/// A publish between the first question and the last message.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Pending {
    /// Version to be.
    pub version: u64,
    /// Epoch to seal under.
    pub epoch: u32,
    /// The call that it was prepared for: all machines of an account get each call, and the slower ones must not begin
    /// it anew.
    #[serde(default)]
    pub call: Option<Uuid>,
    /// Secret that only the kernel which was agreed to can know, hex, and how it was sealed to it.
    #[serde(default)]
    pub ticket: String,
    /// The vault's `Sealed` of it.
    #[serde(default)]
    pub sealed_ticket: Option<Value>,
    /// When it is no longer answered what there is, unix seconds.
    #[serde(default)]
    pub until: u64,
    /// Objects that were looked up in the revision before.
    #[serde(default)]
    pub looked_up: usize,
    /// The calls that they were looked up for: one that is delivered again counts once.
    #[serde(default)]
    pub surveys: BTreeSet<Uuid>,
    /// Objects whose STORE was signed: only a root among them is signed into a head.
    #[serde(default)]
    pub stored: Vec<String>,
    /// Everything signed but perhaps not yet posted; posted again unchanged after a failure.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// The model was to become private when a part of this was posted already: the rest waits until its owner says that it may be
    /// shown.
    #[serde(default)]
    pub held: bool,
}

impl Pending {
    /// The last epoch that its head may have: each new object has one to itself, and the manifest the next.
    pub(crate) fn last_epoch(&self) -> u32 {
        let objects = u32::try_from(self.looked_up).unwrap_or(u32::MAX);
        self.epoch.saturating_add(objects)
    }
}

/// The messages of one publish, in the order in which they are posted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Signed {
    /// What becomes of it.
    pub revision: Revision,
    /// Grants, record, head; of a private model also the withdrawal of what was in the clear, and its tags: signed Aleph
    /// envelopes.
    pub messages: Vec<Value>,
    /// Item hash of that withdrawal's message.
    #[serde(default)]
    pub withdrawal: Option<String>,
}

/// A version of a dataset that a kernel uploads, between the first question and the last message.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Upload {
    /// The call that it was prepared for, as in [`Pending`].
    pub call: Uuid,
    /// Secret that only the kernel which was agreed to can know, hex, and how it was sealed to it.
    pub ticket: String,
    /// The vault's `Sealed` of it.
    pub sealed_ticket: Value,
    /// Bytes that may still be stored: what was agreed to, with what sealing adds.
    pub bytes_left: u64,
    /// When the consent ends, unix seconds.
    pub until: u64,
    /// Id of the dataset, hex.
    pub dataset_id: String,
    /// The random part of that id, hex.
    pub id_random: String,
    /// Version to be.
    pub version: u64,
    /// Hash of the head before, hex; empty for the first.
    pub prev: String,
    /// Epoch to seal under.
    pub epoch: u32,
    /// Objects whose STORE was signed: only a root among them is signed into a head.
    #[serde(default)]
    pub stored: BTreeSet<String>,
    /// Everything signed but perhaps not yet posted.
    #[serde(default)]
    pub signed: Option<UploadSigned>,
}

/// The messages of one upload, in the order in which they are posted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct UploadSigned {
    /// Id of the dataset, hex.
    pub dataset_id: String,
    /// The version.
    pub version: u64,
    /// Hash of its head, hex.
    pub head_hash: String,
    /// Accounts that the new secret could not be wrapped for.
    pub without_key: Vec<String>,
    /// Grants, and last the head: signed Aleph envelopes.
    pub messages: Vec<Value>,
}

type Named<T> = BTreeMap<String, T>;

/// Proof that no other process changes the models and uploads of this account meanwhile.
#[derive(Debug)]
pub(crate) struct PublishLock {
    _lock: FileLock,
}

impl Books {
    /// The books of an account; missing ones are empty.
    pub(crate) fn of(account: &Account) -> Self {
        let path = |name| account.folder().join(name);
        Self {
            datasets: path("datasets.json"),
            models: path("models.json"),
            uploads: path("uploads.json"),
            seen: path("seen.json"),
            shares: path("shares.json"),
        }
    }

    /// The vault's memory of versions seen, against rollback, with the lock under which it may be used.
    pub(crate) fn seen(&self) -> Result<(&Path, FileLock)> {
        Ok((&self.seen, FileLock::wait(&self.seen)?))
    }

    /// All datasets by name.
    pub(crate) fn datasets(&self) -> Result<Named<DatasetEntry>> {
        Ok(read_json(&self.datasets)?.unwrap_or_default())
    }

    /// Writes down a dataset under a name.
    pub(crate) fn set_dataset(&self, name: &str, entry: DatasetEntry) -> Result<()> {
        let _lock = FileLock::wait(&self.datasets)?;
        let mut all = self.datasets()?;
        all.insert(name.to_owned(), entry);
        write_json(&self.datasets, &all)
    }

    /// Writes down a dataset that another machine has published, unless the name is taken; says whether it has that name now.
    /// One that has a name already keeps it.
    pub(crate) fn adopt_dataset(&self, name: &str, entry: DatasetEntry) -> Result<bool> {
        let _lock = FileLock::wait(&self.datasets)?;
        let mut all = self.datasets()?;
        if all.values().any(|known| *known == entry) {
            return Ok(true);
        }
        if all.contains_key(name) {
            return Ok(false);
        }
        all.insert(name.to_owned(), entry);
        write_json(&self.datasets, &all)?;
        Ok(true)
    }

    /// Strikes a dataset out.
    pub(crate) fn remove_dataset(&self, name: &str) -> Result<()> {
        let _lock = FileLock::wait(&self.datasets)?;
        let mut all = self.datasets()?;
        all.remove(name);
        write_json(&self.datasets, &all)
    }

    /// The token of a share that this account was given; the file is 0600 like the keys beside it.
    pub(crate) fn accepted(&self, share: Uuid) -> Result<Option<Secret>> {
        let all: BTreeMap<Uuid, String> = read_json(&self.shares)?.unwrap_or_default();
        Ok(all.get(&share).map(Secret::new))
    }

    /// Keeps the token of a share, so that kernels of this account can pull it by its UUID.
    pub(crate) fn accept(&self, share: Uuid, token: &ShareToken) -> Result<()> {
        let _lock = FileLock::wait(&self.shares)?;
        let mut all: BTreeMap<Uuid, String> = read_json(&self.shares)?.unwrap_or_default();
        all.insert(share, token.expose().to_owned());
        write_json(&self.shares, &all)
    }

    /// All models by name.
    pub(crate) fn models(&self) -> Result<Named<ModelEntry>> {
        Ok(read_json(&self.models)?.unwrap_or_default())
    }

    /// Takes the books of models and uploads. Held over a whole step of a publish, awaits included, so it is waited for in
    /// turns.
    pub(crate) async fn lock_publish(&self) -> Result<PublishLock> {
        let taken = tokio::time::timeout(MODELS_PATIENCE, async {
            let mut tick = tokio::time::interval(MODELS_CHECK);
            loop {
                tick.tick().await;
                if let Some(lock) = FileLock::attempt(&self.models)? {
                    return Ok(PublishLock { _lock: lock });
                }
            }
        });
        taken.await.unwrap_or_else(|_| {
            let seconds = MODELS_PATIENCE.as_secs();
            let message = format!("another alephlab has been publishing with this account for {seconds} s");
            Err(refuse("books_in_use", message, "publish again when it is done"))
        })
    }

    /// Whether there is this model, by its name or by what stands for it.
    pub(crate) fn has_model(&self, name: &str) -> Result<bool> {
        let models = self.models()?;
        let by_uuid = |uuid| models.values().any(|entry| entry.uuid == uuid);
        Ok(models.contains_key(name) || private_uuid(name).is_some_and(by_uuid))
    }

    /// All uploads of kernels that are under way, by name of the dataset.
    pub(crate) fn uploads(&self) -> Result<Named<Upload>> {
        Ok(read_json(&self.uploads)?.unwrap_or_default())
    }

    /// Writes down how far an upload is; none ends it.
    pub(crate) fn set_upload(&self, _held: &PublishLock, name: &str, upload: Option<Upload>) -> Result<()> {
        let mut all = self.uploads()?;
        match upload {
            Some(upload) => all.insert(name.to_owned(), upload),
            None => all.remove(name),
        };
        write_json(&self.uploads, &all)
    }

    /// Writes down a model under a name.
    pub(crate) fn set_model(&self, _held: &PublishLock, name: &str, entry: ModelEntry) -> Result<()> {
        let mut all = self.models()?;
        all.insert(name.to_owned(), entry);
        write_json(&self.models, &all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataFolder;
    use crate::testing::scratch;

    #[test]
    fn books_start_empty_and_remember() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let books = Books::of(&Account::create(&data, "ada", None).unwrap());
        assert!(books.datasets().unwrap().is_empty() && books.models().unwrap().is_empty());
        let entry = DatasetEntry {
            dataset_id: "00".into(),
        };
        books.set_dataset("digits", entry.clone()).unwrap();
        assert_eq!(books.datasets().unwrap()["digits"], entry);
    }
}
