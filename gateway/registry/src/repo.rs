//! What the Hub says about one repo: model object, tree, paths, refs, history, and who the bearer is.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::Secret;
use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::RegistryError;
use crate::search::link;
use crate::{Hub, Library, Repo, describe, percent};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Entries of a tree, or commits, in one answer.
const PAGE: usize = 1000;

/// A repo as a path names it.
#[derive(Deserialize)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[derive(Deserialize)]
pub(crate) struct PlaceAt {
    #[serde(flatten)]
    pub(crate) place: Place,
    #[serde(default)]
    pub(crate) revision: String,
    #[serde(default)]
    pub(crate) path: String,
}

#[derive(Deserialize)]
pub(crate) struct TreeQuery {
    recursive: Option<String>,
    expand: Option<String>,
    limit: Option<usize>,
    cursor: Option<usize>,
}

#[derive(Deserialize)]
pub(crate) struct ModelQuery {
    blobs: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct CommitsQuery {
    limit: Option<usize>,
    p: Option<usize>,
}

/// Who asks. Whoever comes here was let in by `secured`.
pub(crate) struct Asker {
    pub(crate) peer: SocketAddr,
    pub(crate) bearer: Option<Secret>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let peer = ConnectInfo::<SocketAddr>::from_request_parts(parts, state).await;
        let ConnectInfo(peer) = peer.map_err(IntoResponse::into_response)?;
        Ok(Self {
            peer,
            bearer: bearer(&parts.headers),
        })
    }
}

impl Asker {
    /// The error of a refusal, or that the peer had too many of them.
    pub(crate) fn refusal(&self, library: &dyn Library, error: RegistryError) -> RegistryError {
        if library.refused(self.peer) {
            RegistryError::TooMany
        } else {
            error
        }
    }

    /// What was found, or the one answer for absent, forbidden and anonymous.
    pub(crate) fn found<T>(&self, library: &dyn Library, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| self.refusal(library, RegistryError::RepoNotFound))
    }
}

/// What every route of a repo is asked: which, by whom, and of which hub.
pub(crate) struct Asked {
    pub(crate) hub: Arc<Hub>,
    pub(crate) asker: Asker,
    pub(crate) at: PlaceAt,
}

impl FromRequestParts<Arc<Hub>> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Response> {
        let asker = Asker::from_request_parts(parts, hub).await?;
        let at = Path::<PlaceAt>::from_request_parts(parts, hub).await;
        let Path(at) = at.map_err(IntoResponse::into_response)?;
        Ok(Self {
            hub: Arc::clone(hub),
            asker,
            at,
        })
    }
}

impl Asked {
    pub(crate) fn id(&self) -> String {
        self.at.place.id()
    }

    /// The repo at its newest revision, if the asker may see it.
    pub(crate) async fn newest(&self) -> Result<Arc<dyn Repo>> {
        let library = self.hub.library();
        let found = library.repo(&self.id(), self.asker.bearer.as_ref()).await?;
        self.asker.found(library, found)
    }

    /// The same at the revision of the path.
    pub(crate) async fn repo(&self) -> Result<Arc<dyn Repo>> {
        let library = self.hub.library();
        let bearer = self.asker.bearer.as_ref();
        let found = library.at(&self.id(), &self.at.revision, bearer).await?;
        self.asker.found(library, found)
    }
}

pub(crate) async fn whoami(State(hub): State<Arc<Hub>>, asker: Asker) -> Result<Json<Value>> {
    let name = match &asker.bearer {
        Some(bearer) => hub.library().who(bearer).await?,
        None => None,
    };
    let Some(name) = name else {
        return Err(asker.refusal(hub.library(), RegistryError::Token));
    };
    let role = if may_write(&hub, &asker).await? {
        "write"
    } else {
        "read"
    };
    Ok(Json(json!({
        "type": "user", "id": name, "name": name, "fullname": name, "email": null, "orgs": [], "isPro": false,
        "canPay": false, "auth": { "type": "access_token", "accessToken": { "displayName": name, "role": role } },
    })))
}

async fn may_write(hub: &Hub, asker: &Asker) -> Result<bool> {
    let (Ok(writing), Some(bearer)) = (hub.writing(), &asker.bearer) else {
        return Ok(false);
    };
    let caller = writing.writer.caller(bearer).await?;
    Ok(caller.is_some_and(|caller| caller.may_write))
}

pub(crate) async fn model(asked: Asked, Query(query): Query<ModelQuery>) -> Result<Json<Value>> {
    let repo = asked.newest().await?;
    Ok(Json(describe::model(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn model_at(asked: Asked, Query(query): Query<ModelQuery>) -> Result<Json<Value>> {
    let repo = asked.repo().await?;
    Ok(Json(describe::model(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn tree(asked: Asked, Query(query): Query<TreeQuery>) -> Result<Response> {
    let repo = asked.repo().await?;
    let info = repo.info();
    let below = asked.at.path.trim_matches('/');
    let (recursive, expand) = (yes(query.recursive.as_deref()), yes(query.expand.as_deref()));
    let found = describe::tree(info, below, recursive);
    if found.is_empty() && !below.is_empty() {
        return Err(RegistryError::EntryNotFound {
            path: below.to_owned(),
            commit: info.revision.clone(),
        });
    }
    let Some(base) = asked.hub.base() else {
        return Ok(Json(found.entries(0, usize::MAX, expand)).into_response());
    };
    let (from, limit) = (
        query.cursor.unwrap_or(0),
        query.limit.unwrap_or(PAGE).clamp(1, PAGE),
    );
    let total = found.len();
    let entries = found.entries(from, limit, expand);
    let mut response = Json(entries).into_response();
    if from.saturating_add(limit) < total {
        // At the commit, so that all pages are of one revision.
        let mut path = format!("{base}/api/models/{}/tree/{}", asked.id(), info.revision);
        if !below.is_empty() {
            path.push('/');
            path.push_str(&percent::path(below));
        }
        let cursor = (from + limit).to_string();
        let (recursive, expand, limit) = (recursive.to_string(), expand.to_string(), limit.to_string());
        let query = [
            ("recursive", recursive.as_str()),
            ("expand", &expand),
            ("limit", &limit),
            ("cursor", &cursor),
        ];
        link(response.headers_mut(), &path, &query);
    }
    Ok(response)
}

pub(crate) async fn paths_info(asked: Asked, body: Bytes) -> Result<Json<Value>> {
    let repo = asked.repo().await?;
    let info = repo.info();
    let asked: Vec<_> = url::form_urlencoded::parse(&body)
        .filter(|(key, _)| key == "paths")
        .map(|(_, path)| path)
        .collect();
    if asked.len() > PAGE {
        return Err(RegistryError::TooLarge {
            what: format!("a list of {} paths", asked.len()),
            most: format!("{PAGE} paths"),
        });
    }
    let entries = describe::Entries::of(info);
    let found = asked.iter().filter_map(|path| entries.at(path.trim_matches('/')));
    Ok(Json(found.collect()))
}

pub(crate) async fn refs(asked: Asked) -> Result<Json<Value>> {
    let Asked { hub, asker, .. } = &asked;
    let refs = hub.library().refs(&asked.id(), asker.bearer.as_ref()).await?;
    Ok(Json(describe::refs(&asker.found(hub.library(), refs)?)))
}

pub(crate) async fn commits(asked: Asked, Query(query): Query<CommitsQuery>) -> Result<Response> {
    let Asked { hub, asker, at } = &asked;
    let id = asked.id();
    let commits = hub
        .library()
        .commits(&id, &at.revision, asker.bearer.as_ref())
        .await?;
    let commits = asker.found(hub.library(), commits)?;
    let (limit, page) = (query.limit.unwrap_or(50).clamp(1, PAGE), query.p.unwrap_or(0));
    let from = page.saturating_mul(limit);
    let shown: Vec<_> = commits.iter().skip(from).take(limit).collect();
    let mut response = Json(shown.into_iter().map(describe::commit).collect::<Vec<_>>()).into_response();
    let headers = response.headers_mut();
    if let Ok(total) = HeaderValue::from_str(&commits.len().to_string()) {
        headers.insert("x-total-count", total);
    }
    if let Some(base) = hub.base().filter(|_| from.saturating_add(limit) < commits.len()) {
        let path = format!("{base}/api/models/{id}/commits/{}", commits[0].revision);
        let query = [("limit", limit.to_string()), ("p", (page + 1).to_string())];
        link(headers, &path, &query);
    }
    Ok(response)
}

pub(crate) async fn auth_check(asked: Asked) -> Result<Json<Value>> {
    let repo = asked.newest().await?;
    repo.gate()?;
    Ok(Json(json!({ "ok": true })))
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Secret::new(token.trim()))
}

pub(crate) fn yes(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}
