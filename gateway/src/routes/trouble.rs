//! What went wrong, as a page where a browser shows it to a person; programs get the same as JSON.
//!
//! Pages with forms say themselves what is wrong in a form. This is for the rest: a session that has ended meanwhile, a form from
//! another site, an address that is none of ours.

use std::sync::Arc;

use alephlab_api::Problem;
use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::browser::{SignInPage, in_a_sentence, inside};
use super::pages::page;
use crate::error::Result;
use crate::state::App;

/// Last words of addresses of forms that stand on the page above them.
const ACTIONS: [&str; 6] = ["cancel", "convert", "notebook", "refund", "take-back", "withdraw"];

#[derive(Template)]
#[template(path = "trouble.html")]
struct TroublePage {
    version: &'static str,
    status: u16,
    title: &'static str,
    said: String,
    hint: Option<String>,
    code: String,
    /// The page that it was asked from, where that is one of ours.
    back: Option<String>,
}

/// Lets a request through; of an answer that tells a browser of a problem it makes a page.
pub(super) async fn shown(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(asked) = Asked::by(&request) else {
        return next.run(request).await;
    };
    let answer = next.run(request).await;
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_page = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !(answer.status().is_client_error() || answer.status().is_server_error()) || is_page {
        return answer;
    }
    // What the framework refuses before our code has it: a form that lacks a field, or with another type in it.
    let unread = || Problem::new("form_unreadable", "what the browser sent could not be read");
    let problem = answer.extensions().get().cloned().unwrap_or_else(unread);
    match asked.page(&app, answer.status(), problem) {
        Ok(mut page) => {
            *page.status_mut() = answer.status();
            if let Some(after) = answer.headers().get(header::RETRY_AFTER) {
                page.headers_mut().insert(header::RETRY_AFTER, after.clone());
            }
            page
        }
        Err(_) => answer,
    }
}

/// A request of a browser that shows what it gets.
struct Asked {
    headers: HeaderMap,
    /// Where to go on.
    back: String,
    is_form: bool,
}

impl Asked {
    fn by(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let headers = request.headers();
        let accepts = headers.get(header::ACCEPT)?.to_str().ok()?;
        let is_shown = accepts.contains("text/html") && !headers.contains_key("hx-request");
        let is_for_programs = path == "/api" || path.starts_with("/api/") || path.starts_with("/v1/");
        (is_shown && !is_for_programs).then(|| Self {
            headers: headers.clone(),
            back: inside(above(path)).to_owned(),
            is_form: request.method() == Method::POST,
        })
    }

    fn page(&self, app: &App, status: StatusCode, problem: Problem) -> Result<Response> {
        if status == StatusCode::UNAUTHORIZED {
            let ended = "You were signed out meanwhile. Sign in, and do it again.";
            let said = self.is_form.then_some(ended);
            return page(&self.headers, &SignInPage::new(app, said, &self.back));
        }
        let title = match status {
            StatusCode::NOT_FOUND => "There is nothing at this address",
            StatusCode::TOO_MANY_REQUESTS => "That was too often",
            _ if status.is_server_error() => "Something broke on our side",
            _ => "This was not done",
        };
        let shown = TroublePage {
            version: env!("CARGO_PKG_VERSION"),
            status: status.as_u16(),
            title,
            said: in_a_sentence(&problem.message),
            hint: problem.hint.as_deref().map(in_a_sentence),
            code: problem.code,
            back: Some(self.back.clone()).filter(|back| self.is_form && back != "/"),
        };
        page(&self.headers, &shown)
    }
}

/// The page on which the form of an address stands.
fn above(path: &str) -> &str {
    if path.starts_with("/earnings/") {
        return "/earnings";
    }
    match path.rsplit_once('/') {
        Some((page, last)) if ACTIONS.contains(&last) => page,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_in_again_is_back_at_the_page_of_the_form() {
        for (form, page) in [
            ("/earnings/withdraw", "/earnings"),
            (
                "/earnings/withdrawals/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4/take-back",
                "/earnings",
            ),
            (
                "/orders/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4/refund",
                "/orders/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4",
            ),
            ("/models/0xAb/digits/notebook", "/models/0xAb/digits"),
            ("/buy/0xAb/digits", "/buy/0xAb/digits"),
            ("/receipts/3", "/receipts/3"),
            ("/nowhere", "/"),
        ] {
            assert_eq!(inside(above(form)), page, "{form}");
        }
    }
}
