//! Kernel messages on WebSockets, in both framings that Jupyter's clients speak.
//!
//! Legacy: one JSON text, or a binary frame when there are buffers (big-endian `u32` count and offsets, JSON, buffers).
//! `v1.kernel.websocket.jupyter.org`: binary, little-endian `u64` count and offsets, then channel, header, parent header,
//! metadata, content, buffers. Not here: what messages mean, beyond type and id.

use alephlab_api::jupyter::Channel;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use uuid::Uuid;

/// The subprotocol of the second framing.
pub(crate) const V1: &str = "v1.kernel.websocket.jupyter.org";

/// Header, parent header, metadata, content.
const JSON_PARTS: usize = 4;
/// Which of them is the content.
pub(crate) const CONTENT: usize = 3;
/// More buffers than any widget sends.
const MAX_BUFFERS: usize = 1024;

/// A Jupyter message: four JSON parts, then buffers, all as they came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KernelMessage {
    pub(crate) channel: Channel,
    pub(crate) msg_type: String,
    msg_id: String,
    parts: Vec<Bytes>,
}

/// A frame for a client of the legacy framing.
pub(crate) enum Legacy {
    Text(String),
    Binary(Vec<u8>),
}

#[derive(Deserialize)]
struct Header {
    msg_id: String,
    msg_type: String,
}

/// Why a frame is no message, in one sentence for the client's log.
pub(crate) type Refused = &'static str;

impl KernelMessage {
    /// Takes parts from outside, checking that the first four are JSON objects.
    pub(crate) fn new(channel: Channel, parts: Vec<Bytes>) -> Result<Self, Refused> {
        if !(JSON_PARTS..=JSON_PARTS + MAX_BUFFERS).contains(&parts.len()) {
            return Err("a message has four JSON parts and at most a thousand buffers");
        }
        for part in &parts[..JSON_PARTS] {
            let text = std::str::from_utf8(part).map_err(|_| "a part of the message is not UTF-8")?;
            if !text.trim_start().starts_with('{') || serde_json::from_str::<IgnoredAny>(text).is_err() {
                return Err("a part of the message is not a JSON object");
            }
        }
        let Header { msg_id, msg_type } = serde_json::from_slice(&parts[0])
            .map_err(|_| "the message's header has no msg_id and msg_type")?;
        Ok(Self {
            channel,
            msg_type,
            msg_id,
            parts,
        })
    }

    /// A message of the gateway itself, as output of the kernel.
    pub(crate) fn notice(msg_type: &str, content: &Value) -> Self {
        let msg_id = Uuid::new_v4().to_string();
        let header = json!({
            "msg_id": msg_id, "session": "alephlab-gateway", "username": "alephlab",
            "date": alephlab_api::time::now(), "msg_type": msg_type, "version": "5.3",
        });
        let part = |value: &Value| Bytes::from(value.to_string());
        let parts = vec![part(&header), part(&json!({})), part(&json!({})), part(content)];
        Self {
            channel: Channel::Iopub,
            msg_type: msg_type.to_owned(),
            msg_id,
            parts,
        }
    }

    /// An answer of the gateway itself in place of the kernel's.
    pub(crate) fn answer(channel: Channel, msg_type: &str, request: &Self, content: &Value) -> Self {
        let mut answer = Self::notice(msg_type, content).under(request);
        answer.channel = channel;
        answer
    }

    /// The same as an answer to a client's request.
    pub(crate) fn under(mut self, request: &Self) -> Self {
        self.parts[1] = request.parts[0].clone();
        self
    }

    /// A sentence for the person at the notebook.
    pub(crate) fn sentence(text: &str) -> Self {
        Self::notice(
            "stream",
            &json!({ "name": "stderr", "text": format!("{text}\n") }),
        )
    }

    /// The same as an answer to what another message answers: clients show it in the same cell.
    pub(crate) fn beside(mut self, other: &Self) -> Self {
        self.parts[1] = other.parts[1].clone();
        self
    }

    pub(crate) fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    pub(crate) fn msg_id(&self) -> &str {
        &self.msg_id
    }

    /// The message that this one answers.
    pub(crate) fn parent_id(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Parent {
            msg_id: String,
        }
        let parent: Option<Parent> = serde_json::from_slice(&self.parts[1]).ok();
        parent.map(|parent| parent.msg_id)
    }

    pub(crate) fn metadata(&self) -> Value {
        serde_json::from_slice(&self.parts[2]).unwrap_or_default()
    }

    pub(crate) fn content(&self) -> Value {
        serde_json::from_slice(&self.parts[CONTENT]).unwrap_or_default()
    }

    pub(crate) fn has_buffers(&self) -> bool {
        self.parts.len() > JSON_PARTS
    }

    /// The same without its buffers.
    pub(crate) fn without_buffers(&self) -> Self {
        let mut message = self.clone();
        message.parts.truncate(JSON_PARTS);
        message
    }

    /// Bytes that it holds.
    pub(crate) fn size(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() + 256
    }

    /// `execution_state` of a `status` message.
    pub(crate) fn execution_state(&self) -> Option<String> {
        if self.msg_type != "status" || self.channel != Channel::Iopub {
            return None;
        }
        let content: Value = serde_json::from_slice(&self.parts[CONTENT]).ok()?;
        content["execution_state"].as_str().map(str::to_owned)
    }

    /// Encodes for v1.
    pub(crate) fn to_v1(&self) -> Vec<u8> {
        let count = self.parts.len() + 2;
        let mut at = 8 * (count + 1);
        let mut frame = Vec::with_capacity(at + self.size());
        frame.extend_from_slice(&as_u64(count).to_le_bytes());
        let channel = self.channel.name().as_bytes();
        for length in std::iter::once(channel.len()).chain(self.parts.iter().map(Bytes::len)) {
            frame.extend_from_slice(&as_u64(at).to_le_bytes());
            at += length;
        }
        frame.extend_from_slice(&as_u64(at).to_le_bytes());
        frame.extend_from_slice(channel);
        self.parts.iter().for_each(|part| frame.extend_from_slice(part));
        frame
    }

    /// Encodes for the legacy framing: text, or binary when it has buffers.
    pub(crate) fn to_legacy(&self) -> Result<Legacy, Refused> {
        let text = |at: usize| std::str::from_utf8(&self.parts[at]).map_err(|_| "a part is not UTF-8");
        let (id, kind) = (
            Value::from(self.msg_id.as_str()),
            Value::from(self.msg_type.as_str()),
        );
        let json = format!(
            r#"{{"header":{},"msg_id":{id},"msg_type":{kind},"parent_header":{},"metadata":{},"content":{},"buffers":[],"channel":"{}"}}"#,
            text(0)?,
            text(1)?,
            text(2)?,
            text(3)?,
            self.channel.name()
        );
        if !self.has_buffers() {
            return Ok(Legacy::Text(json));
        }
        let buffers = &self.parts[JSON_PARTS..];
        let count = buffers.len() + 1;
        let mut at = 4 * (count + 1);
        let mut frame = Vec::with_capacity(at + self.size());
        frame.extend_from_slice(&as_u32(count)?.to_be_bytes());
        for length in std::iter::once(json.len()).chain(buffers.iter().map(Bytes::len)) {
            frame.extend_from_slice(&as_u32(at)?.to_be_bytes());
            at += length;
        }
        frame.extend_from_slice(json.as_bytes());
        buffers.iter().for_each(|buffer| frame.extend_from_slice(buffer));
        Ok(Legacy::Binary(frame))
    }

    /// Decodes v1.
    pub(crate) fn from_v1(frame: &Bytes) -> Result<Self, Refused> {
        let number = |at: usize| -> Result<usize, Refused> {
            let raw = frame
                .get(8 * at..8 * (at + 1))
                .and_then(|raw| <[u8; 8]>::try_from(raw).ok());
            let raw = raw.ok_or("the frame is shorter than its offsets")?;
            usize::try_from(u64::from_le_bytes(raw)).map_err(|_| "an offset is too large")
        };
        let count = number(0)?;
        if !(JSON_PARTS + 2..=JSON_PARTS + MAX_BUFFERS + 2).contains(&count) {
            return Err("the frame has too few or too many offsets");
        }
        let offsets = (1..=count).map(number).collect::<Result<Vec<_>, _>>()?;
        let mut parts = cut(frame, &offsets)?;
        let channel = std::str::from_utf8(&parts.remove(0))
            .ok()
            .and_then(Channel::parse);
        Self::new(channel.ok_or("the frame names no channel")?, parts)
    }

    /// Decodes a legacy text frame.
    pub(crate) fn from_legacy_text(text: &str) -> Result<Self, Refused> {
        let message = serde_json::from_str(text).map_err(|_| "the frame is not JSON")?;
        Self::from_legacy(&message, Vec::new())
    }

    /// Decodes a legacy binary frame.
    pub(crate) fn from_legacy_binary(frame: &Bytes) -> Result<Self, Refused> {
        let number = |at: usize| -> Result<usize, Refused> {
            let raw = frame
                .get(4 * at..4 * (at + 1))
                .and_then(|raw| <[u8; 4]>::try_from(raw).ok());
            let raw = raw.ok_or("the frame is shorter than its offsets")?;
            usize::try_from(u32::from_be_bytes(raw)).map_err(|_| "an offset is too large")
        };
        let count = number(0)?;
        if !(1..=MAX_BUFFERS + 1).contains(&count) {
            return Err("the frame has too few or too many offsets");
        }
        let mut offsets = (1..=count).map(number).collect::<Result<Vec<_>, _>>()?;
        offsets.push(frame.len());
        let mut pieces = cut(frame, &offsets)?;
        let json = pieces.remove(0);
        Self::from_legacy(
            &serde_json::from_slice(&json).map_err(|_| "the frame's JSON is not JSON")?,
            pieces,
        )
    }

    fn from_legacy(message: &Value, buffers: Vec<Bytes>) -> Result<Self, Refused> {
        let channel = message["channel"]
            .as_str()
            .and_then(Channel::parse)
            .ok_or("the message names no channel")?;
        let mut parts = Vec::with_capacity(JSON_PARTS + buffers.len());
        for key in ["header", "parent_header", "metadata", "content"] {
            let part = match &message[key] {
                // Some clients leave out what is empty, or write null.
                Value::Null => "{}".to_owned(),
                part => part.to_string(),
            };
            parts.push(Bytes::from(part));
        }
        parts.extend(buffers);
        Self::new(channel, parts)
    }
}

fn cut(frame: &Bytes, offsets: &[usize]) -> Result<Vec<Bytes>, Refused> {
    offsets
        .windows(2)
        .map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            if from > to || to > frame.len() {
                Err("an offset lies outside the frame")
            } else {
                Ok(frame.slice(from..to))
            }
        })
        .collect()
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn as_u32(number: usize) -> Result<u32, Refused> {
    u32::try_from(number).map_err(|_| "the message is over 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(buffers: &[&'static [u8]]) -> KernelMessage {
        let mut parts: Vec<Bytes> = [
            r#"{"msg_id":"1","msg_type":"comm_msg","é":1}"#,
            "{}",
            "{}",
            r#"{"a":[1.50]}"#,
        ]
        .into_iter()
        .map(Bytes::from_static_str)
        .collect();
        parts.extend(buffers.iter().map(|buffer| Bytes::from_static(buffer)));
        KernelMessage::new(Channel::Shell, parts).unwrap()
    }

    trait FromText {
        fn from_static_str(text: &'static str) -> Self;
    }

    impl FromText for Bytes {
        fn from_static_str(text: &'static str) -> Self {
            Self::from_static(text.as_bytes())
        }
    }

    const BUFFERS: [&[u8]; 3] = [&[0xff, 0, 0xfe], b"", b"x"];

    #[test]
    fn v1_round_trips_byte_for_byte() {
        let sent = message(&BUFFERS);
        assert_eq!(KernelMessage::from_v1(&Bytes::from(sent.to_v1())).unwrap(), sent);
    }

    #[test]
    fn legacy_round_trips_with_and_without_buffers() {
        let Legacy::Binary(frame) = message(&BUFFERS).to_legacy().unwrap() else {
            panic!("buffers need binary")
        };
        let back = KernelMessage::from_legacy_binary(&Bytes::from(frame)).unwrap();
        assert_eq!(&back.parts()[4..], &message(&BUFFERS).parts()[4..]);
        let Legacy::Text(text) = message(&[]).to_legacy().unwrap() else {
            panic!("no buffers need no binary")
        };
        let back = KernelMessage::from_legacy_text(&text).unwrap();
        assert_eq!(
            (back.channel, back.msg_type.as_str()),
            (Channel::Shell, "comm_msg")
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["msg_id"], "1");
    }

    #[test]
    fn refuses_frames_that_lie() {
        let good = Bytes::from(message(&[b"x"]).to_v1());
        for length in [0, 7, 8, 40, good.len() - 1] {
            assert!(
                KernelMessage::from_v1(&good.slice(..length)).is_err(),
                "{length} bytes"
            );
        }
        let mut far = good.to_vec();
        far[8] = 0xff;
        assert!(KernelMessage::from_v1(&Bytes::from(far)).is_err());
        assert!(KernelMessage::from_legacy_binary(&Bytes::from_static(&[0, 0, 0, 1, 0, 0, 0, 99])).is_err());
        for text in [
            "",
            "[]",
            "{}",
            r#"{"channel":"shell","header":{}}"#,
            r#"{"channel":"hb","header":{"msg_id":"1","msg_type":"x"}}"#,
        ] {
            assert!(KernelMessage::from_legacy_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_the_state_from_status_only() {
        let status = KernelMessage::notice("status", &json!({ "execution_state": "busy" }));
        assert_eq!(status.execution_state().as_deref(), Some("busy"));
        assert_eq!(KernelMessage::sentence("x").execution_state(), None);
    }
}
