//! Linking an address to an account that began without one: proven by the same kind of text as a sign-in, for good.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::account::{Challenge, SignIn, WhoAmI};
use askama::Template;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, Json};
use bytes::Bytes;
use serde::Deserialize;

use super::body;
use super::browser::{own_form, sentence};
use super::pages::short;
use super::sign_in::{account_address, prove, text_to_sign};
use super::top::own_page;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::Linking;

#[derive(Template)]
#[template(path = "settings_address.html")]
struct LinkPage {
    version: &'static str,
    address: String,
    short: String,
    trouble: Option<String>,
    /// What waits for a signature, of which address.
    text: Option<(String, Challenge)>,
}

#[derive(Deserialize)]
pub(crate) struct TextQuery {
    #[serde(default)]
    address: String,
}

/// `GET /v1/address?address=0x..`: the text that links this address to the account.
pub(crate) async fn challenge(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    account: Account,
    Query(query): Query<TextQuery>,
) -> Result<Json<Challenge>> {
    let (_, text) = text(&app, peer, &account, &query.address).await?;
    Ok(Json(text))
}

/// `POST /v1/address`: the text is used up by any try.
pub(crate) async fn link(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<WhoAmI>> {
    let address = linked(&app, peer, &account, &body(&bytes)?).await?;
    Ok(Json(WhoAmI {
        account: account.id,
        address: Some(address),
        operator: account.operator,
        scope: account.scope,
    }))
}

/// `GET /settings/address?address=`: the page with the text, for who signs it elsewhere.
pub(crate) async fn ask(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    account: Account,
    headers: HeaderMap,
    Query(query): Query<TextQuery>,
) -> Result<Response> {
    let mut shown = LinkPage::of(&account);
    match text(&app, peer, &account, &query.address).await {
        Ok(text) => shown.text = Some(text),
        Err(error @ GatewayError::Refused { .. }) => shown.trouble = Some(sentence(&error)),
        Err(error) => return Err(error),
    }
    own_page(&app, &shown.address, &headers, &shown).await
}

#[derive(Deserialize)]
pub(crate) struct Signed {
    #[serde(default)]
    address: String,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    signature: String,
}

/// `POST /settings/address`.
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    account: Account,
    headers: HeaderMap,
    Form(signed): Form<Signed>,
) -> Result<Response> {
    own_form(&app, &headers, "link an address")?;
    let signed = SignIn {
        address: signed.address,
        nonce: signed.nonce,
        signature: signed.signature.trim().to_owned(),
    };
    match linked(&app, peer, &account, &signed).await {
        Ok(_) => Ok(Redirect::to("/settings?done=linked").into_response()),
        Err(error @ GatewayError::Refused { .. }) => {
            let mut shown = LinkPage::of(&account);
            shown.trouble = Some(sentence(&error));
            own_page(&app, &shown.address, &headers, &shown).await
        }
        Err(error) => Err(error),
    }
}

impl LinkPage {
    fn of(account: &Account) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            trouble: None,
            text: None,
        }
    }
}

/// The address as it is written, and its text; only for an account that has none.
async fn text(app: &App, peer: SocketAddr, account: &Account, typed: &str) -> Result<(String, Challenge)> {
    let address = account_address(typed)?;
    match account.address() {
        Some(_) => Err(has_one()),
        None => {
            let text = text_to_sign(app, peer, &address, Some(&account.id)).await?;
            Ok((address, text))
        }
    }
}

async fn linked(app: &App, peer: SocketAddr, account: &Account, signed: &SignIn) -> Result<String> {
    let address = prove(app, peer, signed, Some(&account.id)).await?;
    // Only now: whose address has an account is told to nobody but its holder.
    match app.store.link_address(&account.id, &address).await? {
        Linking::Linked => Ok(address),
        Linking::HasOne => Err(has_one()),
        Linking::Taken => {
            let message = "this address has an account of its own here, and two accounts are not made one";
            let refused = GatewayError::refused(StatusCode::CONFLICT, "address_taken", message);
            Err(refused.with_hint("sign in with its wallet to use that account, or link another address"))
        }
    }
}

fn has_one() -> GatewayError {
    let message = "this account has an address, which stays its own";
    GatewayError::refused(StatusCode::CONFLICT, "address_linked", message)
}
