//! What the runtime in a cell and the broker beside it say to each other.
//!
//! Newline-delimited JSON over a Unix socket, one [`Request`] at a time per connection, answered by any number of
//! progress events and exactly one [`Event::Done`] or [`Event::Failed`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::Card;
use crate::problem::Problem;
use crate::secret::Secret;

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
    /// Fetch a model; answered by [`Pulled`].
    Pull {
        /// `owner/name[@rev]`, or the UUID of a share (then `token` is required).
        reference: String,
        /// The share's token.
        token: Option<Secret>,
    },
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        /// A [`Mounted`], [`Published`] or [`Pulled`].
        result: serde_json::Value,
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
}
