//! The content of a message (reference, section 4): read from JSON and checked for form.
//!
//! Not here: whether the network accepts it (that is `rules`).

mod machine;

use aleph_types::{item_hash::ItemHash, message::MessageType};
use serde_json::{Map, Value};

use crate::{
    envelope::parse_hash,
    rejection::{ErrorCode, Rejection},
};

pub(crate) use machine::{Class, MODELS, Machine, card};

/// Most hashes that one FORGET names, in each of its lists.
const MAX_FORGET_TARGETS: usize = 1_000;
/// Longest reason of a FORGET, in characters.
const MAX_FORGET_REASON_CHARS: usize = 1_000;
/// Most tags of one message.
const MAX_TAGS: usize = 16;
/// Longest tag, in characters.
const MAX_TAG_CHARS: usize = 256;

/// Content of a message with the parts that rules and filters read.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// Owner of the object.
    pub(crate) address: String,
    /// Unix seconds; signed, so it orders amends and aggregate elements.
    pub(crate) time: f64,
    pub(crate) body: Body,
}

/// What differs between the message types.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Post {
        kind: String,
        reference: Option<String>,
        tags: Option<Vec<String>>,
    },
    Aggregate {
        key: String,
        tags: Option<Vec<String>>,
    },
    Store(StoreBody),
    Machine(Machine),
    Forget {
        hashes: Vec<String>,
        aggregates: Vec<String>,
    },
}

/// Content of a STORE.
#[derive(Debug, Clone)]
pub(crate) struct StoreBody {
    pub(crate) file_hash: String,
    pub(crate) on_ipfs: bool,
    pub(crate) reference: Option<String>,
    pub(crate) payment: Payment,
    pub(crate) tags: Option<Vec<String>>,
    /// Size the sender expects, in MiB; only price estimates carry it.
    pub(crate) estimated_size_mib: Option<f64>,
}

/// How a STORE or a machine is paid; absent means hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payment {
    Hold,
    Credit,
}

impl Payment {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Credit => "credit",
        }
    }
}

impl Content {
    /// Reads the content of a message of type `kind`.
    pub(crate) fn parse(kind: MessageType, value: &Value) -> Result<Self, Rejection> {
        let fields = value
            .as_object()
            .ok_or_else(|| Rejection::format("the content is not an object"))?;
        let body = match kind {
            MessageType::Post => post(fields)?,
            MessageType::Aggregate => aggregate(fields)?,
            MessageType::Store => Body::Store(store(fields)?),
            MessageType::Forget => forget(fields)?,
            MessageType::Instance | MessageType::VProgram => Body::Machine(machine::machine(kind, value)?),
            MessageType::Program => {
                return Err(Rejection::format(
                    "this local node does not take PROGRAM messages: nothing here would run them",
                ));
            }
        };
        let time = fields
            .get("time")
            .and_then(Value::as_f64)
            .filter(|time| *time >= 0.0);
        Ok(Self {
            address: required_text(fields, "address")?,
            time: time.ok_or_else(|| Rejection::format("content.time is not a number of seconds"))?,
            body,
        })
    }
}

fn post(fields: &Map<String, Value>) -> Result<Body, Rejection> {
    only(fields, &["address", "time", "type", "content", "ref"])?;
    let kind = required_text(fields, "type")?;
    let reference = optional_text(fields, "ref")?;
    if kind == "amend" && reference.is_none() {
        return Err(Rejection::new(
            ErrorCode::AmendWithoutTarget,
            "an amend needs the hash of the post in ref",
        ));
    }
    Ok(Body::Post {
        kind,
        reference,
        tags: nested_tags(fields)?,
    })
}

fn aggregate(fields: &Map<String, Value>) -> Result<Body, Rejection> {
    only(fields, &["address", "time", "key", "content"])?;
    let key = match fields.get("key") {
        Some(Value::String(key)) => key.clone(),
        // The network's oldest clients wrapped the key.
        Some(Value::Object(wrapped)) => required_text(wrapped, "name")?,
        _ => return Err(Rejection::format("content.key is not a text")),
    };
    if !fields.get("content").is_some_and(Value::is_object) {
        return Err(Rejection::format("the content of an aggregate is not an object"));
    }
    Ok(Body::Aggregate {
        key,
        tags: nested_tags(fields)?,
    })
}

fn store(fields: &Map<String, Value>) -> Result<StoreBody, Rejection> {
    let file_hash = required_text(fields, "item_hash")?;
    let on_ipfs = match (
        fields.get("item_type").and_then(Value::as_str),
        parse_hash(&file_hash),
    ) {
        (Some("storage"), Some(ItemHash::Native(_))) => false,
        (Some("ipfs"), Some(ItemHash::Ipfs(_))) => true,
        _ => {
            return Err(Rejection::format(
                "content.item_hash does not fit content.item_type",
            ));
        }
    };
    let payment = match fields.get("payment") {
        None | Some(Value::Null) => Payment::Hold,
        Some(payment) => match payment.get("type").and_then(Value::as_str) {
            Some("hold") => Payment::Hold,
            Some("credit") => Payment::Credit,
            _ => return Err(Rejection::format("a STORE is paid by hold or credit")),
        },
    };
    if !matches!(
        fields.get("metadata"),
        None | Some(Value::Null | Value::Object(_))
    ) {
        return Err(Rejection::format("content.metadata is not an object"));
    }
    Ok(StoreBody {
        file_hash,
        on_ipfs,
        reference: optional_text(fields, "ref")?,
        payment,
        tags: fields.get("tags").map(tags).transpose()?.flatten(),
        estimated_size_mib: fields.get("estimated_size_mib").and_then(Value::as_f64),
    })
}

fn forget(fields: &Map<String, Value>) -> Result<Body, Rejection> {
    let hashes = hash_list(fields, "hashes")?;
    let aggregates = hash_list(fields, "aggregates")?;
    if let Some(reason) = optional_text(fields, "reason")?
        && reason.chars().count() > MAX_FORGET_REASON_CHARS
    {
        return Err(Rejection::format("content.reason is too long"));
    }
    if hashes.is_empty() && aggregates.is_empty() {
        return Err(Rejection::new(
            ErrorCode::ForgetWithoutTarget,
            "a FORGET needs at least one hash",
        ));
    }
    Ok(Body::Forget { hashes, aggregates })
}

fn hash_list(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, Rejection> {
    let list = match fields.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_FORGET_TARGETS => list,
        Some(_) => {
            return Err(Rejection::format(format!(
                "content.{name} is not a list of at most 1,000 hashes"
            )));
        }
    };
    let hash = |entry: &Value| {
        entry
            .as_str()
            .filter(|hash| parse_hash(hash).is_some())
            .map(str::to_owned)
    };
    list.iter()
        .map(|entry| {
            hash(entry)
                .ok_or_else(|| Rejection::format(format!("content.{name} holds something that is no hash")))
        })
        .collect()
}

/// Tags of posts and aggregates stand inside the user's own object.
fn nested_tags(fields: &Map<String, Value>) -> Result<Option<Vec<String>>, Rejection> {
    match fields.get("content").and_then(|content| content.get("tags")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => tags(value),
    }
}

fn tags(value: &Value) -> Result<Option<Vec<String>>, Rejection> {
    let refuse = || Rejection::format("tags is not a list of at most 16 short texts");
    let list = match value {
        Value::Null => return Ok(None),
        Value::Array(list) if list.len() <= MAX_TAGS => list,
        _ => return Err(refuse()),
    };
    let tag = |entry: &Value| {
        entry
            .as_str()
            .filter(|tag| (1..=MAX_TAG_CHARS).contains(&tag.chars().count()))
            .map(str::to_owned)
    };
    list.iter()
        .map(tag)
        .collect::<Option<Vec<_>>>()
        .map(Some)
        .ok_or_else(refuse)
}

fn only(fields: &Map<String, Value>, allowed: &[&str]) -> Result<(), Rejection> {
    match fields.keys().find(|name| !allowed.contains(&name.as_str())) {
        Some(name) => Err(Rejection::format(format!(
            "content has a field that is not allowed: {name}"
        ))),
        None => Ok(()),
    }
}

fn required_text(fields: &Map<String, Value>, name: &str) -> Result<String, Rejection> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(Rejection::format(format!("content.{name} is not a text"))),
    }
}

fn optional_text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Rejection> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Rejection::format(format!("content.{name} is not a text"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn code(kind: MessageType, content: &Value) -> Option<i64> {
        Content::parse(kind, content)
            .err()
            .map(|rejection| rejection.code)
    }

    #[test]
    fn post_takes_no_unknown_field() {
        let content = json!({"address": "0xA", "time": 1.0, "type": "t", "content": 1});
        assert_eq!(code(MessageType::Post, &content), None);
        let mut unknown = content.clone();
        unknown["extra"] = json!(1);
        assert_eq!(code(MessageType::Post, &unknown), Some(0));
        let mut tagged = content;
        tagged["content"] = json!({"tags": "not-a-list"});
        assert_eq!(code(MessageType::Post, &tagged), Some(0));
    }

    #[test]
    fn amend_needs_a_target() {
        let content = json!({"address": "0xA", "time": 1.0, "type": "amend", "content": {}});
        assert_eq!(code(MessageType::Post, &content), Some(100));
    }

    #[test]
    fn store_ignores_unknown_fields_and_refuses_stream_payment() {
        let content = json!({"address": "0xA", "time": 1.0, "item_type": "storage", "item_hash": "a".repeat(64), "mime_type": "x"});
        assert_eq!(code(MessageType::Store, &content), None);
        let mut stream = content;
        stream["payment"] = json!({"type": "superfluid"});
        assert_eq!(code(MessageType::Store, &stream), Some(0));
    }

    #[test]
    fn forget_is_bounded_and_not_empty() {
        let content = |hashes: Value| json!({"address": "0xA", "time": 1.0, "hashes": hashes});
        assert_eq!(code(MessageType::Forget, &content(json!([]))), Some(500));
        assert_eq!(code(MessageType::Forget, &content(json!(["x"]))), Some(0));
        assert_eq!(
            code(MessageType::Forget, &content(json!(vec!["a".repeat(64); 1_001]))),
            Some(0)
        );
        assert_eq!(
            code(MessageType::Forget, &content(json!(vec!["a".repeat(64); 1_000]))),
            None
        );
    }

    #[test]
    fn programs_are_refused_in_words() {
        let rejection = Content::parse(MessageType::Program, &json!({})).unwrap_err();
        assert_eq!(rejection.code, 0);
        assert!(rejection.errors[0].as_str().unwrap().contains("PROGRAM"));
    }
}
