//! Private models: for their owner a row without content, and for everybody else nothing at all.
//!
//! What is in them this gateway cannot open. That one is there is told to the bearer of its owner's token; every other answer
//! comes from where no such model is, so that it is that of an unknown one.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::{IndexedModel, RecordFile, private_uuid};
use alephlab_registry::{
    Answer, ByteStream, CommitInfo, Library, NamedRevision, Refs, RegistryError, Repo, RepoInfo,
};
use futures_util::future::FutureExt as _;

use super::inside;
use crate::index::{Badge, Entry};
use crate::models::{aleph, private};
use crate::state::App;
use crate::store::sha256;

/// The private models of whoever bears a token.
pub(super) struct Private {
    app: Arc<App>,
}

/// One revision, as its owner sees it here.
struct PrivateRow {
    info: RepoInfo,
}

impl Private {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// Whether an id may be one of a private model.
    pub(super) fn may_be(id: &str) -> bool {
        private_uuid(id).is_some()
    }

    /// The address that the bearer's account has proven.
    async fn reader(&self, bearer: Option<&Secret>) -> Result<Option<String>, RegistryError> {
        let Some(bearer) = bearer else { return Ok(None) };
        let known = self.app.store.bearer(&sha256(bearer.expose().as_bytes())).await;
        // A kernel's token is for what cells do, and shows none.
        let known = known.map_err(inside)?.filter(|known| known.scope.is_some());
        Ok(known.and_then(|known| known.address))
    }

    async fn revisions(&self, id: &str, bearer: Option<&Secret>) -> Result<Vec<IndexedModel>, RegistryError> {
        let reader = self.reader(bearer).await?;
        let found = private::revisions(&self.app.store, id, reader.as_deref()).await;
        found.map_err(inside)
    }

    /// The bearer's own, for a list.
    pub(super) async fn entries(&self, bearer: Option<&Secret>) -> Result<Vec<Arc<Entry>>, RegistryError> {
        match self.reader(bearer).await? {
            Some(reader) => private::entries(&self.app.store, &reader).await.map_err(inside),
            None => Ok(Vec::new()),
        }
    }
}

/// The revision that `main` or 40 hex digits name: tags are sealed, too.
fn place(all: &[IndexedModel], revision: &str) -> Result<usize, RegistryError> {
    let found = match revision {
        "main" => Some(0),
        commit => all.iter().position(|one| one.record.commit == commit),
    };
    found.ok_or_else(|| RegistryError::RevisionNotFound {
        revision: revision.to_owned(),
    })
}

fn info(model: &IndexedModel) -> RepoInfo {
    let record = &model.record;
    RepoInfo {
        id: record.name.clone(),
        author: record.owner.clone(),
        revision: record.commit.clone(),
        created: record.created,
        modified: record.created,
        private: true,
        aleph: Some(aleph(
            (record.uuid, record.visibility),
            None,
            Badge::Unchecked,
            false,
        )),
        ..RepoInfo::default()
    }
}

impl Library for Private {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        async move {
            let all = self.revisions(id, bearer).await?;
            if all.is_empty() {
                return Ok(None);
            }
            let found = &all[place(&all, revision)?];
            let row: Arc<dyn Repo> = Arc::new(PrivateRow { info: info(found) });
            Ok(Some(row))
        }
        .boxed()
    }

    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        async move {
            let newest = self.revisions(id, bearer).await?.into_iter().next();
            Ok(newest.map(|newest| Refs {
                branches: vec![NamedRevision {
                    name: "main".to_owned(),
                    revision: newest.record.commit,
                }],
                tags: Vec::new(),
            }))
        }
        .boxed()
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        async move {
            let all = self.revisions(id, bearer).await?;
            if all.is_empty() {
                return Ok(None);
            }
            let from = place(&all, revision)?;
            let commit = |one: &IndexedModel| CommitInfo {
                revision: one.record.commit.clone(),
                title: "published".to_owned(),
                message: String::new(),
                author: one.record.owner.clone(),
                created: one.record.created,
            };
            Ok(Some(all.iter().skip(from).map(commit).collect()))
        }
        .boxed()
    }

    fn who<'a>(&'a self, _: &'a Secret) -> Answer<'a, Option<String>> {
        async { Ok(None) }.boxed()
    }

    fn refused(&self, _: SocketAddr) -> bool {
        false
    }
}

impl Repo for PrivateRow {
    fn info(&self) -> &RepoInfo {
        &self.info
    }

    fn gate(&self) -> Result<(), RegistryError> {
        Err(RegistryError::Gated {
            message: format!(
                "{} is private: this gateway cannot open it; read it through `alephlab hub` on your machine, under its name.",
                self.info.id
            ),
            price: None,
        })
    }

    fn read(&self, _: &RecordFile, _: Range<u64>) -> Answer<'static, ByteStream> {
        let refused = self.gate();
        async move {
            refused?;
            Err(RegistryError::RepoNotFound)
        }
        .boxed()
    }
}
