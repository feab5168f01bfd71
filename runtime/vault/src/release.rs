//! Releases: keys of exactly one revision, sealed for the registered key of who bought it, and posted on Aleph.
//!
//! Unlike a grant it holds no epoch's secret: it opens the revision that was paid for, none before and none after. Who sent it
//! is what makes it authentic. Runs on the seller's machine and on the buyer's; a gateway only sees that it is there.

use crate::digest::sha256;
use crate::encoding::hex_bytes;
use crate::head::SignedHead;
use crate::keys::{Address, DatasetId};
use crate::message::sign_post;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::registered::reader_keys_of;
use crate::scope::ObjectKeys;
use crate::sealed::Sealed;
use crate::storage::{PostQuery, Storage, StoredPost};
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};

/// POST type of releases.
pub const RELEASE_POST_TYPE: &str = "alephlab-model-release";

/// Keys of one revision, sealed for one key of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The order that it answers.
    pub order: String,
    /// The model's dataset.
    pub dataset_id: DatasetId,
    /// Hash of the head of the revision.
    #[serde(with = "hex_bytes")]
    pub head_hash: [u8; 32],
    /// Whose key.
    pub recipient: Address,
    /// Which key.
    #[serde(with = "hex_bytes")]
    pub key_id: [u8; 16],
    /// The keys of the objects.
    pub sealed: Sealed,
}

impl Release {
    /// Seals keys for one key of an account, as the answer to an order.
    ///
    /// # Errors
    /// `E_EPOCH` for keys of another head, `E_KEY_POINT` for an unusable key.
    pub fn seal(
        order: &str,
        head: &SignedHead,
        recipient: Address,
        to: &ReaderPublic,
        keys: &ObjectKeys,
    ) -> Result<Self> {
        if keys.head_hash != head.hash() {
            return Err(VaultError::Epoch {
                reason: "the object keys belong to another head".into(),
            });
        }
        let mut release = Self {
            order: order.to_owned(),
            dataset_id: head.head.dataset_id,
            head_hash: head.hash(),
            recipient,
            key_id: to.id(),
            sealed: Sealed {
                enc: Vec::new(),
                ct: Vec::new(),
            },
        };
        release.sealed = Sealed::seal(to, &release.info(), |_| Vec::new(), &keys.encode())?;
        Ok(release)
    }

    /// 40 hex digits: the revision that it opens.
    pub fn revision(&self) -> String {
        hex::encode(&self.head_hash[..20])
    }

    /// The release in a post; none in one that is none.
    pub fn from_post(post: &StoredPost) -> Option<Self> {
        (post.post_type == RELEASE_POST_TYPE)
            .then(|| serde_json::from_value(post.content.clone()).ok())
            .flatten()
    }

    /// Opens with the key that it was sealed for.
    ///
    /// # Errors
    /// `E_GRANT_OPEN` or `E_KEY_POINT`; `E_EPOCH` when it holds keys of another revision.
    pub fn open(&self, key: &ReaderKey, head: &SignedHead) -> Result<ObjectKeys> {
        let opened = self.sealed.open(key, &self.info(), &[])?;
        let keys = ObjectKeys::decode(&opened)?;
        if keys.head_hash == head.hash() {
            return Ok(keys);
        }
        Err(VaultError::Epoch {
            reason: "the release holds keys of another revision".into(),
        })
    }

    fn info(&self) -> Vec<u8> {
        let label = b"alephlab/release/v1\0".as_slice();
        let order = sha256(&[self.order.as_bytes()]);
        [
            label,
            &self.dataset_id.0,
            &self.head_hash,
            &self.recipient.0,
            &self.key_id,
            &order,
        ]
        .concat()
    }

    /// Tagged with order, dataset and recipient, who finds it by that.
    fn post_content(&self) -> Result<serde_json::Value> {
        let mut content = crate::head::to_json(self)?;
        let (dataset, recipient) = (self.dataset_id.to_string(), self.recipient.to_string());
        content["tags"] = serde_json::json!([self.order, dataset, recipient]);
        Ok(content)
    }
}

/// Releases a revision to an account for an order: one message for each key that the account has registered, which this reads
/// and verifies itself. What was posted for the order before is not posted again. Answers the item hashes.
///
/// # Errors
/// `E_NO_READER_KEY` when the account has registered no key, `E_EPOCH` for keys of another head, those of storage.
pub async fn release_revision(
    storage: &dyn Storage,
    wallet: &Wallet,
    head: &SignedHead,
    keys: &ObjectKeys,
    (order, recipient): (&str, Address),
) -> Result<Vec<String>> {
    let there = releases_of(storage, &wallet.address(), order).await?;
    let mut messages = Vec::new();
    let registered = reader_keys_of(storage, &recipient.to_string()).await?;
    if registered.is_empty() && there.is_empty() {
        return Err(VaultError::NoReaderKey {
            account: recipient.to_string(),
        });
    }
    for key in registered {
        let is_this = |(_, one): &&(String, Release)| {
            one.key_id == key.id() && one.recipient == recipient && one.head_hash == head.hash()
        };
        if let Some((message, _)) = there.iter().find(is_this) {
            messages.push(message.clone());
            continue;
        }
        let release = Release::seal(order, head, recipient, &key, keys)?;
        let post = sign_post(wallet, RELEASE_POST_TYPE, release.post_content()?, None)?;
        storage.publish(&post).await?;
        messages.push(post.item_hash());
    }
    if messages.is_empty() {
        messages.extend(there.into_iter().map(|(message, _)| message));
    }
    Ok(messages)
}

/// The releases that a seller has posted for an order, with their messages' item hashes, oldest first.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub async fn releases_of(storage: &dyn Storage, seller: &str, order: &str) -> Result<Vec<(String, Release)>> {
    let posts = storage.posts(by(seller, order)).await?;
    let of_order = posts.into_iter().filter_map(|post| {
        let release = Release::from_post(&post)?;
        let is_sellers = post.sender.eq_ignore_ascii_case(seller);
        (is_sellers && release.order == order).then_some((post.item_hash, release))
    });
    Ok(of_order.collect())
}

/// The keys of a revision that its owner has released to this account for one of the keys of this machine; none where there are
/// none.
///
/// # Errors
/// `E_UNAVAILABLE`; of releases that do not open, that of the newest.
pub async fn find_release(
    storage: &dyn Storage,
    head: &SignedHead,
    recipient: Address,
    key: &ReaderKey,
) -> Result<Option<ObjectKeys>> {
    let owner = head.head.owner.to_string();
    let posts = storage.posts(by(&owner, &recipient.to_string())).await?;
    let mut failed = None;
    for post in posts.iter().rev() {
        let Some(release) = Release::from_post(post) else {
            continue;
        };
        let is_for_this = post.sender.eq_ignore_ascii_case(&owner)
            && release.recipient == recipient
            && release.head_hash == head.hash()
            && release
                .sealed
                .kem_id()
                .is_some_and(|kem| key.has(kem, &release.key_id));
        if !is_for_this {
            continue;
        }
        match release.open(key, head) {
            Ok(keys) => return Ok(Some(keys)),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(None), Err)
}

fn by(seller: &str, tag: &str) -> PostQuery {
    PostQuery {
        addresses: vec![seller.to_owned()],
        types: vec![RELEASE_POST_TYPE.to_owned()],
        tags: vec![tag.to_owned()],
        ..PostQuery::default()
    }
}
