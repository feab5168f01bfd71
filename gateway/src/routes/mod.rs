//! The HTTP surface: one file per concern, put together here.
//!
//! Order of the layers: the peer's address (its front's word for it, then ours), host check, then what is compressed, the routes, then headers that every answer carries.

mod accounts;
mod allocations;
mod audit;
mod browser;
mod caps;
mod channels;
mod compression;
mod contents;
mod kernels;
mod kernels_page;
mod keys;
mod lab;
mod ledger;
mod linking;
mod load;
mod market;
mod meters;
mod models;
mod offers_page;
mod oidc;
mod pages;
mod payouts;
mod receipts;
mod registry;
mod secrets;
mod secrets_page;
mod service;
mod sessions;
mod settings;
mod shares;
mod shop;
mod sign_in;
mod specs;
mod terminals;
mod tokens;
mod top;
mod trouble;
mod words;

use std::sync::Arc;

use alephlab_registry::Hub;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Router, response};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::{GatewayError, Result};
use crate::gate::{behind_fronts, with_address};
use crate::library::Registry;
use crate::state::App;

/// Bodies of JSON requests.
const MAX_BODY: usize = 1 << 20;
/// Notebooks with what they show, and pieces of files.
const MAX_CONTENTS_BODY: usize = 256 << 20;
/// Key requests name every object of a model.
const MAX_KEYS_BODY: usize = 16 << 20;

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let hub = Hub::new(Arc::new(Registry::new(app)))
        .served_at(&app.public_url)
        .router()
        .layer(from_fn_with_state(Arc::clone(app), shop::offered));
    own()
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::clone(app))
        .layer(from_fn_with_state(Arc::clone(app), trouble::shown))
        .merge(hub)
        .layer(from_fn(compression::compress))
        .layer(from_fn_with_state(Arc::clone(app), check_host))
        .layer(from_fn(common_headers))
        .layer(from_fn(with_address))
        .layer(from_fn_with_state(Arc::clone(&app.fronts), behind_fronts))
}

/// What agents and brokers of rented hosts call, and nothing else, under whatever name they know the gateway by.
pub(crate) fn for_hosts(app: &Arc<App>) -> Router {
    called_by_hosts()
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::clone(app))
        .layer(from_fn(common_headers))
        .layer(from_fn(with_address))
}

/// Those that are not the Hub's, which asks for no account's token.
fn own() -> Router<Arc<App>> {
    Router::new()
        .merge(pages())
        .merge(registry_pages())
        .merge(shop_pages())
        .merge(jupyter())
        .merge(contents())
        .merge(lab())
        .merge(v1())
}

fn pages() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(pages::start))
        .route("/sign-in", get(browser::text).post(browser::sign_in))
        .route("/sign-in/oidc", get(oidc::begin))
        .route("/sign-in/oidc/back", get(oidc::back))
        .route("/sign-out", post(browser::sign_out))
        .route(
            "/settings/secrets",
            get(secrets_page::list).post(secrets_page::set),
        )
        .route(
            "/settings/secrets/remove",
            get(secrets_page::ask_to_remove).post(secrets_page::remove),
        )
        .route("/kernels", get(kernels_page::list))
        .route("/kernels/new", get(offers_page::offers).post(offers_page::start))
        .route(
            "/kernels/{id}/stop",
            get(kernels_page::ask_stop).post(kernels_page::stop),
        )
        .route("/kernels/{id}/cap", get(caps::ask).post(caps::submit))
        .route("/settings", get(settings::show))
        .route("/settings/accounts", get(accounts::list).post(accounts::submit))
        .route("/settings/address", get(linking::ask).post(linking::submit))
        .route("/settings/theme", post(settings::theme))
        .route("/settings/tokens", post(settings::make_token))
        .route(
            "/settings/tokens/{id}/revoke",
            get(settings::ask_revoke).post(settings::revoke_token),
        )
        .route("/settings/sign-out-others", post(settings::sign_out_others))
        .route("/static/{*path}", get(pages::asset))
        .route("/health", get(service::health))
        .route("/metrics", get(service::metrics))
}

fn registry_pages() -> Router<Arc<App>> {
    Router::new()
        .route("/models", get(registry::browse_models))
        .route("/models/{owner}/{name}", get(registry::model_card))
        .route("/models/{owner}/{name}/{tab}", get(registry::model_tab))
        .route(
            "/models/{owner}/{name}/notebook",
            post(registry::open_in_notebook),
        )
        .route("/m/{uuid}", get(registry::share_page))
        .route("/m/{uuid}/notebook", post(registry::open_share_in_notebook))
        .route(
            "/publish",
            get(registry::publish_form).post(registry::prepare_publish),
        )
        .route("/shares", get(registry::shares))
        .route(
            "/shares/new",
            get(registry::share_form).post(registry::prepare_share),
        )
        .route(
            "/shares/{uuid}/revoke",
            get(registry::ask_revoke).post(registry::revoke_share),
        )
        .route("/datasets", get(registry::datasets).post(registry::prepare_grant))
}

fn shop_pages() -> Router<Arc<App>> {
    Router::new()
        .route("/buy/{owner}/{name}", get(shop::buy).post(shop::pay))
        .route("/sell/{owner}/{name}", get(shop::sell).post(shop::prepare_sale))
        .route("/orders/{id}", get(shop::order))
        .route("/orders/{id}/cancel", post(shop::cancel))
        .route("/orders/{id}/refund", post(shop::refund))
        .route("/earnings", get(shop::earnings))
        .route("/earnings/convert", post(shop::convert))
        .route("/earnings/withdraw", post(shop::withdraw))
        .route("/earnings/withdrawals/{id}/take-back", post(shop::take_back))
        .route("/receipts", get(shop::receipts))
        .route("/receipts/{sequence}", get(shop::receipt))
        .route("/wallet", get(shop::wallet))
}

fn jupyter() -> Router<Arc<App>> {
    Router::new()
        .route("/api", get(service::version))
        .route("/api/status", get(service::status))
        .route("/api/me", get(service::me))
        .route("/api/kernelspecs", get(specs::all))
        .route("/api/kernelspecs/{name}", get(specs::one))
        .route("/kernelspecs/{name}/{file}", get(specs::resource))
        .route("/api/kernels", get(kernels::all).post(kernels::start))
        .route("/api/kernels/{id}", get(kernels::one).delete(kernels::stop))
        .route("/api/kernels/{id}/interrupt", post(kernels::interrupt))
        .route("/api/kernels/{id}/restart", post(kernels::restart))
        .route("/api/kernels/{id}/channels", get(channels::channels))
        .route("/api/sessions", get(sessions::all).post(sessions::create))
        .route(
            "/api/sessions/{id}",
            get(sessions::one)
                .patch(sessions::change)
                .delete(sessions::remove),
        )
        .route("/api/terminals", get(terminals::all).post(terminals::open))
        .route(
            "/api/terminals/{name}",
            get(terminals::one).delete(terminals::close),
        )
        .route("/terminals/websocket/{name}", get(terminals::socket))
}

fn contents() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/api/contents",
            get(contents::root).post(contents::create_in_root),
        )
        .route(
            "/api/contents/",
            get(contents::root).post(contents::create_in_root),
        )
        .route(
            "/api/contents/{*path}",
            get(contents::get)
                .put(contents::save)
                .patch(contents::rename)
                .post(contents::create)
                .delete(contents::remove),
        )
        .route("/files/{*path}", get(contents::download))
        .layer(DefaultBodyLimit::max(MAX_CONTENTS_BODY))
}

fn lab() -> Router<Arc<App>> {
    Router::new()
        .route("/lab", get(lab::page))
        .route("/lab/", get(lab::page))
        .route("/lab/tree", get(lab::page))
        .route("/lab/tree/{*path}", get(lab::page))
        .route("/lab/workspaces/{*path}", get(lab::page))
        .route("/static/lab/{*path}", get(lab::asset))
        .route("/static/favicons/{file}", get(lab::icon))
        .route("/favicon.ico", get(lab::icon))
        .route("/lab/extensions/{*path}", get(lab::extension))
        .route("/lab/api/themes/{*path}", get(lab::theme))
        .route("/lab/api/settings", get(lab::all_settings))
        .route("/lab/api/settings/", get(lab::all_settings))
        .route(
            "/lab/api/settings/{*id}",
            get(lab::one_settings).put(lab::save_settings),
        )
        .route("/lab/api/workspaces", get(lab::workspaces))
        .route("/lab/api/workspaces/", get(lab::workspaces))
        .route(
            "/lab/api/workspaces/{*id}",
            get(lab::workspace)
                .put(lab::save_workspace)
                .delete(lab::remove_workspace),
        )
        .route("/lab/api/translations", get(lab::translations))
        .route("/lab/api/translations/", get(lab::translations))
        .route("/lab/api/translations/{locale}", get(lab::translation))
        .route("/lab/api/listings/{*path}", get(lab::listings))
        .route("/lab/api/licenses/", get(lab::licenses))
        .route(
            "/api/config/{section}",
            get(lab::classic_config).patch(lab::classic_config),
        )
        .route("/api/nbconvert", get(lab::nbconvert))
        .route("/lsp/status", get(lab::language_servers))
        .route("/api/events/subscribe", get(lab::events))
}

fn called_by_hosts() -> Router<Arc<App>> {
    let asks = Router::new()
        .route("/v1/keys/requests", post(keys::ask))
        .layer(DefaultBodyLimit::max(MAX_KEYS_BODY));
    Router::new()
        .route("/v1/agent", get(crate::host::agent_channel))
        .route("/v1/keys/requests/{id}", get(keys::wait))
        .route("/v1/kernel-secrets/{name}", get(secrets::read))
        .route("/v1/shares/{uuid}", get(shares::open))
        .merge(asks)
}

fn v1() -> Router<Arc<App>> {
    called_by_hosts()
        .route("/v1/sign-in", get(sign_in::challenge).post(sign_in::sign_in))
        .route("/v1/whoami", get(sign_in::whoami))
        .route("/v1/address", get(linking::challenge).post(linking::link))
        .route("/v1/accounts", get(accounts::all))
        .route("/v1/accounts/{account}", patch(accounts::change))
        .route("/v1/kernel-sessions", post(sign_in::kernel_session))
        .route("/v1/keys", get(keys::machine))
        .route("/v1/tokens", get(tokens::all).post(tokens::make))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/audit", get(audit::lines))
        .route("/v1/balance", get(ledger::balance))
        .route("/v1/ledger", get(ledger::statement))
        .route("/v1/ledger/audit", get(ledger::audit))
        .route("/v1/receipts", get(receipts::all))
        .route("/v1/receipts/consistency", get(receipts::consistency))
        .route("/v1/receipts/head", get(receipts::head))
        .route("/v1/receipts/{id}", get(receipts::one))
        .route("/v1/receipts/{id}/proof", get(receipts::proof))
        .route("/v1/credits", post(ledger::credit))
        .route("/v1/deposit", get(payouts::deposit))
        .route(
            "/v1/withdrawals",
            get(payouts::withdrawals).post(payouts::withdraw),
        )
        .route("/v1/withdrawals/{id}", delete(payouts::take_back))
        .route(
            "/v1/conversions",
            get(payouts::conversions).post(payouts::convert),
        )
        .route("/v1/settlement", get(payouts::settlement))
        .route("/v1/settlement/moves", post(payouts::moved))
        .route("/v1/settlement/resume", post(payouts::resume))
        .route("/v1/offers", get(allocations::offers))
        .route("/v1/quotes", post(allocations::quote))
        .route("/v1/allocations", get(allocations::all))
        .route("/v1/kernels/{id}/cap", get(caps::show).put(caps::set))
        .route("/v1/load", get(load::all))
        .route("/v1/market", get(market::info))
        .route("/v1/market/{owner}/{name}", get(market::quote))
        .route("/v1/deposits", put(market::deposit))
        .route("/v1/deposits/{owner}/{name}", delete(market::forget))
        .route("/v1/orders", get(market::orders).post(market::buy))
        .route("/v1/orders/{id}", get(market::order))
        .route("/v1/orders/{id}/refund", post(market::refund))
        .route("/v1/purchases", get(market::purchases))
        .route("/v1/purchases/{id}/refuse", post(market::refuse_purchase))
        .route("/v1/sales", get(market::sales))
        .route("/v1/sales/{id}/claim", post(market::claim))
        .route("/v1/sales/{id}/release", post(market::release))
        .route("/v1/earnings", get(market::earnings))
        .route("/v1/models", get(models::all).post(models::add))
        .route("/v1/models/{owner}/{name}", get(models::one))
        .route("/v1/files/{sha256}", get(models::with_file))
        .route(
            "/v1/registry/rebuild",
            get(models::rebuilding).post(models::rebuild),
        )
        .route("/v1/secrets", get(secrets::all))
        .route("/v1/secrets/{name}", put(secrets::set).delete(secrets::remove))
        .route("/v1/shares", get(shares::all).post(shares::add))
        .route("/v1/shares/{uuid}", delete(shares::remove))
}

/// A JSON body. Jupyter's clients send JSON as text/plain, so the content type is not asked; nothing is an empty object.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T> {
    let text = if bytes.is_empty() { b"{}" } else { bytes.as_ref() };
    serde_json::from_slice(text).map_err(|error| {
        GatewayError::bad_request("body_unreadable", format!("the body cannot be read: {error}"))
    })
}

/// Whether a text has the character NUL: PostgreSQL fails on it where SQLite finds nothing, so neither is asked.
fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// What is not served, as JSON for Jupyter's clients and with the Hub's headers for others.
async fn unknown(request: Request) -> Response {
    let (method, path) = (request.method().as_str(), request.uri().path());
    if path.starts_with("/api/models/") || path.starts_with("/api/repos/") || path.contains("/info/lfs/") {
        return alephlab_registry::unknown_route(method, path);
    }
    let message = format!("this gateway does not serve {method} {path}");
    let mut answer = GatewayError::not_found("route_unknown", message).into_response();
    answer
        .headers_mut()
        .insert("x-error-code", HeaderValue::from_static("RouteNotFound"));
    answer
}

/// A page of another site cannot reach this gateway by a name that it made point here.
async fn check_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if host.is_some_and(|host| app.is_own_host(host)) {
        return next.run(request).await;
    }
    let message = "this gateway is not served under the name that was asked for";
    GatewayError::refused(StatusCode::FORBIDDEN, "host_unknown", message).into_response()
}

async fn common_headers(request: Request, next: Next) -> Response {
    let mut answer: response::Response = next.run(request).await;
    let headers = answer.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Addresses can hold a token.
    let nowhere = HeaderValue::from_static("no-referrer");
    headers.entry(header::REFERRER_POLICY).or_insert(nowhere);
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    }
    answer
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    /// `METHOD /route` of all our own routes, sorted: read from what the router says of itself, which has no list.
    pub(crate) fn all() -> Vec<String> {
        let router = format!("{:?}", super::own());
        // What answers where there is no route has numbers of its own.
        let router = router.split("fallback_router").next().unwrap();
        let (mut paths, mut methods) = (HashMap::new(), HashMap::new());
        for entry in router.split("RouteId(").skip(1) {
            let (id, what) = entry.split_once("): ").unwrap();
            if let Some(quoted) = what.strip_prefix('"') {
                paths.insert(id, quoted.split('"').next().unwrap());
            } else if let Some((_, allowed)) = what.split_once("allow_header: Bytes(b\"") {
                methods.insert(id, allowed.split('"').next().unwrap());
            }
        }
        assert!(paths.len() == methods.len() && paths.len() > 40, "{router}");
        let mut all: Vec<_> = paths
            .iter()
            .flat_map(|(id, path)| {
                methods[id]
                    .split(',')
                    .map(move |method| format!("{method} {path}"))
            })
            .filter(|route| !route.starts_with("HEAD "))
            .collect();
        all.sort();
        all
    }
}
