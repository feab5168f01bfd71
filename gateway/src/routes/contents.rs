//! `/api/contents` and `/files`: an account's notebooks and files.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use super::body;
use crate::auth::Account;
use crate::contents::{Asked, Files, Kind, Model, Place, Sent, mark_trusted};
use crate::error::{GatewayError, Result};
use crate::state::App;

/// What a downloaded file may do when a browser shows it: nothing with this gateway.
const SANDBOX: &str = "sandbox allow-scripts; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; media-src data: blob:";

/// What comes after a file's path.
enum Wanted {
    Itself,
    Checkpoints,
    Checkpoint(String),
}

/// `folder/file/checkpoints/id`: a file may be named so, too, but Jupyter's servers read it so.
fn take_apart(path: &str) -> Result<(Place, Wanted)> {
    if let Some(file) = path.strip_suffix("/checkpoints") {
        return Ok((Place::parse(file)?, Wanted::Checkpoints));
    }
    if let Some((file, id)) = path
        .rsplit_once("/checkpoints/")
        .filter(|(_, id)| !id.contains('/'))
    {
        return Ok((Place::parse(file)?, Wanted::Checkpoint(id.to_owned())));
    }
    Ok((Place::parse(path)?, Wanted::Itself))
}

/// Does something with an account's files on a thread that may block.
async fn with_files<T: Send + 'static>(
    app: &App,
    account: &Account,
    what: impl FnOnce(&Files) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (contents, address) = (app.contents.clone(), account.id.clone());
    let done = tokio::task::spawn_blocking(move || what(&contents.of(&address)?)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "files could not be used");
        Err(GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "file_failed",
            "the files could not be used",
        ))
    })
}

/// `GET /api/contents`.
pub(crate) async fn root(
    State(app): State<Arc<App>>,
    account: Account,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response> {
    get(State(app), account, Path(String::new()), Query(query)).await
}

/// `GET /api/contents/{path}`, and of its checkpoints.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response> {
    let (place, wanted) = take_apart(&path)?;
    let asked = Asked::of_query(&query);
    match wanted {
        Wanted::Itself => {
            if asked.content && place.name().ends_with(".ipynb") {
                app.kernels.write_missed_of(&account.id, &place.path()).await;
            }
            let hash = asked.hash;
            let model = with_files(&app, &account, move |files| {
                let hash = asked.hash || asked.content;
                files.get(&place, &Asked { hash, ..asked })
            });
            let model = shown(&app, &account, model.await?, hash).await?;
            // Written there, because it may be large.
            let json = with_files(&app, &account, move |_| {
                serde_json::to_vec(&model).map_err(|error| {
                    GatewayError::bad_request("file_failed", format!("this file cannot be sent: {error}"))
                })
            });
            Ok(([(header::CONTENT_TYPE, "application/json")], json.await?).into_response())
        }
        _ => {
            let checkpoints = with_files(&app, &account, move |files| files.checkpoints(&place)).await?;
            Ok(Json(checkpoints).into_response())
        }
    }
}

/// The model as the client asked for it, the cells of a notebook that the account trusts marked so.
async fn shown(app: &App, account: &Account, mut model: Model, hash: bool) -> Result<Model> {
    if let (Some(sha256), true) = (model.sha256(), model.notebook_mut().is_some())
        && app.store.trusts_notebook(&account.id, &sha256).await?
        && let Some(notebook) = model.notebook_mut()
    {
        mark_trusted(notebook);
    }
    if !hash {
        model.hash = None;
        model.hash_algorithm = None;
    }
    Ok(model)
}

/// `PUT /api/contents/{path}`: 200, or 201 for a new one.
pub(crate) async fn save(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Result<Response> {
    let place = Place::parse(&path)?;
    // A page that saves has the outputs of cells that were over before it began.
    let mut over = Vec::new();
    if place.name().ends_with(".ipynb") {
        for live in app.kernels.serving(&account.id, &place.path()).await {
            let cells = live.recorder.over(|session| live.relay.has_heard_all(session));
            over.push((cells, live));
        }
    }
    let saved = with_files(&app, &account, move |files| {
        let sent = body::<Sent>(&bytes)?;
        let (model, is_new) = files.save(&place, &sent)?;
        let hashed = Asked {
            hash: true,
            ..Asked::default()
        };
        // A file that is new was not open in any page.
        let trusted = !is_new && sent.is_trusted();
        let sha256 = match trusted {
            true => files.get(&place, &hashed)?.sha256(),
            false => None,
        };
        Ok((model, is_new, sha256))
    });
    let (model, is_new, trusted) = saved.await?;
    if let Some(sha256) = trusted {
        app.store.trust_notebook(&account.id, &sha256).await?;
    }
    for (cells, live) in over {
        live.saved(cells);
    }
    Ok(match is_new {
        true => created(model),
        false => Json(model).into_response(),
    })
}

#[derive(Deserialize)]
struct Change {
    path: String,
}

/// `PATCH /api/contents/{path}`: another name.
pub(crate) async fn rename(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Result<Json<Model>> {
    let (from, to) = (Place::parse(&path)?, Place::parse(&body::<Change>(&bytes)?.path)?);
    Ok(Json(
        with_files(&app, &account, move |files| files.rename(&from, &to)).await?,
    ))
}

#[derive(Deserialize)]
struct New {
    copy_from: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    #[serde(default)]
    ext: String,
}

/// `POST /api/contents`.
pub(crate) async fn create_in_root(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Response> {
    create(State(app), account, Path(String::new()), bytes).await
}

/// `POST /api/contents/{path}`: a new file in the folder, a copy of one, or a checkpoint of the file.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Result<Response> {
    let (place, wanted) = take_apart(&path)?;
    match wanted {
        Wanted::Itself => {}
        Wanted::Checkpoints => {
            let made = with_files(&app, &account, move |files| files.make_checkpoint(&place)).await?;
            let location = [(header::LOCATION, format!("/api/contents/{path}/{}", made.id))];
            return Ok((StatusCode::CREATED, location, Json(made)).into_response());
        }
        Wanted::Checkpoint(id) => {
            with_files(&app, &account, move |files| files.restore_checkpoint(&place, &id)).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let new: New = body(&bytes)?;
    let from = new.copy_from.as_deref().map(Place::parse).transpose()?;
    let model = with_files(&app, &account, move |files| match from {
        Some(from) => files.copy(&place, &from),
        None => files.create(&place, new.kind.unwrap_or(Kind::File), &new.ext),
    });
    Ok(created(model.await?))
}

/// `DELETE /api/contents/{path}`, or one of its checkpoints.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
) -> Result<StatusCode> {
    let (place, wanted) = take_apart(&path)?;
    if matches!(wanted, Wanted::Checkpoints) {
        let message = "checkpoints are deleted one by one";
        return Err(GatewayError::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            message,
        ));
    }
    with_files(&app, &account, move |files| match wanted {
        Wanted::Checkpoint(id) => files.delete_checkpoint(&place, &id),
        _ => files.delete(&place),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct Download {
    #[serde(default)]
    download: Option<String>,
}

/// `GET /files/{path}`: the bytes. A page among them runs without this gateway's origin.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    account: Account,
    Path(path): Path<String>,
    Query(query): Query<Download>,
) -> Result<Response> {
    let place = Place::parse(&path)?;
    let name = place.name().to_owned();
    let file = with_files(&app, &account, move |files| files.file(&place)).await?;
    let unreadable = |_| GatewayError::not_found("file_unknown", format!("`{path}` cannot be read"));
    let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let kind = mime_guess::from_path(&name).first_or_octet_stream().to_string();
    let mut headers = HeaderMap::new();
    let mut insert = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(header::CONTENT_TYPE, &kind);
    insert(header::CONTENT_LENGTH, &length.to_string());
    insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
    insert(header::CACHE_CONTROL, "no-store");
    if query.download.is_some() {
        let name = percent_encoded(&name);
        insert(
            header::CONTENT_DISPOSITION,
            &format!("attachment; filename*=UTF-8''{name}"),
        );
    }
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}

fn created(model: Model) -> Response {
    let location = [(
        header::LOCATION,
        format!("/api/contents/{}", encoded(&model.path)),
    )];
    (StatusCode::CREATED, location, Json(model)).into_response()
}

/// A path as it stands in an address.
pub(super) fn encoded(path: &str) -> String {
    let parts: Vec<String> = path.split('/').map(percent_encoded).collect();
    parts.join("/")
}

/// One part of a path (RFC 3986).
fn percent_encoded(part: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(part.as_bytes()).collect();
    encoded.replace('+', "%20")
}
