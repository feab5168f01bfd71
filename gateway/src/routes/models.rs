//! `/v1/models`: signed messages of the registry, looked at on Aleph and verified before they count, and what follows from them.

use std::sync::Arc;

use alephlab_api::model::{IndexedModel, ModelPage, NewModel, PublicFile, RegistryRebuild, is_hex};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::body;
use super::ledger::operators_only;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::models;
use crate::state::App;

const REBUILDS: &str = "builds the registry anew";

/// `GET /v1/models`: the account's own, newest first.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<IndexedModel>>> {
    Ok(Json(match account.address() {
        Some(address) => app.store.models(address).await?,
        None => Vec::new(),
    }))
}

/// `GET /v1/models/{owner}/{name}`, open to all: each word of it stands in public messages on Aleph.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<ModelPage>> {
    match app.models.page(&format!("{owner}/{name}")).await? {
        Some(page) => Ok(Json(page)),
        None => Err(GatewayError::not_found(
            "model_unknown",
            format!("this gateway knows no model {owner}/{name}"),
        )
        .with_hint("its owner may have withdrawn it, or not yet told this gateway of it")),
    }
}

/// `GET /v1/files/{sha256}`, open to all: which public models have this file. Of no other model is this told, to nobody.
pub(crate) async fn with_file(
    State(app): State<Arc<App>>,
    Path(sha256): Path<String>,
) -> Result<Json<Vec<PublicFile>>> {
    let sha256 = sha256.to_ascii_lowercase();
    if !is_hex(&sha256, 64) {
        return Err(GatewayError::bad_request(
            "file_hash",
            "a file is named by a SHA-256 of 64 hex digits",
        ));
    }
    Ok(Json(app.store.public_files(&sha256).await?))
}

/// `POST /v1/models`, by the account whose message it is.
pub(crate) async fn add(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let teller = account.needs_address("publishing")?;
    let NewModel { record } = body(&bytes)?;
    if record.len() != 64 || !record.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(GatewayError::bad_request(
            "record_hash",
            "a message is named by an item hash of 64 hex digits",
        ));
    }
    let record = record.to_ascii_lowercase();
    let said = models::look(&app.storage, &record).await?;
    if said.signer() != teller {
        let message = "this message is of another account";
        return Err(GatewayError::refused(
            StatusCode::FORBIDDEN,
            "record_foreign",
            message,
        ));
    }
    app.take_in(&said).await?;
    models::told(&app, &record).await?;
    let name = said.name().to_owned();
    Ok(match said.indexed() {
        Some(model) => (StatusCode::CREATED, Json(model)).into_response(),
        None => (
            StatusCode::CREATED,
            Json(json!({ "message": record, "name": name })),
        )
            .into_response(),
    })
}

/// `POST /v1/registry/rebuild`, by an operator: has all messages read from Aleph.
pub(crate) async fn rebuild(
    State(app): State<Arc<App>>,
    account: Account,
) -> Result<(StatusCode, Json<RegistryRebuild>)> {
    operators_only(&account, REBUILDS)?;
    Ok((StatusCode::ACCEPTED, Json(app.models.following.rebuild())))
}

/// `GET /v1/registry/rebuild`, by an operator: how far that is.
pub(crate) async fn rebuilding(
    State(app): State<Arc<App>>,
    account: Account,
) -> Result<Json<RegistryRebuild>> {
    operators_only(&account, REBUILDS)?;
    Ok(Json(app.models.following.progress()))
}
