//! Models of the index: all may see them, all may read those that are public, and nobody is given sealed ones here.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::model::{Card, RecordFile, Visibility};
use alephlab_api::money::Amount;
use alephlab_api::{Problem, Secret};
use alephlab_registry::{
    Answer, Bought, ByteStream, CommitInfo, Gated, Library, NamedRevision, Page, Price, ReadBy, Refs,
    RegistryError, Repo, RepoInfo, Search, SortBy,
};
use alephlab_vault::{Entry, Reader};
use futures_util::StreamExt as _;
use futures_util::future::FutureExt as _;

use super::downloads::reader_of;
use super::shares::{Shares, each_counted};
use super::{content, inside};
use crate::index::{self, Order, Query};
use crate::models::{Listed, Listing, aleph, open_public};
use crate::recent::Recent;
use crate::state::App;
use crate::store::SOLD_FOR;
use crate::x402;

/// Public revisions whose manifests are kept open.
const OPEN: usize = 32;

/// Public revisions that were read of late, by name and revision.
pub(crate) type PublicModels = Recent<Reader>;

/// None open yet.
pub(crate) fn none_open() -> PublicModels {
    Recent::new(OPEN)
}

/// What the index offers.
pub(super) struct Offered {
    app: Arc<App>,
}

/// One revision, as everybody sees it.
struct OfferedModel {
    app: Arc<App>,
    listed: Arc<Listed>,
}

impl Offered {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn listing(&self, id: &str) -> Result<Option<Arc<Listing>>, RegistryError> {
        self.app.models.listing(id).await.map_err(inside)
    }

    fn repo_of(&self, listed: &Arc<Listed>) -> Arc<dyn Repo> {
        Arc::new(OfferedModel {
            app: Arc::clone(&self.app),
            listed: Arc::clone(listed),
        })
    }

    /// What is asked for, with private models of whoever asks.
    pub(super) async fn page(
        &self,
        search: &Search,
        own: &[Arc<index::Entry>],
    ) -> Result<Page, RegistryError> {
        let query = query(search);
        let found = self.app.index.search_with(&query, own);
        let end = query.from.saturating_add(found.entries.len());
        let mut repos = Vec::with_capacity(found.entries.len());
        for entry in &found.entries {
            // Files are read from the database, so only for who asks for them.
            let listing = match search.full {
                true => self.listing(&entry.name).await?,
                false => None,
            };
            let whole = listing.as_ref().and_then(|listing| listing.newest());
            repos.push(whole.map_or_else(|| summary(entry), |listed| listed.info.clone()));
        }
        Ok(Page {
            repos,
            next: (end < found.total).then(|| end.to_string()),
        })
    }
}

impl Library for Offered {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        _: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        async move {
            let Some(listing) = self.listing(id).await? else {
                return Ok(None);
            };
            Ok(Some(self.repo_of(at(&listing, revision)?)))
        }
        .boxed()
    }

    fn refs<'a>(&'a self, id: &'a str, _: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        async move {
            let listing = self.listing(id).await?;
            Ok(listing.map(|listing| {
                let named = |name: &str, revision: &str| NamedRevision {
                    name: name.to_owned(),
                    revision: revision.to_owned(),
                };
                let newest = listing.newest();
                Refs {
                    branches: newest
                        .map(|newest| named("main", &newest.info.revision))
                        .into_iter()
                        .collect(),
                    tags: listing
                        .tags
                        .iter()
                        .map(|(tag, revision)| named(tag, revision))
                        .collect(),
                }
            }))
        }
        .boxed()
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        _: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        async move {
            let Some(listing) = self.listing(id).await? else {
                return Ok(None);
            };
            let from = &at(&listing, revision)?.info.revision;
            let history = listing
                .revisions
                .iter()
                .skip_while(|one| one.info.revision != *from);
            let commit = |one: &Arc<Listed>| CommitInfo {
                revision: one.info.revision.clone(),
                title: "published".to_owned(),
                message: one.info.card.title.clone(),
                author: one.info.author.clone(),
                created: one.info.modified,
            };
            Ok(Some(history.map(commit).collect()))
        }
        .boxed()
    }

    fn pay<'a>(&'a self, id: &'a str, revision: &'a str, payment: &'a str) -> Answer<'a, Option<Bought>> {
        async move {
            let Some(listing) = self.listing(id).await? else {
                return Ok(None);
            };
            let listed = at(&listing, revision)?;
            let Some(price) = listed.price.filter(|_| listed.is_deposited) else {
                return Ok(None);
            };
            let place = (listed.info.id.as_str(), listed.info.revision.as_str());
            let paid = x402::pay(&self.app, place, price, payment).await?;
            let share = format!("m/{}", paid.share);
            let repo = Shares::new(Arc::clone(&self.app))
                .at(&share, "main", Some(&paid.token))
                .await?
                .ok_or(RegistryError::RepoNotFound)?;
            Ok(Some(Bought {
                repo,
                share,
                token: paid.token,
                response: paid.response,
            }))
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

impl Repo for OfferedModel {
    fn info(&self) -> &RepoInfo {
        &self.listed.info
    }

    fn gate(&self) -> Result<(), RegistryError> {
        if self.listed.visibility == Visibility::Public {
            return Ok(());
        }
        if let Some(price) = self.listed.price {
            return Err(self.not_bought(price));
        }
        if let Some(gateway) = &self.listed.elsewhere {
            return Err(RegistryError::Gated {
                message: format!(
                    "{} is sealed, and sold at the gateway {gateway}.",
                    self.listed.info.id
                ),
                price: None,
            });
        }
        Err(RegistryError::Gated {
            message: format!(
                "{} is sealed: read it through `alephlab hub` on a machine whose key its owner granted it to, or with a \
                 share, which the owner makes with `alephlab model share`.",
                self.listed.info.id
            ),
            price: None,
        })
    }

    fn read_by(&self, file: &RecordFile, range: Range<u64>, by: ReadBy<'_>) -> Answer<'static, ByteStream> {
        let info = &self.listed.info;
        let download = reader_of(&info.id, &info.revision, file, by);
        let (models, size, start) = (Arc::clone(&self.app.models), file.size, range.start);
        let stream = self.read(file, range);
        async move {
            let note = move |piece: Range<u64>| {
                let done = (piece.end == size).then(|| (download.clone(), Arc::clone(&models)));
                async move {
                    match done {
                        Some((download, models)) => download.note(&models).await.map_err(inside),
                        None => Ok(()),
                    }
                }
            };
            Ok(each_counted(stream.await?, start, note).boxed())
        }
        .boxed()
    }

    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream> {
        let (app, listed, file) = (Arc::clone(&self.app), Arc::clone(&self.listed), file.clone());
        async move {
            let reader = open(&app, &listed).await?;
            pieces(&reader, &file, range)
        }
        .boxed()
    }
}

impl OfferedModel {
    /// What who has not bought a model is told: 402 to Hub clients, with our words, and to payment clients what they can sign where the
    /// key is here.
    fn not_bought(&self, price: Amount) -> RegistryError {
        let RepoInfo { id, revision, .. } = &self.listed.info;
        let costs = price.of(SOLD_FOR);
        // Each revision is bought for itself.
        let message = format!(
            "{id} costs {costs}: buy it with `alephlab model buy {id}@{revision}`, then read it through `alephlab hub` or \
             `alephlab model pull`."
        );
        let price = match self.listed.is_deposited {
            true => x402::price(&self.app, (id, revision), price, &message),
            false => Price::default(),
        };
        RegistryError::Gated {
            message,
            price: Some(price),
        }
    }
}

/// Bytes of a file as the record describes it. Size and hash of the record are what the client was told; the sealed manifest
/// must say the same.
pub(super) fn pieces(
    reader: &Reader,
    file: &RecordFile,
    range: Range<u64>,
) -> Result<ByteStream, RegistryError> {
    let same = |entry: &Entry| entry.size == file.size && hex::encode(entry.sha256) == file.sha256;
    if !reader.entry(&file.path).is_some_and(same) {
        let message = format!("`{}` is not the file that the signed record names", file.path);
        return Err(RegistryError::Content {
            problem: Problem::new("record_mismatch", message),
        });
    }
    let stream = reader.stream_slices(&file.path, range).map_err(content)?;
    Ok(stream.map(|piece| piece.map_err(content)).boxed())
}

async fn open(app: &App, listed: &Listed) -> Result<Reader, RegistryError> {
    let key = format!("{}@{}", listed.info.id, listed.info.revision);
    if let Some(reader) = app.public.get(&key) {
        return Ok(reader);
    }
    let version = app.public.version();
    let model = app
        .store
        .model(&listed.info.id, &listed.info.revision)
        .await
        .map_err(inside)?;
    let model = model.ok_or(RegistryError::RepoNotFound)?;
    let Some(keys) = &model.record.keys else {
        return Err(RegistryError::RepoNotFound);
    };
    let reader = open_public(&app.storage, &model.head, &model.record.head, keys)
        .await
        .map_err(inside)?;
    app.public.put(&key, reader.clone(), version);
    Ok(reader)
}

fn at<'a>(listing: &'a Listing, revision: &str) -> Result<&'a Arc<Listed>, RegistryError> {
    listing
        .at(revision)
        .ok_or_else(|| RegistryError::RevisionNotFound {
            revision: revision.to_owned(),
        })
}

/// What the Hub's clients ask, as the index is asked.
fn query(search: &Search) -> Query {
    Query {
        text: search.text.clone().unwrap_or_default(),
        owner: search.author.clone(),
        words: search.filters.clone(),
        visibilities: match search.gated {
            None => Vec::new(),
            Some(true) => vec![Visibility::Sealed],
            Some(false) => vec![Visibility::Public],
        },
        tasks: search.task.iter().cloned().collect(),
        parameters: search.parameters,
        order: match search.sort {
            SortBy::Created => Order::Created,
            SortBy::Downloads => Order::Downloads,
            // Nobody likes anything here.
            SortBy::Modified | SortBy::Likes => Order::Modified,
        },
        ascending: !search.descending,
        from: search
            .cursor
            .as_ref()
            .and_then(|cursor| cursor.parse().ok())
            .unwrap_or(0),
        limit: search.limit,
        ..Query::default()
    }
}

/// A model in a list.
fn summary(entry: &index::Entry) -> RepoInfo {
    let is_sealed = entry.visibility == Visibility::Sealed;
    RepoInfo {
        id: entry.name.clone(),
        author: entry.owner().to_owned(),
        revision: entry.revision.clone(),
        card: Card {
            title: entry.title.clone(),
            licence: entry.licence.clone(),
            tags: entry.tags.clone(),
            task: entry.task.clone(),
            dataset: entry.dataset.clone(),
            library: entry.library.clone(),
            base_model: entry.base_model.clone(),
            ..Card::default()
        },
        created: entry.created,
        modified: entry.modified,
        private: entry.visibility == Visibility::Private,
        gated: if is_sealed { Gated::Manual } else { Gated::No },
        downloads: entry.downloads,
        parameters: entry.parameters,
        aleph: Some(aleph(
            (entry.uuid, entry.visibility),
            entry.price,
            entry.badge,
            entry.reproduced,
        )),
        ..RepoInfo::default()
    }
}
