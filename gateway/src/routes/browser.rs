//! Signing a browser in, by token or by a wallet's signature, and out again. By an OpenID provider: `oidc`.
//!
//! A browser gets a cookie with a token of its own, which scripts cannot read. What the wallet signs is the text of
//! `/v1/sign-in`; the page's script asks the wallet in the browser, and without script or wallet the text is signed elsewhere
//! and the signature pasted.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::account::SignIn;
use alephlab_api::time;
use askama::Template;
use axum::Form;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::pages::page;
use super::sign_in::{WALLET, account_address, prove_admitted, text_to_sign};
use crate::auth::{cookie_token, own_pages_only, random_token};
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{Bearer, Standing, sha256};

/// How long a browser stays signed in, seconds.
const BROWSER_LIFE: u64 = 7 * 86_400;

/// The first page of who is not signed in.
#[derive(Template, Default)]
#[template(path = "sign_in.html")]
pub(crate) struct SignInPage {
    version: &'static str,
    /// What was wrong with the last try.
    trouble: Option<String>,
    /// Where to go then.
    next: String,
    /// The text that waits for a signature, where one was asked for.
    text: Option<Text>,
    /// What the OpenID provider is called, where there is one.
    provider: Option<String>,
    /// The account of who has proven an identity there and may not come in, and whether that is not decided yet.
    waits: Option<(String, bool)>,
}

struct Text {
    address: String,
    nonce: String,
    message: String,
}

impl SignInPage {
    /// With what was wrong, if anything, and where to go after it.
    pub(crate) fn new(app: &App, trouble: Option<&str>, next: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            trouble: trouble.map(str::to_owned),
            next: inside(next).to_owned(),
            text: None,
            provider: app.oidc.as_ref().map(|oidc| oidc.name().to_owned()),
            waits: None,
        }
    }

    /// The same for who has proven this account and is not admitted.
    pub(super) fn waiting(self, account: String, standing: Standing) -> Self {
        Self {
            waits: Some((account, standing == Standing::Waiting)),
            ..self
        }
    }
}

/// Only JupyterLab's own addresses and our pages: what stands in a link decides no more than that.
pub(crate) fn inside(next: &str) -> &str {
    let plain = next
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\\?#".contains(&byte));
    // A browser would take a dotted part out, however it is written.
    let dotted = next
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .split('/')
        .any(|part| part == "." || part == "..");
    const PAGES: [&str; 14] = [
        "/datasets",
        "/earnings",
        "/lab",
        "/models",
        "/publish",
        "/receipts",
        "/shares",
        "/shares/new",
        "/kernels",
        "/kernels/new",
        "/settings",
        "/settings/accounts",
        "/settings/secrets",
        "/wallet",
    ];
    let known = PAGES.contains(&next)
        || next.starts_with("/lab/")
        || next.starts_with("/buy/")
        || next.starts_with("/models/")
        || next.starts_with("/orders/")
        || next.starts_with("/receipts/")
        || next.starts_with("/sell/")
        || next.starts_with("/m/");
    match plain && !dotted && known {
        true => next,
        false => "/",
    }
}

#[derive(Deserialize)]
pub(crate) struct TextQuery {
    #[serde(default)]
    address: String,
    #[serde(default)]
    next: String,
}

/// `GET /sign-in?address=`: the page with the text to sign, for who signs it elsewhere.
pub(crate) async fn text(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Query<TextQuery>,
) -> Result<Response> {
    let asked = async {
        let address = account_address(&query.address)?;
        let challenge = text_to_sign(&app, peer, &address, None).await?;
        Ok::<_, GatewayError>(Text {
            address,
            nonce: challenge.nonce,
            message: challenge.message,
        })
    };
    let mut shown = SignInPage::new(&app, None, &query.next);
    match asked.await {
        Ok(text) => shown.text = Some(text),
        Err(error @ GatewayError::Refused { .. }) => shown.trouble = Some(sentence(&error)),
        Err(error) => return Err(error),
    }
    page(&headers, &shown)
}

#[derive(Deserialize)]
pub(crate) struct Signed {
    address: String,
    nonce: String,
    signature: String,
    #[serde(default)]
    next: String,
}

/// `POST /sign-in`: signs the browser in, or shows the page again with what was wrong.
pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(signed): Form<Signed>,
) -> Result<Response> {
    // Another page must not sign a browser in as somebody else.
    own_form(&app, &headers, "sign anybody in")?;
    let Signed {
        address,
        nonce,
        signature,
        next,
    } = signed;
    let signed = SignIn {
        address,
        nonce,
        signature: signature.trim().to_owned(),
    };
    match prove_admitted(&app, peer, &signed).await {
        Ok(account) => {
            let cookie = sign_browser_in(&app, (&account, WALLET), &headers).await?;
            Ok(with_cookie(cookie, inside(&next)))
        }
        Err(error @ GatewayError::Refused { .. }) => {
            page(&headers, &SignInPage::new(&app, Some(&sentence(&error)), &next))
        }
        Err(error) => Err(error),
    }
}

/// Signs a browser in that showed a token.
pub(crate) async fn sign_in_with(
    app: &App,
    bearer: &Bearer,
    headers: &HeaderMap,
    next: &str,
) -> Result<Response> {
    let (token, expires) = (random_token(), time::unix_now() + BROWSER_LIFE);
    let sha256 = sha256(token.expose().as_bytes());
    app.store
        .add_browser_token(&sha256, bearer, &browser_name(headers), expires)
        .await?;
    Ok(with_cookie(
        cookie_of(app, token.expose(), BROWSER_LIFE),
        inside(next),
    ))
}

/// Makes a token for a browser whose person has proven an account by `way`; gives its cookie.
pub(super) async fn sign_browser_in(
    app: &App,
    (account, way): (&str, &str),
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>> {
    let (token, expires) = (random_token(), time::unix_now() + BROWSER_LIFE);
    app.store
        .add_token(
            &sha256(token.expose().as_bytes()),
            (account, way),
            Some(&browser_name(headers)),
            expires,
        )
        .await?;
    Ok(cookie_of(app, token.expose(), BROWSER_LIFE))
}

/// `POST /sign-out`: this browser's token opens nothing any more.
pub(crate) async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response> {
    own_form(&app, &headers, "sign anybody out")?;
    if let Some(token) = cookie_token(&app, &headers) {
        app.store
            .remove_browser_token(&sha256(token.expose().as_bytes()))
            .await?;
    }
    Ok(with_cookie(cookie_of(&app, "", 0), "/"))
}

/// A form must come from a page of ours; browsers always say where a form comes from.
pub(super) fn own_form(app: &App, headers: &HeaderMap, what: &str) -> Result<()> {
    match headers.contains_key(header::ORIGIN) {
        true => own_pages_only(app, headers, what),
        false => Err(GatewayError::refused(
            StatusCode::FORBIDDEN,
            "origin_foreign",
            format!("a form that does not say where it comes from may not {what} here"),
        )),
    }
}

/// What a browser says that it is, in words by which its owner knows it again.
fn browser_name(headers: &HeaderMap) -> String {
    const BROWSERS: [(&str, &str); 5] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("Android", "Android"),
        ("iPhone", "an iPhone"),
        ("iPad", "an iPad"),
        ("CrOS", "ChromeOS"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    let find = |marks: &[(&str, &'static str)]| {
        let found = marks.iter().find(|(mark, _)| agent.contains(mark));
        found.map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, _) => "A browser".to_owned(),
    }
}

fn cookie_of(app: &App, token: &str, life: u64) -> Option<HeaderValue> {
    let (name, secure) = (app.cookie_name(), secure(app));
    let cookie = format!("{name}={token}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}");
    let mut cookie = HeaderValue::from_str(&cookie).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// What keeps a cookie off connections that others can read, where the gateway has such as they cannot.
pub(super) fn secure(app: &App) -> &'static str {
    match app.public_url.scheme() {
        "https" => "; Secure",
        _ => "",
    }
}

fn with_cookie(cookie: Option<HeaderValue>, next: &str) -> Response {
    let mut answer = StatusCode::SEE_OTHER.into_response();
    let headers = answer.headers_mut();
    let location = HeaderValue::from_str(next).unwrap_or(HeaderValue::from_static("/"));
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(cookie) = cookie {
        headers.insert(header::SET_COOKIE, cookie);
    }
    answer
}

/// `This gateway does not admit this account. Its operator can …`
pub(super) fn sentence(error: &GatewayError) -> String {
    let message = match error {
        GatewayError::Refused { problem, .. } => in_a_sentence(&problem.message),
        other => in_a_sentence(&other.to_string()),
    };
    match error.hint() {
        Some(hint) => format!("{message} {}", in_a_sentence(&hint)),
        None => message,
    }
}

/// With a capital at its beginning and a full stop at its end.
pub(super) fn in_a_sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_nowhere_but_to_jupyterlab_and_the_settings() {
        for next in [
            "/lab",
            "/settings",
            "/lab/tree/a%20b.ipynb",
            "/lab/workspaces/x/tree/.a/b..c",
            "/models/0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e/digits",
            "/m/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4",
        ] {
            assert_eq!(inside(next), next);
        }
        for next in [
            "",
            "//evil.example",
            "/labour",
            "/modelsX",
            "/models/../settings/x",
            "/settings/tokens",
            "https://evil.example",
            "/\\evil",
            "/lab\r\nx",
            "javascript:1",
            "/lab?token=x",
            "/lab/../?token=x",
            "/lab/%2E%2e/x",
            "/lab/./x",
        ] {
            assert_eq!(inside(next), "/", "{next}");
        }
    }
}
