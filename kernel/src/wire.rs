//! Jupyter's messages as frames: identities, delimiter, signature, four JSON parts, buffers.
//!
//! The header of a request is kept as the bytes that came, and echoed as the parent of everything that answers
//! it: parsing and printing it again would lose fields that we do not know. Called by the sockets and iopub.
//! Not here: what the messages mean.

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

/// Ends the routing identities.
const DELIMITER: &[u8] = b"<IDS|MSG>";
/// Version of the messaging protocol in headers and `kernel_info_reply`.
pub(crate) const PROTOCOL_VERSION: &str = "5.5";

/// A message that came in, its signature checked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Routing identities, to be put in front of the reply.
    pub identities: Vec<Bytes>,
    /// The header's `msg_type`.
    pub msg_type: String,
    /// The header's `msg_id`.
    pub msg_id: String,
    /// What answers to this request carry as their parent.
    pub parent: Parent,
    /// The header of the message that this one answers.
    pub parent_msg_id: Option<String>,
    /// The header's `subshell_id` (JEP 91); none for the main shell.
    pub subshell_id: Option<String>,
    /// The metadata, not yet looked at.
    pub metadata: Value,
    /// The content, not yet looked at.
    pub content: Value,
    /// Binary parts behind the content; the signature does not cover them.
    pub buffers: Vec<Bytes>,
}

/// The header of a request, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent(Bytes);

impl Parent {
    /// For messages that answer nothing.
    pub fn none() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// For messages that answer the one with this header.
    pub fn of(header: &Value) -> Self {
        Self(Bytes::from(header.to_string()))
    }
}

/// Why a message is dropped. Nothing is answered: who cannot sign gets no hint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// No delimiter or too few frames.
    Shape,
    /// Wrong signature.
    Signature,
    /// A header that is no JSON object with `msg_type`.
    Header,
}

/// Makes and checks messages of one kernel process.
pub struct Session {
    id: String,
    key: Option<Hmac<Sha256>>,
}

impl Session {
    /// A session with a new id; an empty key means unsigned.
    pub fn new(key: &[u8]) -> Self {
        let key = if key.is_empty() {
            None
        } else {
            Hmac::new_from_slice(key).ok()
        };
        Self {
            id: Uuid::new_v4().to_string(),
            key,
        }
    }

    /// Frames of a message. `msg_id` is new each time, so no two messages have one signature (clients drop
    /// repeated signatures as replays).
    pub fn encode(
        &self,
        msg_type: &str,
        parent: &Parent,
        metadata: &Value,
        content: &impl Serialize,
    ) -> Parts {
        let content = serde_json::to_vec(content).unwrap_or_else(|_| b"{}".to_vec());
        self.encode_json(msg_type, parent, metadata, content)
    }

    /// The same for content that is a JSON object already.
    pub(crate) fn encode_json(
        &self,
        msg_type: &str,
        parent: &Parent,
        metadata: &Value,
        content: Vec<u8>,
    ) -> Parts {
        let msg_id = Uuid::new_v4().to_string();
        let header = json!({
            "msg_id": msg_id,
            "session": self.id,
            "username": "kernel",
            "date": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            "msg_type": msg_type,
            "version": PROTOCOL_VERSION,
        });
        let parts = [
            Bytes::from(header.to_string()),
            parent.0.clone(),
            Bytes::from(metadata.to_string()),
            Bytes::from(content),
        ];
        let signature = Bytes::from(self.sign(&parts));
        Parts {
            msg_id,
            signature,
            parts,
            buffers: Vec::new(),
        }
    }

    /// Checks and takes apart what came from a ROUTER socket.
    pub(crate) fn decode(&self, frames: &[Bytes]) -> Result<Request, Dropped> {
        let at = frames
            .iter()
            .position(|frame| frame == DELIMITER)
            .ok_or(Dropped::Shape)?;
        let (identities, rest) = frames.split_at(at);
        let [_, signature, header, parent, metadata, content, buffers @ ..] = rest else {
            return Err(Dropped::Shape);
        };
        self.verify(signature, &[header, parent, metadata, content])?;
        let fields: Value = serde_json::from_slice(header).map_err(|_| Dropped::Header)?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let parent_fields: Value = serde_json::from_slice(parent).unwrap_or_default();
        Ok(Request {
            identities: identities.to_vec(),
            msg_type: text("msg_type").ok_or(Dropped::Header)?,
            msg_id: text("msg_id").unwrap_or_default(),
            parent: Parent(header.clone()),
            parent_msg_id: parent_fields
                .get("msg_id")
                .and_then(Value::as_str)
                .map(str::to_owned),
            subshell_id: text("subshell_id"),
            metadata: serde_json::from_slice(metadata).unwrap_or_default(),
            content: serde_json::from_slice(content).unwrap_or_default(),
            buffers: buffers.to_vec(),
        })
    }

    fn sign(&self, parts: &[Bytes; 4]) -> String {
        let Some(key) = &self.key else {
            return String::new();
        };
        let mut mac = key.clone();
        for part in parts {
            mac.update(part);
        }
        hex::encode(mac.finalize().into_bytes())
    }

    fn verify(&self, signature: &[u8], parts: &[&Bytes; 4]) -> Result<(), Dropped> {
        let Some(key) = &self.key else { return Ok(()) };
        let mut mac = key.clone();
        for part in parts {
            mac.update(part);
        }
        let signature = hex::decode(signature).map_err(|_| Dropped::Signature)?;
        // Constant time.
        mac.verify_slice(&signature).map_err(|_| Dropped::Signature)
    }
}

/// A signed message without its routing prefix.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The header's id.
    pub msg_id: String,
    signature: Bytes,
    parts: [Bytes; 4],
    buffers: Vec<Bytes>,
}

impl Parts {
    /// The same message with binary parts behind its content.
    pub fn with_buffers(mut self, buffers: Vec<Bytes>) -> Self {
        self.buffers = buffers;
        self
    }

    /// All frames, behind identities (ROUTER) or a topic (XPUB).
    pub fn frames(self, prefix: &[Bytes]) -> Vec<Bytes> {
        let mut frames = prefix.to_vec();
        frames.push(Bytes::from_static(DELIMITER));
        frames.push(self.signature);
        frames.extend(self.parts);
        frames.extend(self.buffers);
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(session: &Session) -> Vec<Bytes> {
        let parts = session.encode("x_request", &Parent::none(), &json!({}), &json!({ "a": 1 }));
        parts.frames(&[Bytes::from_static(b"client")])
    }

    #[test]
    fn a_signed_message_comes_back_with_its_raw_header() {
        let session = Session::new(b"key");
        let sent = frames(&session);
        let request = session.decode(&sent).unwrap();
        assert_eq!(request.msg_type, "x_request");
        assert_eq!(request.content, json!({ "a": 1 }));
        assert_eq!(request.parent.0, sent[3]);
        assert_eq!(request.identities, [Bytes::from_static(b"client")]);
    }

    #[test]
    fn a_changed_byte_or_another_key_is_refused() {
        let session = Session::new(b"key");
        let mut sent = frames(&session);
        sent[6] = Bytes::from_static(b"{\"a\":2}");
        assert_eq!(session.decode(&sent).unwrap_err(), Dropped::Signature);
        assert_eq!(
            Session::new(b"other").decode(&frames(&session)).unwrap_err(),
            Dropped::Signature
        );
        assert_eq!(
            session.decode(&frames(&session)[..4]).unwrap_err(),
            Dropped::Shape
        );
    }

    #[test]
    fn buffers_come_back_as_they_went_also_empty_ones() {
        let session = Session::new(b"key");
        let buffers = vec![Bytes::from_static(b"\0\xff"), Bytes::new()];
        let parts = session.encode("comm_msg", &Parent::none(), &json!({}), &json!({}));
        let sent = parts.with_buffers(buffers.clone()).frames(&[]);
        assert_eq!(session.decode(&sent).unwrap().buffers, buffers);
        assert_eq!(session.decode(&sent[..6]).unwrap().buffers, Vec::<Bytes>::new());
    }

    #[test]
    fn an_empty_key_means_no_signature() {
        let session = Session::new(b"");
        let sent = frames(&session);
        assert!(sent[2].is_empty());
        assert!(session.decode(&sent).is_ok());
    }

    #[test]
    fn content_that_is_no_json_keeps_the_request_answerable() {
        let session = Session::new(b"");
        let mut sent = frames(&session);
        sent[6] = Bytes::from_static(b"\xff");
        assert_eq!(session.decode(&sent).unwrap().content, Value::Null);
    }
}
