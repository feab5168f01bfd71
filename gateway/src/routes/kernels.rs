//! `/api/kernels`, with the status codes that Jupyter's clients check exactly.

use std::sync::Arc;

use alephlab_api::jupyter::{KernelModel, NewKernel};
use alephlab_api::time;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use uuid::Uuid;

use super::body;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::StoredKernel;

/// `GET /api/kernels`.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Json<Vec<KernelModel>> {
    Json(
        app.kernels
            .of(&account.id)
            .iter()
            .map(|live| app.kernels.model(live))
            .collect(),
    )
}

/// `POST /api/kernels`: 201 at once, `starting`.
pub(crate) async fn start(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let wanted: NewKernel = body(&bytes)?;
    let live = app.kernels.start(&account.id, &wanted).await?;
    let location = [(header::LOCATION, format!("/api/kernels/{}", live.id))];
    Ok((StatusCode::CREATED, location, Json(app.kernels.model(&live))).into_response())
}

/// `GET /api/kernels/{id}`.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<KernelModel>> {
    let id = kernel_id(&id)?;
    match app.kernels.get(&account.id, id) {
        Ok(live) => Ok(Json(app.kernels.model(&live))),
        Err(_) => Ok(Json(dead(&app.kernels.earlier(&account.id, id).await?))),
    }
}

/// `DELETE /api/kernels/{id}`.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    app.kernels.stop(&account.id, kernel_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/kernels/{id}/interrupt`.
pub(crate) async fn interrupt(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    app.kernels.interrupt(&account.id, kernel_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/kernels/{id}/restart`: 200 when it is ready again.
pub(crate) async fn restart(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<KernelModel>> {
    let live = app.kernels.restart(&account.id, kernel_id(&id)?).await?;
    Ok(Json(app.kernels.model(&live)))
}

/// An id of a path; what is none is unknown rather than malformed, as at Jupyter's servers.
pub(crate) fn kernel_id(text: &str) -> Result<Uuid> {
    text.parse()
        .map_err(|_| GatewayError::not_found("kernel_unknown", "there is no such kernel"))
}

fn dead(kernel: &StoredKernel) -> KernelModel {
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(kernel.changed);
    KernelModel {
        id: kernel.id,
        name: kernel.name.clone(),
        last_activity: time::format(moment),
        execution_state: kernel.state.jupyter().to_owned(),
        connections: 0,
        reason: kernel.reason.clone(),
        trust: None,
    }
}
