//! What the Hub says about a repo: model object, tree, paths, refs, and who the bearer is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::model::RecordFile;
use alephlab_api::{Secret, time};
use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::answer::RegistryError;
use crate::{Library, Repo, RepoInfo};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// A repo as a path names it.
#[derive(Deserialize)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct PlaceAt {
    #[serde(flatten)]
    place: Place,
    revision: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
pub(crate) struct TreeQuery {
    #[serde(default)]
    recursive: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ModelQuery {
    #[serde(default)]
    blobs: Option<String>,
}

/// Opens the repo for the bearer of these headers; `revision` must be `main`, a tag or the commit.
pub(crate) async fn open(
    library: &dyn Library,
    peer: SocketAddr,
    headers: &HeaderMap,
    place: &Place,
    revision: Option<&str>,
) -> Result<Arc<dyn Repo>> {
    loopback(peer)?;
    let id = format!("{}/{}", place.namespace, place.name);
    let bearer = bearer(headers);
    let Some(repo) = library.repo(&id, bearer.as_ref()).await? else {
        return Err(refusal(library, peer, RegistryError::RepoNotFound));
    };
    let info = repo.info();
    match revision {
        Some(asked)
            if asked != "main" && asked != info.revision && !info.tags.iter().any(|tag| tag == asked) =>
        {
            Err(RegistryError::RevisionNotFound {
                revision: asked.to_owned(),
            })
        }
        _ => Ok(repo),
    }
}

pub(crate) async fn whoami(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    loopback(peer)?;
    let name = match bearer(&headers) {
        Some(bearer) => library.who(&bearer).await?,
        None => None,
    };
    let Some(name) = name else {
        return Err(refusal(library.as_ref(), peer, RegistryError::Token));
    };
    Ok(Json(json!({
        "type": "user", "id": name, "name": name, "fullname": name, "email": null, "orgs": [], "isPro": false,
        "canPay": false, "auth": { "type": "access_token", "accessToken": { "displayName": name, "role": "read" } },
    })))
}

pub(crate) async fn model(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    Query(query): Query<ModelQuery>,
) -> Result<Json<Value>> {
    let repo = open(library.as_ref(), peer, &headers, &place, None).await?;
    Ok(Json(describe(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn model_at(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    Query(query): Query<ModelQuery>,
) -> Result<Json<Value>> {
    let repo = open(library.as_ref(), peer, &headers, &at.place, Some(&at.revision)).await?;
    Ok(Json(describe(repo.info(), yes(query.blobs.as_deref()))))
}

pub(crate) async fn tree(
    library: State<Arc<dyn Library>>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    at: Path<PlaceAt>,
    query: Query<TreeQuery>,
) -> Result<Json<Value>> {
    tree_below(library, peer, headers, at, query).await
}

pub(crate) async fn tree_below(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    Query(query): Query<TreeQuery>,
) -> Result<Json<Value>> {
    let repo = open(library.as_ref(), peer, &headers, &at.place, Some(&at.revision)).await?;
    let info = repo.info();
    let below = at.path.trim_matches('/');
    let entries = list(info, below, yes(query.recursive.as_deref()));
    if entries.is_empty() && !below.is_empty() {
        return Err(RegistryError::EntryNotFound {
            path: below.to_owned(),
            commit: info.revision.clone(),
        });
    }
    Ok(Json(Value::Array(entries)))
}

pub(crate) async fn paths_info(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
    body: Bytes,
) -> Result<Json<Value>> {
    let repo = open(library.as_ref(), peer, &headers, &at.place, Some(&at.revision)).await?;
    let info = repo.info();
    let folders = folders(info, "");
    let mut found = Vec::new();
    for (key, path) in url::form_urlencoded::parse(&body) {
        if key != "paths" {
            continue;
        }
        let path = path.trim_matches('/');
        if let Some(file) = info.files.iter().find(|file| file.path == path) {
            found.push(file_entry(file));
        } else if folders.contains(path) {
            found.push(folder_entry(path));
        }
    }
    Ok(Json(Value::Array(found)))
}

pub(crate) async fn refs(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Result<Json<Value>> {
    let repo = open(library.as_ref(), peer, &headers, &place, None).await?;
    let info = repo.info();
    let named = |kind: &str, name: &str| json!({ "name": name, "ref": format!("refs/{kind}/{name}"), "targetCommit": info.revision });
    let tags: Vec<_> = info.tags.iter().map(|tag| named("tags", tag)).collect();
    Ok(Json(
        json!({ "branches": [named("heads", "main")], "tags": tags, "converts": [] }),
    ))
}

pub(crate) async fn auth_check(
    State(library): State<Arc<dyn Library>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Result<Json<Value>> {
    open(library.as_ref(), peer, &headers, &place, None).await?;
    Ok(Json(json!({ "ok": true })))
}

/// A share's token is all that its holder has; it must not cross a network in clear. A server behind a TLS proxy on
/// its own machine sees a loopback peer.
fn loopback(peer: SocketAddr) -> Result<()> {
    let peer = peer.ip().to_canonical();
    if peer.is_loopback() {
        Ok(())
    } else {
        Err(RegistryError::PlainHttp)
    }
}

fn refusal(library: &dyn Library, peer: SocketAddr, error: RegistryError) -> RegistryError {
    if library.refused(peer) {
        RegistryError::TooMany
    } else {
        error
    }
}

fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Secret::new(token.trim()))
}

fn yes(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}

fn describe(info: &RepoInfo, blobs: bool) -> Value {
    let siblings: Vec<_> = info
        .files
        .iter()
        .map(|file| {
            let mut sibling = json!({ "rfilename": file.path });
            if blobs {
                let pointer = pointer(file);
                sibling["size"] = file.size.into();
                sibling["blobId"] = blob_id(&pointer).into();
                sibling["lfs"] =
                    json!({ "sha256": file.sha256, "size": file.size, "pointerSize": pointer.len() });
            }
            sibling
        })
        .collect();
    let created = time::hub(info.created);
    let card = &info.card;
    let mut model = json!({
        "_id": info.revision.get(..24).unwrap_or_default(), "id": info.id, "modelId": info.id, "author": info.author,
        "sha": info.revision, "private": true, "gated": false, "disabled": false, "downloads": 0, "likes": 0,
        "tags": card.tags, "lastModified": created, "createdAt": created, "siblings": siblings,
        "cardData": { "license": card.licence, "tags": card.tags },
    });
    if let Some(task) = &card.task {
        model["pipeline_tag"] = task.as_str().into();
    }
    if let Some(library) = &card.library {
        model["library_name"] = library.as_str().into();
    }
    model
}

fn list(info: &RepoInfo, below: &str, recursive: bool) -> Vec<Value> {
    let depth = |path: &str| {
        if below.is_empty() {
            path.matches('/').count()
        } else {
            inside(path, below)
        }
    };
    let within =
        |path: &str| below.is_empty() || path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'));
    let shown = |path: &&str| within(path) && (recursive || depth(path) == 0);
    let folders = folders(info, below);
    let mut entries: Vec<Value> = folders
        .iter()
        .map(String::as_str)
        .filter(shown)
        .map(folder_entry)
        .collect();
    entries.extend(
        info.files
            .iter()
            .filter(|file| shown(&file.path.as_str()))
            .map(file_entry),
    );
    entries
}

/// Slashes of `path` after the folder `below`.
fn inside(path: &str, below: &str) -> usize {
    path.get(below.len() + 1..)
        .map_or(0, |rest| rest.matches('/').count())
}

fn folders(info: &RepoInfo, below: &str) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for file in &info.files {
        let slashes = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
        folders.extend(slashes.filter(|folder| *folder != below).map(str::to_owned));
    }
    folders
}

fn file_entry(file: &RecordFile) -> Value {
    let pointer = pointer(file);
    json!({
        "type": "file", "oid": blob_id(&pointer), "size": file.size, "path": file.path,
        "lfs": { "oid": file.sha256, "size": file.size, "pointerSize": pointer.len() },
    })
}

fn folder_entry(path: &str) -> Value {
    json!({ "type": "directory", "oid": blob_id(path), "size": 0, "path": path })
}

/// The git-lfs pointer that stands for a file in git.
fn pointer(file: &RecordFile) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        file.sha256, file.size
    )
}

/// Git's id of a blob with this text.
fn blob_id(text: &str) -> String {
    hex::encode(Sha1::digest(format!("blob {}\0{text}", text.len())))
}

#[cfg(test)]
mod tests {
    use alephlab_api::model::Card;

    use super::*;

    fn info() -> RepoInfo {
        let file = |path: &str| RecordFile {
            path: path.into(),
            size: 3,
            sha256: "0".repeat(64),
        };
        RepoInfo {
            id: "m/x".into(),
            author: "0xAb".into(),
            revision: "a".repeat(40),
            tags: vec![],
            files: vec![file("README.md"), file("onnx/a/model.onnx"), file("onnx/b.bin")],
            card: Card::default(),
            created: 0,
        }
    }

    fn paths(entries: &[Value]) -> Vec<&str> {
        entries
            .iter()
            .filter_map(|entry| entry["path"].as_str())
            .collect()
    }

    #[test]
    fn lists_folders_and_files_at_each_depth() {
        assert_eq!(paths(&list(&info(), "", false)), ["onnx", "README.md"]);
        assert_eq!(
            paths(&list(&info(), "", true)),
            ["onnx", "onnx/a", "README.md", "onnx/a/model.onnx", "onnx/b.bin"]
        );
        assert_eq!(paths(&list(&info(), "onnx", false)), ["onnx/a", "onnx/b.bin"]);
        assert!(list(&info(), "none", true).is_empty());
    }

    #[test]
    fn names_blobs_as_git_does() {
        // `printf hello | git hash-object --stdin`
        assert_eq!(blob_id("hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
    }

    #[test]
    fn refuses_a_peer_that_is_not_this_machine() {
        for (peer, allowed) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(loopback(peer.parse().unwrap()).is_ok(), allowed, "{peer}");
        }
    }
}
