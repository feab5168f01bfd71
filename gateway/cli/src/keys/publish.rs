//! Signing a publish: what to seal with, the STOREs of the sealed objects, then head, own grant and record.
//!
//! Every step is written down before it is answered. Messages that were signed are posted again unchanged after a
//! failure, so that one version never gets two heads.

use alephlab_api::Problem;
use alephlab_api::keys::{KeyCall, KeyReply, StoreAsk, match_text};
use alephlab_api::model::{
    MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelRecord, is_name, private_uuid,
};
use alephlab_api::time::unix_now;
use alephlab_vault::message::{SignedMessage, sign_post, sign_store};
use alephlab_vault::{
    Address, DatasetId, EpochSecret, ReaderPublic, Sealed, SignedHead, UnsignedHead, VaultError,
    match_survey, next_granted, open_epoch_secret, seal_epoch_secret, sign_version,
};
use serde_json::Value;
use uuid::Uuid;

use super::books::{ModelEntry, Pending, PublishLock, Revision, Signed};
use super::engine::{Engine, refuse, vault};
use super::open::to_json;
use super::prepared::{Prepared, SealedAs};
use super::upload::{CONSENT_SECONDS, is_shown_in_time};
use crate::error::{CliError, Result};
use crate::models::{Model, Secret, carried_tags, complete, forget_clear, half_posted, withdrawal};

/// Objects of one publish: 3 TiB at 32 MiB each, and a bound on what one call can have signed.
pub(super) const OBJECTS_MAX: usize = 100_000;
const WHAT: &str = "the publish was not signed";

impl Engine {
    /// Says what to seal the next revision with, after finishing an earlier one that was signed already.
    /// The same call gets the same answer, whichever machine's process it reaches how often.
    pub(super) async fn prepare(&self, call: &KeyCall, model: &str) -> Result<KeyReply> {
        if !is_name(model) || private_uuid(model).is_some() {
            let message = format!("{model:?} cannot be the name of a model");
            return Err(refuse(
                "model_name",
                message,
                "use letters, digits, dots, hyphens and underscores",
            ));
        }
        let lock = self.books.lock_publish().await?;
        let (mut entry, known) = self.up_to_date(&lock, model).await?;
        let last = entry.revisions.last();
        let private = last.is_some_and(|last| last.private) || known.stays_private();
        if !private {
            self.index.check_clear(model, last.map(|_| entry.uuid))?;
        }
        let next = last.map_or(0, |last| last.version) + 1;
        let is_this = |begun: &Pending| begun.call == Some(call.id) && begun.version == next;
        let begun = entry.pending.take().filter(is_this);
        // A fresh epoch for every revision: the key of one opens no other.
        let epoch = last.map_or(0, |last| last.epoch).saturating_add(1);
        let pending = match begun {
            Some(begun) => begun,
            None => begin(call, &entry, (next, epoch))?,
        };
        let reply = KeyReply::Prepared {
            owner: self.account.address(),
            dataset_id: entry.dataset_id.clone(),
            id_random: entry.id_random.clone(),
            version: pending.version,
            prev: last.map(|last| last.head_hash.clone()).unwrap_or_default(),
            epoch: pending.epoch,
            reader_key: self.account.reader().public().to_hex(),
            model_uuid: entry.uuid,
            ticket: pending.sealed_ticket.clone(),
            private,
        };
        entry.pending = Some(pending);
        self.books.set_model(&lock, model, entry)?;
        Ok(reply)
    }

    /// Says which objects of a prepared publish the revision before has. Who names what is in one is given its key, and learns
    /// that it is there: so only the kernel that was agreed to is answered, for a while, and about no more than a publish can have.
    pub(super) async fn match_objects(
        &self,
        call: Uuid,
        model: &str,
        (survey, proof): (&Value, &str),
    ) -> Result<KeyReply> {
        let malformed = |error: serde_json::Error| refuse("malformed", error.to_string(), "update alephlab");
        let text = match_text(model, survey);
        let survey: Sealed = serde_json::from_value(survey.clone()).map_err(malformed)?;
        let lock = self.books.lock_publish().await?;
        let (mut entry, mut pending) = self.pending(model)?;
        let not_prepared = || {
            let message = format!("the publish of {model} was not prepared here");
            refuse("not_prepared", message, "publish again")
        };
        if !is_shown_in_time((&pending.ticket, pending.until), &text, proof) {
            return Err(not_prepared());
        }
        let id: DatasetId = entry.dataset_id.parse().map_err(vault(WHAT))?;
        let previous = self.previous(&entry).await?;
        let (key, at) = (self.account.reader(), (&id, pending.epoch));
        let answered = match_survey(&self.storage, key, at, previous.as_ref(), &survey).await;
        let (answer, looked_up) = match answered {
            // Of what another machine of the account prepared.
            Err(VaultError::GrantOpen { .. }) => return Err(not_prepared()),
            answered => answered.map_err(vault(WHAT))?,
        };
        if pending.surveys.insert(call) {
            pending.looked_up += looked_up;
        }
        if pending.looked_up > OBJECTS_MAX {
            return Err(refuse(
                "too_many_objects",
                "a publish asks about too many objects",
                "publish fewer files",
            ));
        }
        entry.pending = Some(pending);
        self.books.set_model(&lock, model, entry)?;
        Ok(KeyReply::Matched {
            answer: to_json(&answer)?,
        })
    }

    /// Signs the STOREs of objects that the broker sealed.
    pub(super) async fn sign_stores(&self, model: &str, objects: &[StoreAsk]) -> Result<KeyReply> {
        let lock = self.books.lock_publish().await?;
        let (mut entry, mut pending) = self.pending(model)?;
        if pending.stored.len() + objects.len() > OBJECTS_MAX {
            return Err(refuse(
                "too_many_objects",
                "a publish has too many objects",
                "publish fewer files",
            ));
        }
        let mut messages = Vec::with_capacity(objects.len());
        for object in objects {
            let signed =
                sign_store(self.account.wallet(), &object.item_hash, object.size).map_err(vault(WHAT))?;
            messages.push(signed.value().clone());
            if !pending.stored.contains(&object.item_hash) {
                pending.stored.push(object.item_hash.clone());
            }
        }
        entry.pending = Some(pending);
        self.books.set_model(&lock, model, entry)?;
        Ok(KeyReply::Stores { messages })
    }

    /// Checks the head against what was prepared, signs and posts everything, and tells the gateway.
    pub(super) async fn sign_publish(
        &self,
        model: &str,
        head: Value,
        secret: Value,
        record: ModelRecord,
    ) -> Result<KeyReply> {
        let malformed = |error: serde_json::Error| refuse("malformed", error.to_string(), "update alephlab");
        let head: UnsignedHead = serde_json::from_value(head).map_err(malformed)?;
        let secret: Sealed = serde_json::from_value(secret).map_err(malformed)?;
        let head_hash = hex::encode(head.hash());
        let lock = self.books.lock_publish().await?;
        let known = self.books.models()?.remove(model);
        let published = known.as_ref().and_then(|entry| {
            entry
                .revisions
                .iter()
                .find(|revision| revision.head_hash == head_hash)
                .cloned()
        });
        if let (Some(entry), Some(revision)) = (&known, published) {
            return Ok(reply(entry, &revision));
        }
        let (mut entry, mut pending) = self.pending(model)?;
        match &pending.signed {
            Some(signed) if signed.revision.head_hash == head_hash => {
                let known = self.own(model).await?;
                self.forget_shown(&lock, model, &mut entry, &known).await?;
            }
            Some(_) => {
                let message = format!(
                    "another head was already signed for version {} of {model}",
                    pending.version
                );
                return Err(refuse(
                    "publish_conflict",
                    message,
                    "publish again: it becomes the next version",
                ));
            }
            None => {
                let secret = self.check_head(&entry, &pending, &head, &secret)?;
                pending.signed = Some(self.sign(model, &entry, head, &secret, record).await?);
                entry.pending = Some(pending);
                self.books.set_model(&lock, model, entry.clone())?;
            }
        }
        let revision = self.finish(&lock, model, &mut entry).await?;
        Ok(reply(&entry, &revision))
    }

    /// Posts what a kernel's publish has signed and perhaps not posted, before something else follows it.
    pub(crate) async fn settle(&self, model: &str) -> Result<()> {
        let lock = self.books.lock_publish().await?;
        let Some(mut entry) = self.books.models()?.remove(model) else {
            return Ok(());
        };
        let is_signed = |pending: &Pending| pending.signed.is_some();
        if entry.pending.as_ref().is_some_and(is_signed) {
            self.finish(&lock, model, &mut entry).await?;
        }
        Ok(())
    }

    /// What the books have of a model after finishing what was signed earlier, with what is on Aleph: another machine of this
    /// account may have gone on with it, and made it private.
    async fn up_to_date(&self, lock: &PublishLock, model: &str) -> Result<(ModelEntry, Model)> {
        let mut entry = self.books.models()?.remove(model);
        let mut known = self.own(model).await?;
        if let Some(entry) = &mut entry {
            self.forget_shown(lock, model, entry, &known).await?;
            if entry
                .pending
                .as_ref()
                .is_some_and(|pending| pending.signed.is_some())
            {
                self.finish(lock, model, entry).await?;
                known = self.own(model).await?;
            }
        }
        let owner = self.account.wallet().owner();
        let entry = complete(&*self.storage, owner, entry, &known).await?;
        Ok((entry, known))
    }

    /// Forgets a record in the clear that was signed and not posted, where the model has become private since.
    async fn forget_shown(
        &self,
        lock: &PublishLock,
        model: &str,
        entry: &mut ModelEntry,
        known: &Model,
    ) -> Result<()> {
        if !known.stays_private() {
            return Ok(());
        }
        forget_clear(&*self.storage, (&self.books, lock), model, entry).await
    }

    /// An own model as the network has it now.
    async fn own(&self, model: &str) -> Result<Model> {
        let models = self.index.fresh(&self.account.address()).await?;
        Ok(models.get(model).cloned().unwrap_or_default())
    }

    fn pending(&self, model: &str) -> Result<(ModelEntry, Pending)> {
        let entry = self.books.models()?.remove(model);
        let found = entry.and_then(|entry| entry.pending.clone().map(|pending| (entry, pending)));
        found.ok_or_else(|| {
            refuse(
                "not_prepared",
                format!("no publish of {model} was prepared here"),
                "publish again",
            )
        })
    }

    /// Only a head of exactly the prepared version, whose root's STORE was signed here, and whose secret fits.
    fn check_head(
        &self,
        entry: &ModelEntry,
        pending: &Pending,
        head: &UnsignedHead,
        secret: &Sealed,
    ) -> Result<EpochSecret> {
        let prepared = Prepared {
            dataset_id: &entry.dataset_id,
            id_random: &entry.id_random,
            version: pending.version,
            prev: entry.revisions.last().map(|last| last.head_hash.as_str()),
            epochs: pending.epoch..=pending.last_epoch(),
            is_stored: &|object| pending.stored.iter().any(|stored| stored == object),
        };
        self.checked_secret(&prepared, head, secret, (WHAT, "publish again"))
    }

    /// Signs grants, head and record, in the order in which they are posted: the head makes the version visible, so what it
    /// needs comes before it. Who was granted the revision before is granted this one.
    async fn sign(
        &self,
        model: &str,
        entry: &ModelEntry,
        head: UnsignedHead,
        secret: &EpochSecret,
        mut record: ModelRecord,
    ) -> Result<Signed> {
        let (wallet, reader) = (self.account.wallet(), self.account.reader());
        let previous = self.previous(entry).await?;
        let announced = sign_version(&*self.storage, wallet, reader, previous.as_ref(), head, secret);
        let announced = announced.await.map_err(vault(WHAT))?;
        for account in &announced.without_key {
            tracing::warn!(%account, model, "has no reader key any more, and is not granted this revision");
        }
        let (head, mut grants) = (announced.head, announced.messages);
        let head_post = grants
            .pop()
            .ok_or_else(|| refuse("not_signed", "there is no head", "report this"))?;
        self.check_sealed(&head, secret, SealedAs::Model, (WHAT, "publish again"))
            .await?;
        let key = Secret::of(&head, secret);
        let is_private = record.sealed.is_some();
        let known = self.own(model).await?;
        match is_private {
            true => record = key.uncover(&record)?,
            false => self.check_clear(model, entry, &known)?,
        }
        record.head = head_post.item_hash();
        let parent = entry.revisions.last().map(|last| last.revision.clone());
        let is_ours = record.owner == self.account.address()
            && record.name == format!("{}/{model}", record.owner)
            && record.uuid == entry.uuid
            && record.commit == head.revision()
            && record.parent == parent;
        if !is_ours {
            return Err(refuse(
                "record_mismatch",
                "the record to sign is not that of the prepared model",
                "publish again",
            ));
        }
        let (withdrawal, tags) = match is_private {
            true => (
                self.withdrawal(&record, &known)?,
                self.tags(&record, &known, &key)?,
            ),
            false => (None, None),
        };
        let posted = match is_private {
            true => key.cover(&record)?,
            false => record,
        };
        posted
            .check()
            .map_err(|problem: Problem| CliError::Refused { problem })?;
        let record_post =
            sign_post(wallet, MODEL_RECORD_TYPE, to_json(&posted)?, None).map_err(vault(WHAT))?;
        // The record before the head: a head alone is taken for a dataset's.
        let posts = [&record_post, &head_post]
            .into_iter()
            .chain(&withdrawal)
            .chain(&tags);
        let messages = grants.iter().chain(posts);
        Ok(Signed {
            revision: Revision {
                revision: head.revision(),
                version: head.head.version,
                epoch: head.head.epoch,
                head_hash: hex::encode(head.hash()),
                head: head_post.item_hash(),
                record: record_post.item_hash(),
                private: is_private,
            },
            messages: messages.map(|message| message.value().clone()).collect(),
            withdrawal: withdrawal.as_ref().map(SignedMessage::item_hash),
        })
    }

    /// The head of the revision before.
    async fn previous(&self, entry: &ModelEntry) -> Result<Option<SignedHead>> {
        let Some(last) = entry.revisions.last() else {
            return Ok(None);
        };
        let post = self.storage.post(&last.head).await.map_err(vault(WHAT))?;
        let found = post.ok_or_else(|| {
            let message = format!(
                "the Aleph node does not have the head of revision {}",
                last.revision
            );
            refuse(
                "head_missing",
                message,
                "check aleph.url, or try again in a moment",
            )
        })?;
        SignedHead::from_post(&found.content)
            .map(Some)
            .map_err(vault(WHAT))
    }

    /// Refuses a record in the clear for what is private, by the books or by what is on the network.
    fn check_clear(&self, model: &str, entry: &ModelEntry, known: &Model) -> Result<()> {
        let last = entry.revisions.last();
        if last.is_some_and(|last| last.private) || known.stays_private() {
            return Err(refuse(
                "model_private",
                format!("{model} is private, and the record to sign is not sealed"),
                "make it public from a shell: alephlab model publish --public; or update alephlab on the kernel's host",
            ));
        }
        self.index.check_clear(model, last.map(|_| entry.uuid))
    }

    /// Withdraws what stands of a model in the clear: it is private from this record on.
    fn withdrawal(&self, record: &ModelRecord, known: &Model) -> Result<Option<SignedMessage>> {
        if !known.has(false) {
            return Ok(None);
        }
        let content = withdrawal(record.owner.clone(), record.name.clone(), known, None);
        self.posted(MODEL_WITHDRAWAL_TYPE, &content).map(Some)
    }

    /// Seals the tags beside a private revision, for who is granted it alone.
    fn tags(&self, record: &ModelRecord, known: &Model, key: &Secret) -> Result<Option<SignedMessage>> {
        let carried = carried_tags(known, record, key)?;
        let signed = carried.map(|content| self.posted(MODEL_TAGS_TYPE, &content));
        signed.transpose()
    }

    fn posted(&self, kind: &str, content: &impl serde::Serialize) -> Result<SignedMessage> {
        sign_post(self.account.wallet(), kind, to_json(content)?, None).map_err(vault(WHAT))
    }

    /// Whom signing the next revision grants it to, for a person to see: those who may open the one before.
    pub(super) async fn describe_grants(&self, model: &str) -> Vec<String> {
        match self.next_grants(model).await {
            Ok((granted, without_key)) => {
                let lines = [
                    ("grants   it to", granted),
                    ("keyless  not granted to", without_key),
                ];
                let said = lines.into_iter().filter(|(_, accounts)| !accounts.is_empty());
                said.map(|(what, accounts)| {
                    let names: Vec<String> = accounts.iter().map(ToString::to_string).collect();
                    format!("{what} {} accounts: {}", names.len(), names.join(", "))
                })
                .collect()
            }
            Err(error) => vec![format!("grants   unknown: {error}")],
        }
    }

    async fn next_grants(&self, model: &str) -> Result<(Vec<Address>, Vec<Address>)> {
        let Some(entry) = self.books.models()?.remove(model) else {
            return Ok(Default::default());
        };
        let Some(before) = self.previous(&entry).await? else {
            return Ok(Default::default());
        };
        next_granted(&*self.storage, self.account.reader(), &before)
            .await
            .map_err(vault(WHAT))
    }

    /// The record that is to be signed, as a person should see it; of a private revision what is sealed in it.
    pub(super) fn record_to_sign(
        &self,
        head: &Value,
        secret: &Value,
        record: &ModelRecord,
    ) -> Option<ModelRecord> {
        if record.sealed.is_none() {
            return Some(record.clone());
        }
        let head: UnsignedHead = serde_json::from_value(head.clone()).ok()?;
        let sealed: Sealed = serde_json::from_value(secret.clone()).ok()?;
        let reader = self.account.reader();
        let secret = open_epoch_secret(reader, &head.dataset_id, head.epoch, &sealed).ok()?;
        Secret::at(head.dataset_id, head.epoch, &secret)
            .uncover(record)
            .ok()
    }

    /// Posts what was signed, tells the gateway and writes the revision down. May be repeated.
    async fn finish(&self, lock: &PublishLock, model: &str, entry: &mut ModelEntry) -> Result<Revision> {
        if entry.pending.as_ref().is_some_and(|pending| pending.held) {
            return Err(half_posted(model));
        }
        let signed = entry
            .pending
            .as_ref()
            .and_then(|pending| pending.signed.clone())
            .ok_or_else(|| {
                refuse(
                    "not_signed",
                    format!("nothing of {model} is signed"),
                    "publish again",
                )
            })?;
        for message in signed.messages {
            let message = SignedMessage::from_value(message).map_err(vault(WHAT))?;
            self.storage.publish(&message).await.map_err(vault(WHAT))?;
        }
        self.gateway.add_model(&signed.revision.record).await?;
        if let Some(withdrawal) = &signed.withdrawal {
            self.gateway.add_model_message(withdrawal).await?;
        }
        entry.revisions.push(signed.revision.clone());
        entry.pending = None;
        self.books.set_model(lock, model, entry.clone())?;
        tracing::info!(revision = signed.revision.revision, "a revision was published");
        Ok(signed.revision)
    }
}

/// A publish that was agreed to, with a ticket for the kernel that asked.
fn begin(call: &KeyCall, entry: &ModelEntry, (version, epoch): (u64, u32)) -> Result<Pending> {
    let id: DatasetId = entry.dataset_id.parse().map_err(vault(WHAT))?;
    let kernel_key = ReaderPublic::from_hex(&call.request.kernel_key).map_err(vault(WHAT))?;
    let ticket = EpochSecret::generate().map_err(vault(WHAT))?;
    let sealed = seal_epoch_secret(&kernel_key, &id, epoch, &ticket).map_err(vault(WHAT))?;
    Ok(Pending {
        version,
        epoch,
        call: Some(call.id),
        ticket: hex::encode(ticket.expose()),
        sealed_ticket: Some(to_json(&sealed)?),
        until: unix_now().saturating_add(CONSENT_SECONDS),
        ..Pending::default()
    })
}

fn reply(entry: &ModelEntry, revision: &Revision) -> KeyReply {
    KeyReply::Published {
        revision: revision.revision.clone(),
        head: revision.head.clone(),
        record: revision.record.clone(),
        uuid: entry.uuid,
    }
}
