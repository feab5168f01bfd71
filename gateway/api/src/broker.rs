//! What the runtime in a cell and the broker beside it say to each other.
//!
//! Newline-delimited JSON over a Unix socket, one [`Request`] at a time per connection, answered by any number of
//! progress events and exactly one [`Event::Done`], [`Event::Secret`] or [`Event::Failed`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::Card;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::secrets::SecretName;

/// One request of a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the asker; every event of this request carries it.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub op: Op,
}

/// What a cell may ask of its broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Make a dataset readable as files; answered by [`Mounted`].
    Mount {
        /// Name or id of the dataset.
        reference: String,
    },
    /// Seal files as a new revision of a model and have the owner sign it; answered by [`Published`].
    Publish {
        /// Name of the model, without its owner.
        name: String,
        /// What its `README.md` says.
        card: Card,
        /// Its files.
        files: Vec<PublishFile>,
    },
    /// Seal a folder or file as the next version of an own dataset and have the owner sign it; answered by [`Uploaded`].
    Upload {
        /// Name of the dataset, without its owner.
        name: String,
        /// The folder or file.
        path: PathBuf,
        /// What it is, for people; public to readers only.
        description: Option<String>,
        /// Its licence.
        licence: Option<String>,
    },
    /// Fetch a model; answered by [`Pulled`].
    Pull {
        /// `owner/name[@rev]`, or the UUID of a share (then `token` is required).
        reference: String,
        /// The share's token.
        token: Option<Secret>,
    },
    /// Read a secret of the kernel's account; answered by [`Event::Secret`].
    Secret {
        /// Its name.
        name: SecretName,
    },
    /// Tell what is open, and how well it is kept from others; answered by [`BrokerStatus`].
    Status,
}

/// A file to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishFile {
    /// Path inside the model.
    pub name: String,
    /// Where its bytes are now.
    pub path: PathBuf,
}

/// What the broker says while and after it works.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How far a phase has come.
    Progress {
        /// The request.
        id: u64,
        /// Name of the phase, for people.
        phase: String,
        /// Units done.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
        /// What is counted: `bytes`, `objects`.
        unit: String,
    },
    /// Somebody has to act before it goes on.
    Waiting {
        /// The request.
        id: u64,
        /// What to do, such as "approve on your machine: alephlab keys".
        message: String,
    },
    /// The request succeeded.
    Done {
        /// The request.
        id: u64,
        /// A [`Mounted`], [`Published`], [`Uploaded`], [`Pulled`] or [`BrokerStatus`].
        result: serde_json::Value,
    },
    /// The request for a secret succeeded. An event of its own, so that the value is never a plain text here.
    Secret {
        /// The request.
        id: u64,
        /// The secret's value.
        value: Secret,
    },
    /// The request failed, and nothing of it remains.
    Failed {
        /// The request.
        id: u64,
        /// Why.
        error: Problem,
    },
}

/// A dataset that is readable now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Folder with its files.
    pub path: PathBuf,
    /// Its id in hex.
    pub dataset_id: String,
    /// Its name.
    pub name: String,
    /// The version that is pinned.
    pub version: u64,
    /// Its title.
    pub title: String,
    /// Its description.
    pub description: String,
    /// Its licence.
    pub licence: String,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Who can read it here, in one sentence.
    pub trust: String,
    /// Who signed this version: the account's address.
    pub owner: String,
    /// When its files can no longer be read, unix seconds.
    pub expires: u64,
    /// How its files are made readable.
    pub access: Access,
}

/// How files are made readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Access {
    /// By a file system that fetches and decrypts what is read.
    Mounted,
    /// All of them were written into a folder.
    Copied {
        /// Why they are not mounted.
        why: String,
    },
}

/// What a broker has open, and how well it is kept from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Datasets and models.
    pub opened: Vec<OpenedStatus>,
    /// What stands between cells and keys.
    pub walls: Vec<Wall>,
}

/// Something that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// Folder with its files.
    pub path: PathBuf,
    /// How its files are made readable.
    pub access: Access,
    /// When its files can no longer be read, unix seconds; none for no end.
    pub expires: Option<u64>,
    /// That time has come.
    pub is_over: bool,
    /// The last read that failed: the program that read was told no more than "input/output error".
    pub failure: Option<ReadFailure>,
}

/// A read that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFailure {
    /// Of which file.
    pub path: String,
    /// Stable code.
    pub code: String,
    /// Why.
    pub message: String,
}

/// Walls that a policy can ask for, by their ids: the container's owners name them, so they never change.
pub const WALLS: [&str; 6] = [
    "undumpable",
    "no-core-dump",
    "locked-memory",
    "no-swap",
    "no-power",
    "other-user",
];

/// Something that stands between cells and keys, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// One of [`WALLS`].
    pub id: String,
    /// What it is.
    pub name: String,
    /// Why it does not stand; nothing when it does.
    pub missing: Option<String>,
}

/// A revision that is published and signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// `owner/name`.
    pub name: String,
    /// Identity of the model.
    pub uuid: Uuid,
    /// 40 hex digits.
    pub revision: String,
    /// Item hash of the head's message.
    pub head: String,
    /// Item hash of the record's message.
    pub record: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A version of a dataset that is stored and signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Its name, without its owner.
    pub name: String,
    /// Its id in hex.
    pub dataset_id: String,
    /// The version.
    pub version: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Accounts that could read the version before, and cannot read this one because they have no key any more.
    pub without_key: Vec<String>,
}

/// A model that is readable now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pulled {
    /// Folder with its files.
    pub path: PathBuf,
    /// `owner/name`.
    pub name: String,
    /// 40 hex digits.
    pub revision: String,
    /// Relative paths, sorted.
    pub files: Vec<String>,
    /// What its publisher says.
    pub card: Option<Card>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_the_operation_beside_the_id() {
        let request = Request {
            id: 7,
            op: Op::Mount {
                reference: "digits".into(),
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"id":7,"op":"mount","reference":"digits"}"#);
        let back: Request = serde_json::from_str(&text).unwrap();
        assert!(matches!(back.op, Op::Mount { reference } if reference == "digits"));
    }

    #[test]
    fn never_prints_a_share_token() {
        let op = Op::Pull {
            reference: "x".into(),
            token: Some(Secret::new("hf_canary")),
        };
        assert!(!format!("{op:?}").contains("canary"));
    }

    #[test]
    fn never_prints_the_value_of_a_secret() {
        let event = Event::Secret {
            id: 1,
            value: Secret::new("canary"),
        };
        assert!(!format!("{event:?}").contains("canary"));
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"event":"secret","id":1,"value":"canary"}"#);
    }
}
