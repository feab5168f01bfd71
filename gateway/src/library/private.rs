//! Private models: for their owner a row without content, and for everybody else nothing at all.
//!
//! What is in them this gateway cannot open. That one is there is told to the bearer of its owner's token; every other answer
//! comes from where no such model is, so that it is that of an unknown one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::{IndexedModel, RecordFile, Visibility, private_uuid};
use alephlab_registry::{
    Answer, ByteStream, CommitInfo, Library, NamedRevision, Page, Refs, RegistryError, Repo, RepoInfo, Search,
};
use futures_util::future::FutureExt as _;

use super::inside;
use crate::index::Badge;
use crate::models::{aleph, canonical};
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

    /// The bearer's own, newest revision first, by what stands for their names.
    async fn of(
        &self,
        bearer: Option<&Secret>,
    ) -> Result<BTreeMap<String, Vec<IndexedModel>>, RegistryError> {
        let mut found: BTreeMap<String, Vec<IndexedModel>> = BTreeMap::new();
        let Some(bearer) = bearer else { return Ok(found) };
        let known = self.app.store.bearer(&sha256(bearer.expose().as_bytes())).await;
        // A kernel's token is for what cells do, and shows none.
        let known = known.map_err(inside)?.filter(|known| known.scope.is_some());
        let Some(address) = known.and_then(|known| known.address) else {
            return Ok(found);
        };
        for model in self.app.store.models(&address).await.map_err(inside)? {
            if model.record.visibility == Visibility::Private {
                found.entry(model.record.name.clone()).or_default().push(model);
            }
        }
        Ok(found)
    }

    async fn revisions(&self, id: &str, bearer: Option<&Secret>) -> Result<Vec<IndexedModel>, RegistryError> {
        let Some(name) = canonical(id) else {
            return Ok(Vec::new());
        };
        Ok(self.of(bearer).await?.remove(&name).unwrap_or_default())
    }

    /// The rows of a search that asks for nothing that only content could answer.
    pub(super) async fn rows(
        &self,
        search: &Search,
        bearer: Option<&Secret>,
    ) -> Result<Vec<RepoInfo>, RegistryError> {
        let is_plain = search.text.is_none()
            && search.filters.is_empty()
            && search.task.is_none()
            && search.parameters.is_none()
            && search.gated.is_none()
            && search.cursor.is_none();
        if !is_plain {
            return Ok(Vec::new());
        }
        let own = self.of(bearer).await?.into_values();
        let rows = own.filter_map(|revisions| Some(info(revisions.first()?)));
        let by = |row: &RepoInfo| {
            let author = search.author.as_ref();
            author.is_none_or(|author| author.eq_ignore_ascii_case(&row.author))
        };
        Ok(rows.filter(by).collect())
    }
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
    fn repo<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Arc<dyn Repo>>> {
        self.at(id, "main", bearer)
    }

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
            let found = match revision {
                "main" => all.first(),
                commit => all.iter().find(|one| one.record.commit == commit),
            };
            let found = found.ok_or_else(|| RegistryError::RevisionNotFound {
                revision: revision.to_owned(),
            })?;
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
                // They are sealed, too.
                tags: Vec::new(),
            }))
        }
        .boxed()
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        _: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        async move {
            let all = self.revisions(id, bearer).await?;
            let commit = |one: &IndexedModel| CommitInfo {
                revision: one.record.commit.clone(),
                title: "published".to_owned(),
                message: String::new(),
                author: one.record.owner.clone(),
                created: one.record.created,
            };
            Ok((!all.is_empty()).then(|| all.iter().map(commit).collect()))
        }
        .boxed()
    }

    fn list<'a>(&'a self, search: &'a Search, bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        async move {
            Ok(Page {
                repos: self.rows(search, bearer).await?,
                next: None,
            })
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
