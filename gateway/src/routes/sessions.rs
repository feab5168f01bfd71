//! `/api/sessions`: which document has which kernel. JupyterLab served directly and VS Code use them.

use std::sync::Arc;

use alephlab_api::jupyter::{NewKernel, NotebookRef, SessionChange, SessionKernel, SessionModel};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::body;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::StoredSession;

/// Longest path or name, bytes.
const MAX_TEXT: usize = 4096;

/// `GET /api/sessions`. A session whose kernel is gone is not shown.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<SessionModel>>> {
    let sessions = app.store.sessions(&account.id).await?;
    let models = sessions.into_iter().map(|session| model(&app, &account, session));
    Ok(Json(models.filter(|model| model.kernel.is_some()).collect()))
}

/// `POST /api/sessions`: 201; the same path again gives the session that it has.
pub(crate) async fn create(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let mut wanted: SessionChange = body(&bytes)?;
    let older = wanted
        .notebook
        .take()
        .and_then(|notebook| notebook["path"].as_str().map(str::to_owned));
    let Some(path) = wanted.path.or(older) else {
        return Err(GatewayError::bad_request(
            "session_path",
            "a session needs a path",
        ));
    };
    let kernel = wanted.kernel.unwrap_or_default();
    if let Some(session) = same_path(&app, &account, &path).await? {
        return Ok(created(model(&app, &account, session)));
    }
    let kernel = match kernel_for(&app, &account, &kernel, Some(&path)).await {
        Ok(kernel) => kernel,
        Err(error) if error.code() == "kernelspec_unknown" => return Ok(no_spec(&error)),
        Err(error) => return Err(error),
    };
    let session = StoredSession {
        id: Uuid::new_v4(),
        kernel,
        path: bounded(path)?,
        name: bounded(wanted.name.unwrap_or_default())?,
        kind: bounded(wanted.kind.unwrap_or_else(|| "notebook".to_owned()))?,
    };
    app.store.put_session(&account.id, &session).await?;
    Ok(created(model(&app, &account, session)))
}

/// `GET /api/sessions/{id}`.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<SessionModel>> {
    let session = find(&app, &account, &id).await?;
    Ok(Json(model(&app, &account, session)))
}

/// `PATCH /api/sessions/{id}`: new path, name, type or kernel. A kernel that no session has any more is stopped.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<SessionModel>> {
    let wanted: SessionChange = body(&bytes)?;
    let mut session = find(&app, &account, &id).await?;
    let before = session.kernel;
    if let Some(path) = wanted.path {
        session.path = bounded(path)?;
    }
    if let Some(name) = wanted.name {
        session.name = bounded(name)?;
    }
    if let Some(kind) = wanted.kind {
        session.kind = bounded(kind)?;
    }
    if let Some(kernel) = wanted
        .kernel
        .filter(|kernel| kernel.id.is_some() || kernel.name.is_some())
    {
        session.kernel = kernel_for(&app, &account, &kernel, Some(&session.path)).await?;
    }
    app.store.put_session(&account.id, &session).await?;
    if session.kernel != before {
        stop_unused(&app, &account, before).await;
    }
    Ok(Json(model(&app, &account, session)))
}

/// `DELETE /api/sessions/{id}`: the session and its kernel.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let session = find(&app, &account, &id).await?;
    app.store.remove_session(&account.id, session.id).await?;
    stop_unused(&app, &account, session.kernel).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &App, account: &Account, id: &str) -> Result<StoredSession> {
    let unknown = || GatewayError::not_found("session_unknown", "there is no such session");
    let id = id.parse().map_err(|_| unknown())?;
    app.store.session(&account.id, id).await?.ok_or_else(unknown)
}

async fn same_path(app: &App, account: &Account, path: &str) -> Result<Option<StoredSession>> {
    let sessions = app.store.sessions(&account.id).await?;
    let alive = |session: &StoredSession| app.kernels.get(&account.id, session.kernel).is_ok();
    Ok(sessions
        .into_iter()
        .find(|session| session.path == path && alive(session)))
}

async fn kernel_for(
    app: &App,
    account: &Account,
    wanted: &SessionKernel,
    path: Option<&str>,
) -> Result<Uuid> {
    if let Some(id) = wanted.id {
        return app.kernels.get(&account.id, id).map(|live| live.id);
    }
    // The document's folder is the kernel's, where the account has it here, or the host has such a folder.
    let ours = path.and_then(|path| app.contents.working_folder(&account.id, path));
    let theirs = || {
        path.and_then(|path| path.rsplit_once('/'))
            .map(|(folder, _)| folder.to_owned())
    };
    let folder = ours.or_else(theirs);
    let kernel = NewKernel {
        name: wanted.name.clone(),
        path: folder,
        ..NewKernel::default()
    };
    app.kernels.start(&account.id, &kernel).await.map(|live| live.id)
}

async fn stop_unused(app: &App, account: &Account, kernel: Uuid) {
    let used = app
        .store
        .sessions(&account.id)
        .await
        .is_ok_and(|sessions| sessions.iter().any(|session| session.kernel == kernel));
    if !used && let Err(error) = app.kernels.stop(&account.id, kernel).await {
        tracing::debug!(%kernel, %error, "a session's kernel was gone already");
    }
}

fn model(app: &App, account: &Account, session: StoredSession) -> SessionModel {
    let kernel = app
        .kernels
        .get(&account.id, session.kernel)
        .ok()
        .map(|live| app.kernels.model(&live));
    let notebook = (session.kind == "notebook").then(|| NotebookRef {
        path: session.path.clone(),
        name: session.name.clone(),
    });
    SessionModel {
        id: session.id,
        path: session.path,
        name: session.name,
        kind: session.kind,
        kernel,
        notebook,
    }
}

fn created(model: SessionModel) -> Response {
    let location = [(header::LOCATION, format!("/api/sessions/{}", model.id))];
    (StatusCode::CREATED, location, Json(model)).into_response()
}

/// Jupyter's clients know this answer by its status and `short_message`.
fn no_spec(error: &GatewayError) -> Response {
    let message = error.to_string();
    let answer = json!({
        "code": error.code(), "message": message, "reason": message, "short_message": message, "traceback": null,
    });
    (StatusCode::NOT_IMPLEMENTED, Json(answer)).into_response()
}

fn bounded(text: String) -> Result<String> {
    if text.len() <= MAX_TEXT && !text.contains('\0') {
        return Ok(text);
    }
    Err(GatewayError::bad_request(
        "session_text",
        "a path or name of a session is over 4096 bytes",
    ))
}
