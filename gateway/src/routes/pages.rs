//! The start page and its files.
//!
//! `?token=` signs a browser in ([`super::browser`]), and then the page has no token in its address.

use std::any::Any;
use std::sync::Arc;

use alephlab_api::kernel::KernelState;
use alephlab_api::time;
use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::browser::{SignInPage, sign_in_with};
use super::compression::{self, takes_gzip};
use super::top::own_page;
use crate::auth::{bearer, cookie, query_token};
use crate::error::{GatewayError, Result};
use crate::kernels::Live;
use crate::state::App;
use crate::store::Bearer;

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const ASSETS: [(&str, &str, &[u8]); 6] = [
    (
        "alephlab.css",
        "text/css; charset=utf-8",
        include_bytes!("../../static/alephlab.css"),
    ),
    (
        "alephlab.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../static/alephlab.js"),
    ),
    // Version 2.0.11 as it was published; a test knows its hash.
    (
        "htmx.min.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../static/htmx.min.js"),
    ),
    (
        "icon.svg",
        "image/svg+xml",
        include_bytes!("../../static/icon.svg"),
    ),
    (
        "chevron.svg",
        "image/svg+xml",
        include_bytes!("../../static/chevron.svg"),
    ),
    (
        "fonts/instrument-sans-latin-wght-normal.woff2",
        "font/woff2",
        include_bytes!("../../static/fonts/instrument-sans-latin-wght-normal.woff2"),
    ),
];

#[derive(Template)]
#[template(path = "start.html")]
struct StartPage {
    version: &'static str,
    address: String,
    short: String,
    summary: String,
    running: usize,
    connections: u64,
    models: usize,
    shares: usize,
    machines: usize,
    trust: &'static str,
    kernels: Vec<Row>,
    url: String,
    aleph: String,
    machine: String,
    since: String,
    trouble: Option<String>,
    has_lab: bool,
}

struct Row {
    id: String,
    short: String,
    state: &'static str,
    class: &'static str,
    reason: Option<String>,
    connections: u64,
    started: String,
}

/// `GET /`.
pub(crate) async fn start(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Result<Response> {
    let asked = query_token(&uri).is_some();
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let next = pairs.into_iter().find(|(name, _)| name == "next");
    let next = next.map_or_else(String::new, |(_, next)| next.into_owned());
    let bearer = bearer(&app, &headers, &uri, &Method::GET).await?;
    let bearer = bearer.filter(|bearer| bearer.scope.is_some());
    match bearer {
        Some(bearer) if asked => sign_in_with(&app, &bearer, &headers, &next).await,
        Some(bearer) => {
            let shown = start_page(&app, &bearer).await?;
            own_page(&app, &bearer.account, &headers, &shown).await
        }
        None => {
            let wrong = "This token is not known here. Copy the whole token and try again.";
            page(&headers, &SignInPage::new(&app, asked.then_some(wrong), &next))
        }
    }
}

/// `GET /static/{path}`.
pub(crate) async fn asset(headers: HeaderMap, Path(path): Path<String>) -> Result<Response> {
    static PACKED: [OnceCell<Option<Bytes>>; ASSETS.len()] = [const { OnceCell::const_new() }; ASSETS.len()];
    let mut files = ASSETS.iter().zip(&PACKED);
    let Some(((_, kind, bytes), packed)) = files.find(|((name, ..), _)| *name == path) else {
        return Err(GatewayError::not_found(
            "file_unknown",
            "this gateway has no such file",
        ));
    };
    let about = [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, "max-age=300"),
        (header::VARY, "accept-encoding"),
    ];
    let packed = packed.get_or_init(|| compression::packed(kind, bytes)).await;
    Ok(match packed.as_ref().filter(|_| takes_gzip(&headers)) {
        Some(packed) => (about, [(header::CONTENT_ENCODING, "gzip")], packed.clone()).into_response(),
        None => (about, *bytes).into_response(),
    })
}

/// `0x7a3f…c41e` of an address, `acct_7a3f09…` of an account that began without one.
pub(crate) fn short(account: &str) -> String {
    if let Some(front) = account.get(..11).filter(|front| front.starts_with("acct_")) {
        return format!("{front}…");
    }
    match (account.get(..6), account.get(account.len().saturating_sub(4)..)) {
        (Some(front), Some(back)) if account.len() > 12 => format!("{front}…{back}"),
        _ => account.to_owned(),
    }
}

async fn start_page(app: &App, bearer: &Bearer) -> Result<StartPage> {
    let kernels = app.kernels.of(&bearer.account);
    let running = kernels
        .iter()
        .filter(|live| !live.status().state.is_over())
        .count();
    let machine = app.hosts.machine();
    let summary = match (running, &machine) {
        (_, Some(_)) if !app.kernels.are_free() => {
            let kernels = if running == 1 {
                "kernel runs"
            } else {
                "kernels run"
            };
            format!("{running} {kernels} on this machine, at the price that the kernel's name says.")
        }
        (_, None) => "This machine's agent is not connected yet; kernels wait for it.".to_owned(),
        (0, _) => "No kernel is running. Nothing here costs money: kernels run on this machine.".to_owned(),
        (1, _) => "One kernel is running on this machine. It costs nothing.".to_owned(),
        (count, _) => format!("{count} kernels are running on this machine. They cost nothing."),
    };
    Ok(StartPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&bearer.account),
        address: bearer.account.clone(),
        summary,
        running,
        connections: kernels.iter().map(|live| live.relay.connections()).sum(),
        models: match &bearer.address {
            Some(address) => app.store.models(address).await?.len(),
            None => 0,
        },
        shares: app.store.shares(&bearer.account).await?.len(),
        machines: app.keys.machines(&bearer.account),
        trust: app.hosts.trust(),
        kernels: kernels.iter().map(|live| row(live)).collect(),
        url: app.public_url.as_str().trim_end_matches('/').to_owned(),
        aleph: app.aleph_url.clone(),
        machine: machine.unwrap_or_else(|| "connecting".to_owned()),
        since: readable(&app.started),
        has_lab: app.lab.is_some(),
        trouble: app.hosts.trouble().map(|trouble| format!("{trouble}.")),
    })
}

fn row(live: &Live) -> Row {
    let status = live.status();
    let (state, class) = match status.state {
        KernelState::Starting => ("Starting", "start"),
        KernelState::Idle => ("Idle", "own-idle"),
        KernelState::Busy => ("Busy", "own-busy"),
        KernelState::Restarting => ("Restarting", "start"),
        KernelState::Stopping => ("Stopping", "start"),
        KernelState::Stopped => ("Stopped", ""),
        KernelState::Dead => ("Dead", "dead"),
    };
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_secs(live.started);
    Row {
        id: live.id.to_string(),
        short: live.id.to_string().chars().take(8).collect(),
        state,
        class,
        reason: status.reason,
        connections: live.relay.connections(),
        started: readable(&time::format(started)),
    }
}

/// `2026-11-22 18:06` of a Jupyter time.
pub(super) fn readable(moment: &str) -> String {
    moment.get(..16).unwrap_or(moment).replace('T', " ")
}

/// What a person chose for the pages in their browser; without it the system decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    Light,
    Dark,
}

impl Theme {
    const COOKIE: &str = "theme";

    /// As the style sheet knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Light, Self::Dark]
            .into_iter()
            .find(|theme| theme.name() == text)
    }

    /// That of the browser that asks.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        cookie(headers, Self::COOKIE).and_then(|value| Self::parse(&value))
    }

    /// What has a browser keep this choice for a year; any other than ours forgets it.
    pub(super) fn cookie(choice: &str, secure: bool) -> String {
        let (value, life) = Self::parse(choice).map_or(("", 0), |theme| (theme.name(), 31_536_000));
        let secure = if secure { "; Secure" } else { "" };
        let name = Self::COOKIE;
        format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}")
    }
}

/// A page of ours for nobody yet, in the theme of the browser that asks.
pub(super) fn page<T: Template>(headers: &HeaderMap, template: &T) -> Result<Response> {
    html(match Theme::of(headers) {
        Some(theme) => template.render_with_values(&("theme", &theme as &dyn Any)),
        None => template.render(),
    })
}

/// What was rendered, as an answer.
pub(super) fn html(rendered: askama::Result<String>) -> Result<Response> {
    let html = rendered.map_err(|error| {
        tracing::error!(%error, "a page could not be written");
        GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "page",
            "this page could not be written",
        )
    })?;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        // Under `no-referrer` browsers send forms without an origin, and that is what tells that a form is ours.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    Ok((headers, Html(html)).into_response())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn shortens_addresses_only() {
        assert_eq!(short("0x7a3f09d2b8e14c5f6a7781e2d3905b64f1aac41e"), "0x7a3f…c41e");
        assert_eq!(short("acct_7a3f09d2b8e14c5f6a7781e2d3905b64"), "acct_7a3f09…");
        assert_eq!(short("ada"), "ada");
    }

    #[test]
    fn htmx_is_the_published_one() {
        let (.., bytes) = ASSETS.iter().find(|(name, ..)| *name == "htmx.min.js").unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(bytes)),
            "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
        );
    }

    #[test]
    fn asset_names_are_those_that_the_pages_ask_for() {
        for page in [
            include_str!("../../templates/base.html"),
            include_str!("../../templates/htmx.html"),
            include_str!("../../templates/start.html"),
            include_str!("../../templates/settings.html"),
        ] {
            for asked in page.split("/static/").skip(1) {
                let name = asked.split('"').next().unwrap();
                assert!(ASSETS.iter().any(|(asset, ..)| *asset == name), "{name}");
            }
        }
    }
}
