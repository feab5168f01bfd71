//! A page in place of the Hub's words where a browser asks for a file that has to be bought first.

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::buying::Goods;
use super::offer::{Purse, Sale, available};
use crate::auth::Account;
use crate::error::Result;
use crate::market;
use crate::routes::lab::percent_decoded;
use crate::routes::registry::{Visitor, show_page, visitor};
use crate::state::App;

#[derive(Template)]
#[template(path = "payment.html")]
struct PaymentPage {
    version: &'static str,
    visitor: Visitor,
    file: String,
    goods: Goods,
    sale: Sale,
    /// Of who is signed in.
    purse: Option<Purse>,
}

/// Lets a request through; of an answer 402 to a browser it makes the page that says what it costs.
pub(in crate::routes) async fn offered(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let asked = asked(&request);
    let is_command = is_hub_command(&request);
    let (mut parts, body) = request.into_parts();
    let (account, headers) = match asked {
        Some(_) => {
            let account = Account::from_request_parts(&mut parts, &app).await.ok();
            (account, parts.headers.clone())
        }
        None => (None, HeaderMap::new()),
    };
    let mut answer = next.run(Request::from_parts(parts, body)).await;
    if is_command && answer.status() == StatusCode::PAYMENT_REQUIRED {
        let code = HeaderValue::from_static("PaymentRequired");
        answer.headers_mut().insert("x-error-code", code);
    }
    let Some((name, revision, file)) = asked.filter(|_| answer.status() == StatusCode::PAYMENT_REQUIRED)
    else {
        return answer;
    };
    match page(&app, account.as_ref(), &headers, (&name, &revision, file)).await {
        Ok(Some(mut page)) => {
            *page.status_mut() = StatusCode::PAYMENT_REQUIRED;
            page
        }
        // The Hub's own answer says it, too.
        Ok(None) | Err(_) => answer,
    }
}

/// Whether the Hub's own command asks. Under the code `GatedRepo` it prints a sentence of its own in place of ours; under one that it does
/// not know it prints ours, while its library, and with that `transformers`, take such an answer for a network that is down.
fn is_hub_command(request: &Request) -> bool {
    let agent = request.headers().get(header::USER_AGENT);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(b"huggingface-cli/"))
}

/// Model, revision and file that a browser asks for.
fn asked(request: &Request) -> Option<(String, String, String)> {
    let accept = request.headers().get(header::ACCEPT)?.to_str().ok()?;
    if request.method() != Method::GET || !accept.contains("text/html") {
        return None;
    }
    let mut parts = request.uri().path().strip_prefix('/')?.splitn(5, '/');
    let (owner, name, word) = (parts.next()?, parts.next()?, parts.next()?);
    let (revision, file) = (parts.next()?, parts.next()?);
    let known = word == "resolve" || word == "raw";
    known.then(|| {
        (
            format!("{owner}/{name}"),
            percent_decoded(revision),
            percent_decoded(file),
        )
    })
}

async fn page(
    app: &App,
    account: Option<&Account>,
    headers: &HeaderMap,
    (name, revision, file): (&str, &str, String),
) -> Result<Option<Response>> {
    let quote = market::quote(app, name, Some(revision)).await?;
    let Some(goods) = Goods::of(app, &quote.model, &quote.revision).await? else {
        return Ok(None);
    };
    let purse = match account {
        Some(account) => {
            let own = available(app, &account.id, quote.asset).await?;
            Some(Purse::of(own, quote.price))
        }
        None => None,
    };
    let shown = PaymentPage {
        version: env!("CARGO_PKG_VERSION"),
        visitor: visitor(account, &format!("/models/{}", goods.name)),
        file,
        sale: Sale::of(&quote, app.settlement.rate().ok()),
        purse,
        goods,
    };
    show_page(app, account, headers, &shown).await.map(Some)
}
