//! Signing a browser in at an OpenID provider, and what it is told when that came to nothing.
//!
//! The browser that begins gets a cookie of its own, and what the provider sends back is taken once, from that browser. Where no
//! provider is set there is nothing here.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::time;
use askama::Template;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::browser::{SignInPage, inside, secure, sign_browser_in};
use super::pages::page;
use crate::auth::{cookie, random_token};
use crate::error::{GatewayError, Result};
use crate::oidc::{Oidc, OidcError};
use crate::state::{App, address};
use crate::store::{Attempt, Standing, sha256};

/// How long somebody may take at the provider, seconds.
const PATIENCE: u64 = 600;
/// The way of such a sign-in, as the audit log names it.
const WAY: &str = "oidc";
/// The path below which the cookie of an attempt is sent.
const PATH: &str = "/sign-in/oidc";

/// What sends a browser on that is signed in. Not a redirect: one that a page of the provider's began comes without the new cookie.
#[derive(Template)]
#[template(path = "signed_in.html")]
struct SignedInPage {
    version: &'static str,
    next: String,
}

#[derive(Deserialize)]
pub(crate) struct Begin {
    #[serde(default)]
    next: String,
    /// It was sent here under the gateway's own name already.
    #[serde(default)]
    again: bool,
}

/// `GET /sign-in/oidc?next=`: to the provider.
pub(crate) async fn begin(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(asked): Query<Begin>,
) -> Result<Response> {
    let oidc = provider(&app)?;
    let next = inside(&asked.next);
    // The provider sends browsers back to one address, and cookies are sent to the one that gave them.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if host != Some(app.public_url.authority()) && !asked.again {
        let own = app.public_url.as_str().trim_end_matches('/');
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        return Ok(Redirect::to(&format!("{own}{PATH}?again=true&next={next}")).into_response());
    }
    if app.texts.exceeded(address(peer)) {
        let trouble = "Too many sign-ins were begun from here. Try again in a minute.";
        return page(&headers, &SignInPage::new(&app, Some(trouble), next));
    }
    let begun = match oidc.begin().await {
        Ok(begun) => begun,
        Err(error) => return failed(&app, &headers, &error, next),
    };
    let name = cookie_name(&app);
    // One for all attempts of this browser, so that two of its tabs do not push each other out.
    let browser = cookie(&headers, &name)
        .filter(|kept| kept.len() == 64 && kept.bytes().all(|letter| letter.is_ascii_hexdigit()));
    let browser = browser.unwrap_or_else(|| random_token().expose().to_owned());
    let attempt = Attempt {
        nonce: begun.nonce,
        verifier: begun.verifier,
        next: next.to_owned(),
    };
    let hashes = (sha256(begun.state.as_bytes()), sha256(browser.as_bytes()));
    app.store
        .add_attempt((&hashes.0, &hashes.1), &attempt, time::unix_now() + PATIENCE)
        .await?;
    // Lax: it has to come along when the provider sends the browser back.
    let cookie = format!(
        "{name}={browser}; Path={PATH}; Max-Age={PATIENCE}; HttpOnly; SameSite=Lax{}",
        secure(&app)
    );
    let mut answer = Redirect::to(begun.url.as_str()).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        headers.insert(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}

#[derive(Deserialize)]
pub(crate) struct Back {
    #[serde(default)]
    code: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    error: String,
    /// RFC 9207.
    iss: Option<String>,
}

/// `GET /sign-in/oidc/back`: from the provider.
pub(crate) async fn back(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(back): Query<Back>,
) -> Result<Response> {
    let oidc = provider(&app)?;
    let trouble = |text: &str, next: &str| page(&headers, &SignInPage::new(&app, Some(text), next));
    let browser = cookie(&headers, &cookie_name(&app)).unwrap_or_default();
    let hashes = (sha256(back.state.as_bytes()), sha256(browser.as_bytes()));
    let attempt = app
        .store
        .take_attempt((&hashes.0, &hashes.1), time::unix_now())
        .await?;
    let Some(attempt) = attempt else {
        app.refuse(address(peer));
        let text = "This sign-in was begun in another browser, was used already, or took longer than ten minutes. Begin again.";
        return trouble(text, "");
    };
    if let Some(text) = refusal(oidc, &back) {
        app.refuse(address(peer));
        return trouble(&text, &attempt.next);
    }
    let identity = match oidc.finish(back.code, attempt.verifier, attempt.nonce).await {
        Ok(identity) => identity,
        Err(error) => {
            app.refuse(address(peer));
            return failed(&app, &headers, &error, &attempt.next);
        }
    };
    let (account, standing) = app.store.identify(&identity, oidc.admits_everyone()).await?;
    if standing != Standing::Admitted {
        app.store.note_refused_sign_in(&account, WAY).await?;
        let shown = SignInPage::new(&app, None, &attempt.next);
        return page(&headers, &shown.waiting(account, standing));
    }
    let cookie = sign_browser_in(&app, (&account, WAY), &headers).await?;
    let shown = SignedInPage {
        version: env!("CARGO_PKG_VERSION"),
        next: inside(&attempt.next).to_owned(),
    };
    let mut answer = page(&headers, &shown)?;
    if let Some(cookie) = cookie {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// What is said where the provider, or another one, sends no code.
fn refusal(oidc: &Oidc, back: &Back) -> Option<String> {
    let name = oidc.name();
    if back.iss.as_ref().is_some_and(|issuer| issuer != oidc.issuer()) {
        return Some(format!("The answer is not by {name}. Begin again."));
    }
    if back.error.is_empty() && !back.code.is_empty() {
        return None;
    }
    // Of the code only what a code has: it comes with the browser.
    let code: String = back
        .error
        .chars()
        .filter(char::is_ascii_graphic)
        .take(60)
        .collect();
    tracing::info!(%code, "an OpenID provider refused a sign-in");
    Some(match back.error.as_str() {
        "access_denied" => format!("The sign-in at {name} was refused or ended there."),
        _ => format!("{name} could not sign you in. Begin again, or tell the operator of this gateway."),
    })
}

fn provider(app: &App) -> Result<&Oidc> {
    app.oidc.as_ref().ok_or_else(|| {
        let message = "this gateway has no OpenID provider";
        GatewayError::refused(StatusCode::NOT_FOUND, "oidc_off", message)
    })
}

/// Beside the one of who is signed in.
fn cookie_name(app: &App) -> String {
    format!("{}-oidc", app.cookie_name())
}

/// The page again, with what is known of why; the rest is for the log.
fn failed(app: &App, headers: &HeaderMap, error: &OidcError, next: &str) -> Result<Response> {
    tracing::warn!(
        code = error.code(),
        reason = error.reason(),
        "a sign-in by OpenID failed"
    );
    let what = match error {
        OidcError::Unreachable { .. } => "Try again in a moment, or sign in another way.",
        OidcError::Unconfirmed { .. } => "Begin again.",
        OidcError::Untrue { .. } => "Tell the operator of this gateway.",
    };
    let message = error.to_string();
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    let text = format!("{}{}. {what}", first.unwrap_or_default(), letters.as_str());
    page(headers, &SignInPage::new(app, Some(&text), next))
}
