//! Jupyter messages on ZeroMQ: delimiter, signature and the four JSON parts, in and out.
//!
//! Not here: what the messages mean. The only JSON read is the small header of the agent's own requests.

use alephlab_api::time;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;
use zeromq::ZmqMessage;

use crate::error::{AgentError, Result};

const DELIMITER: &[u8] = b"<IDS|MSG>";
/// Header, parent header, metadata, content.
const JSON_PARTS: usize = 4;
/// More buffers than any widget sends.
const MAX_PARTS: usize = 1024;

/// Signs and checks messages with a connection file's key (HMAC-SHA256).
#[derive(Clone)]
pub(crate) struct Signer(Hmac<Sha256>);

impl Signer {
    pub(crate) fn new(key: &str) -> Result<Self> {
        Hmac::new_from_slice(key.as_bytes())
            .map(Self)
            .map_err(|_| AgentError::Message {
                channel: "connection file",
                reason: "its key is unusable",
            })
    }

    fn mac(&self, parts: &[Bytes]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().take(JSON_PARTS).for_each(|part| mac.update(part));
        mac
    }
}

/// A message with its signature, ready for a DEALER socket.
pub(crate) fn to_zmq(signer: &Signer, parts: &[Bytes]) -> Result<ZmqMessage> {
    let refused = |reason| AgentError::Message {
        channel: "client",
        reason,
    };
    if !(JSON_PARTS..=MAX_PARTS).contains(&parts.len()) {
        return Err(refused(
            "it has not four JSON parts and at most a thousand buffers",
        ));
    }
    let signature = hex::encode(signer.mac(parts).finalize().into_bytes());
    let mut frames = vec![Bytes::from_static(DELIMITER), Bytes::from(signature)];
    frames.extend_from_slice(parts);
    ZmqMessage::try_from(frames).map_err(|_| refused("it is empty"))
}

/// The parts of a message whose signature is right.
pub(crate) fn from_zmq(signer: &Signer, channel: &'static str, message: ZmqMessage) -> Result<Vec<Bytes>> {
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
    let signature = hex::decode(parts.remove(0)).map_err(|_| refused("its signature is not hex"))?;
    signer
        .mac(&parts)
        .verify_slice(&signature)
        .map_err(|_| refused("its signature is wrong"))?;
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
        let signer = Signer::new("key").unwrap();
        let mut parts = request("kernel_info_request", &json!({}));
        parts.push(Bytes::from_static(&[0xff, 0]));
        let mut message = to_zmq(&signer, &parts).unwrap();
        message.push_front(Bytes::from_static(b"topic"));
        assert_eq!(from_zmq(&signer, "shell", message).unwrap(), parts);
    }

    #[test]
    fn refuses_a_wrong_key_and_a_missing_delimiter() {
        let parts = request("x", &json!({}));
        let message = to_zmq(&Signer::new("a").unwrap(), &parts).unwrap();
        let other = Signer::new("b").unwrap();
        assert_eq!(
            from_zmq(&other, "shell", message).unwrap_err().code(),
            "kernel_message"
        );
        assert!(from_zmq(&other, "shell", ZmqMessage::from("x")).is_err());
        assert!(to_zmq(&other, &parts[..3]).is_err());
    }
}
