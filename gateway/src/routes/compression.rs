//! Which answers are compressed: pages, lists and files that hold no secret.
//!
//! Where a secret and words that somebody else may have chosen are compressed together, the size of the answer tells one of the
//! other, guess by guess (BREACH). So this is a list of what is compressed, and nothing that answers with a token stands in it: that is
//! what it rests on. That other sites' requests do not carry the cookie helps, and is not enough: sibling subdomains and other
//! ports of one machine are the same site. Bytes of models are as they are: clients
//! ask for parts of them and count what comes.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tower_http::CompressionLevel;
use tower_http::compression::Compression;
use tower_http::compression::predicate::{Predicate as _, SizeAbove};
use tower_service::Service as _;

/// Answers that are shorter stay as they are: what is saved is less than a packet.
const SIZE_MIN: u64 = 1_024;
/// As paths begin. A share's own page is not of it: the token of a mistaken link stands in its address.
const COMPRESSED: [&str; 7] = [
    "/models",
    "/publish",
    "/datasets",
    "/static/lab/",
    "/lab/extensions/",
    "/api/models",
    "/v1/models",
];
/// Pictures and fonts are compressed already.
const KINDS: [&str; 6] = [
    "text/html",
    "text/css",
    "text/javascript",
    "application/javascript",
    "application/json",
    "image/svg+xml",
];

/// Compresses what may be, for clients that take it.
pub(super) async fn compress(request: Request, next: Next) -> Response {
    if request.method() != Method::GET || !may_be(request.uri().path()) {
        return next.run(request).await;
    }
    let mut service = Compression::new(next)
        // A page takes milliseconds to write: one more for a third of its bytes is worth it, five for a little less are not.
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(SIZE_MIN).and(is_plain_text));
    let Ok(answer) = service.call(request).await;
    answer.map(Body::new)
}

/// Packs a file of ours as small as it gets: it is done once and kept.
pub(super) async fn packed(kind: &'static str, bytes: &'static [u8]) -> Option<Bytes> {
    let mut request = Request::new(Body::empty());
    let gzip = HeaderValue::from_static("gzip");
    request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
    let mut service = Compression::new(Constant(kind, bytes))
        .quality(CompressionLevel::Best)
        .compress_when(is_plain_text);
    let Ok(answer) = service.call(request).await;
    let is_packed = answer.headers().contains_key(header::CONTENT_ENCODING);
    let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await.ok()?;
    is_packed.then_some(body)
}

/// Whether who asks takes what is packed.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let words = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let words = words.filter_map(|value| value.to_str().ok());
    let mut words = words.flat_map(|value| value.split(',')).map(str::trim);
    words.any(|word| {
        let (name, weight) = word.split_once(';').unwrap_or((word, ""));
        let is_refused = weight
            .trim()
            .strip_prefix("q=")
            .is_some_and(|weight| weight.trim().parse() == Ok(0.0_f32));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

/// A file of ours as a service that answers with it.
struct Constant(&'static str, &'static [u8]);

impl tower_service::Service<Request> for Constant {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        ready(Ok(([(header::CONTENT_TYPE, self.0)], self.1).into_response()))
    }
}

fn may_be(path: &str) -> bool {
    COMPRESSED.iter().any(|start| path.starts_with(start))
}

fn is_plain_text(status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    status == StatusCode::OK
        && !headers.contains_key(header::SET_COOKIE)
        && KINDS.iter().any(|one| kind.starts_with(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_files_are_packed_once_and_pictures_are_not() {
        let css: &[u8] = include_bytes!("../../static/alephlab.css");
        let packed_css = packed("text/css; charset=utf-8", css).await.unwrap();
        assert!(packed_css.starts_with(&[0x1f, 0x8b]) && packed_css.len() < css.len() / 3);
        // What a style sheet may be, as it is sent (shared/ui/ui.md).
        assert!(packed_css.len() < 12_000, "{}", packed_css.len());
        assert!(packed("font/woff2", css).await.is_none());
    }

    #[test]
    fn gzip_is_taken_by_who_says_so() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(takes("gzip") && takes("br, gzip;q=0.5") && takes("deflate, GZIP"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.0") && !takes(""));
    }

    #[test]
    fn what_answers_with_a_token_or_the_bytes_of_a_model_is_not_compressed() {
        for path in [
            "/models",
            "/models/0xAb/digits/files",
            "/static/lab/main.js",
            "/api/models",
        ] {
            assert!(may_be(path), "{path}");
        }
        for path in [
            "/",
            "/sign-in",
            "/settings",
            "/settings/tokens",
            "/shares/new",
            "/m/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4",
            "/v1/tokens",
            "/v1/shares",
            "/v1/kernel-secrets/A",
            "/lab/tree/a.ipynb",
            "/api/contents/a.ipynb",
            "/0xAb/digits/resolve/main/model.safetensors",
        ] {
            assert!(!may_be(path), "{path}");
        }
    }
}
