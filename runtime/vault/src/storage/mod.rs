//! Where objects and messages live: one trait, and the implementations that the rest of the project chooses
//! from. Storage is not trusted: the reader checks every byte, and posts are returned only when verified.

mod aleph;
mod cached;
mod faulty;
mod folder;
mod memory;
mod nodes;
mod shelf;

pub use aleph::AlephStorage;
#[cfg(test)]
pub(crate) use aleph::ListLimits;
pub use cached::CachedStorage;
pub use faulty::{Fault, FaultyStorage};
pub use folder::FolderStorage;
pub use memory::MemoryStorage;
#[cfg(test)]
pub(crate) use nodes::Nodes;
pub use nodes::nodes;

use crate::message::SignedMessage;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value};

/// What every method of [`Storage`] returns.
pub type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, Result<T>>;

/// Bytes of one object as they come. Ends after the first error.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Bytes, and their SHA-256 if it is known.
pub type Hashed = (Bytes, Option<[u8; 32]>);

/// A place for objects and signed messages.
pub trait Storage: Send + Sync {
    /// Stores an object under the signed STORE that names it. Storing the same again is no error.
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()>;

    /// The bytes that the node has under this name, unchecked.
    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes>;

    /// As [`Storage::get`], with the SHA-256 of these bytes where it was computed as they came in, so that hashing takes no time
    /// of its own.
    fn get_hashed<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Hashed> {
        Box::pin(async move { Ok((self.get(item_hash).await?, None)) })
    }

    /// The bytes that the node has under this name as they come, unchecked: the same as [`Storage::get`] for who holds no whole
    /// object.
    fn get_stream<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, ByteStream> {
        Box::pin(async move {
            let bytes = self.get(item_hash).await?;
            Ok(stream::once(std::future::ready(Ok(bytes))).boxed())
        })
    }

    /// The STOREs of these objects that `owner` signed and that are not forgotten, verified.
    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>>;

    /// Publishes a signed POST, AGGREGATE or FORGET. Publishing the same again is no error.
    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()>;

    /// One POST by its hash, verified; None when the node does not have it.
    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>>;

    /// Whether the network has taken this message, also where no post is made of it yet: it may become one at any time.
    fn knows<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move { Ok(self.post(item_hash).await?.is_some()) })
    }

    /// Posts that match, verified, oldest first. Forged ones are left out.
    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>>;

    /// The same one after the other, in no order, of those that were signed at `since` (unix seconds) or later: there may be more
    /// than a list holds. One that cannot be read is left out; some may come twice.
    fn each_post<'a>(&'a self, query: PostQuery, since: u64) -> BoxStream<'a, Result<StoredPost>> {
        let posts = self.posts(query);
        let posts = stream::once(posts).map_ok(|posts| stream::iter(posts.into_iter().map(Ok)));
        let is_later = move |post: &StoredPost| std::future::ready(post.time >= seconds(since));
        posts.try_flatten().try_filter(is_later).boxed()
    }

    /// The merged value that `address` published under `key`, from verified messages only.
    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>>;

    /// Whether a STORE is known to have been taken, so that its object need not be sent again.
    fn has<'a>(&'a self, _store: &'a SignedMessage) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Takes note that what [`Storage::get`] gave under this name is not what was signed for. Answers whether it came from
    /// a copy of this storage's own, so that another `get` asks further.
    fn distrust(&self, _item_hash: &str) -> bool {
        false
    }

    /// What storing an object would cost an account, whose wallet signs the question, and what it has. None where
    /// nothing is paid.
    fn quote<'a>(&'a self, _wallet: &'a Wallet, _size: u64) -> BoxFuture<'a, Option<Quote>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A price, as the node says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quote {
    /// Of one object, as long as it is stored.
    pub credits_per_second: f64,
    /// Credits that the account has now.
    pub balance: u64,
}

/// A POST whose hash and signature were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPost {
    /// Hash of the message.
    pub item_hash: String,
    /// Who signed it.
    pub sender: String,
    /// Whose post it is; differs from the sender under delegation.
    pub address: String,
    /// Type of the post.
    pub post_type: String,
    /// The post's own content.
    pub content: Value,
    /// Signed unix seconds.
    pub time: f64,
    /// The post's `ref`.
    pub reference: Option<String>,
}

/// Which posts to list; an empty list does not narrow.
#[derive(Clone, Debug, Default)]
pub struct PostQuery {
    /// Senders.
    pub addresses: Vec<String>,
    /// Post types.
    pub types: Vec<String>,
    /// Any of these in `content.tags`.
    pub tags: Vec<String>,
    /// The post's `ref`.
    pub refs: Vec<String>,
}

impl StoredPost {
    /// From a message, checking hash and signature.
    pub(crate) fn from_message(message: &SignedMessage) -> Result<Self> {
        message.verify()?;
        if message.message_type() != "POST" {
            return Err(message.refuse("it is no POST"));
        }
        let mut content = message.content()?;
        let text = |content: &Map<String, Value>, key: &str| {
            content.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let missing = |field: &str| message.refuse(format!("it has no {field}"));
        Ok(Self {
            item_hash: message.item_hash(),
            sender: message.sender().to_owned(),
            address: text(&content, "address").ok_or_else(|| missing("address"))?,
            post_type: text(&content, "type").ok_or_else(|| missing("type"))?,
            time: message.time()?,
            reference: text(&content, "ref"),
            content: content.remove("content").unwrap_or(Value::Null),
        })
    }
}

impl PostQuery {
    pub(crate) fn matches(&self, post: &StoredPost) -> bool {
        let any = |wanted: &[String], found: &str| {
            wanted.is_empty() || wanted.iter().any(|value| value.eq_ignore_ascii_case(found))
        };
        let tags = post.content.get("tags").and_then(Value::as_array);
        let tagged = |tag: &String| {
            tags.is_some_and(|tags| tags.iter().any(|found| found.as_str() == Some(tag.as_str())))
        };
        any(&self.addresses, &post.sender)
            && any(&self.types, &post.post_type)
            && any(&self.refs, post.reference.as_deref().unwrap_or_default())
            && (self.tags.is_empty() || self.tags.iter().any(tagged))
    }
}

/// Seconds as messages have them.
#[expect(
    clippy::cast_precision_loss,
    reason = "whole seconds are exact for some hundred million years"
)]
fn seconds(seconds: u64) -> f64 {
    seconds as f64
}

/// Merges verified AGGREGATE messages of one address and key, later time wins.
pub(crate) fn merge(messages: &[SignedMessage], address: &str, key: &str) -> Result<Option<Value>> {
    let mut elements = Vec::new();
    for message in messages {
        if message.verify().is_err() || !message.sender().eq_ignore_ascii_case(address) {
            continue;
        }
        let content = message.content()?;
        let own = content
            .get("address")
            .and_then(Value::as_str)
            .is_some_and(|own| own.eq_ignore_ascii_case(address));
        let named = content.get("key").and_then(Value::as_str) == Some(key);
        if let Some(Value::Object(element)) = content.get("content")
            && own
            && named
            && message.message_type() == "AGGREGATE"
        {
            elements.push((message.time()?, message.item_hash(), element.clone()));
        }
    }
    if elements.is_empty() {
        return Ok(None);
    }
    elements.sort_by(|one, two| one.0.total_cmp(&two.0).then_with(|| one.1.cmp(&two.1)));
    let merged: Map<String, Value> = elements.into_iter().flat_map(|(_, _, element)| element).collect();
    Ok(Some(Value::Object(merged)))
}

/// Checks a STORE against the bytes it is sent with.
pub(crate) fn check_store(bytes: &Bytes, store: &SignedMessage) -> Result<String> {
    store.verify()?;
    let name = store.stored_file()?;
    let hash = hex::encode(crate::digest::sha256(&[bytes]));
    if name != hash {
        return Err(VaultError::Rejected {
            what: format!("object {hash}"),
            reason: format!("its STORE names {name}"),
        });
    }
    Ok(name)
}

/// Why something is not available that a node which answers does not have.
const ABSENT: &str = "the node does not have it";

/// Whether this says that a node which answers does not have something, and not that none answers.
pub fn is_absent(error: &VaultError) -> bool {
    matches!(error, VaultError::Unavailable { reason, .. } if reason == ABSENT)
}

/// The error for what a storage does not have.
pub(crate) fn absent(item_hash: &str) -> VaultError {
    VaultError::Unavailable {
        what: format!("object {item_hash}"),
        reason: ABSENT.into(),
    }
}
