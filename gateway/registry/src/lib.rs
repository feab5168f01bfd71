//! The Hugging Face Hub's read routes as a library: what stock clients need to download a repo.
//!
//! The gateway mounts [`router`] today; a broker can mount the same one. Where repos and bytes come from is a
//! [`Library`], which alone knows who may see what. Not here: writing, searching, keys, storage. Facts about clients are
//! from `reference/hf-hub.md` sections 1 to 3.
#![forbid(unsafe_code)]

mod answer;
mod files;
mod range;
mod repo;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::model::{Card, RecordFile};
use alephlab_api::{Problem, Secret};
use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use crate::answer::RegistryError;

/// Bytes of one file, in order. An error ends the connection, so a client never takes a part for the whole.
pub type ByteStream = BoxStream<'static, Result<Bytes, RegistryError>>;

/// Where repos come from, and who may see them.
pub trait Library: Send + Sync + 'static {
    /// The repo `namespace/name` if this bearer may read it. Absent and forbidden must take the same work, because both
    /// are answered alike.
    fn repo<'a>(
        &'a self,
        id: &'a str,
        bearer: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Repo>>, RegistryError>>;

    /// Name of the bearer, for `whoami-v2`.
    fn who<'a>(&'a self, bearer: &'a Secret) -> BoxFuture<'a, Result<Option<String>, RegistryError>>;

    /// Called for each refusal; true when this peer had too many of them and should wait.
    fn refused(&self, peer: SocketAddr) -> bool;
}

/// One revision of one repo, open for reading.
pub trait Repo: Send + Sync {
    /// Names, sizes and hashes.
    fn info(&self) -> &RepoInfo;

    /// Bytes `range` of a file that [`RepoInfo::files`] names; the range lies within its size.
    fn read(
        &self,
        file: &RecordFile,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<ByteStream, RegistryError>>;
}

/// What the Hub's answers say about a repo.
#[derive(Debug, Clone)]
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
    /// Seconds since 1970.
    pub created: u64,
}

/// The routes, to be merged into a server that gives them the peer's address (`ConnectInfo<SocketAddr>`).
pub fn router(library: Arc<dyn Library>) -> Router {
    Router::new()
        .route("/api/whoami-v2", get(repo::whoami))
        .route("/api/models/{namespace}/{name}", get(repo::model))
        .route(
            "/api/models/{namespace}/{name}/revision/{revision}",
            get(repo::model_at),
        )
        .route("/api/models/{namespace}/{name}/tree/{revision}", get(repo::tree))
        .route(
            "/api/models/{namespace}/{name}/tree/{revision}/{*path}",
            get(repo::tree_below),
        )
        .route(
            "/api/models/{namespace}/{name}/paths-info/{revision}",
            post(repo::paths_info),
        )
        .route("/api/models/{namespace}/{name}/refs", get(repo::refs))
        .route("/api/models/{namespace}/{name}/auth-check", get(repo::auth_check))
        .route(
            "/{namespace}/{name}/resolve/{revision}/{*path}",
            get(files::resolve),
        )
        .with_state(library)
}

/// A problem with the Hub's own headers, for routes that this registry does not have.
pub fn unknown_route(method: &str, path: &str) -> axum::response::Response {
    let message = format!("this registry does not serve {method} {path}");
    axum::response::IntoResponse::into_response(RegistryError::Route {
        problem: Problem::new("route_unknown", message).with_hint("uploads are not available here yet"),
    })
}
