//! JupyterLab as a page of this gateway: its files, and what it keeps of an account.

use std::sync::Arc;

use alephlab_api::time;
use axum::Json;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::body;
use crate::auth::{Account, own_pages_only};
use crate::error::{GatewayError, Result};
use crate::lab::{Lab, Part};
use crate::state::App;
use crate::store::{LabDocument, LabKind};

/// What the page may do. Scripts in outputs run only of cells that the reader ran: `trusted` is taken out of files.
const POLICY: &str = "frame-ancestors 'self'; object-src 'none'; base-uri 'self'";
/// Plugins that ask for what is not here: packages to install, news, a hub.
const DISABLED: [&str; 3] = [
    "@jupyterlab/extensionmanager-extension",
    "@jupyterlab/apputils-extension:announcements",
    "@jupyterlab/hub-extension",
];
/// The one for terminals, where there are none.
const TERMINALS: &str = "@jupyterlab/terminal-extension";
/// Names of addresses in the page's configuration.
const ADDRESSES: [(&str, &str); 9] = [
    ("app", "/lab"),
    ("tree", "/lab/tree"),
    ("settings", "/lab/api/settings"),
    ("themes", "/lab/api/themes"),
    ("workspacesApi", "/lab/api/workspaces"),
    ("translationsApi", "/lab/api/translations"),
    ("labextensions", "/lab/extensions"),
    ("licenses", "/lab/api/licenses"),
    ("listings", "/lab/api/listings"),
];
/// Most documents of a kind that an account has, and their longest text.
const MAX_DOCUMENTS: u32 = 1_000;
const MAX_DOCUMENT: usize = 1 << 20;
const PING: std::time::Duration = std::time::Duration::from_secs(30);

fn lab(app: &App) -> Result<&Lab> {
    app.lab.as_ref().ok_or_else(|| {
        GatewayError::not_found("lab_missing", "this gateway has no JupyterLab of its own")
            .with_hint("its operator runs: alephlab lab install")
    })
}

/// `GET /lab` and what JupyterLab puts behind it in its address. Who is not signed in is sent to where that is done.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    uri: Uri,
) -> Result<Response> {
    if account.is_none() {
        // Without the query, in which there may be a token that is over.
        let next: String = url::form_urlencoded::byte_serialize(uri.path().as_bytes()).collect();
        return Ok(Redirect::to(&format!("/?next={next}")).into_response());
    }
    let lab = lab(&app)?;
    let html = lab.page(&config(&app, lab, uri.path()));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    ];
    Ok((headers, html).into_response())
}

/// `/lab/workspaces/NAME/tree/PATH`: what the page is to open.
fn opened(path: &str) -> (String, String) {
    let rest = path.strip_prefix("/lab").unwrap_or_default();
    let (workspace, rest) = match rest.strip_prefix("/workspaces/") {
        Some(rest) => rest
            .split_once('/')
            .map_or((rest, ""), |(name, rest)| (name, rest)),
        None => ("default", rest.trim_start_matches('/')),
    };
    let tree = rest.strip_prefix("tree/").unwrap_or_default();
    (percent_decoded(workspace), percent_decoded(tree))
}

pub(super) fn percent_decoded(text: &str) -> String {
    let pair = format!("x={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn config(app: &App, lab: &Lab, path: &str) -> Value {
    let (workspace, tree) = opened(path);
    let terminals = app.terminals.are_allowed();
    let disabled: Vec<&str> = DISABLED
        .into_iter()
        .chain((!terminals).then_some(TERMINALS))
        .collect();
    let mut config = json!({
        "appName": "JupyterLab", "appNamespace": "lab", "appVersion": lab.version, "baseUrl": "/", "wsUrl": "",
        "treePath": tree, "workspace": workspace, "mode": "multiple-document", "preferredPath": "/",
        "fullStaticUrl": "/static/lab", "cacheFiles": false, "devMode": false, "store_id": 0,
        "federated_extensions": lab.extensions, "disabledExtensions": disabled, "ignorePlugins": [],
        "buildAvailable": false, "buildCheck": false, "quitButton": false, "exposeAppInBrowser": false,
        "terminalsAvailable": terminals, "notebookStartsKernel": true, "notebookVersion": "[2, 21, 0]",
        "allow_hidden_files": false, "delete_to_trash": false, "copyAbsolutePath": false,
        "token": "", "serverRoot": app.public_url.as_str(),
    });
    // Each is asked for under both names, by different parts of JupyterLab.
    for (name, url) in ADDRESSES {
        let mut letters = name.chars();
        let capital: String = letters
            .next()
            .iter()
            .flat_map(|c| c.to_uppercase())
            .chain(letters)
            .collect();
        config[format!("{name}Url")] = url.into();
        config[format!("full{capital}Url")] = url.into();
    }
    config
}

/// A file of the package; its name changes with what is in it.
async fn file(app: &App, part: Part, path: &str) -> Result<Response> {
    let unknown = || GatewayError::not_found("file_unknown", "this JupyterLab has no such file");
    let file = lab(app)?.file(part, path).ok_or_else(unknown)?;
    let opened = tokio::fs::File::open(&file).await.map_err(|_| unknown())?;
    let length = opened.metadata().await.map_err(|_| unknown())?.len();
    let kind = mime_guess::from_path(&file).first_or_octet_stream().to_string();
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CACHE_CONTROL, "private, max-age=86400".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(opened))).into_response())
}

/// `GET /static/lab/{path}`: published files, for everybody.
pub(crate) async fn asset(State(app): State<Arc<App>>, Path(path): Path<String>) -> Result<Response> {
    file(&app, Part::Static, &path).await
}

/// `GET /lab/api/themes/{path}`.
pub(crate) async fn theme(State(app): State<Arc<App>>, Path(path): Path<String>) -> Result<Response> {
    file(&app, Part::Themes, &path).await
}

/// `GET /lab/extensions/{path}`.
pub(crate) async fn extension(State(app): State<Arc<App>>, Path(path): Path<String>) -> Result<Response> {
    file(&app, Part::Extensions, &path).await
}

#[derive(Deserialize)]
pub(crate) struct SettingsQuery {
    ids_only: Option<String>,
}

/// `GET /lab/api/settings`: of all plugins.
pub(crate) async fn all_settings(
    State(app): State<Arc<App>>,
    account: Account,
    Query(query): Query<SettingsQuery>,
) -> Result<Json<Value>> {
    let lab = lab(&app)?;
    let ids_only = query.ids_only.is_some_and(|text| text == "true" || text == "1");
    if ids_only {
        let ids: Vec<_> = lab.schemas.keys().map(|id| json!({ "id": id })).collect();
        return Ok(Json(json!({ "settings": ids })));
    }
    let saved = app.store.lab_documents(&account.id, LabKind::Settings).await?;
    let find = |id: &str| saved.iter().find(|document| document.id == id);
    let all: Vec<_> = lab
        .schemas
        .iter()
        .map(|(id, schema)| settings(id, schema, find(id)))
        .collect();
    Ok(Json(json!({ "settings": all })))
}

/// `GET /lab/api/settings/{id}`.
pub(crate) async fn one_settings(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let schema = lab(&app)?.schemas.get(&id).ok_or_else(|| unknown_settings(&id))?;
    let saved = app
        .store
        .lab_document(&account.id, LabKind::Settings, &id)
        .await?;
    Ok(Json(settings(&id, schema, saved.as_ref())))
}

/// What the person wrote, as it was written: JupyterLab reads the comments' dialect itself.
fn settings(id: &str, (schema, version): &(Value, String), saved: Option<&LabDocument>) -> Value {
    let raw = saved.map_or("{}", |document| document.body.as_str());
    let parsed: Value = serde_json::from_str(raw).unwrap_or_else(|_| json!({}));
    let moment = |seconds: u64| {
        let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        time::format(moment)
    };
    json!({
        "id": id, "schema": schema, "version": version, "raw": raw, "settings": parsed, "warning": null,
        "created": saved.map(|document| moment(document.created)),
        "last_modified": saved.map(|document| moment(document.modified)),
    })
}

fn unknown_settings(id: &str) -> GatewayError {
    GatewayError::not_found(
        "settings_unknown",
        format!("JupyterLab has no settings `{id}` here"),
    )
}

#[derive(Deserialize)]
struct Raw {
    raw: String,
}

/// `PUT /lab/api/settings/{id}`.
pub(crate) async fn save_settings(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode> {
    if !lab(&app)?.schemas.contains_key(&id) {
        return Err(unknown_settings(&id));
    }
    let Raw { raw } = body(&bytes)?;
    put(&app, &account, LabKind::Settings, (&id, &raw)).await
}

/// `GET /lab/api/workspaces`.
pub(crate) async fn workspaces(State(app): State<Arc<App>>, account: Account) -> Result<Json<Value>> {
    let saved = app.store.lab_documents(&account.id, LabKind::Workspace).await?;
    let ids: Vec<_> = saved.iter().map(|document| document.id.clone()).collect();
    let values: Vec<_> = saved.iter().map(workspace_of).collect();
    Ok(Json(json!({ "workspaces": { "ids": ids, "values": values } })))
}

/// `GET /lab/api/workspaces/{id}`: an empty one where there is none.
pub(crate) async fn workspace(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let saved = app
        .store
        .lab_document(&account.id, LabKind::Workspace, &id)
        .await?;
    let none = || json!({ "data": {}, "metadata": { "id": id } });
    Ok(Json(saved.as_ref().map_or_else(none, workspace_of)))
}

fn workspace_of(document: &LabDocument) -> Value {
    let mut value: Value = serde_json::from_str(&document.body).unwrap_or_else(|_| json!({ "data": {} }));
    value["metadata"]["id"] = document.id.as_str().into();
    value
}

/// `PUT /lab/api/workspaces/{id}`.
pub(crate) async fn save_workspace(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode> {
    let value: Value = body(&bytes)?;
    let is_odd = value
        .get("metadata")
        .is_some_and(|metadata| !metadata.is_object());
    if !value["data"].is_object() || is_odd {
        return Err(GatewayError::bad_request(
            "workspace_bad",
            "a workspace has `data`",
        ));
    }
    put(&app, &account, LabKind::Workspace, (&id, &value.to_string())).await
}

/// `DELETE /lab/api/workspaces/{id}`.
pub(crate) async fn remove_workspace(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    app.store
        .remove_lab_document(&account.id, LabKind::Workspace, &id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put(app: &App, account: &Account, kind: LabKind, (id, text): (&str, &str)) -> Result<StatusCode> {
    if id.len() > 512 || text.len() > MAX_DOCUMENT {
        return Err(GatewayError::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "document_large",
            "settings and workspaces are at most 1 MiB",
        ));
    }
    match app
        .store
        .put_lab_document(&account.id, kind, (id, text), MAX_DOCUMENTS)
        .await?
    {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(GatewayError::refused(
            StatusCode::CONFLICT,
            "documents_limit",
            format!("an account has at most {MAX_DOCUMENTS} of these"),
        )),
    }
}

/// `GET /lab/api/translations`: English only.
pub(crate) async fn translations(_: Account) -> Json<Value> {
    Json(json!({ "data": { "en": { "displayName": "English", "nativeName": "English" } }, "message": "" }))
}

/// `GET /lab/api/translations/{locale}`.
pub(crate) async fn translation(_: Account) -> Json<Value> {
    Json(json!({ "data": {}, "message": "" }))
}

/// `GET /lab/api/listings/{path}`: no extension is blocked, none can be installed.
pub(crate) async fn listings(_: Account) -> Json<Value> {
    Json(
        json!({ "blocked_extensions": [], "allowed_extensions": [], "blocked_extensions_uris": [], "allowed_extensions_uris": [] }),
    )
}

/// `GET /lab/api/licenses`.
pub(crate) async fn licenses(_: Account) -> Json<Value> {
    Json(json!({ "bundles": {} }))
}

/// `GET` and `PATCH /api/config/{section}`: the classic notebook's settings, of which there are none.
pub(crate) async fn classic_config(_: Account) -> Json<Value> {
    Json(json!({}))
}

/// `GET /api/nbconvert`: no format can be made here.
pub(crate) async fn nbconvert(_: Account) -> Json<Value> {
    Json(json!({}))
}

/// `GET /lsp/status`: no language server stands behind the page; completion comes from the kernel.
pub(crate) async fn language_servers(_: Account) -> Json<Value> {
    Json(json!({ "version": 2, "sessions": {}, "specs": {} }))
}

/// `GET /api/events/subscribe`: a WebSocket on which nothing happens; clients want it open.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    own_pages_only(&app, &headers, "listen to events")?;
    let upgrade = upgrade.max_message_size(64 << 10).read_buffer_size(4 << 10);
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let over = app.store.token_ends(&account.proof.sha256);
        tokio::pin!(over);
        let mut ping = tokio::time::interval(PING);
        loop {
            let alive = tokio::select! {
                message = socket.recv() => matches!(message, Some(Ok(message)) if !matches!(message, Message::Close(_))),
                _ = ping.tick() => socket.send(Message::Ping(Bytes::new())).await.is_ok(),
                () = app.stop.cancelled() => false,
                () = &mut over => false,
            };
            if !alive {
                return;
            }
        }
    }))
}

/// For addresses that JupyterLab asks for and that have an icon of ours.
pub(crate) async fn icon() -> Response {
    let location = HeaderValue::from_static("/static/icon.svg");
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_to_be_opened_from_the_address() {
        for (path, workspace, tree) in [
            ("/lab", "default", ""),
            ("/lab/", "default", ""),
            ("/lab/tree/a%20b/c.ipynb", "default", "a b/c.ipynb"),
            ("/lab/workspaces/auto-X", "auto-X", ""),
            ("/lab/workspaces/auto-X/tree/n.ipynb", "auto-X", "n.ipynb"),
        ] {
            assert_eq!(opened(path), (workspace.to_owned(), tree.to_owned()), "{path}");
        }
    }
}
