//! `/v1/tokens`: access tokens that an account makes for its programs, lists and revokes.

use std::sync::Arc;

use alephlab_api::time::unix_now;
use alephlab_api::token::{MadeToken, NewToken, TokenInfo};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use uuid::Uuid;

use super::body;
use crate::auth::{Account, random_access_token};
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{Making, sha256};

const DAY: u64 = 86_400;
/// How long a token works when nothing is said, seconds.
const USUAL_LIFE: u64 = 30 * DAY;
/// And at most: a token that is forgotten ends by itself.
const LONGEST_LIFE: u64 = 365 * DAY;
/// Characters of a name.
const MAX_NAME: usize = 64;

/// `GET /v1/tokens`, newest first.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<TokenInfo>>> {
    Ok(Json(app.store.access_tokens(&account.id).await?))
}

/// `POST /v1/tokens`: the answer is the only place where the token stands.
pub(crate) async fn make(State(app): State<Arc<App>>, account: Account, bytes: Bytes) -> Result<Response> {
    let made = new_token(&app, &account, body(&bytes)?).await?;
    Ok((
        StatusCode::CREATED,
        [(header::CACHE_CONTROL, "no-store")],
        Json(made),
    )
        .into_response())
}

/// `DELETE /v1/tokens/{id}`: it opens nothing from now on, and what is open by it is closed.
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    end(&app, &account, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a token, of no wider scope than that of whoever makes it.
pub(super) async fn new_token(app: &App, account: &Account, wanted: NewToken) -> Result<MadeToken> {
    let name = wanted.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        let message = "a token's name has 1 to 64 characters, all of them printable";
        return Err(GatewayError::bad_request("token_name", message));
    }
    if wanted.scope > account.scope {
        let message = format!(
            "a token of scope {} makes none of scope {}",
            account.scope, wanted.scope
        );
        return Err(GatewayError::refused(
            StatusCode::FORBIDDEN,
            "token_scope",
            message,
        ));
    }
    let life = wanted.life.unwrap_or(USUAL_LIFE);
    if life == 0 || life > LONGEST_LIFE {
        let message = "a token works for 365 days at most, and longer than not at all";
        return Err(GatewayError::bad_request("token_life", message));
    }
    let (token, now) = (random_access_token(), unix_now());
    let longest = account.proof.access_ends.unwrap_or(u64::MAX);
    let info = TokenInfo {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        scope: wanted.scope,
        created: now,
        expires: (now + life).min(longest),
        used: None,
    };
    let hash = sha256(token.expose().as_bytes());
    let (code, message, hint) = match app.store.add_access_token(&hash, &account.proof, &info).await? {
        Making::Made => return Ok(MadeToken { token, info }),
        Making::NameTaken => (
            "token_name_taken",
            format!("this account has a token named `{name}` already"),
            "choose another name, or revoke that one first",
        ),
        Making::TooMany => (
            "tokens_limit",
            "this account has as many tokens as it may have".to_owned(),
            "revoke those that nobody uses",
        ),
    };
    Err(GatewayError::refused(StatusCode::CONFLICT, code, message).with_hint(hint))
}

/// Ends one of the account's tokens.
pub(super) async fn end(app: &App, account: &Account, id: &str) -> Result<()> {
    let revoked = match id.parse() {
        Ok(id) => app.store.revoke_access_token(&account.id, id).await?,
        Err(_) => false,
    };
    match revoked {
        true => Ok(()),
        false => Err(unknown()),
    }
}

/// The one answer for what is none of the account's tokens.
pub(super) fn unknown() -> GatewayError {
    GatewayError::not_found("token_unknown", "this account has no such token")
}
