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
}

/// Fetches, verifies and decrypts in that order.
pub(crate) async fn fetch(
    storage: &dyn Storage,
    wanted: Wanted,
    dataset: DatasetId,
    key: impl FnOnce(&Frame) -> Result<ObjectKey> + Send + 'static,
) -> Result<Vec<u8>> {
    let bytes = storage.get(&wanted.name).await?;
    let opened = tokio::task::spawn_blocking(move || {
        let expected = Expected {
            name: &wanted.name,
            ciphertext_len: wanted.ciphertext_len,
            sha256: wanted.sha256,
            kind: wanted.kind,
            epoch: wanted.epoch,
            object_id: wanted.object_id,
        };
        object::open(bytes.into(), &expected, &dataset, key)
    });
    opened.await.map_err(|error| VaultError::Stopped {
        reason: error.to_string(),
    })?
}
