//! The Hugging Face Hub's routes as a library: what stock clients need to find, download and publish models.
//!
//! The gateway mounts [`router`] for shares, read only; `alephlab hub` mounts a [`Hub`] that also writes. Where repos
//! and bytes come from is a [`Library`], which alone knows who may see what; what becomes of a commit is a [`Writer`]'s
//! business. In between, what a caller uploads waits in a [`Staging`] folder, verified, until a commit names it. Not
//! here: keys, sealing, accounts. The protocol is that of the Hub's public API, git-lfs' batch API and Xet.
#![forbid(unsafe_code)]

mod answer;
mod card;
mod describe;
mod files;
pub mod folder;
mod info;
mod loopback;
mod percent;
mod range;
mod repo;
mod safetensors;
mod search;
mod secured;
mod signed;
pub mod staging;
mod write;
mod xet;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::model::RecordFile;
use alephlab_api::{Problem, Secret};
use axum::Router;
use axum::middleware::{from_fn, map_response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use url::Url;

pub use crate::answer::{Price, RegistryError};
pub use crate::card::{CUT, README_MAX, cut as cut_card, read as read_card};
pub use crate::info::{CommitInfo, Gated, NamedRevision, Page, Refs, RepoInfo};
pub use crate::loopback::Hosts;
pub use crate::search::{Search, SortBy};
pub use crate::secured::Secured;
use crate::signed::Signer;
pub use crate::staging::Staging;
pub use crate::write::{Caller, Change, Committed, Content, NewCommit, NewRepo, RefKind, Settings, Writer};

/// Bytes of one file, in order. An error ends the connection, so a client never takes a part for the whole.
pub type ByteStream = BoxStream<'static, Result<Bytes, RegistryError>>;

/// What a method of [`Library`] or [`Writer`] will answer.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RegistryError>>;

/// Where repos come from, and who may see them.
pub trait Library: Send + Sync + 'static {
    /// The repo `namespace/name` at a branch, tag or commit, if this bearer may see it. Absent and forbidden must take the same
    /// work, because both are answered alike.
    ///
    /// # Errors
    /// [`RegistryError::RevisionNotFound`] where the repo may be seen and has no such revision.
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>>;

    /// The same at its newest revision.
    fn repo<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Arc<dyn Repo>>> {
        self.at(id, "main", bearer)
    }

    /// All branches and tags of a repo that this bearer may see.
    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        async move {
            let repo = self.repo(id, bearer).await?;
            Ok(repo.map(|repo| {
                let info = repo.info();
                let named = |name: &str| NamedRevision {
                    name: name.to_owned(),
                    revision: info.revision.clone(),
                };
                Refs {
                    branches: vec![named("main")],
                    tags: info.tags.iter().map(|tag| named(tag)).collect(),
                }
            }))
        }
        .boxed()
    }

    /// The history of a revision, newest first.
    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        async move {
            let repo = self.at(id, revision, bearer).await?;
            Ok(repo.map(|repo| {
                let info = repo.info();
                vec![CommitInfo {
                    revision: info.revision.clone(),
                    title: "published".to_owned(),
                    message: String::new(),
                    author: info.author.clone(),
                    created: info.created,
                }]
            }))
        }
        .boxed()
    }

    /// Repos that this bearer may see, as asked for; none in a library that shows nobody what it has.
    fn list<'a>(&'a self, _search: &'a Search, _bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        async { Ok(Page::default()) }.boxed()
    }

    /// Takes a payment (the value of `PAYMENT-SIGNATURE`) for a repo that [`Repo::gate`] asks a price for, and gives what it bought: a
    /// repo that reads the same files. It is called once it is known that the file that is asked for exists.
    ///
    /// # Errors
    /// [`RegistryError::Gated`] with what is asked for now.
    fn pay<'a>(&'a self, id: &'a str, revision: &'a str, _payment: &'a str) -> Answer<'a, Option<Bought>> {
        let _ = (id, revision);
        async { Ok(None) }.boxed()
    }

    /// Name of the bearer, for `whoami-v2`.
    fn who<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<String>>;

    /// Called for each refusal; true when this peer had too many of them and should wait.
    fn refused(&self, peer: SocketAddr) -> bool;
}

/// A repo that has one revision, where `revision` names it.
///
/// # Errors
/// [`RegistryError::RevisionNotFound`] for any other.
pub fn only_at(repo: Arc<dyn Repo>, revision: &str) -> Result<Arc<dyn Repo>, RegistryError> {
    let info = repo.info();
    let known =
        revision == "main" || revision == info.revision || info.tags.iter().any(|tag| tag == revision);
    if known {
        return Ok(repo);
    }
    Err(RegistryError::RevisionNotFound {
        revision: revision.to_owned(),
    })
}

/// One revision of one repo, as one bearer may see it.
pub trait Repo: Send + Sync {
    /// Names, sizes and hashes.
    fn info(&self) -> &RepoInfo;

    /// Whether this bearer may read the files, too.
    ///
    /// # Errors
    /// [`RegistryError::Gated`] or [`RegistryError::Disabled`].
    fn gate(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    /// Bytes `range` of a file that [`RepoInfo::files`] names; the range lies within its size. Called after
    /// [`Repo::gate`] let the bearer in.
    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream>;

    /// The same for somebody, where it is counted who reads.
    fn read_by(&self, file: &RecordFile, range: Range<u64>, _by: ReadBy<'_>) -> Answer<'static, ByteStream> {
        self.read(file, range)
    }
}

/// What a payment opened.
pub struct Bought {
    /// The same revision, to be read.
    pub repo: Arc<dyn Repo>,
    /// Id of a repo that has its other files, for this bearer.
    pub share: String,
    /// The bearer.
    pub token: Secret,
    /// Value of `PAYMENT-RESPONSE`.
    pub response: String,
}

/// Who reads a file.
#[derive(Clone, Copy)]
pub struct ReadBy<'a> {
    /// Where the request came from.
    pub peer: SocketAddr,
    /// The token that came with it.
    pub bearer: Option<&'a Secret>,
}

/// The routes over a library, and over a writer where there is one.
pub struct Hub {
    library: Arc<dyn Library>,
    base: Option<String>,
    writing: Option<Writing>,
}

/// What writing needs beside the library.
pub(crate) struct Writing {
    pub(crate) writer: Arc<dyn Writer>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) signer: Signer,
    /// Where it is served: uploads go to signed addresses.
    pub(crate) base: String,
}

impl Hub {
    /// Reads only, and knows no name of its own: a search gives its first page only.
    pub fn new(library: Arc<dyn Library>) -> Self {
        Self {
            library,
            base: None,
            writing: None,
        }
    }

    /// Served at this address, as clients see it. Never taken from a request's `Host`, which its sender chooses.
    #[must_use]
    pub fn served_at(mut self, base: &Url) -> Self {
        self.base = Some(address(base));
        self
    }

    /// Served at this address, as [`Hub::served_at`], and writes as well.
    #[must_use]
    pub fn written_by(self, base: &Url, writer: Arc<dyn Writer>, staging: Arc<Staging>) -> Self {
        let signer = Signer::new(staging.secret());
        let writing = Writing {
            writer,
            staging,
            signer,
            base: address(base),
        };
        Self {
            writing: Some(writing),
            ..self.served_at(base)
        }
    }

    /// The routes, to be merged into a server that gives them the peer's address (`ConnectInfo<SocketAddr>`).
    pub fn router(self) -> Router {
        let writes = self.writing.is_some();
        let hub = Arc::new(self);
        let mut routes = reading();
        if writes {
            routes = routes.merge(write::routes()).merge(xet::routes());
            routes = routes.route_layer(from_fn(secured::all));
        } else {
            routes = routes.route_layer(from_fn(secured::reads));
        }
        // Outermost: what rejects a request before its route is one of those that it puts into words.
        routes = routes.layer(map_response(answer::worded));
        routes.with_state(hub)
    }

    pub(crate) fn library(&self) -> &dyn Library {
        self.library.as_ref()
    }

    pub(crate) fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Writes are only routed where there is a writer.
    pub(crate) fn writing(&self) -> Result<&Writing, RegistryError> {
        self.writing.as_ref().ok_or_else(|| RegistryError::Forbidden {
            reason: "this registry is read only".to_owned(),
        })
    }
}

/// As clients put paths behind it.
fn address(base: &Url) -> String {
    base.as_str().trim_end_matches('/').to_owned()
}

fn reading() -> Router<Arc<Hub>> {
    const MODEL: &str = "/api/models/{namespace}/{name}";
    let at = |rest: &str| format!("{MODEL}{rest}");
    Router::new()
        .route("/api/whoami-v2", get(repo::whoami))
        .route("/api/models", get(search::list))
        .route("/api/models-tags-by-type", get(search::tags_by_type))
        .route(MODEL, get(repo::model))
        .route(&at("/revision/{revision}"), get(repo::model_at))
        .route(&at("/tree/{revision}"), get(repo::tree))
        .route(&at("/tree/{revision}/{*path}"), get(repo::tree))
        .route(&at("/paths-info/{revision}"), post(repo::paths_info))
        .route(&at("/refs"), get(repo::refs))
        .route(&at("/commits/{revision}"), get(repo::commits))
        .route(&at("/auth-check"), get(repo::auth_check))
        .route(&at("/safetensors-metadata/{*path}"), get(safetensors::metadata))
        .route(
            "/{namespace}/{name}/resolve/{revision}/{*path}",
            get(files::resolve),
        )
        .route("/{namespace}/{name}/raw/{revision}/{*path}", get(files::raw))
}

/// The routes of a library that is only read, under no name of its own.
pub fn router(library: Arc<dyn Library>) -> Router {
    Hub::new(library).router()
}

/// A problem with the Hub's own headers, for routes that this registry does not have.
pub fn unknown_route(method: &str, path: &str) -> axum::response::Response {
    let message = format!("this registry does not serve {method} {path}");
    axum::response::IntoResponse::into_response(RegistryError::Route {
        problem: Problem::new("route_unknown", message).with_hint("uploads are not available here yet"),
    })
}
