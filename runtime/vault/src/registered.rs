//! Registered reader keys: each account publishes its keys in the AGGREGATE "dataset-encryption-keys", signed by its wallet
//! (container section 10). Only verified messages count.
//!
//! A machine has two, of X-Wing and of X25519, and the entry of the latter names the former: who can wrap for X-Wing wraps for
//! that one only, or the other would undo it; who cannot does not know the field.

use crate::head::to_json;
use crate::message::sign_aggregate;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::seen::now;
use crate::storage::Storage;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};

/// Key of the AGGREGATE.
pub const READER_KEYS_AGGREGATE: &str = "dataset-encryption-keys";

/// One key of an account, under its key id.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
/// `E_KEY_REVOKED` when the account has revoked this machine's key, and what the storage refuses.
pub async fn register_reader_key(storage: &dyn Storage, wallet: &Wallet, key: &ReaderKey) -> Result<()> {
    let published = registered_keys(storage, &wallet.address()).await?;
    let own = |one: &&RegisteredKey| one.entry.public == key.public();
    match published.iter().find(own) {
        Some(one) if one.entry.revoked => {
            return Err(VaultError::KeyRevoked { id: one.id.clone() });
        }
        Some(one) if one.counts() => return Ok(()),
        _ => {}
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

/// One of an account's published reader keys, whether it counts or not.
#[derive(Clone, Debug)]
pub struct RegisteredKey {
    /// Key id, hex.
    pub id: String,
    entry: Registered,
    /// A better key of the same machine is there.
    is_superseded: bool,
}

impl RegisteredKey {
    /// When it was published, unix seconds.
    pub fn created(&self) -> u64 {
        self.entry.created
    }

    /// The account has taken it back.
    pub fn is_revoked(&self) -> bool {
        self.entry.revoked
    }

    /// Whether secrets are wrapped for it.
    pub fn counts(&self) -> bool {
        !self.entry.revoked && !self.is_superseded && self.entry.expires.is_none_or(|expires| expires > now())
    }
}

/// All keys of `address` that are neither expired, revoked nor superseded: an account may be used on several machines. Entries
/// that lie about their id are left out.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn reader_keys_of(storage: &dyn Storage, address: &str) -> Result<Vec<ReaderPublic>> {
    let all = registered_keys(storage, address).await?.into_iter();
    Ok(all
        .filter(RegisteredKey::counts)
        .map(|one| one.entry.public)
        .collect())
}

/// Everything that `address` has published as its reader keys, oldest first.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn registered_keys(storage: &dyn Storage, address: &str) -> Result<Vec<RegisteredKey>> {
    let Some(serde_json::Value::Object(entries)) = storage.aggregate(address, READER_KEYS_AGGREGATE).await?
    else {
        return Ok(Vec::new());
    };
    let mut all: Vec<RegisteredKey> = Vec::new();
    for (id, entry) in entries {
        // Null is how an entry is deleted; kinds of keys that we do not know are others' business, and one that lies about its
        // name takes nothing's place.
        if let Ok(entry) = serde_json::from_value::<Registered>(entry)
            && entry.kem_id == entry.public.kem_id()
            && id == hex::encode(entry.public.id())
        {
            all.push(RegisteredKey {
                id,
                entry,
                is_superseded: false,
            });
        }
    }
    // Nor does a key come back because the better one of its machine was revoked: that machine is not to be trusted.
    let ids: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
    for one in &mut all {
        one.is_superseded = one
            .entry
            .superseded_by
            .as_ref()
            .is_some_and(|by| ids.contains(by));
    }
    all.sort_by(|one, other| (one.entry.created, &one.id).cmp(&(other.entry.created, &other.id)));
    Ok(all)
}

/// Takes back a published key, with the others of its machine: nothing is wrapped for it any more. What was wrapped for it
/// before can still be opened with it; a dataset's next epoch leaves it out.
///
/// # Errors
/// `E_NOT_FOUND` for an id that the account has not published, and what the storage refuses.
pub async fn revoke_reader_key(storage: &dyn Storage, wallet: &Wallet, id: &str) -> Result<()> {
    let all = registered_keys(storage, &wallet.address()).await?;
    let Some(named) = all.iter().find(|one| one.id.eq_ignore_ascii_case(id)) else {
        return Err(VaultError::NotFound {
            path: id.chars().take(64).collect(),
        });
    };
    let machine = named.entry.superseded_by.as_ref().unwrap_or(&named.id);
    let of_machine =
        |one: &&RegisteredKey| one.id == *machine || one.entry.superseded_by.as_ref() == Some(machine);
    let mut content = serde_json::Map::new();
    for one in all.iter().filter(of_machine) {
        let entry = Registered {
            revoked: true,
            ..one.entry.clone()
        };
        content.insert(one.id.clone(), to_json(&entry)?);
    }
    storage
        .publish(&sign_aggregate(wallet, READER_KEYS_AGGREGATE, content)?)
        .await
}
