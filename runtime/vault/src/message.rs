//! Signed Aleph messages: made with the SDK's builder, carried as their JSON envelope, checked before use.
//!
//! The machine with the wallet makes them; any other machine may send them. Sends nothing itself.

use crate::wallet::Wallet;
use crate::{Result, VaultError};
use aleph_sdk::builder::MessageBuilder;
use aleph_sdk::messages::{AggregateBuilder, ForgetBuilder, MessageBuildError, PostBuilder, StoreBuilder};
use aleph_types::chain::{Address, Chain, Signature};
use aleph_types::channel::Channel;
use aleph_types::item_hash::{AlephItemHash, ItemHash};
use aleph_types::message::execution::base::Payment;
use aleph_types::message::item_type::ItemType;
use aleph_types::message::pending::PendingMessage;
use aleph_types::message::{MessageType, StorageEngine};
use aleph_types::timestamp::Timestamp;
use aleph_types::verify_signature;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Largest file that the network's native storage takes, bytes.
pub const MAX_STORE: u64 = 104_857_600;
/// Largest content that a message has inside, bytes: nodes take less than 200,000.
pub const MAX_INLINE: u64 = 199_999;
/// Bytes around a POST's own content in the signed text: address, time, type and a reference, with room to spare.
const POST_ROOM: u64 = 400;
/// Channel of all our messages.
const CHANNEL: &str = "ALEPHLAB";

/// A signed envelope with inline content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct SignedMessage {
    envelope: Value,
    fields: Fields,
}

/// What we read of an envelope.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Fields {
    chain: Chain,
    sender: Address,
    signature: Signature,
    #[serde(rename = "type")]
    message_type: MessageType,
    item_type: ItemType,
    item_content: String,
    item_hash: ItemHash,
    time: Timestamp,
    channel: Option<Channel>,
}

impl SignedMessage {
    /// Takes an envelope from JSON; [`SignedMessage::verify`] is still to be called.
    ///
    /// # Errors
    /// `E_MESSAGE` when fields are missing or malformed.
    pub fn from_value(envelope: Value) -> Result<Self> {
        let name = envelope
            .get("item_hash")
            .and_then(Value::as_str)
            .unwrap_or("without hash")
            .to_owned();
        let fields = serde_json::from_value(envelope.clone()).map_err(|error| VaultError::Message {
            message: name,
            reason: error.to_string(),
        })?;
        Ok(Self { envelope, fields })
    }

    /// The envelope as JSON.
    pub fn value(&self) -> &Value {
        &self.envelope
    }

    /// Hash of the content: the message's name.
    pub fn item_hash(&self) -> String {
        self.fields.item_hash.to_string()
    }

    /// Bytes of the content.
    pub(crate) fn size(&self) -> usize {
        self.fields.item_content.len()
    }

    /// Who signed it.
    pub fn sender(&self) -> &str {
        self.fields.sender.as_str()
    }

    /// Kind of message as the network writes it, such as `STORE`.
    pub fn message_type(&self) -> String {
        self.fields.message_type.to_string()
    }

    /// The signed content: `address`, `time` and the rest.
    ///
    /// # Errors
    /// `E_MESSAGE` when it is not a JSON object.
    pub fn content(&self) -> Result<Map<String, Value>> {
        serde_json::from_str(&self.fields.item_content).map_err(|error| self.refuse(error.to_string()))
    }

    /// Checks that the hash is that of the content and that the sender signed it.
    ///
    /// # Errors
    /// `E_MESSAGE` says which check failed.
    pub fn verify(&self) -> Result<()> {
        let fields = &self.fields;
        if fields.item_type != ItemType::Inline {
            return Err(self.refuse("its content is not inside"));
        }
        let hash = ItemHash::Native(AlephItemHash::from_bytes(fields.item_content.as_bytes()));
        if hash != fields.item_hash {
            return Err(self.refuse("its hash is not that of its content"));
        }
        let checked = verify_signature::verify(
            &fields.chain,
            &fields.sender,
            &fields.signature,
            fields.message_type,
            &fields.item_hash,
        );
        checked.map_err(|error| self.refuse(error.to_string()))
    }

    /// The file that a STORE names.
    ///
    /// # Errors
    /// `E_MESSAGE` when this is no STORE of a file in native storage.
    pub fn stored_file(&self) -> Result<String> {
        let content = self.content()?;
        let native = content.get("item_type").and_then(Value::as_str) == Some("storage");
        match content.get("item_hash").and_then(Value::as_str) {
            Some(hash) if native && self.fields.message_type == MessageType::Store => Ok(hash.to_owned()),
            _ => Err(self.refuse("it does not store a file")),
        }
    }

    /// Messages that a FORGET names; none of another message.
    pub(crate) fn forgets(&self) -> Vec<String> {
        let content = self
            .content()
            .ok()
            .filter(|_| self.fields.message_type == MessageType::Forget);
        let hashes = content
            .as_ref()
            .and_then(|content| content.get("hashes")?.as_array());
        let hashes = hashes.into_iter().flatten();
        hashes
            .filter_map(|hash| hash.as_str().map(str::to_owned))
            .collect()
    }

    /// Unix seconds from the signed content; the envelope's own time is not signed.
    ///
    /// # Errors
    /// `E_MESSAGE` when the content has none.
    pub fn time(&self) -> Result<f64> {
        let time = self.content()?.get("time").and_then(Value::as_f64);
        time.ok_or_else(|| self.refuse("it has no time"))
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> VaultError {
        VaultError::Message {
            message: self.item_hash(),
            reason: reason.into(),
        }
    }

    /// As the Aleph SDK posts it.
    pub fn pending(&self) -> PendingMessage {
        let fields = self.fields.clone();
        PendingMessage {
            chain: fields.chain,
            sender: fields.sender,
            signature: fields.signature,
            message_type: fields.message_type,
            item_type: fields.item_type,
            item_content: fields.item_content,
            item_hash: fields.item_hash,
            time: fields.time,
            channel: fields.channel,
        }
    }

    pub(crate) fn from_pending(pending: &PendingMessage) -> Result<Self> {
        let envelope = serde_json::to_value(pending).map_err(|error| VaultError::Message {
            message: "new".into(),
            reason: error.to_string(),
        })?;
        Self::from_value(envelope)
    }
}

impl TryFrom<Value> for SignedMessage {
    type Error = VaultError;
    fn try_from(envelope: Value) -> Result<Self> {
        Self::from_value(envelope)
    }
}

impl From<SignedMessage> for Value {
    fn from(message: SignedMessage) -> Self {
        message.envelope
    }
}

/// Signs the STORE of a sealed object, to be paid with credits.
///
/// # Errors
/// `E_MALFORMED` for a hash that is none, `E_LIMIT` for more bytes than native storage takes.
pub fn sign_store(wallet: &Wallet, item_hash: &str, size: u64) -> Result<SignedMessage> {
    if size > MAX_STORE {
        return Err(VaultError::Limit {
            what: "an object to store in bytes".into(),
            limit: MAX_STORE,
        });
    }
    let hash: ItemHash = item_hash.parse().map_err(|_| VaultError::Malformed {
        what: "the item hash",
        reason: item_hash.to_owned(),
    })?;
    let built = StoreBuilder::new(wallet.account(), hash, StorageEngine::Storage)
        .payment(Payment::credits())
        .channel(Channel::from(CHANNEL.to_owned()))
        .build();
    inline(built)
}

/// A STORE that is only asked the price of: of a file of so many bytes, which need not be there.
pub(crate) fn sign_question(wallet: &Wallet, size: u64) -> Result<PendingMessage> {
    #[expect(clippy::cast_precision_loss, reason = "a size in MiB, for a price")]
    let mebibytes = size as f64 / 1_048_576.0;
    let content = serde_json::json!({
        "address": wallet.address(),
        "time": Timestamp::now(),
        "item_type": "storage",
        "item_hash": hex::encode(crate::digest::sha256(&[])),
        "payment": { "chain": "ETH", "type": "credit" },
        "estimated_size_mib": mebibytes,
    });
    let built = MessageBuilder::new(wallet.account(), MessageType::Store, content).build();
    built.map_err(|error| VaultError::Message {
        message: "that asks for a price".into(),
        reason: error.to_string(),
    })
}

/// Signs a POST of `post_type`; `reference` becomes its `ref`.
///
/// # Errors
/// `E_LIMIT` when the content does not fit into a message.
pub fn sign_post(
    wallet: &Wallet,
    post_type: &str,
    content: Value,
    reference: Option<&str>,
) -> Result<SignedMessage> {
    let mut builder = PostBuilder::new(wallet.account(), post_type, content)
        .map_err(|error| build_error(&error))?
        .channel(Channel::from(CHANNEL.to_owned()));
    if let Some(reference) = reference {
        builder = builder.reference(reference);
    }
    inline(builder.build())
}

/// Bytes that the signed text of a POST with this content has at most; more than [`MAX_INLINE`] cannot be posted.
/// For those who have to know before they upload what the POST is about.
///
/// # Errors
/// `E_MALFORMED` when it cannot be written as JSON.
pub fn post_size(content: &impl Serialize) -> Result<u64> {
    let json = serde_json::to_vec(content).map_err(|error| VaultError::Malformed {
        what: "the content of a message",
        reason: error.to_string(),
    })?;
    Ok(json.len() as u64 + POST_ROOM)
}

/// Signs an AGGREGATE element: top-level keys of `content` replace those of earlier elements under `key`.
///
/// # Errors
/// `E_LIMIT` when the content does not fit into a message.
pub fn sign_aggregate(wallet: &Wallet, key: &str, content: Map<String, Value>) -> Result<SignedMessage> {
    let builder =
        AggregateBuilder::new(wallet.account(), key, content).channel(Channel::from(CHANNEL.to_owned()));
    inline(builder.build())
}

/// Signs a FORGET of messages.
///
/// # Errors
/// `E_MALFORMED` for a hash that is none, `E_LIMIT` for more than fit into a message, `E_MESSAGE` for none at all.
pub(crate) fn sign_forget(wallet: &Wallet, hashes: &[String]) -> Result<SignedMessage> {
    let parse = |hash: &String| {
        hash.parse().map_err(|_| VaultError::Malformed {
            what: "the item hash",
            reason: hash.clone(),
        })
    };
    let hashes = hashes.iter().map(parse).collect::<Result<Vec<ItemHash>>>()?;
    let builder = ForgetBuilder::new(wallet.account(), hashes).channel(Channel::from(CHANNEL.to_owned()));
    inline(builder.build())
}

/// The builder's message, if its content is inside.
fn inline(built: std::result::Result<PendingMessage, MessageBuildError>) -> Result<SignedMessage> {
    let pending = built.map_err(|error| build_error(&error))?;
    if pending.item_type != ItemType::Inline {
        return Err(VaultError::Limit {
            what: "the content of a message in bytes".into(),
            limit: MAX_INLINE,
        });
    }
    SignedMessage::from_pending(&pending)
}

fn build_error(error: &MessageBuildError) -> VaultError {
    VaultError::Message {
        message: "that was to be made".into(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const VECTORS: &str = include_str!("../testdata/aleph-messages.json");

    fn vectors() -> Vec<Value> {
        serde_json::from_str(VECTORS).unwrap()
    }

    fn envelope(vector: &Value) -> Value {
        let content: Value = serde_json::from_str(vector["item_content"].as_str().unwrap()).unwrap();
        json!({
            "sender": content["address"],
            "chain": "ETH",
            "signature": vector["signature"],
            "type": vector["type"],
            "item_type": "inline",
            "item_content": vector["item_content"],
            "item_hash": vector["item_hash"],
            "time": content["time"],
        })
    }

    #[test]
    fn verifies_the_vectors_of_the_protocol_reference() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 9);
        for vector in &vectors {
            let message = SignedMessage::from_value(envelope(vector)).unwrap();
            message
                .verify()
                .unwrap_or_else(|error| panic!("{}: {error}", vector["name"]));
        }
    }

    /// Item hash and signature of a message made at a given time.
    fn made(wallet: &Wallet, kind: MessageType, content: Value, time: f64) -> (String, String) {
        let builder = MessageBuilder::new(wallet.account(), kind, content).time(Timestamp::from(time));
        let message = SignedMessage::from_pending(&builder.build().unwrap()).unwrap();
        (
            message.item_hash(),
            message.value()["signature"].as_str().unwrap().to_owned(),
        )
    }

    #[test]
    fn builds_vectors_byte_for_byte() {
        let wallet = Wallet::from_secret(&[1; 32]).unwrap();
        let vectors = vectors();
        let known = |vector: &Value| {
            (
                vector["item_hash"].as_str().unwrap().to_owned(),
                vector["signature"].as_str().unwrap().to_owned(),
            )
        };
        // The SDK's builder writes keys as they come (V1) or sorted (V2), as serde_json is built to keep them or not.
        let post = json!({ "content": { "hello": "world", "n": 1 }, "type": "test-type" });
        let post = made(&wallet, MessageType::Post, post, 1_700_000_000.0);
        assert!(post == known(&vectors[0]) || post == known(&vectors[1]));
        let aggregate = json!({ "key": "profile", "content": { "k": "v" } });
        assert_eq!(
            made(&wallet, MessageType::Aggregate, aggregate, 1_790_000_002.0),
            known(&vectors[3])
        );
    }

    #[test]
    fn refuses_changed_content_hash_and_sender() {
        let good = envelope(&vectors()[0]);
        let changed = [
            (
                "item_content",
                json!("{\"address\":\"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1\",\"time\":1.0}"),
            ),
            ("item_hash", json!("0".repeat(64))),
            ("sender", json!("0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c")),
            ("type", json!("AGGREGATE")),
            ("chain", json!("BASE")),
            ("item_type", json!("storage")),
        ];
        for (field, value) in changed {
            let mut bad = good.clone();
            bad[field] = value;
            let error = SignedMessage::from_value(bad).unwrap().verify().unwrap_err();
            assert_eq!(error.code(), "E_MESSAGE", "{field}");
        }
        assert!(SignedMessage::from_value(json!({ "sender": "0x" })).is_err());
    }

    #[test]
    fn signs_stores_that_pay_with_credits() {
        let wallet = Wallet::generate().unwrap();
        let hash = "a".repeat(64);
        let message = sign_store(&wallet, &hash, 10).unwrap();
        message.verify().unwrap();
        assert_eq!(message.stored_file().unwrap(), hash);
        assert_eq!(message.content().unwrap()["payment"]["type"], "credit");
        assert_eq!(
            sign_store(&wallet, &hash, MAX_STORE + 1).unwrap_err().code(),
            "E_LIMIT"
        );
        assert_eq!(sign_store(&wallet, "xyz", 1).unwrap_err().code(), "E_MALFORMED");
    }

    #[test]
    fn refuses_posts_too_large_for_a_message() {
        let wallet = Wallet::generate().unwrap();
        let error = sign_post(&wallet, "t", json!({ "text": "x".repeat(200_000) }), None).unwrap_err();
        assert_eq!(error.code(), "E_LIMIT");
        // What was measured to fit can be signed, with the longest reference that we use.
        let room = usize::try_from(MAX_INLINE - POST_ROOM).unwrap();
        let full = json!({ "text": "x".repeat(room - r#"{"text":""}"#.len()) });
        assert_eq!(post_size(&full).unwrap(), MAX_INLINE);
        sign_post(&wallet, "aleph-dataset-revoke", full, Some(&"a".repeat(64))).unwrap();
        let post = sign_post(&wallet, "t", json!({ "n": 1 }), Some("ref")).unwrap();
        post.verify().unwrap();
        assert_eq!(post.content().unwrap()["ref"], "ref");
    }
}
