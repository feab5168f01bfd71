//! Requests to open and to sign, from a broker through the gateway to the owner's machine and back.
//!
//! The gateway relays both ways without reading them, but for the code of a refusal (see [`NOT_KNOWN_HERE`]); what stands
//! in a `Value` is the vault's and opaque here.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::broker::Wall;
use crate::model::ModelRecord;
use crate::problem::Problem;

/// Codes of a [`KeyReply::Refused`] by which a machine says that it does not know what is asked about, while another
/// machine of the account may. The gateway passes such a refusal on only when no machine knows better.
pub const NOT_KNOWN_HERE: [&str; 6] = [
    "unknown_name",
    "unknown_share",
    "not_prepared",
    "not_signed",
    "books_in_use",
    "ask_unknown",
];

/// What a broker asks of the owner's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRequest {
    /// The kernel's ephemeral public key, hex: of X-Wing, 1,216 bytes.
    pub kernel_key: String,
    /// What stands between this kernel's cells and keys, as its broker says; for a request to open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub walls: Vec<Wall>,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// The kinds of request.
#[expect(
    clippy::large_enum_variant,
    reason = "made a few times per publish, never kept in numbers"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Open a dataset or model for the kernel's key; answered by [`KeyReply::Opened`].
    Open {
        /// Its name or id.
        reference: String,
    },
    /// Say what to seal a publish with; answered by [`KeyReply::Prepared`].
    Prepare {
        /// Name of the model, without its owner.
        model: String,
    },
    /// Say which objects of a prepared publish the revision before has already; answered by [`KeyReply::Matched`].
    Match {
        /// Name of the model, without its owner.
        model: String,
        /// The vault's `Sealed` of a survey of them, for the owner's reader key.
        survey: Value,
        /// Shows that this comes from who was prepared for: [`match_text`] under the ticket.
        proof: String,
    },
    /// Sign the STORE messages of sealed objects; answered by [`KeyReply::Stores`].
    SignStores {
        /// Name of the model, without its owner.
        model: String,
        /// The objects, in the order of the answer.
        objects: Vec<StoreAsk>,
    },
    /// Sign and post head, grants and record; answered by [`KeyReply::Published`].
    SignPublish {
        /// Name of the model, without its owner.
        model: String,
        /// The vault's `UnsignedHead`.
        head: Value,
        /// The vault's `Sealed`: the epoch's secret wrapped for the owner's reader key.
        secret: Value,
        /// The record, with an empty `head`; of a private revision with what is said sealed under the epoch's secret.
        record: ModelRecord,
    },
    /// Say what to seal the next version of an own dataset with; answered by [`KeyReply::Prepared`].
    PrepareUpload {
        /// Name of the dataset, without its owner.
        dataset: String,
        /// Files in it, for the person who decides.
        files: u64,
        /// Sum of their sizes.
        bytes: u64,
        /// Sizes of those of a quarter of an object and more, which take objects of their own.
        large: Vec<u64>,
    },
    /// Sign the STORE messages of sealed objects; answered by [`KeyReply::Stores`].
    SignUploadStores {
        /// Name of the dataset, without its owner.
        dataset: String,
        /// The objects, in the order of the answer.
        objects: Vec<StoreAsk>,
        /// Shows that this comes from who was prepared for: [`stores_text`] under the ticket.
        proof: String,
    },
    /// Grant the version to all who could read the one before, sign and post its head; answered by [`KeyReply::Uploaded`].
    SignUpload {
        /// Name of the dataset, without its owner.
        dataset: String,
        /// The vault's `UnsignedHead`.
        head: Value,
        /// The vault's `Sealed`: the epoch's secret wrapped for the owner's reader key.
        secret: Value,
        /// Shows that this comes from who was prepared for: [`upload_text`] under the ticket.
        proof: String,
    },
}

impl Ask {
    /// Whether a person may be asked; the other steps follow from one that they agreed to.
    pub fn is_question(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Prepare { .. }
            | Self::SignPublish { .. }
            | Self::PrepareUpload { .. } => true,
            Self::Match { .. }
            | Self::SignStores { .. }
            | Self::SignUploadStores { .. }
            | Self::SignUpload { .. } => false,
        }
    }
}

/// What the proof of an [`Ask::Match`] is made of.
pub fn match_text(model: &str, survey: &Value) -> String {
    format!("match\n{model}\n{survey}")
}

/// What the proof of an [`Ask::SignUploadStores`] is made of.
pub fn stores_text(dataset: &str, objects: &[StoreAsk]) -> String {
    let objects = objects
        .iter()
        .map(|object| format!("\n{} {}", object.item_hash, object.size));
    format!("stores\n{dataset}{}", objects.collect::<String>())
}

/// What the proof of an [`Ask::SignUpload`] is made of: the hash of its head, hex. The head commits to the secret.
pub fn upload_text(dataset: &str, head: &str) -> String {
    format!("upload\n{dataset}\n{head}")
}

/// One object whose STORE message is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAsk {
    /// SHA-256 of the ciphertext, hex.
    pub item_hash: String,
    /// Bytes of the ciphertext.
    pub size: u64,
}

/// What the owner's machine answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum KeyReply {
    /// To [`Ask::Open`].
    Opened {
        /// The vault's `SignedHead` of the pinned version.
        head: Value,
        /// The vault's `Delegation` to the kernel's key.
        delegation: Value,
        /// Name of what is opened.
        name: String,
    },
    /// To [`Ask::Prepare`] and [`Ask::PrepareUpload`].
    Prepared {
        /// Address of the owner.
        owner: String,
        /// Id of the model's dataset, hex.
        dataset_id: String,
        /// The random part of that id, hex.
        id_random: String,
        /// Version to seal as.
        version: u64,
        /// Hash of the head before, hex; empty for the first.
        prev: String,
        /// Epoch to seal under; of a model's objects the first one's, and the manifest's comes after the last one's.
        epoch: u32,
        /// The owner's reader key, hex: of X-Wing, or of X25519.
        reader_key: String,
        /// Identity of the model; nil for a dataset.
        model_uuid: Uuid,
        /// The vault's `Sealed` of a secret for the kernel's key, by which the later steps of an upload are known to come from the
        /// one who was agreed to and not from the gateway between. Of a model it is for [`Ask::Match`], which an owner's machine that
        /// sends none does not know.
        #[serde(default)]
        ticket: Option<Value>,
        /// Whether the model is private: its next record is sealed, too.
        #[serde(default)]
        private: bool,
    },
    /// To [`Ask::Match`].
    Matched {
        /// The vault's `Sealed` for the key in the survey.
        answer: Value,
    },
    /// To [`Ask::SignStores`] and [`Ask::SignUploadStores`].
    Stores {
        /// Signed Aleph STORE envelopes in the order asked.
        messages: Vec<Value>,
    },
    /// To [`Ask::SignPublish`].
    Published {
        /// 40 hex digits.
        revision: String,
        /// Item hash of the head's message.
        head: String,
        /// Item hash of the record's message.
        record: String,
        /// Identity of the model.
        uuid: Uuid,
    },
    /// To [`Ask::SignUpload`].
    Uploaded {
        /// Version of the head.
        version: u64,
        /// Item hash of the head's message.
        head: String,
        /// Accounts that could read the version before, and have no key any more that this one could be wrapped for.
        without_key: Vec<String>,
    },
    /// The owner or a rule said no.
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// The kernel behind a request, as the gateway knows it; shown to the person who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// The kernel.
    pub id: Uuid,
    /// Name of the host it runs on.
    pub host: String,
    /// The host's trust line, one of the four strings of the interface.
    pub trust: String,
    /// When it started.
    pub started: String,
}

/// Gateway to the owner's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyCall {
    /// Identity of the call.
    pub id: Uuid,
    /// Who asks.
    pub kernel: KernelInfo,
    /// What is asked.
    pub request: KeyRequest,
}

/// Gateway to the owner's machine, in place of a call: there is something to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wake", rename_all = "snake_case")]
pub enum KeyWake {
    /// Something was sold: `GET /v1/sales?waiting=true`.
    Sales,
    /// Somebody who is signed in as the account wants to buy something: `GET /v1/purchases`.
    Purchases,
}

/// The owner's machine to the gateway. The first answer to a call counts, [`NOT_KNOWN_HERE`] only after all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyAnswer {
    /// The call.
    pub id: Uuid,
    /// The answer.
    pub reply: KeyReply,
}

/// `202` body of a request that waits: ask again at `/v1/keys/requests/{id}?wait=25`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Identity of the call.
    pub id: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_request_and_reply() {
        let request = KeyRequest {
            kernel_key: "00".into(),
            walls: Vec::new(),
            ask: Ask::Open {
                reference: "digits".into(),
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"kernel_key":"00","ask":"open","reference":"digits"}"#);
        assert_eq!(serde_json::from_str::<KeyRequest>(&text).unwrap(), request);
        let reply = KeyReply::Refused {
            problem: Problem::new("keys_refused", "no"),
        };
        let text = serde_json::to_string(&KeyAnswer {
            id: Uuid::nil(),
            reply: reply.clone(),
        })
        .unwrap();
        assert_eq!(serde_json::from_str::<KeyAnswer>(&text).unwrap().reply, reply);
    }
}
