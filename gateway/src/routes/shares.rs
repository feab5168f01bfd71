//! `/v1/shares`: made and ended by owners; opened by our clients with an auth derived from the token.
//!
//! The token itself never comes here. Wrong UUID, wrong auth and none get one answer.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::share::{NewShare, ShareEnvelope, ShareInfo, ShareUse};
use alephlab_api::{Problem, time};
use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::body;
use crate::auth::{Account, header_token};
use crate::error::{GatewayError, Result};
use crate::library::USED_UP;
use crate::state::{App, address};
use crate::store::{StoredShare, sha256};

/// Sealed keys of a revision: some 60 bytes for each of its objects.
const MAX_SEALED: usize = 768 << 10;

/// `GET /v1/shares`: the account's own.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<ShareInfo>>> {
    Ok(Json(
        app.store
            .shares(&account.id)
            .await?
            .iter()
            .map(StoredShare::info)
            .collect(),
    ))
}

/// `POST /v1/shares`, by the owner of the model.
pub(crate) async fn add(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let owner = account.needs_address("sharing a model")?;
    let wanted: NewShare = body(&bytes)?;
    let bad = |message: &str| GatewayError::bad_request("share_malformed", message);
    let auth = hex::decode(&wanted.auth_sha256)
        .ok()
        .and_then(|auth| <[u8; 32]>::try_from(auth).ok());
    let auth_sha256 = auth.ok_or_else(|| bad("auth_sha256 is not 64 hex digits"))?;
    let sealed = STANDARD
        .decode(&wanted.sealed)
        .map_err(|_| bad("sealed is not base64"))?;
    if !(29..=MAX_SEALED).contains(&sealed.len()) {
        return Err(bad("sealed is too short or over 768 KiB"));
    }
    if wanted.expires.is_some_and(|expires| expires <= time::unix_now()) {
        return Err(bad("the share would be over already"));
    }
    let model = app.store.model(&wanted.model, &wanted.revision).await?;
    let Some(model) = model.filter(|model| model.record.owner == owner) else {
        let message = "this account has no such revision at this gateway";
        return Err(GatewayError::not_found("revision_unknown", message).with_hint("publish it first"));
    };
    let share = StoredShare {
        uuid: wanted.uuid,
        model: model.record.name,
        revision: model.record.commit,
        auth_sha256,
        sealed,
        expires: wanted.expires,
        created: time::unix_now(),
        limits: wanted.limits,
        used: ShareUse::default(),
    };
    if !app.store.add_share(&account.id, &share).await? {
        return Err(GatewayError::refused(
            StatusCode::CONFLICT,
            "share_taken",
            "this share exists already",
        ));
    }
    Ok((StatusCode::CREATED, Json(share.info())).into_response())
}

/// `GET /v1/shares/{uuid}` with `Authorization: Bearer <auth hex>`.
pub(crate) async fn open(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    // The same steps for a wrong id, a wrong auth and none.
    let auth = header_token(&headers)
        .and_then(|auth| hex::decode(auth.expose()).ok())
        .unwrap_or_default();
    let share = app.store.share(uuid.parse().unwrap_or_default()).await?;
    let stored = share.as_ref().map_or([1; 32], |share| share.auth_sha256);
    let right = auth.len() == 32 && bool::from(stored.ct_eq(&sha256(&auth)));
    let Some(share) = share.filter(|share| right && share.lives()) else {
        return Ok(refusal(&app, peer));
    };
    let Some(model) = app.store.model(&share.model, &share.revision).await? else {
        return Ok(refusal(&app, peer));
    };
    if let Some(refused) = limited(&app, &share).await? {
        return Err(refused);
    }
    let head = serde_json::to_value(&model.head).map_err(|_| {
        GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "head",
            "the head cannot be written",
        )
    })?;
    let envelope = ShareEnvelope {
        uuid: share.uuid,
        sealed: STANDARD.encode(&share.sealed),
        model: share.model,
        revision: share.revision,
        expires: share.expires,
        head,
        // That of a private model stands in its files only.
        card: model.record.sealed.is_none().then_some(model.record.card),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(envelope)).into_response())
}

/// `DELETE /v1/shares/{uuid}`: from now on it opens nothing here.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    account: Account,
    Path(uuid): Path<Uuid>,
) -> Result<StatusCode> {
    if app.store.remove_share(&account.id, uuid).await? {
        // Its keys leave the memory too, unless a download still holds them until its next piece.
        app.opened.forget(uuid);
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(GatewayError::not_found(
        "share_unknown",
        "this account has no such share",
    ))
}

/// Counts an opening; says why where the share's limits do not allow it. Only who has the token hears of limits.
async fn limited(app: &App, share: &StoredShare) -> Result<Option<GatewayError>> {
    let refused = |status, code, message: &str| Some(GatewayError::refused(status, code, message));
    if let Some(wait) = app.pace.exceeded(share) {
        let message = format!("this share may be asked less often; try again in {wait} seconds");
        return Ok(refused(StatusCode::TOO_MANY_REQUESTS, "share_rate", &message));
    }
    if share.is_used_up() || !app.store.spend_share(share.id(), 0, 1).await? {
        return Ok(refused(StatusCode::FORBIDDEN, "share_used_up", USED_UP));
    }
    Ok(None)
}

fn refusal(app: &App, peer: SocketAddr) -> Response {
    if app.refuse(address(peer)) {
        let message = "too many refused requests";
        return GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message)
            .into_response();
    }
    let problem = Problem::new("share_refused", "there is no such share, or not for this token")
        .with_hint("check the id and the token of the share");
    let mut answer = (StatusCode::UNAUTHORIZED, Json(problem)).into_response();
    answer
        .headers_mut()
        .insert("x-error-code", HeaderValue::from_static("RepoNotFound"));
    answer
}
