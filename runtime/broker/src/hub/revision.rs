//! One revision as a Hub client sees it: its facts from the owner's signed record or from its sealed manifest, its bytes opened
//! when they are read.

use std::ops::Range;
use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::model::RecordFile;
use alephlab_registry::{Answer, ByteStream, README_MAX, RegistryError, Repo, RepoInfo, read_card};
use alephlab_vault::{Entry, VaultError};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;

use super::readers::{Audience, Held};
use crate::BrokerError;

/// Reads at a time for who has a token of a share, whom this kernel may not know: they must leave it room to read for itself.
static OF_SHARES: Semaphore = Semaphore::const_new(2);

/// A revision.
pub(super) struct OpenedRevision {
    info: RepoInfo,
    /// Nothing where it may be seen and not read: why.
    held: Result<Arc<Held>, String>,
}

impl OpenedRevision {
    /// One whose record is in the clear, open or with the reason why it is not.
    pub(super) fn recorded(info: RepoInfo, held: Result<Arc<Held>, String>) -> Self {
        Self { info, held }
    }

    /// One of which this kernel knows what it opened, and nobody else anything.
    pub(super) async fn of(held: Arc<Held>) -> Result<Self, RegistryError> {
        let info = facts(&held).await.map_err(|error| content(error.into()))?;
        Ok(Self { info, held: Ok(held) })
    }
}

/// What the sealed manifest says, with the card that it came with or that is one of its files.
async fn facts(held: &Held) -> Result<RepoInfo, VaultError> {
    let (reader, head) = (&held.reader, &held.reader.head().head);
    let card = match &held.card {
        Some(card) => card.clone(),
        None => {
            let is_card = |entry: &&Entry| entry.is_file() && entry.size <= README_MAX;
            match reader.entry("README.md").filter(is_card) {
                Some(_) => read_card(&String::from_utf8_lossy(&reader.read("README.md").await?)),
                None => Card::default(),
            }
        }
    };
    let files = reader.entries().iter().filter(|entry| entry.is_file());
    let files = files.map(|entry| RecordFile {
        path: entry.path.clone(),
        size: entry.size,
        sha256: hex::encode(entry.sha256),
    });
    Ok(RepoInfo {
        id: held.id.clone(),
        author: head.owner.to_string(),
        revision: held.revision(),
        files: files.collect(),
        card,
        created: head.created,
        modified: head.created,
        // Who may not read it is not told that it is there.
        private: true,
        ..RepoInfo::default()
    })
}

impl Repo for OpenedRevision {
    fn info(&self) -> &RepoInfo {
        &self.info
    }

    fn gate(&self) -> Result<(), RegistryError> {
        match &self.held {
            Ok(_) => Ok(()),
            Err(why) => Err(gated(&self.info.id, why)),
        }
    }

    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream> {
        let (path, id, held) = (file.path.clone(), self.info.id.clone(), self.held.clone());
        async move {
            let held = held.map_err(|why| gated(&id, &why))?;
            let permit = match held.audience {
                Audience::Kernel => None,
                Audience::Token(_) => Some(OF_SHARES.try_acquire().map_err(|_| RegistryError::TooMany)?),
            };
            let pieces = held.reader.pieces(&path, range);
            let pieces = pieces.map_err(|error| content(error.into()))?;
            Ok(pieces
                .map(move |piece| {
                    let _reading = &permit;
                    match held.is_over() {
                        true => Err(gated(&id, "its time is over")),
                        false => piece.map_err(|error| content(error.into())),
                    }
                })
                .boxed())
        }
        .boxed()
    }
}

fn gated(id: &str, why: &str) -> RegistryError {
    RegistryError::Gated {
        message: format!("Access to model {id} is restricted: it is sealed, and {why}"),
        price: None,
    }
}

/// Something of a model cannot be read.
#[expect(
    clippy::needless_pass_by_value,
    reason = "what errors are made into on the way"
)]
pub(super) fn content(error: BrokerError) -> RegistryError {
    tracing::warn!(code = error.code(), "a model cannot be read");
    RegistryError::Content {
        problem: error.to_problem(),
    }
}
