//! The books of what this account has published, kept in step with what is on Aleph: other machines of the account, and a
//! publish that was cut between its last message and its line here.

use alephlab_api::model::{MODEL_RECORD_TYPE, Visibility};
use alephlab_vault::storage::Storage;
use alephlab_vault::{
    Address, Begun, DatasetId, SignedHead, SignedMessage, dataset_id, finish_revision, forget_revision,
    new_id_random,
};
use uuid::Uuid;

use super::index::Model;
use super::open::head_of;
use super::{Registry, refuse, vault};
use crate::error::{CliError, Result};
use crate::keys::{Books, ModelEntry, PublishLock, PublishedRevision};

const WHAT: &str = "an earlier publish could not be finished";

/// What the books say of a revision.
pub(super) fn book_of(
    head: &SignedHead,
    head_message: &str,
    record: &str,
    private: bool,
) -> PublishedRevision {
    PublishedRevision {
        revision: head.revision(),
        version: head.head.version,
        epoch: head.head.epoch,
        head_hash: hex::encode(head.hash()),
        head: head_message.to_owned(),
        record: record.to_owned(),
        private,
    }
}

/// What the books have of a model of `owner`, with what is on Aleph and not in them; made when there is nothing of it.
pub(crate) async fn complete(
    storage: &dyn Storage,
    owner: Address,
    known: Option<ModelEntry>,
    model: &Model,
) -> Result<ModelEntry> {
    let has = |commit: &str| {
        let mut all = known.iter().flat_map(|entry| &entry.revisions);
        all.any(|one| one.revision == commit)
    };
    let mut missing = Vec::new();
    for revision in model.ever().filter(|one| !has(&one.record.commit)) {
        let record = &revision.record;
        let head = head_of(storage, record).await?;
        let is_private = record.visibility == Visibility::Private;
        let book = book_of(&head, &record.head, &revision.message, is_private);
        missing.push((head, book));
    }
    let begun = |uuid: Option<Uuid>, dataset_id: DatasetId, random: [u8; 16]| ModelEntry {
        uuid: uuid.unwrap_or_else(Uuid::new_v4),
        dataset_id: dataset_id.to_string(),
        id_random: hex::encode(random),
        revisions: Vec::new(),
        pending: None,
    };
    let mut entry = match (known, missing.first()) {
        (Some(entry), _) => entry,
        (None, Some((head, _))) => begun(model.uuid(), head.head.dataset_id, head.head.id_random),
        (None, None) => {
            let random = new_id_random().map_err(vault("nothing was published"))?;
            begun(None, dataset_id(&owner, &random), random)
        }
    };
    for (head, book) in missing {
        // Of another dataset: two machines began a model of one name. What was begun here first goes on here.
        if head.head.dataset_id.to_string() == entry.dataset_id {
            entry.revisions.push(book);
        }
    }
    entry.revisions.sort_by_key(|one| one.version);
    Ok(entry)
}

/// Forgets what a kernel's publish has signed in the clear and not posted, of a model that is private from now on. Where a part of
/// it is posted it is held: going on would show its record, and another revision cannot take its place.
///
/// # Errors
/// When it is held; those of storage.
pub(crate) async fn forget_clear(
    storage: &dyn Storage,
    (books, lock): (&Books, &PublishLock),
    name: &str,
    entry: &mut ModelEntry,
) -> Result<()> {
    let signed = entry.pending.as_ref().and_then(|pending| pending.signed.as_ref());
    let Some(signed) = signed.filter(|signed| !signed.revision.private) else {
        return Ok(());
    };
    let messages = signed.messages.iter().cloned().map(SignedMessage::from_value);
    let messages = messages.collect::<std::result::Result<Vec<_>, _>>();
    let messages = messages.map_err(vault(WHAT))?;
    let begun = Begun::of(storage, &messages, &is_clear).await;
    let begun = begun.map_err(vault(WHAT))?;
    match begun {
        Begun::Nothing => entry.pending = None,
        Begun::Others | Begun::Meant => hold(entry, begun == Begun::Others),
    }
    books.set_model(lock, name, entry.clone())?;
    check_begun(name, Some(begun))
}

fn hold(entry: &mut ModelEntry, held: bool) {
    if let Some(pending) = &mut entry.pending {
        pending.held = held;
    }
}

impl Registry {
    /// Posts and writes down what was signed earlier and perhaps not posted, by a kernel's publish or by one from here. What was
    /// signed in the clear is forgotten where the model is to be private from now on: who says so may have noticed. Answers whether
    /// there was anything.
    pub(super) async fn settle(&self, name: &str, wanted: Option<Visibility>) -> Result<bool> {
        let journal = self.account.model_journal(name)?;
        let entry = self.books.models()?.remove(name);
        if !journal.exists() && entry.is_none_or(|entry| entry.pending.is_none()) {
            return Ok(false);
        }
        match wanted {
            Some(Visibility::Private) => {
                self.of_kernels(name, true).await?;
                let begun = forget_revision(&*self.storage, &journal, &is_clear).await;
                check_begun(name, begun.map_err(vault(WHAT))?)?;
            }
            Some(Visibility::Sealed | Visibility::Public) => self.of_kernels(name, false).await?,
            None => {}
        }
        if let Ok(engine) = self.engine() {
            engine.settle(name).await?;
        }
        let finished = finish_revision(&*self.storage, &journal)
            .await
            .map_err(vault(WHAT))?;
        let Some(finished) = finished else { return Ok(true) };
        if let Some(record) = finished.messages.iter().find(|one| is_record(one)) {
            let is_private = !is_clear(record);
            let record = record.item_hash();
            let revision = book_of(&finished.head, &finished.head_message, &record, is_private);
            let lock = self.books.lock_publish().await?;
            self.write_down(&lock, name, revision)?;
            self.tell(&record).await;
        }
        Ok(true)
    }

    /// What becomes of a kernel's publish, which stands in the books: forgotten or held where the model is private from now on, and
    /// no longer held where its owner says that it may be shown.
    async fn of_kernels(&self, name: &str, private: bool) -> Result<()> {
        let lock = self.books.lock_publish().await?;
        let Some(mut entry) = self.books.models()?.remove(name) else {
            return Ok(());
        };
        if private {
            return forget_clear(&*self.storage, (&self.books, &lock), name, &mut entry).await;
        }
        if entry.pending.as_ref().is_some_and(|pending| pending.held) {
            hold(&mut entry, false);
            self.books.set_model(&lock, name, entry)?;
        }
        Ok(())
    }

    /// What the books have of a model, with what is on Aleph and not in them; made when there is nothing of it.
    pub(super) async fn entry(&self, name: &str, model: &Model) -> Result<ModelEntry> {
        let lock = self.books.lock_publish().await?;
        let known = self.books.models()?.remove(name);
        let owner = self.account.wallet().owner();
        let entry = complete(&*self.storage, owner, known, model).await?;
        self.books.set_model(&lock, name, entry.clone())?;
        Ok(entry)
    }

    /// Writes down what is on Aleph of an own model and not in the books, for what goes by them.
    pub(crate) async fn learn(&self, name: &str, model: &Model) -> Result<()> {
        self.entry(name, model).await.map(drop)
    }

    /// Whether a revision that was sealed still follows the last one in the books.
    pub(super) fn stays_next(&self, name: &str, sealed: &alephlab_vault::SealedRevision) -> Result<()> {
        let entry = self.books.models()?.remove(name);
        let last = entry.and_then(|entry| Some(entry.revisions.last()?.version));
        if last.is_none_or(|last| last < sealed.head().head.version) {
            return Ok(());
        }
        Err(refuse(
            "publish_conflict",
            format!("a revision of {name} was published from somewhere else meanwhile"),
            "publish again: it becomes the next one",
        ))
    }

    /// Adds a revision to the books, once.
    pub(super) fn write_down(
        &self,
        lock: &PublishLock,
        name: &str,
        revision: PublishedRevision,
    ) -> Result<()> {
        let Some(mut entry) = self.books.models()?.remove(name) else {
            return Ok(());
        };
        if !entry
            .revisions
            .iter()
            .any(|one| one.revision == revision.revision)
        {
            entry.revisions.push(revision);
            entry.revisions.sort_by_key(|one| one.version);
            self.books.set_model(lock, name, entry)?;
        }
        Ok(())
    }
}

fn is_record(message: &SignedMessage) -> bool {
    message.content().is_ok_and(|content| {
        content.get("type").and_then(serde_json::Value::as_str) == Some(MODEL_RECORD_TYPE)
    })
}

/// Whether it is a record that says in the clear what the model is.
fn is_clear(message: &SignedMessage) -> bool {
    let is_sealed = message.content().is_ok_and(|content| {
        content
            .get("content")
            .is_some_and(|said| said.get("sealed").is_some())
    });
    is_record(message) && !is_sealed
}

/// Refuses where grants of a revision are posted and its record in the clear is not: going on would show it, and another revision
/// cannot take its place.
fn check_begun(name: &str, begun: Option<Begun>) -> Result<()> {
    match begun {
        Some(Begun::Others) => Err(half_posted(name)),
        // Its record is there: it is finished, and withdrawn by the private one.
        Some(Begun::Nothing | Begun::Meant) | None => Ok(()),
    }
}

/// Why a revision of which a part is posted is not gone on with.
pub(crate) fn half_posted(name: &str) -> CliError {
    refuse(
        "publish_begun",
        format!(
            "a revision of {name} was signed in the clear before, and a part of it is posted; the record with its name and card is not"
        ),
        "publish under another name with --private; or finish that one with `alephlab model publish --sealed`, which shows its name and card for good, and then make it private",
    )
}
