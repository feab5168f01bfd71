//! Who is let in before anything is read: only requests that name this machine itself. A page of a browser that had another
//! name lead here sends that name, and gets nothing; and no answer allows another origin to read it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use url::Url;

/// The values of `Host` that are let in.
#[derive(Clone)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    /// Names of the loopback with the port of this address.
    pub(super) fn of(url: &Url) -> Self {
        let port = url.port_or_known_default().unwrap_or_default();
        let names = ["127.0.0.1", "localhost", "[::1]"];
        Self(names.map(|name| format!("{name}:{port}")).into())
    }

    /// Stands before all routes.
    pub(super) fn before(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, check))
    }

    fn hold(&self, request: &Request) -> bool {
        let headers = request.headers();
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, another) = (hosts.next(), hosts.next());
        let is_ours = |text: &str| self.0.iter().any(|host| host.eq_ignore_ascii_case(text));
        // A page's own requests come from its origin; programs send none.
        let origin = headers.get(header::ORIGIN);
        let is_foreign = origin.is_some_and(|origin| {
            let origin = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://"));
            !origin.is_some_and(is_ours)
        });
        another.is_none() && !is_foreign && host.and_then(|host| host.to_str().ok()).is_some_and(is_ours)
    }
}

async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if hosts.hold(&request) {
        return next.run(request).await;
    }
    let message = "this hub answers its own machine only: name it as 127.0.0.1";
    (
        StatusCode::FORBIDDEN,
        [("x-error-code", "Forbidden"), ("x-error-message", message)],
        message,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_with_this_port_are_let_in() {
        let hosts = Hosts::of(&"http://127.0.0.1:4321".parse().unwrap());
        let asks = |headers: &[(&str, &str)]| {
            let mut request = axum::http::Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            hosts.hold(&request.body(axum::body::Body::empty()).unwrap())
        };
        for host in ["127.0.0.1:4321", "localhost:4321", "LOCALHOST:4321", "[::1]:4321"] {
            assert!(asks(&[("host", host)]), "{host}");
        }
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:4322",
            "attacker.example:4321",
            "127.0.0.1.example:4321",
        ] {
            assert!(!asks(&[("host", host)]), "{host}");
        }
        assert!(!asks(&[]));
        assert!(!asks(&[("host", "127.0.0.1:4321"), ("host", "evil.example")]));
        assert!(!asks(&[
            ("host", "127.0.0.1:4321"),
            ("origin", "http://evil.example")
        ]));
        assert!(!asks(&[("host", "127.0.0.1:4321"), ("origin", "null")]));
        assert!(asks(&[
            ("host", "127.0.0.1:4321"),
            ("origin", "http://localhost:4321")
        ]));
    }
}
