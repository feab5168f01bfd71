//! `/v1/models`: records of revisions, fetched from Aleph and verified before they are indexed.

use std::sync::Arc;

use alephlab_api::model::{IndexedModel, MODEL_RECORD_TYPE, ModelRecord, NewModel};
use alephlab_vault::{HEAD_POST_TYPE, SignedHead};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::body;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::StoredModel;

/// `GET /v1/models`: the account's own, newest first.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<IndexedModel>>> {
    let models = match account.address() {
        Some(address) => app.store.models(address).await?,
        None => Vec::new(),
    };
    Ok(Json(models.into_iter().map(StoredModel::indexed).collect()))
}

/// `POST /v1/models`.
pub(crate) async fn add(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let owner = account.needs_address("publishing")?;
    let NewModel { record } = body(&bytes)?;
    if record.len() != 64 || !record.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(GatewayError::bad_request(
            "record_hash",
            "a record is named by an item hash of 64 hex digits",
        ));
    }
    let model = fetch(&app, &record).await?;
    if model.record.owner != owner {
        let message = "this record is of another account";
        return Err(GatewayError::refused(
            StatusCode::FORBIDDEN,
            "record_foreign",
            message,
        ));
    }
    app.store.add_model(&model).await?;
    Ok((StatusCode::CREATED, Json(model.indexed())).into_response())
}

/// Fetches record and head, and checks that the owner signed both and that they name each other.
async fn fetch(app: &App, message: &str) -> Result<StoredModel> {
    let refused = |reason: &str| {
        let message = format!("the record {message} is refused: {reason}");
        Err(GatewayError::refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "record_refused",
            message,
        ))
    };
    // The storage checks hash and signature of each message.
    let Some(post) = app.storage.post(message).await? else {
        let text = format!("the Aleph node does not have the record {message}");
        return Err(GatewayError::not_found("record_missing", text)
            .with_hint("post it first, or try again in a moment"));
    };
    if post.post_type != MODEL_RECORD_TYPE {
        return refused("it is a post of another type");
    }
    let record: ModelRecord = match serde_json::from_value(post.content) {
        Ok(record) => record,
        Err(error) => return refused(&error.to_string()),
    };
    record.check().map_err(|problem| GatewayError::Refused {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        problem,
    })?;
    let by_owner = |sender: &str, address: &str| {
        sender.eq_ignore_ascii_case(&record.owner) && address.eq_ignore_ascii_case(&record.owner)
    };
    if !by_owner(&post.sender, &post.address) {
        return refused("it is not signed by the owner that it names");
    }
    let Some(head_post) = app.storage.post(&record.head).await? else {
        return refused("the Aleph node does not have its head");
    };
    if head_post.post_type != HEAD_POST_TYPE {
        return refused("its head is a post of another type");
    }
    let head = SignedHead::from_post(&head_post.content)?;
    head.verify()?;
    if head.revision() != record.commit || !by_owner(&head_post.sender, &head.head.owner.to_string()) {
        return refused("its head is of another revision or owner");
    }
    Ok(StoredModel {
        message: message.to_owned(),
        record,
        head,
    })
}
