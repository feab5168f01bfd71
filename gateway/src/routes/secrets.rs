//! `/v1/secrets`: secrets of the account, whose values only its kernels read, by `/v1/kernel-secrets`.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::secrets::{SECRET_BYTES_MAX, SECRETS_MAX, SecretInfo, SecretName, SecretValue};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use crate::auth::{Account, KernelBearer};
use crate::error::{GatewayError, Result};
use crate::secrets::Place;
use crate::state::App;

/// `GET /v1/secrets`: names and dates.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<SecretInfo>>> {
    Ok(Json(app.store.secrets(&account.id).await?))
}

/// `PUT /v1/secrets/{name}`.
pub(crate) async fn set(
    State(app): State<Arc<App>>,
    account: Account,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<SecretInfo>> {
    let name = secret_name(&name)?;
    // serde's message could repeat the value, so only the place is told.
    let SecretValue { value } = serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body cannot be read at line {line}, column {column}");
        GatewayError::bad_request("body_unreadable", message).with_hint("send {\"value\": \"…\"}")
    })?;
    Ok(Json(keep(&app, &account.id, &name, &value).await?))
}

/// `DELETE /v1/secrets/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    account: Account,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    let name = secret_name(&name)?;
    if app.store.remove_secret(&account.id, &name).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let message = format!("this account has no secret {name}");
    Err(GatewayError::not_found("secret_unknown", message).with_hint("list them with `alephlab secret list`"))
}

/// `GET /v1/kernel-secrets/{name}`, with the token of a kernel that is not over.
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    kernel: KernelBearer,
    Path(name): Path<String>,
) -> Result<Response> {
    let (name, account) = (secret_name(&name)?, kernel.account.as_str());
    let Some(stored) = app.store.secret(account, &name).await? else {
        return Err(missing(&app, &name));
    };
    let place = Place {
        account,
        name: &name,
        version: stored.version,
    };
    let value = app.secrets.unseal(place, &stored.sealed)?;
    app.store.note_secret_read(account, &name).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(SecretValue { value })).into_response())
}

/// Checks a value and stores it sealed.
pub(super) async fn keep(app: &App, account: &str, name: &SecretName, value: &Secret) -> Result<SecretInfo> {
    let bytes = value.expose().len();
    if bytes == 0 || bytes > SECRET_BYTES_MAX {
        let message = match bytes {
            0 => "the value is empty".to_owned(),
            _ => format!("the value is longer than {} KiB", SECRET_BYTES_MAX >> 10),
        };
        return Err(GatewayError::bad_request("secret_value", message));
    }
    let seal = |version| {
        let place = Place {
            account,
            name,
            version,
        };
        app.secrets.seal(place, value)
    };
    let kept = app.store.set_secret(account, name, seal).await?;
    kept.ok_or_else(|| {
        let message = format!("this account has {SECRETS_MAX} secrets already, and no more are kept");
        GatewayError::refused(StatusCode::CONFLICT, "secrets_full", message)
            .with_hint("remove one that no notebook reads any more")
    })
}

/// The name in an address or a form.
pub(super) fn secret_name(text: &str) -> Result<SecretName> {
    text.parse::<SecretName>()
        .map_err(|error| GatewayError::bad_request("secret_name", error.to_string()))
}

fn missing(app: &App, name: &SecretName) -> GatewayError {
    let page = app.public_url.as_str().trim_end_matches('/');
    let message = format!("this kernel's account has no secret {name} at this gateway");
    GatewayError::not_found("secret_unknown", message).with_hint(&format!(
        "add it with `alephlab secret set {name}`, or on the page {page}/settings/secrets"
    ))
}
