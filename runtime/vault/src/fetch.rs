//! Fetching one object and opening it off the async threads. Used by the reader for every kind of object.

use crate::head::RootRef;
use crate::keys::{DatasetId, ObjectKey};
use crate::manifest::Row;
use crate::object::{self, Expected, Frame, Kind};
use crate::storage::Storage;
use crate::{Result, VaultError};

/// What manifest or head say of an object.
pub(crate) struct Wanted {
    name: String,
    ciphertext_len: u64,
    sha256: [u8; 32],
    kind: Kind,
    epoch: u32,
    object_id: Option<[u8; 16]>,
}

impl Wanted {
    pub(crate) fn row(row: &Row, kind: Kind) -> Self {
        Self {
            name: row.item_hash.clone(),
            ciphertext_len: row.ciphertext_len,
            sha256: row.sha256,
            kind,
            epoch: row.epoch,
            object_id: Some(row.object_id),
        }
    }

    pub(crate) fn root(at: &RootRef, epoch: u32) -> Self {
        Self {
            name: at.item_hash.clone(),
            ciphertext_len: at.length,
            sha256: at.sha256,
            kind: Kind::Root,
            epoch,
            object_id: None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn expected(&self) -> Expected<'_> {
        Expected {
            name: &self.name,
            ciphertext_len: self.ciphertext_len,
            sha256: self.sha256,
            kind: self.kind,
            epoch: self.epoch,
            object_id: self.object_id,
        }
    }
}

/// Fetches, verifies and decrypts in that order. What a storage kept for itself and is not what was signed for, it is made
/// to fetch again, once.
pub(crate) async fn fetch(
    storage: &dyn Storage,
    wanted: Wanted,
    dataset: DatasetId,
    key: impl FnOnce(&Frame) -> Result<ObjectKey> + Send + 'static,
) -> Result<Vec<u8>> {
    match attempt(storage, wanted, dataset, key).await? {
        Ok(plaintext) => Ok(plaintext),
        Err(refused) if storage.distrust(&refused.wanted.name) => {
            match attempt(storage, refused.wanted, dataset, refused.key).await? {
                Ok(plaintext) => Ok(plaintext),
                Err(again) => Err(again.error),
            }
        }
        Err(refused) => Err(refused.error),
    }
}

/// Bytes that are not those that were signed for, and what another try needs.
struct Unsigned<K> {
    wanted: Wanted,
    key: K,
    error: VaultError,
}

async fn attempt<K>(
    storage: &dyn Storage,
    wanted: Wanted,
    dataset: DatasetId,
    key: K,
) -> Result<std::result::Result<Vec<u8>, Unsigned<K>>>
where
    K: FnOnce(&Frame) -> Result<ObjectKey> + Send + 'static,
{
    let (bytes, sha256) = storage.get_hashed(&wanted.name).await?;
    let opened = tokio::task::spawn_blocking(move || {
        if let Err(error) = object::check(&bytes, sha256, &wanted.expected()) {
            return Ok(Err(Unsigned { wanted, key, error }));
        }
        object::open_checked(bytes.into(), &wanted.expected(), &dataset, key).map(Ok)
    });
    opened.await.map_err(|error| VaultError::Stopped {
        reason: error.to_string(),
    })?
}
