//! Who asks: tokens in header, query or cookie, and what each may do.
//!
//! Tokens that are drawn here are 256 random bits (the operator's is what the configuration says), stored and looked up
//! as SHA-256, so nothing here compares a secret itself. That an account is admitted and a kernel is not over is part of
//! the look-up (`store::accounts`). A token is never repeated in a log, and in an answer or a page only when it is made.
//! Signing in is in `routes::sign_in`; which scope a route asks for is in `scopes`.

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::token::Scope;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use uuid::Uuid;

use crate::error::{GatewayError, Result};
use crate::scopes;
use crate::state::{App, address};
use crate::store::{Bearer, sha256};

/// How an access token begins, so that one that lies about is known for what it is.
const ACCESS_PREFIX: &str = "alab_";

/// Somebody with an account's token, whose scope opens the route that was asked for.
pub(crate) struct Account {
    /// What everything of the account is kept under.
    pub(crate) id: String,
    /// May do what the gateway's operator may.
    pub(crate) operator: bool,
    pub(crate) scope: Scope,
    /// What was shown for it.
    pub(crate) proof: Bearer,
}

/// A kernel with its own token, and the account that it belongs to.
pub(crate) struct KernelBearer {
    pub(crate) account: String,
    /// The address that the account has proven.
    pub(crate) address: Option<String>,
    pub(crate) kernel: Uuid,
}

/// 256 random bits in hex.
pub(crate) fn random_token() -> Secret {
    Secret::new(hex::encode(rand::random::<[u8; 32]>()))
}

/// The same as an account makes for its programs.
pub(crate) fn random_access_token() -> Secret {
    Secret::new(format!("{ACCESS_PREFIX}{}", random_token().expose()))
}

/// The token of `Authorization: Bearer` or `token`.
pub(crate) fn header_token(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    known.then(|| Secret::new(token.trim()))
}

/// The token of `?token=`.
pub(crate) fn query_token(uri: &Uri) -> Option<Secret> {
    let query = uri.query()?;
    let (_, token) = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "token")?;
    (!token.is_empty()).then(|| Secret::new(token.into_owned()))
}

/// The token of our cookie.
pub(crate) fn cookie_token(app: &App, headers: &HeaderMap) -> Option<Secret> {
    cookie(headers, &app.cookie_name()).map(Secret::new)
}

/// The cookie of this name.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// Whether the request comes from a page of ours, as far as `Origin` tells; programs send none.
pub(crate) fn same_origin(app: &App, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let Some((_, host)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    asked == Some(host)
        || app
            .public_url
            .as_str()
            .trim_end_matches('/')
            .ends_with(&format!("://{host}"))
}

/// Refuses a page of another site; `what` says what it may not do here.
pub(crate) fn own_pages_only(app: &App, headers: &HeaderMap, what: &str) -> Result<()> {
    if same_origin(app, headers) {
        return Ok(());
    }
    let message = format!("this page may not {what} here");
    Err(GatewayError::refused(
        StatusCode::FORBIDDEN,
        "origin_foreign",
        message,
    ))
}

/// Who shows a token with this request, if anybody does.
pub(crate) async fn bearer(
    app: &App,
    headers: &HeaderMap,
    uri: &Uri,
    method: &Method,
) -> Result<Option<Bearer>> {
    let token = match header_token(headers).or_else(|| query_token(uri)) {
        Some(token) => token,
        None => match cookie_token(app, headers) {
            // A cookie comes with every request of the browser, so a change must come from our own page.
            Some(token)
                if method.is_safe()
                    || (headers.contains_key(header::ORIGIN) && same_origin(app, headers)) =>
            {
                token
            }
            _ => return Ok(None),
        },
    };
    app.store.bearer(&sha256(token.expose().as_bytes())).await
}

async fn proven(parts: &Parts, app: &App) -> Result<Bearer> {
    match bearer(app, &parts.headers, &parts.uri, &parts.method).await? {
        Some(bearer) => Ok(bearer),
        None => Err(unproven(app, parts)),
    }
}

/// The one answer to a missing or unknown token.
fn unproven(app: &App, parts: &Parts) -> GatewayError {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    if peer.is_some_and(|ConnectInfo(peer)| app.refuse(address(*peer))) {
        let message = "too many requests without a valid token";
        return GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message);
    }
    let message = "a valid token is needed";
    GatewayError::refused(StatusCode::UNAUTHORIZED, "token_needed", message)
        .with_hint("send it as `Authorization: Bearer`, or open the address that `alephlab up` printed")
}

fn forbidden(message: &str) -> GatewayError {
    GatewayError::refused(StatusCode::FORBIDDEN, "token_scope", message)
}

impl Account {
    /// The address that it has proven.
    pub(crate) fn address(&self) -> Option<&str> {
        self.proof.address.as_deref()
    }

    /// The same, for `what` cannot be done without one.
    pub(crate) fn needs_address(&self, what: &str) -> Result<&str> {
        needs_address(self.address(), what)
    }

    /// Of a token that was found, for this route.
    fn new(bearer: Bearer, parts: &Parts) -> Result<Self> {
        let Some(scope) = bearer.scope else {
            return Err(forbidden("a kernel's token opens key requests only"));
        };
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let asked = scopes::asked(&parts.method, route);
        if scope < asked {
            let message = format!("this token's scope is {scope}, and this needs {asked}");
            return Err(forbidden(&message).with_hint("use a token of a wider scope"));
        }
        Ok(Self {
            id: bearer.account.clone(),
            operator: bearer.operator && scope == Scope::Admin,
            scope,
            proof: bearer,
        })
    }
}

/// What must be known to others, signed or paid needs an address: the one of the account, or the one refusal without it.
/// `what` cannot be done.
pub(crate) fn needs_address<'a>(address: Option<&'a str>, what: &str) -> Result<&'a str> {
    address.ok_or_else(|| {
        let message = format!("this account has no address yet, and {what} needs one");
        GatewayError::refused(StatusCode::CONFLICT, "address_needed", message)
            .with_hint("link an address to the account on the gateway's settings page")
    })
}

impl FromRequestParts<Arc<App>> for Account {
    type Rejection = GatewayError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        Self::new(proven(parts, app).await?, parts)
    }
}

/// For pages, which send who shows no valid token of an account to where one signs in.
impl OptionalFromRequestParts<Arc<App>> for Account {
    type Rejection = GatewayError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Option<Self>> {
        let found = bearer(app, &parts.headers, &parts.uri, &parts.method).await?;
        let found = found.filter(|bearer| bearer.scope.is_some());
        found.map(|bearer| Self::new(bearer, parts)).transpose()
    }
}

impl FromRequestParts<Arc<App>> for KernelBearer {
    type Rejection = GatewayError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let bearer = proven(parts, app).await?;
        match bearer.kernel {
            Some(kernel) => Ok(Self {
                account: bearer.account,
                address: bearer.address,
                kernel,
            }),
            None => Err(forbidden("only a kernel's token asks for keys and secrets")),
        }
    }
}
