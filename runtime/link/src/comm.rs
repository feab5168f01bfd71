//! Messages on comms, and the two frames of the socket on which the child hears of them.

use serde::{Deserialize, Serialize};

use crate::MimeBundle;

/// One message on a comm, a channel between the code of cells and the clients (Jupyter's "custom messages"). From the
/// child it is in a [`crate::ToKernel::Comm`]; from a client it is in a [`ToldEvent`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommEvent {
    /// Names the comm, for all clients.
    pub comm_id: String,
    /// What happens to it.
    pub kind: CommKind,
    /// The target's own.
    pub data: serde_json::Value,
    /// Jupyter's metadata of the message.
    #[serde(default, skip_serializing_if = "MimeBundle::is_empty")]
    pub metadata: MimeBundle,
    /// Binary parts of the message; `data` says what they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64s")]
    pub buffers: Vec<Vec<u8>>,
}

/// What happens to a comm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommKind {
    /// It begins.
    Open {
        /// What the other end is to be.
        target_name: String,
    },
    /// Something is said.
    Message,
    /// It has ended.
    Close,
}

impl CommEvent {
    /// A comm begins.
    pub fn open(comm_id: impl Into<String>, target_name: &str, data: serde_json::Value) -> Self {
        let target_name = target_name.to_owned();
        Self::new(comm_id, CommKind::Open { target_name }, data)
    }

    /// Something is said on a comm.
    pub fn message(comm_id: impl Into<String>, data: serde_json::Value) -> Self {
        Self::new(comm_id, CommKind::Message, data)
    }

    /// A comm has ended.
    pub fn close(comm_id: impl Into<String>) -> Self {
        Self::new(comm_id, CommKind::Close, serde_json::json!({}))
    }

    fn new(comm_id: impl Into<String>, kind: CommKind, data: serde_json::Value) -> Self {
        Self {
            comm_id: comm_id.into(),
            kind,
            data,
            metadata: MimeBundle::new(),
            buffers: Vec::new(),
        }
    }
}

/// What a client said on a comm, on the socket beside the link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToldEvent {
    /// Names it.
    pub number: u64,
    /// What.
    pub event: CommEvent,
}

/// The child's answer to a [`ToldEvent`]: the code has heard it, and done what it wanted to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardEvent {
    /// Number of the event.
    pub number: u64,
}

/// Binary parts as base64 in the frame's JSON.
mod base64s {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(buffers: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(buffers.iter().map(|buffer| BASE64_STANDARD.encode(buffer)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let bytes = texts.iter().map(|text| BASE64_STANDARD.decode(text));
        bytes.collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}
