//! Whether a head that a kernel wants signed is exactly the one that was prepared for it; for models and datasets alike.

use std::ops::RangeInclusive;

use alephlab_vault::{
    DatasetId, EpochSecret, Keys, Reader, Sealed, SignedHead, UnsignedHead, open_epoch_secret,
};

use super::engine::{Engine, refuse, vault};
use crate::error::Result;

/// What this machine said to seal with, and what it signed since.
pub(super) struct Prepared<'a> {
    pub(super) dataset_id: &'a str,
    /// The random part of that id, hex.
    pub(super) id_random: &'a str,
    pub(super) version: u64,
    /// Hash of the head before, hex; none for the first.
    pub(super) prev: Option<&'a str>,
    /// Which its head may have: a model's is the one after those of its objects.
    pub(super) epochs: RangeInclusive<u32>,
    /// Whether the STORE of an object was signed: only a root among those is signed into a head.
    pub(super) is_stored: &'a dyn Fn(&str) -> bool,
}

/// What a version is, as its sealed manifest must say: other machines of the account go by that.
pub(super) enum SealedAs<'a> {
    /// Of a dataset with this name.
    Dataset(&'a str),
    /// Of a model, which is sealed without a time.
    Model,
}

impl Engine {
    /// Opens the manifest of a version that is signed and not yet posted, and refuses it when it says to be something else than
    /// was agreed to: a kernel must not give its own content the name of another dataset.
    pub(super) async fn check_sealed(
        &self,
        head: &SignedHead,
        secret: &EpochSecret,
        sealed_as: SealedAs<'_>,
        (what, again): (&'static str, &str),
    ) -> Result<()> {
        let reader = Reader::open(self.storage.clone(), head, Keys::Epoch(secret.duplicate())).await;
        let reader = reader.map_err(vault(what))?;
        let meta = reader.meta();
        let is_right = match sealed_as {
            SealedAs::Dataset(name) => meta.title.as_deref() == Some(name) && meta.created.is_some(),
            SealedAs::Model => meta.created.is_none(),
        };
        if is_right {
            return Ok(());
        }
        let message = "the sealed manifest says to be something else than was agreed to";
        Err(refuse("head_mismatch", message, again))
    }

    /// Opens the secret that came with a head, after checking that the head is the prepared one and commits to it. A refusal says
    /// to do `again` what was asked.
    pub(super) fn checked_secret(
        &self,
        prepared: &Prepared<'_>,
        head: &UnsignedHead,
        secret: &Sealed,
        (what, again): (&'static str, &str),
    ) -> Result<EpochSecret> {
        let id: DatasetId = prepared.dataset_id.parse().map_err(vault(what))?;
        let none = "00".repeat(32);
        let root = &head.root;
        let checks = [
            (
                "dataset",
                head.dataset_id == id && hex::encode(head.id_random) == prepared.id_random,
            ),
            ("owner", head.owner == self.account.wallet().owner()),
            ("version", head.version == prepared.version),
            (
                "previous version",
                hex::encode(head.prev) == prepared.prev.unwrap_or(&none),
            ),
            ("epoch", prepared.epochs.contains(&head.epoch)),
            ("writers", head.writers.is_empty()),
            ("expiry", head.not_after.is_none()),
            ("manifest", (prepared.is_stored)(&root.item_hash)),
            ("manifest's hash", hex::encode(root.sha256) == root.item_hash),
        ];
        if let Some((what, _)) = checks.iter().find(|(_, ok)| !ok) {
            let message = format!("the head to sign has another {what} than was prepared");
            return Err(refuse("head_mismatch", message, again));
        }
        let secret =
            open_epoch_secret(self.account.reader(), &id, head.epoch, secret).map_err(vault(what))?;
        if secret.commitment(&id, head.epoch) != head.epoch_commitment {
            let message = "the head commits to another secret than it came with";
            return Err(refuse("head_mismatch", message, again));
        }
        Ok(secret)
    }
}
