//! Jupyter messages on ZeroMQ: delimiter, signature and the four JSON parts, in and out.
//!
//! Messages are not signed, as Jupyter writes it with an empty key: whoever reaches the sockets of a kernel reads the connection
//! file beside them. Not here: what the messages mean. The only JSON read is the small header of the agent's own requests.

use alephlab_api::time;
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;
use zeromq::ZmqMessage;

use crate::error::{AgentError, Result};

const DELIMITER: &[u8] = b"<IDS|MSG>";
/// Header, parent header, metadata, content.
const JSON_PARTS: usize = 4;
/// More buffers than any widget sends.
const MAX_PARTS: usize = 1024;

/// A message ready for a DEALER socket.
pub(crate) fn to_zmq(parts: &[Bytes]) -> Result<ZmqMessage> {
    let refused = |reason| AgentError::Message {
        channel: "client",
        reason,
    };
    if !(JSON_PARTS..=MAX_PARTS).contains(&parts.len()) {
        return Err(refused(
            "it has not four JSON parts and at most a thousand buffers",
        ));
    }
    let mut frames = vec![Bytes::from_static(DELIMITER), Bytes::new()];
    frames.extend_from_slice(parts);
    ZmqMessage::try_from(frames).map_err(|_| refused("it is empty"))
}

/// The parts of a message, whatever it is signed with.
pub(crate) fn from_zmq(channel: &'static str, message: ZmqMessage) -> Result<Vec<Bytes>> {
    let refused = |reason| AgentError::Message { channel, reason };
    let mut frames = message.into_vec();
    let delimiter = frames.iter().position(|frame| frame.as_ref() == DELIMITER);
    let Some(delimiter) = delimiter else {
        return Err(refused("it has no delimiter"));
    };
    let mut parts = frames.split_off(delimiter + 1);
    if !(JSON_PARTS + 1..=MAX_PARTS).contains(&parts.len()) {
        return Err(refused(
            "it has not four JSON parts and at most a thousand buffers",
        ));
    }
    parts.remove(0);
    Ok(parts)
}

/// A request of the agent itself.
pub(crate) fn request(kind: &str, content: &Value) -> Vec<Bytes> {
    let header = json!({
        "msg_id": Uuid::new_v4(), "session": "alephlab-agent", "username": "alephlab", "date": time::now(),
        "msg_type": kind, "version": "5.3",
    });
    let part = |value: &Value| Bytes::from(value.to_string());
    vec![part(&header), part(&json!({})), part(&json!({})), part(content)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_with_buffers() {
        let mut parts = request("kernel_info_request", &json!({}));
        parts.push(Bytes::from_static(&[0xff, 0]));
        let mut message = to_zmq(&parts).unwrap();
        message.push_front(Bytes::from_static(b"topic"));
        assert_eq!(from_zmq("shell", message).unwrap(), parts);
    }

    #[test]
    fn refuses_a_missing_delimiter_and_missing_parts() {
        let parts = request("x", &json!({}));
        let refused = from_zmq("shell", ZmqMessage::from("x")).unwrap_err();
        assert_eq!(refused.code(), "kernel_message");
        assert!(to_zmq(&parts[..3]).is_err());
        let short = vec![Bytes::from_static(DELIMITER), Bytes::new(), Bytes::new()];
        assert!(from_zmq("shell", ZmqMessage::try_from(short).unwrap()).is_err());
    }
}
