//! Signing a version of a dataset that a kernel uploads: what to seal with, the STOREs of the sealed objects, then the grants
//! for all who could read the version before, and the head.
//!
//! As in `publish`, every step is written down before it is answered, and what was signed is posted again unchanged. A
//! kernel never gets the secret of an epoch that exists: it seals each version under a fresh one (ADR 14).

use std::collections::BTreeSet;

use alephlab_api::keys::{KeyCall, KeyReply, StoreAsk};
use alephlab_vault::message::{SignedMessage, sign_store};
use alephlab_vault::{
    DatasetId, EpochSecret, Sealed, UnsignedHead, dataset_id, new_id_random, open_epoch_secret,
    register_reader_key, sign_version,
};
use serde_json::Value;
use uuid::Uuid;

use super::books::{DatasetEntry, PublishLock, Upload, UploadSigned};
use super::engine::{Engine, refuse, vault};
use super::publish::OBJECTS_MAX;
use crate::datasets::{Library, check_name};
use crate::error::Result;

const WHAT: &str = "the upload was not signed";

impl Engine {
    /// Says what to seal the next version with, after posting an earlier one that was signed already. The same call gets the
    /// same answer, whichever machine's process it reaches how often.
    pub(super) async fn prepare_upload(&self, call: &KeyCall, name: &str, bytes: u64) -> Result<KeyReply> {
        check_name(name)?;
        // Before anything is sealed, what the node would refuse in the middle.
        let price = self.library().price(&[bytes]).await?;
        price.map_or(Ok(()), |price| price.check(&self.account.address()))?;
        let lock = self.books.lock_publish().await?;
        let mut begun = self.books.uploads()?.remove(name);
        if let Some(signed) = begun.as_ref().and_then(|upload| upload.signed.clone()) {
            self.post(&lock, name, &signed).await?;
            begun = None;
        }
        let upload = match begun.filter(|begun| begun.call == call.id) {
            Some(upload) => upload,
            None => self.next_version(call, name).await?,
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
        };
        self.books.set_upload(&lock, name, Some(upload))?;
        Ok(reply)
    }

    /// Signs the STOREs of objects that the broker sealed.
    pub(super) async fn sign_upload_stores(
        &self,
        kernel: Uuid,
        name: &str,
        objects: &[StoreAsk],
    ) -> Result<KeyReply> {
        let lock = self.books.lock_publish().await?;
        let mut upload = self.upload(kernel, name)?;
        if upload.stored.len() + objects.len() > OBJECTS_MAX {
            return Err(refuse(
                "too_many_objects",
                "an upload from a kernel has too many objects",
                "upload it with `alephlab dataset put`",
            ));
        }
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
        kernel: Uuid,
        name: &str,
        head: Value,
        secret: Value,
    ) -> Result<KeyReply> {
        let malformed = |error: serde_json::Error| refuse("malformed", error.to_string(), "update alephlab");
        let head: UnsignedHead = serde_json::from_value(head).map_err(malformed)?;
        let secret: Sealed = serde_json::from_value(secret).map_err(malformed)?;
        let head_hash = hex::encode(head.hash());
        let lock = self.books.lock_publish().await?;
        let mut upload = match self.upload(kernel, name) {
            Ok(upload) => upload,
            // The same call, answered by this process before or by another one.
            Err(error) => return self.published(name, &head_hash).await?.ok_or(error),
        };
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
                let signed = sign_version(
                    &*self.storage,
                    self.account.wallet(),
                    self.account.reader(),
                    previous,
                    head,
                    &secret,
                );
                let signed = signed.await.map_err(vault(WHAT))?;
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
        self.post(&lock, name, &signed).await
    }

    /// What storing so many bytes costs, for the person who decides; nothing where nothing is paid.
    pub(super) async fn describe_upload(&self, files: u64, bytes: u64) -> Vec<String> {
        let noun = if files == 1 { "file" } else { "files" };
        let mut lines = vec![format!("uploads  {files} {noun}, {bytes} bytes")];
        match self.library().price(&[bytes]).await {
            Ok(Some(price)) => lines.push(format!("price    {price}")),
            Ok(None) => {}
            Err(error) => lines.push(format!("price    not known: {error}")),
        }
        lines
    }

    fn library(&self) -> Library {
        Library::new(self.account.clone(), self.storage.clone())
    }

    async fn next_version(&self, call: &KeyCall, name: &str) -> Result<Upload> {
        let begun = |dataset_id: String, id_random: String| Upload {
            call: call.id,
            kernel: call.kernel.id,
            dataset_id,
            id_random,
            version: 1,
            prev: String::new(),
            epoch: 1,
            stored: BTreeSet::new(),
            signed: None,
        };
        match self.library().newest(name, false).await? {
            Some((before, _)) => Ok(Upload {
                version: before.head.version + 1,
                prev: hex::encode(before.hash()),
                epoch: before.head.epoch.saturating_add(1),
                ..begun(
                    before.head.dataset_id.to_string(),
                    hex::encode(before.head.id_random),
                )
            }),
            None => {
                let id_random = new_id_random().map_err(vault(WHAT))?;
                let id = dataset_id(&self.account.wallet().owner(), &id_random);
                Ok(begun(id.to_string(), hex::encode(id_random)))
            }
        }
    }

    /// What was prepared for this kernel: what was agreed to for one is not for another.
    fn upload(&self, kernel: Uuid, name: &str) -> Result<Upload> {
        let begun = self.books.uploads()?.remove(name);
        begun.filter(|upload| upload.kernel == kernel).ok_or_else(|| {
            refuse(
                "not_prepared",
                format!("no upload of {name} was prepared here"),
                "upload again",
            )
        })
    }

    /// Only a head of exactly the prepared version, whose root's STORE was signed here, and whose secret fits.
    fn check_upload(&self, upload: &Upload, head: &UnsignedHead, secret: &Sealed) -> Result<EpochSecret> {
        let id: DatasetId = upload.dataset_id.parse().map_err(vault(WHAT))?;
        let prev = Some(upload.prev.clone()).filter(|prev| !prev.is_empty());
        let prev = prev.unwrap_or_else(|| "00".repeat(32));
        let root = &head.root;
        let checks = [
            (
                "dataset",
                head.dataset_id == id && hex::encode(head.id_random) == upload.id_random,
            ),
            ("owner", head.owner == self.account.wallet().owner()),
            ("version", head.version == upload.version),
            ("previous version", hex::encode(head.prev) == prev),
            ("epoch", head.epoch == upload.epoch),
            ("writers", head.writers.is_empty()),
            ("expiry", head.not_after.is_none()),
            ("manifest", upload.stored.contains(&root.item_hash)),
            ("manifest's hash", hex::encode(root.sha256) == root.item_hash),
        ];
        if let Some((what, _)) = checks.iter().find(|(_, ok)| !ok) {
            let message = format!("the head to sign has another {what} than was prepared");
            return Err(refuse("head_mismatch", message, "upload again"));
        }
        open_epoch_secret(self.account.reader(), &id, head.epoch, secret).map_err(vault(WHAT))
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
