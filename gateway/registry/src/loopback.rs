//! Who is let in to a hub on the loopback before anything is read: only requests that name this machine itself. A page of a
//! browser that had another name lead here sends that name, and gets nothing; and no answer allows another origin to read it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use url::Url;

/// Names of this machine's loopback.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The origins that are this hub's own.
#[derive(Clone, Debug)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    /// Names of the loopback with the port of this address.
    pub fn of(url: &Url) -> Self {
        let port = url.port_or_known_default().unwrap_or_default();
        Self(NAMES.map(|name| format!("http://{name}:{port}")).into())
    }

    /// Stands before all routes.
    pub fn before(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, check))
    }

    fn hold(&self, request: &Request) -> bool {
        let headers = request.headers();
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, another) = (hosts.next(), hosts.next());
        let is_loopback = host.and_then(|host| host.to_str().ok()).is_some_and(is_loopback);
        // Programs send no origin; a page of this machine on another port is another origin.
        let is_own = |origin: &axum::http::HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            self.0.iter().any(|own| own.eq_ignore_ascii_case(origin))
        };
        is_loopback && another.is_none() && headers.get(header::ORIGIN).is_none_or(is_own)
    }
}

/// Whether a `Host` names the loopback, with whatever port: it may have been forwarded here.
fn is_loopback(host: &str) -> bool {
    NAMES.iter().any(|name| {
        let rest = host.get(name.len()..).filter(|_| {
            let start = host.get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        });
        rest.is_some_and(|rest| {
            let port = rest.strip_prefix(':');
            rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok())
        })
    })
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
    fn only_names_of_this_machine_are_let_in_and_no_other_origin() {
        let hosts = Hosts::of(&"http://127.0.0.1:4321".parse().unwrap());
        let asks = |headers: &[(&str, &str)]| {
            let mut request = axum::http::Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            hosts.hold(&request.body(axum::body::Body::empty()).unwrap())
        };
        for host in [
            "127.0.0.1:4321",
            "localhost:4321",
            "LOCALHOST",
            "[::1]:4321",
            "127.0.0.1:80",
        ] {
            assert!(asks(&[("host", host)]), "{host}");
        }
        for host in [
            "",
            "127.0.0.1:x",
            "127.0.0.1:",
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
        assert!(!asks(&[
            ("host", "127.0.0.1:4321"),
            ("origin", "http://127.0.0.1:8888")
        ]));
        assert!(asks(&[
            ("host", "127.0.0.1:4321"),
            ("origin", "http://localhost:4321")
        ]));
    }
}
