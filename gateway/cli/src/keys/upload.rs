//! Signing a version of a dataset that a kernel uploads: what to seal with, the STOREs of the sealed objects, then the grants
//! for all who could read the version before, and the head.
//!
//! As in `publish`, every step is written down before it is answered, and what was signed is posted again unchanged. A
//! kernel never gets the secret of an epoch that exists: it seals each version under a fresh one (ADR 14).

use std::collections::BTreeSet;

use alephlab_api::keys::{KeyCall, KeyReply, StoreAsk, stores_text, upload_text};
use alephlab_api::time::unix_now;
use alephlab_vault::message::{SignedMessage, sign_store};
use alephlab_vault::{
    EpochSecret, ReaderPublic, Sealed, Turn, UnsignedHead, dataset_id, find_head, new_id_random,
    register_reader_key, seal_epoch_secret, sign_version,
};
use serde_json::Value;
use uuid::Uuid;

use super::books::{DatasetEntry, PublishLock, Upload, UploadSigned};
use super::engine::{Engine, refuse, vault};
use super::open::to_json;
use super::prepared::{Prepared, SealedAs};
use super::publish::OBJECTS_MAX;
use crate::datasets::{Library, check_name};
use crate::error::{CliError, Result};

const WHAT: &str = "the upload was not signed";
/// How long a consent holds: an upload of terabytes takes hours.
pub(super) const CONSENT_SECONDS: u64 = 24 * 60 * 60;

/// Another version was published in its place.
fn taken(name: &str, version: u64) -> CliError {
    refuse(
        "publish_conflict",
        format!("version {version} of {name} was published from somewhere else meanwhile"),
        "upload again: it becomes the next version",
    )
}

/// Bytes that sealing makes of so many: tags, padding, tables and manifest, generously.
fn sealed_bytes_max(files: u64, bytes: u64) -> u64 {
    bytes + bytes / 4 + files * 4096 + (4 << 20)
}

/// The sizes that a price is made of.
fn sizes(bytes: u64, large: &[u64]) -> Vec<u64> {
    let small = bytes.saturating_sub(large.iter().sum());
    [large, &[small]].concat()
}

/// Whether who proves this knows the ticket, and its time is not over.
pub(super) fn is_shown_in_time((ticket, until): (&str, u64), text: &str, proof: &str) -> bool {
    let ticket = hex::decode(ticket).ok().and_then(|bytes| bytes.try_into().ok());
    let ticket = ticket.map(EpochSecret::from_bytes);
    unix_now() <= until && ticket.is_some_and(|ticket| ticket.proves(text, proof))
}

impl Engine {
    /// Says what to seal the next version with, after posting an earlier one that was signed already. The same call gets the
    /// same answer, whichever machine's process it reaches how often.
    pub(super) async fn prepare_upload(
        &self,
        call: &KeyCall,
        name: &str,
        (files, bytes, large): (u64, u64, &[u64]),
    ) -> Result<KeyReply> {
        check_name(name)?;
        // Before anything is sealed, what the node would refuse in the middle.
        let price = self.library().price(&sizes(bytes, large)).await?;
        price.map_or(Ok(()), |price| price.check(&self.account.address()))?;
        let lock = self.books.lock_publish().await?;
        let mut begun = self.books.uploads()?.remove(name);
        if let Some(signed) = begun.as_ref().and_then(|upload| upload.signed.clone()) {
            let _turn = self.turn(name)?;
            if self.may_post(&signed).await? {
                self.post(&lock, name, &signed).await?;
            }
            begun = None;
        }
        let upload = match begun.filter(|begun| begun.call == call.id) {
            Some(upload) => upload,
            None => {
                let bytes_left = sealed_bytes_max(files, bytes);
                self.next_version(call, name, bytes_left).await?
            }
        };
        // What the broker seals for must be what the wallet says on Aleph.
        register_reader_key(&*self.storage, self.account.wallet(), self.account.reader())
            .await
            .map_err(vault(WHAT))?;
        let reply = KeyReply::Prepared {
            owner: self.account.address(),
            dataset_id: upload.dataset_id.clone(),
            id_random: upload.id_random.clone(),
            version: upload.version,
            prev: upload.prev.clone(),
            epoch: upload.epoch,
            reader_key: self.account.reader().public().to_hex(),
            model_uuid: Uuid::nil(),
            ticket: Some(upload.sealed_ticket.clone()),
            private: false,
        };
        self.books.set_upload(&lock, name, Some(upload))?;
        Ok(reply)
    }

    /// Signs the STOREs of objects that the broker sealed.
    pub(super) async fn sign_upload_stores(
        &self,
        name: &str,
        objects: &[StoreAsk],
        proof: &str,
    ) -> Result<KeyReply> {
        let lock = self.books.lock_publish().await?;
        let mut upload = self.upload(name, &stores_text(name, objects), proof)?;
        let new = objects
            .iter()
            .filter(|object| !upload.stored.contains(&object.item_hash));
        let bytes: u64 = new.map(|object| object.size).sum();
        if bytes > upload.bytes_left || upload.stored.len() + objects.len() > OBJECTS_MAX {
            return Err(refuse(
                "too_many_objects",
                "the kernel wants to store more than was agreed to",
                "upload again, or with `alephlab dataset put`",
            ));
        }
        upload.bytes_left -= bytes;
        let mut messages = Vec::with_capacity(objects.len());
        for object in objects {
            let signed =
                sign_store(self.account.wallet(), &object.item_hash, object.size).map_err(vault(WHAT))?;
            messages.push(signed.value().clone());
            upload.stored.insert(object.item_hash.clone());
        }
        self.books.set_upload(&lock, name, Some(upload))?;
        Ok(KeyReply::Stores { messages })
    }

    /// Checks the head against what was prepared, signs grants and head, and posts them.
    pub(super) async fn sign_upload(
        &self,
        name: &str,
        head: Value,
        secret: Value,
        proof: &str,
    ) -> Result<KeyReply> {
        let malformed = |error: serde_json::Error| refuse("malformed", error.to_string(), "update alephlab");
        let head: UnsignedHead = serde_json::from_value(head).map_err(malformed)?;
        let secret: Sealed = serde_json::from_value(secret).map_err(malformed)?;
        let head_hash = hex::encode(head.hash());
        let lock = self.books.lock_publish().await?;
        let mut upload = match self.upload(name, &upload_text(name, &head_hash), proof) {
            Ok(upload) => upload,
            // The same call, answered by this process before or by another one.
            Err(error) => return self.published(name, &head_hash).await?.ok_or(error),
        };
        let _turn = self.turn(name)?;
        let signed = match upload.signed.clone() {
            Some(signed) if signed.head_hash == head_hash => signed,
            Some(_) => {
                return Err(refuse(
                    "publish_conflict",
                    format!(
                        "another head was already signed for version {} of {name}",
                        upload.version
                    ),
                    "upload again: it becomes the next version",
                ));
            }
            None => {
                let secret = self.check_upload(&upload, &head, &secret)?;
                let previous = self.library().newest(name, false).await?;
                let previous = previous.as_ref().map(|(head, _)| head);
                // Another process of this account was quicker with the same call.
                if previous.is_some_and(|newest| hex::encode(newest.hash()) == head_hash) {
                    self.books.set_upload(&lock, name, None)?;
                    let answered = self.published(name, &head_hash).await?;
                    return answered.ok_or_else(|| taken(name, upload.version));
                }
                let signed = sign_version(
                    &*self.storage,
                    self.account.wallet(),
                    self.account.reader(),
                    previous,
                    head,
                    &secret,
                );
                let signed = signed.await.map_err(vault(WHAT))?;
                self.check_sealed(
                    &signed.head,
                    &secret,
                    SealedAs::Dataset(name),
                    (WHAT, "upload again"),
                )
                .await?;
                let signed = UploadSigned {
                    dataset_id: upload.dataset_id.clone(),
                    version: signed.head.head.version,
                    head_hash,
                    without_key: signed.without_key.iter().map(ToString::to_string).collect(),
                    messages: signed.messages.iter().map(|one| one.value().clone()).collect(),
                };
                upload.signed = Some(signed.clone());
                self.books.set_upload(&lock, name, Some(upload))?;
                signed
            }
        };
        if !self.may_post(&signed).await? {
            self.books.set_upload(&lock, name, None)?;
            return Err(taken(name, signed.version));
        }
        self.post(&lock, name, &signed).await
    }

    /// Nobody else of this account publishes this dataset meanwhile.
    fn turn(&self, name: &str) -> Result<Turn> {
        Turn::take(&self.account.upload_journal(name)?).map_err(vault(WHAT))
    }

    /// Whether no other head has taken the place of the one that was signed: two of one version are a fork for ever.
    async fn may_post(&self, signed: &UploadSigned) -> Result<bool> {
        let id = signed.dataset_id.parse().map_err(vault(WHAT))?;
        let found = find_head(&*self.storage, &self.account.address(), &id).await;
        Ok(found.map_err(vault(WHAT))?.is_none_or(|(found, _)| {
            found.head.version < signed.version || hex::encode(found.hash()) == signed.head_hash
        }))
    }

    /// What storing so many bytes costs, for the person who decides; nothing where nothing is paid.
    pub(super) async fn describe_upload(
        &self,
        name: &str,
        (files, bytes, large): (u64, u64, &[u64]),
    ) -> Vec<String> {
        let noun = if files == 1 { "file" } else { "files" };
        let mut lines = vec![format!("uploads  {files} {noun}, {bytes} bytes")];
        match self.library().price(&sizes(bytes, large)).await {
            Ok(Some(price)) => lines.push(format!("price    {price}")),
            Ok(None) => {}
            Err(error) => lines.push(format!("price    not known: {error}")),
        }
        let is_known = self.books.datasets().is_ok_and(|all| all.contains_key(name));
        if !is_known
            && let Ok(found) = self.library().discover().await
            && found.closed > 0
            && found.named.iter().all(|(known, _)| known != name)
        {
            lines.push(format!(
                "note     {} of this account's datasets do not open on this machine: should one of them be {name}, a second begins",
                found.closed
            ));
        }
        lines
    }

    pub(super) fn library(&self) -> Library {
        Library::new(self.account.clone(), self.storage.clone())
    }

    async fn next_version(&self, call: &KeyCall, name: &str, bytes_left: u64) -> Result<Upload> {
        let newest = self.library().newest(name, false).await?;
        let (id, id_random, version, prev, epoch) = match &newest {
            Some((before, _)) => {
                let head = &before.head;
                let epoch = head.epoch.saturating_add(1);
                let prev = hex::encode(before.hash());
                (head.dataset_id, head.id_random, head.version + 1, prev, epoch)
            }
            None => {
                let id_random = new_id_random().map_err(vault(WHAT))?;
                let id = dataset_id(&self.account.wallet().owner(), &id_random);
                (id, id_random, 1, String::new(), 1)
            }
        };
        let kernel_key = ReaderPublic::from_hex(&call.request.kernel_key).map_err(vault(WHAT))?;
        let ticket = EpochSecret::generate().map_err(vault(WHAT))?;
        let sealed = seal_epoch_secret(&kernel_key, &id, epoch, &ticket).map_err(vault(WHAT))?;
        Ok(Upload {
            call: call.id,
            ticket: hex::encode(ticket.expose()),
            sealed_ticket: to_json(&sealed)?,
            bytes_left,
            until: unix_now().saturating_add(CONSENT_SECONDS),
            dataset_id: id.to_string(),
            id_random: hex::encode(id_random),
            version,
            prev,
            epoch,
            stored: BTreeSet::new(),
            signed: None,
        })
    }

    /// What was prepared, for who shows its ticket: what was agreed to for one is not for another, nor for the gateway.
    fn upload(&self, name: &str, text: &str, proof: &str) -> Result<Upload> {
        let begun = self.books.uploads()?.remove(name);
        let is_shown = |upload: &Upload| is_shown_in_time((&upload.ticket, upload.until), text, proof);
        begun.filter(is_shown).ok_or_else(|| {
            refuse(
                "not_prepared",
                format!("no upload of {name} was prepared here"),
                "upload again",
            )
        })
    }

    /// Only a head of exactly the prepared version, whose root's STORE was signed here, and whose secret fits.
    fn check_upload(&self, upload: &Upload, head: &UnsignedHead, secret: &Sealed) -> Result<EpochSecret> {
        // Another machine of the account has prepared another dataset of this name: its answer is to count.
        if head.dataset_id.to_string() != upload.dataset_id {
            return Err(refuse(
                "not_prepared",
                "another dataset than this one was prepared here",
                "upload again",
            ));
        }
        let prepared = Prepared {
            dataset_id: &upload.dataset_id,
            id_random: &upload.id_random,
            version: upload.version,
            prev: Some(upload.prev.as_str()).filter(|prev| !prev.is_empty()),
            epochs: upload.epoch..=upload.epoch,
            is_stored: &|object| upload.stored.contains(object),
        };
        self.checked_secret(&prepared, head, secret, (WHAT, "upload again"))
    }

    /// Posts what was signed and writes the dataset down. May be repeated.
    async fn post(&self, lock: &PublishLock, name: &str, signed: &UploadSigned) -> Result<KeyReply> {
        // The name first: what is posted must not be without one.
        self.books.set_dataset(
            name,
            DatasetEntry {
                dataset_id: signed.dataset_id.clone(),
            },
        )?;
        let mut head = String::new();
        for message in &signed.messages {
            let message = SignedMessage::from_value(message.clone()).map_err(vault(WHAT))?;
            self.storage.publish(&message).await.map_err(vault(WHAT))?;
            head = message.item_hash();
        }
        // Remembered as seen: an older head is refused from now on.
        self.library().newest(name, false).await?;
        self.books.set_upload(lock, name, None)?;
        tracing::info!(version = signed.version, "a version of a dataset was uploaded");
        Ok(KeyReply::Uploaded {
            version: signed.version,
            head,
            without_key: signed.without_key.clone(),
        })
    }

    /// The answer to a call that was answered before: its head is the newest.
    async fn published(&self, name: &str, head_hash: &str) -> Result<Option<KeyReply>> {
        let found = self.library().newest(name, false).await?;
        Ok(found.and_then(|(head, message)| {
            (hex::encode(head.hash()) == head_hash).then(|| KeyReply::Uploaded {
                version: head.head.version,
                head: message,
                without_key: Vec::new(),
            })
        }))
    }
}
