//! The envelope of a message (reference, section 2): read from JSON, checked for form and hash,
//! verified for its signature by `aleph-types`.
//!
//! Not here: what the content means (that is [`crate::content`]).

use aleph_types::{
    chain::{Address, Chain, Signature},
    cid::Cid,
    item_hash::{AlephItemHash, ItemHash},
    message::{MessageType, item_type::ItemType},
    verify_signature,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::rejection::{ErrorCode, Rejection};

/// Longest inline content the network takes, in characters.
const MAX_INLINE_CHARS: usize = 200_000;

/// Longest channel label, in characters.
const MAX_CHANNEL_CHARS: usize = 128;

/// Why an envelope is not one; the real node answers all of them with one plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

/// A well-formed envelope: its hash is that of its inline content. Its signature is not checked yet.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) sender: Address,
    pub(crate) chain: Chain,
    /// As received, because Solana clients send an object or a string that holds one.
    pub(crate) signature: Value,
    pub(crate) kind: MessageType,
    pub(crate) item_type: ItemType,
    pub(crate) item_content: Option<String>,
    pub(crate) item_hash: String,
    /// Unix seconds; not signed.
    pub(crate) time: f64,
    /// Not signed.
    pub(crate) channel: Option<String>,
}

impl Envelope {
    /// Reads an envelope; fields it does not know are ignored.
    pub(crate) fn parse(value: &Value) -> Result<Self, Malformed> {
        let fields = value
            .as_object()
            .ok_or_else(|| malformed("the message is not an object"))?;
        let item_content = optional_text(fields, "item_content")?;
        let item_hash = text(fields, "item_hash")?.to_owned();
        let hash =
            parse_hash(&item_hash).ok_or_else(|| malformed("item_hash is neither SHA-256 nor a CID"))?;
        let item_type = match fields.get("item_type") {
            Some(item_type) => decode(item_type, "item_type")?,
            None if item_content.is_some() => ItemType::Inline,
            None if matches!(hash, ItemHash::Ipfs(_)) => ItemType::Ipfs,
            None => ItemType::Storage,
        };
        check_content(item_type, item_content.as_deref(), &hash)?;
        let signature = fields.get("signature").cloned().unwrap_or(Value::Null);
        if !(signature.is_null() || signature.is_string() || signature.is_object()) {
            return Err(malformed("signature is neither a string nor an object"));
        }
        Ok(Self {
            sender: Address::from(text(fields, "sender")?.to_owned()),
            chain: decode(field(fields, "chain")?, "chain")?,
            signature,
            kind: decode(field(fields, "type")?, "type")?,
            item_type,
            item_content,
            item_hash,
            time: time(field(fields, "time")?)?,
            channel: channel(fields)?,
        })
    }

    /// Checks the signature over chain, sender, type and hash.
    pub(crate) fn verify(&self) -> Result<(), Rejection> {
        let refuse = |reason: String| Rejection::new(ErrorCode::Signature, reason);
        let signature = self
            .decoded_signature()
            .ok_or_else(|| refuse("the signature is missing or unreadable".into()))?;
        let hash = parse_hash(&self.item_hash).ok_or_else(|| refuse("the hash is unreadable".into()))?;
        verify_signature::verify(&self.chain, &self.sender, &signature, self.kind, &hash)
            .map_err(|error| refuse(error.to_string()))
    }

    fn decoded_signature(&self) -> Option<Signature> {
        match &self.signature {
            Value::String(text) if self.chain.is_svm() && text.starts_with('{') => {
                serde_json::from_str(text).ok()
            }
            Value::Null => None,
            other => Signature::deserialize(other).ok(),
        }
    }

    /// The envelope's own fields, without what the node adds.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "sender": self.sender.as_str(),
            "chain": self.chain,
            "signature": self.signature,
            "type": self.kind,
            "item_content": self.item_content,
            "item_type": self.item_type,
            "item_hash": self.item_hash,
            "time": self.time,
            "channel": self.channel,
        })
    }
}

/// Reads a message or file hash: 64 lowercase hexadecimal digits, or an IPFS CID.
pub(crate) fn parse_hash(text: &str) -> Option<ItemHash> {
    // Checked here because the library slices by bytes and takes signs and upper case for digits.
    if text.len() == 64 {
        let lower_hex = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        return if lower_hex {
            AlephItemHash::try_from(text).ok().map(ItemHash::Native)
        } else {
            None
        };
    }
    if text.is_ascii() {
        Cid::try_from(text).ok().map(ItemHash::Ipfs)
    } else {
        None
    }
}

fn check_content(item_type: ItemType, content: Option<&str>, hash: &ItemHash) -> Result<(), Malformed> {
    match (item_type, content, hash) {
        (ItemType::Inline, Some(content), ItemHash::Native(hash)) => {
            if content.chars().count() > MAX_INLINE_CHARS {
                return Err(malformed("item_content is too long for an inline message"));
            }
            if AlephItemHash::from_bytes(content.as_bytes()) != *hash {
                return Err(malformed("item_hash is not the SHA-256 of item_content"));
            }
            match serde_json::from_str::<Value>(content) {
                Ok(Value::Object(_)) => Ok(()),
                _ => Err(malformed("item_content is not a JSON object")),
            }
        }
        (ItemType::Storage, None, ItemHash::Native(_)) | (ItemType::Ipfs, None, ItemHash::Ipfs(_)) => Ok(()),
        (ItemType::Inline, None, _) => Err(malformed("an inline message needs item_content")),
        (ItemType::Storage | ItemType::Ipfs, Some(_), _) => {
            Err(malformed("only an inline message has item_content"))
        }
        _ => Err(malformed("item_hash does not fit item_type")),
    }
}

fn channel(fields: &Map<String, Value>) -> Result<Option<String>, Malformed> {
    let channel = optional_text(fields, "channel")?;
    if channel
        .as_ref()
        .is_some_and(|channel| channel.chars().count() > MAX_CHANNEL_CHARS)
    {
        return Err(malformed("channel is too long"));
    }
    Ok(channel)
}

fn time(value: &Value) -> Result<f64, Malformed> {
    let seconds = value.as_f64().ok_or_else(|| malformed("time is not a number"))?;
    if seconds >= 0.0 {
        Ok(seconds)
    } else {
        Err(malformed("time is negative"))
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Malformed> {
    fields
        .get(name)
        .ok_or_else(|| malformed(&format!("{name} is missing")))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Malformed> {
    match field(fields, name)?.as_str() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(malformed(&format!("{name} is not a text"))),
    }
}

fn optional_text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Malformed> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(malformed(&format!("{name} is not a text"))),
    }
}

fn decode<'de, T: Deserialize<'de>>(value: &'de Value, name: &str) -> Result<T, Malformed> {
    T::deserialize(value).map_err(|_| malformed(&format!("{name} is unknown")))
}

fn malformed(reason: &str) -> Malformed {
    Malformed(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1700000000.0,"content":{"hello":"world","n":1},"type":"test-type"}"#;

    fn v1() -> Value {
        json!({
            "sender": "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1",
            "chain": "ETH",
            "signature": "0x3bdaef0e73ee55e1ef15fe4c999618c95672cfba2d1bdbfa63201d3b2af4786b5f266360949629b3ca92ef25c5a2cbcfbfdcb9c3f3eea066a48153693d862f231b",
            "type": "POST",
            "item_type": "inline",
            "item_content": V1,
            "item_hash": "442492ce61e727fe6e8a9978ab32b2bb0ce92a87918cd56c3a8c642fc8eb44c2",
            "time": 1_700_000_000.0,
            "channel": null,
        })
    }

    #[test]
    fn vector_v1_is_well_formed_and_signed() {
        Envelope::parse(&v1()).unwrap().verify().unwrap();
    }

    #[test]
    fn sender_in_another_letter_case_does_not_verify_another_text() {
        // The sender is part of the signed text, so only the comparison ignores case.
        let mut value = v1();
        value["sender"] = json!("0x1a642f0e3c3af545e7acbd38b07251b3990914f1");
        assert_eq!(Envelope::parse(&value).unwrap().verify().unwrap_err().code, 1);
    }

    #[test]
    fn each_broken_field_is_malformed() {
        for (field, broken) in [
            ("item_hash", json!("0".repeat(64))),
            (
                "item_hash",
                json!("442492CE61E727FE6E8A9978AB32B2BB0CE92A87918CD56C3A8C642FC8EB44C2"),
            ),
            ("item_hash", json!("é".repeat(32))),
            ("item_hash", json!(format!("+{}", "0".repeat(63)))),
            ("type", json!("NOTE")),
            ("chain", json!("NOCHAIN")),
            ("time", json!("yesterday")),
            ("time", json!(-1)),
            ("sender", json!("")),
            ("signature", json!(7)),
            ("item_type", json!("storage")),
            ("channel", json!("c".repeat(129))),
            ("item_content", json!("{}")),
        ] {
            let mut value = v1();
            value[field] = broken.clone();
            assert!(Envelope::parse(&value).is_err(), "{field} = {broken}");
        }
    }
}
