//! What the registry's answers say: of a repo, its revisions and names, and of a search.

use std::collections::BTreeMap;

use alephlab_api::model::{Card, ModelRecord, RecordFile, Visibility};
use serde_json::Value;

/// What the Hub's answers say about one revision of a repo.
#[derive(Debug, Clone, Default)]
pub struct RepoInfo {
    /// The id that the client asked for.
    pub id: String,
    /// Who published it.
    pub author: String,
    /// 40 hex digits.
    pub revision: String,
    /// Names of this revision beside `main`.
    pub tags: Vec<String>,
    /// Its files, sorted by path.
    pub files: Vec<RecordFile>,
    /// What its publisher says.
    pub card: Card,
    /// When the repo was made, in seconds since 1970.
    pub created: u64,
    /// When this revision was made, in seconds since 1970.
    pub modified: u64,
    /// Whether only some bearers see it.
    pub private: bool,
    /// Whether seeing it is not yet reading its files.
    pub gated: Gated,
    /// Downloads counted so far.
    pub downloads: u64,
    /// Likes counted so far.
    pub likes: u64,
    /// Numbers in its tensors, where that is known.
    pub parameters: Option<u64>,
    /// The same by type, where that is known.
    pub tensor_types: BTreeMap<String, u64>,
    /// Our own facts (price, UUID, verification), under the key `aleph`; clients keep and ignore it.
    pub aleph: Option<Value>,
}

impl RepoInfo {
    /// What an owner has signed of one revision: a repo of this revision alone, without tags, under the name in the record.
    pub fn of(record: &ModelRecord) -> Self {
        Self {
            id: record.name.clone(),
            author: record.owner.clone(),
            revision: record.commit.clone(),
            files: record.files.clone(),
            card: record.card.clone(),
            created: record.created,
            modified: record.created,
            private: record.visibility == Visibility::Private,
            gated: record.visibility.into(),
            parameters: record.parameters_total(),
            tensor_types: record.parameters.clone(),
            ..Self::default()
        }
    }
}

/// How a repo lets people in who may see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gated {
    /// Who sees it may read it.
    #[default]
    No,
    /// Who asks is let in.
    Auto,
    /// The owner decides.
    Manual,
}

impl From<Visibility> for Gated {
    /// Anybody may know of a sealed model, and its owner lets people in. Who may not read a private one is not told that it is
    /// there, so there is no gate.
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::Public | Visibility::Private => Self::No,
            Visibility::Sealed => Self::Manual,
        }
    }
}

impl Gated {
    /// The Hub's word: `false`, `"auto"` or `"manual"`, never `true`.
    pub(crate) fn json(self) -> Value {
        match self {
            Self::No => Value::Bool(false),
            Self::Auto => "auto".into(),
            Self::Manual => "manual".into(),
        }
    }
}

/// A name and the revision it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRevision {
    /// `main`, `v1`.
    pub name: String,
    /// 40 hex digits.
    pub revision: String,
}

/// All names in a repo.
#[derive(Debug, Clone, Default)]
pub struct Refs {
    /// `main` and others that commits move.
    pub branches: Vec<NamedRevision>,
    /// Names that only their owner moves.
    pub tags: Vec<NamedRevision>,
}

/// One revision in a repo's history.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// 40 hex digits.
    pub revision: String,
    /// One line.
    pub title: String,
    /// The rest.
    pub message: String,
    /// Account that made it.
    pub author: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// One page of a search.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// What was found, in order, each at its newest revision.
    pub repos: Vec<RepoInfo>,
    /// Where the next page begins; opaque to clients.
    pub next: Option<String>,
}
