//! What may come over plain HTTP from another machine: public reads of nobody in particular.
//!
//! A token of a share is all that its holder has, so it must not cross a network in clear: such a request is refused before
//! anything is looked up. A server behind a TLS proxy on its own machine sees a loopback peer; one that knows its proxy
//! otherwise says so with [`Secured`].

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::answer::RegistryError;
use crate::files::PAYMENT;

/// In a request's extensions: it came over TLS, whatever its peer is.
#[derive(Debug, Clone, Copy)]
pub struct Secured;

/// Of a registry that is only read.
pub(crate) async fn reads(request: Request, next: Next) -> Response {
    if is_private(&request) || is_of_nobody(&request) {
        return next.run(request).await;
    }
    RegistryError::PlainHttp.into_response()
}

/// A read without anything that proves who asks.
fn is_of_nobody(request: &Request) -> bool {
    // The one read that is a POST.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD)
        || request.uri().path().contains("/paths-info/");
    let proves = [header::AUTHORIZATION.as_str(), PAYMENT];
    reads && !proves.iter().any(|name| request.headers().contains_key(*name))
}

/// Of one that is written to, too: addresses of uploads are proofs themselves.
pub(crate) async fn all(request: Request, next: Next) -> Response {
    if is_private(&request) {
        return next.run(request).await;
    }
    RegistryError::PlainHttp.into_response()
}

fn is_private(request: &Request) -> bool {
    let extensions = request.extensions();
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    extensions.get::<Secured>().is_some()
        || peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_peer_on_this_machine_is_private_and_one_behind_tls() {
        for (peer, secured, private) in [
            ("127.0.0.1:1", false, true),
            ("[::1]:1", false, true),
            ("[::ffff:127.0.0.1]:1", false, true),
            ("10.0.0.1:1", false, false),
            ("10.0.0.1:1", true, true),
        ] {
            let mut request = Request::new(Body::empty());
            let peer: SocketAddr = peer.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
            if secured {
                request.extensions_mut().insert(Secured);
            }
            assert_eq!(is_private(&request), private, "{peer}");
        }
        assert!(
            !is_private(&Request::new(Body::empty())),
            "nobody is not this machine"
        );
    }

    #[test]
    fn only_reads_without_a_token_are_of_nobody() {
        for (method, path, token, nobody) in [
            (Method::GET, "/0xab/digits/resolve/main/README.md", false, true),
            (Method::HEAD, "/0xab/digits/resolve/main/README.md", false, true),
            (
                Method::POST,
                "/api/models/0xab/digits/paths-info/main",
                false,
                true,
            ),
            (Method::POST, "/api/repos/create", false, false),
            (Method::GET, "/m/x/resolve/main/README.md", true, false),
            (Method::GET, "/api/whoami-v2", true, false),
        ] {
            let mut request = Request::builder().method(&method).uri(path);
            if token {
                request = request.header(header::AUTHORIZATION, "Bearer hf_x");
            }
            assert_eq!(
                is_of_nobody(&request.body(Body::empty()).unwrap()),
                nobody,
                "{method} {path}"
            );
        }
    }
}
