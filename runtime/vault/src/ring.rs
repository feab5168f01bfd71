//! Which key opens which object: from epoch secrets, or from a list of object keys (scope 2).

use crate::keys::{DatasetId, EpochSecret, ObjectKey};
use crate::object::Kind;
use crate::scope::ObjectKeys;
use crate::{Result, VaultError};
use std::collections::BTreeMap;

/// What a reader was given to open a dataset with.
pub enum Keys {
    /// Scope 0: the secret of the head's epoch.
    Epoch(EpochSecret),
    /// Scope 2: the keys of the objects of one version.
    Objects(ObjectKeys),
}

/// Keys of an open dataset.
pub(crate) enum Ring {
    /// Secrets by epoch: the head's, and the older ones from the root.
    Epochs(BTreeMap<u32, EpochSecret>),
    Objects(ObjectKeys),
}

impl Ring {
    pub(crate) fn object_key(
        &self,
        dataset: &DatasetId,
        kind: Kind,
        epoch: u32,
        object_id: &[u8; 16],
    ) -> Result<ObjectKey> {
        match self {
            Self::Epochs(secrets) => {
                let secret = secrets.get(&epoch);
                let secret = secret.ok_or_else(|| VaultError::Epoch {
                    reason: format!("no secret of epoch {epoch}"),
                })?;
                Ok(derive(secret, dataset, kind, epoch, object_id))
            }
            Self::Objects(keys) => match keys.key(object_id) {
                Some(key) => Ok(key.duplicate()),
                None => Err(VaultError::Epoch {
                    reason: "an object is outside what was shared".into(),
                }),
            },
        }
    }
}

/// OK of section 3: content key for data, manifest key for all else.
pub(crate) fn derive(
    secret: &EpochSecret,
    dataset: &DatasetId,
    kind: Kind,
    epoch: u32,
    object_id: &[u8; 16],
) -> ObjectKey {
    let parent = match kind {
        Kind::Data => secret.content_key(dataset, epoch),
        Kind::Page | Kind::Root | Kind::Leaves => secret.manifest_key(dataset, epoch),
    };
    ObjectKey::derive(&parent, object_id)
}
