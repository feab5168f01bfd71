//! Registered reader keys: each account publishes its keys in the AGGREGATE "dataset-encryption-keys", signed by its wallet
//! (container section 10). Only verified messages count.
//!
//! A machine has two, of X-Wing and of X25519, and the entry of the latter names the former: who can wrap for X-Wing wraps for
//! that one only, or the other would undo it; who cannot does not know the field.

use crate::Result;
use crate::head::to_json;
use crate::message::sign_aggregate;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::seen::now;
use crate::storage::Storage;
use crate::wallet::Wallet;
use serde::{Deserialize, Serialize};

/// Key of the AGGREGATE.
pub const READER_KEYS_AGGREGATE: &str = "dataset-encryption-keys";

/// One key of an account, under its key id.
#[derive(Serialize, Deserialize)]
struct Registered {
    kem_id: u16,
    public: ReaderPublic,
    created: u64,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default)]
    revoked: bool,
    /// Key id of the key of the same machine that is to be used in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    superseded_by: Option<String>,
}

/// Publishes this machine's reader keys, unless they are among those that the wallet has published.
///
/// # Errors
/// What the storage refuses.
pub async fn register_reader_key(storage: &dyn Storage, wallet: &Wallet, key: &ReaderKey) -> Result<()> {
    let published = reader_keys_of(storage, &wallet.address()).await?;
    if published.contains(&key.public()) {
        return Ok(());
    }
    let preferred = hex::encode(key.public().id());
    let mut content = serde_json::Map::new();
    for public in key.publics() {
        let id = hex::encode(public.id());
        let entry = Registered {
            kem_id: public.kem_id(),
            public: public.clone(),
            created: now(),
            expires: None,
            revoked: false,
            superseded_by: (id != preferred).then(|| preferred.clone()),
        };
        content.insert(id, to_json(&entry)?);
    }
    storage
        .publish(&sign_aggregate(wallet, READER_KEYS_AGGREGATE, content)?)
        .await
}

/// All keys of `address` that are neither expired, revoked nor superseded: an account may be used on several machines. Entries
/// that lie about their id are left out.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn reader_keys_of(storage: &dyn Storage, address: &str) -> Result<Vec<ReaderPublic>> {
    let all = registered(storage, address).await?.into_iter();
    let own = all.filter(|(id, entry)| *id == hex::encode(entry.public.id()));
    Ok(own.map(|(_, entry)| entry.public).collect())
}

async fn registered(storage: &dyn Storage, address: &str) -> Result<Vec<(String, Registered)>> {
    let Some(serde_json::Value::Object(entries)) = storage.aggregate(address, READER_KEYS_AGGREGATE).await?
    else {
        return Ok(Vec::new());
    };
    let mut valid: Vec<(String, Registered)> = Vec::new();
    for (id, entry) in entries {
        // Null is how an entry is deleted; kinds of keys that we do not know are others' business.
        if let Ok(entry) = serde_json::from_value::<Registered>(entry)
            && entry.kem_id == entry.public.kem_id()
        {
            valid.push((id, entry));
        }
    }
    // One that lies about its name takes nothing's place.
    let own = valid
        .iter()
        .filter(|(id, entry)| *id == hex::encode(entry.public.id()));
    let ids: Vec<String> = own.map(|(id, _)| id.clone()).collect();
    // Nor does a key come back because the better one of its machine was revoked: that machine is not to be trusted.
    valid.retain(|(_, entry)| {
        !entry.revoked
            && entry.expires.is_none_or(|expires| expires > now())
            && entry.superseded_by.as_ref().is_none_or(|by| !ids.contains(by))
    });
    Ok(valid)
}
