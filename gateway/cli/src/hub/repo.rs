//! One revision as a Hub client sees it: its facts from the owner's signed record, its bytes opened when they are read.

use std::ops::Range;
use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::model::{ModelRecord, RecordFile, Visibility};
use alephlab_api::money::{Amount, Asset};
use alephlab_registry::{Answer, ByteStream, Price, RegistryError, Repo, RepoInfo};
use futures_util::{FutureExt as _, StreamExt as _};

use super::Sealed;
use super::drafts::Draft;
use crate::error::CliError;
use crate::models::{Model, Opened, Revision};

/// What stands behind a revision.
enum Content {
    /// A draft: there are no files.
    Nothing,
    /// This account may read it; opened at the first read.
    Closed(Sealed, Arc<ModelRecord>),
    /// Open already.
    Open(Arc<Opened>),
    /// It may be seen, not read; what it costs, where it is sold.
    Refused(Option<Amount>),
}

/// The same, taken along to where it is read.
enum Source {
    Closed(Sealed, Arc<ModelRecord>),
    Open(Arc<Opened>),
}

/// One revision.
pub(super) struct SealedRepo {
    info: RepoInfo,
    content: Content,
}

impl SealedRepo {
    /// A repo without a revision.
    pub(super) fn draft(id: String, owner: String, name: &str, draft: &Draft) -> Self {
        let info = RepoInfo {
            id,
            author: owner,
            revision: draft.revision(name),
            created: draft.created,
            modified: draft.created,
            private: draft.visibility == Visibility::Private,
            gated: draft.visibility.into(),
            ..RepoInfo::default()
        };
        Self {
            info,
            content: Content::Nothing,
        }
    }

    /// One that this account may read and that is not open yet.
    pub(super) fn closed(hub: Sealed, info: RepoInfo, revision: &Revision) -> Self {
        Self {
            info,
            content: Content::Closed(hub, Arc::clone(&revision.record)),
        }
    }

    /// One that was opened, or cannot be.
    pub(super) fn judged(info: RepoInfo, opened: Option<Arc<Opened>>, price: Option<Amount>) -> Self {
        let content = opened.map_or(Content::Refused(price), Content::Open);
        Self { info, content }
    }

    /// What a share opens.
    pub(super) fn shared(id: String, opened: Arc<Opened>) -> Self {
        let owner = opened.model.split('/').next().unwrap_or_default().to_owned();
        let info = RepoInfo {
            id,
            author: owner,
            revision: opened.revision.clone(),
            files: opened.files.clone(),
            card: opened.card.clone(),
            created: opened.created,
            modified: opened.created,
            // Who has no token of the share does not see it.
            private: true,
            ..RepoInfo::default()
        };
        Self {
            info,
            content: Content::Open(opened),
        }
    }
}

/// The facts of a revision.
pub(super) fn info(model: &Model, revision: &Revision) -> RepoInfo {
    let record = &revision.record;
    let tags = model.tags.iter().filter(|(_, commit)| **commit == record.commit);
    let first = model
        .revisions
        .first()
        .map_or(record.created, |first| first.record.created);
    RepoInfo {
        tags: tags.map(|(tag, _)| tag.clone()).collect(),
        created: first,
        aleph: Some(serde_json::json!({
            "uuid": record.uuid, "visibility": record.visibility.word(), "record": revision.message,
            "head": record.head,
        })),
        ..RepoInfo::of(record)
    }
}

impl Repo for SealedRepo {
    fn info(&self) -> &RepoInfo {
        &self.info
    }

    fn gate(&self) -> Result<(), RegistryError> {
        match self.content {
            Content::Refused(price) => Err(refused(&self.info, price)),
            _ => Ok(()),
        }
    }

    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream> {
        let (path, info) = (file.path.clone(), self.info.clone());
        let price = match self.content {
            Content::Refused(price) => price,
            _ => None,
        };
        let content_of = match &self.content {
            Content::Open(opened) => Some(Source::Open(Arc::clone(opened))),
            Content::Closed(hub, record) => Some(Source::Closed(hub.clone(), Arc::clone(record))),
            Content::Nothing | Content::Refused(_) => None,
        };
        async move {
            let opened = match content_of {
                Some(Source::Open(opened)) => Some(opened),
                Some(Source::Closed(hub, record)) => hub
                    .registry
                    .open(&record)
                    .await
                    .map_err(|error| content(&error))?,
                None => None,
            };
            let opened = opened.ok_or_else(|| refused(&info, price))?;
            let pieces = opened.reader.pieces(&path, range);
            let pieces =
                pieces.map_err(|error| content(&CliError::vault("the file cannot be read", &error)))?;
            let pieces = pieces.map(|piece| {
                piece.map_err(|error| content(&CliError::vault("the file cannot be read", &error)))
            });
            Ok(pieces.boxed())
        }
        .boxed()
    }
}

fn refused(RepoInfo { id, revision, .. }: &RepoInfo, price: Option<Amount>) -> RegistryError {
    if let Some(amount) = price {
        let amount = amount.of(Asset::Aleph);
        return RegistryError::Gated {
            message: format!(
                "Access to model {id} is restricted: it costs {amount}; buy it: alephlab model buy {id}@{revision}"
            ),
            price: Some(Price::default()),
        };
    }
    RegistryError::Gated {
        message: format!(
            "Access to model {id} is restricted: it is sealed; ask its owner for a grant or a share"
        ),
        price: None,
    }
}

/// An error of ours, told to a Hub client with its code and hint.
pub(super) fn problem(error: &CliError) -> Problem {
    Problem {
        code: error.code().to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}

/// Something of a model cannot be read.
pub(super) fn content(error: &CliError) -> RegistryError {
    tracing::warn!(code = error.code(), "a model cannot be read");
    RegistryError::Content {
        problem: problem(error),
    }
}

/// Something cannot be published.
pub(super) fn storage(error: &CliError) -> RegistryError {
    tracing::warn!(code = error.code(), "a change was not published");
    RegistryError::Storage {
        problem: problem(error),
    }
}
