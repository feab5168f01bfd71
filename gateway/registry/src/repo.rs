//! What the Hub says about one repo: model object, tree, paths, refs, history, and who the bearer is.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::Secret;
use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
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

/// Who asks, and for what: the parts of a request that every route needs.
pub(crate) struct Asker {
    pub(crate) peer: SocketAddr,
    pub(crate) bearer: Option<Secret>,
}

impl Asker {
    /// Whoever comes here was let in by `secured`.
    pub(crate) fn new(peer: SocketAddr, headers: &HeaderMap) -> Self {
        Self {
            peer,
            bearer: bearer(headers),
        }
    }

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

/// Opens the repo for the bearer of these headers, at its newest or the given revision.
pub(crate) async fn open(
    hub: &Hub,
    peer: SocketAddr,
    headers: &HeaderMap,
    place: &Place,
    revision: Option<&str>,
) -> Result<Arc<dyn Repo>> {
    let asker = Asker::new(peer, headers);
    let (id, library) = (place.id(), hub.library());
    let bearer = asker.bearer.as_ref();
    let found = match revision {
        Some(revision) => library.at(&id, revision, bearer).await?,
        None => library.repo(&id, bearer).await?,
    };
    asker.found(library, found)
}

pub(crate) async fn whoami(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    let asker = Asker::new(peer, &headers);
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

pub(crate) async fn model(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    Query(query): Query<ModelQuery>,
) -> Result<Json<Value>> {
    let repo = open(&hub, peer, &headers, &place, None).await?;
    Ok(Json(describe::model(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn model_at(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    Query(query): Query<ModelQuery>,
) -> Result<Json<Value>> {
    let repo = open(&hub, peer, &headers, &at.place, Some(&at.revision)).await?;
    Ok(Json(describe::model(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn tree(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    Query(query): Query<TreeQuery>,
) -> Result<Response> {
    let repo = open(&hub, peer, &headers, &at.place, Some(&at.revision)).await?;
    let info = repo.info();
    let below = at.path.trim_matches('/');
    let (recursive, expand) = (yes(query.recursive.as_deref()), yes(query.expand.as_deref()));
    let found = describe::tree(info, below, recursive);
    if found.is_empty() && !below.is_empty() {
        return Err(RegistryError::EntryNotFound {
            path: below.to_owned(),
            commit: info.revision.clone(),
        });
    }
    let Some(base) = hub.base() else {
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
        let mut path = format!("{base}/api/models/{}/tree/{}", at.place.id(), info.revision);
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

pub(crate) async fn paths_info(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    body: Bytes,
) -> Result<Json<Value>> {
    let repo = open(&hub, peer, &headers, &at.place, Some(&at.revision)).await?;
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

pub(crate) async fn refs(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Result<Json<Value>> {
    let asker = Asker::new(peer, &headers);
    let refs = hub.library().refs(&place.id(), asker.bearer.as_ref()).await?;
    Ok(Json(describe::refs(&asker.found(hub.library(), refs)?)))
}

pub(crate) async fn commits(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    Query(query): Query<CommitsQuery>,
) -> Result<Response> {
    let asker = Asker::new(peer, &headers);
    let id = at.place.id();
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

pub(crate) async fn auth_check(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Result<Json<Value>> {
    let repo = open(&hub, peer, &headers, &place, None).await?;
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
