//! Which answers are compressed: pages, lists and files that hold no secret.
//!
//! Where a secret and words that somebody else may have chosen are compressed together, the size of the answer tells one of the
//! other, guess by guess (BREACH). So this is a list of what is compressed, and nothing that answers with a token stands in it: that is
//! what it rests on. That other sites' requests do not carry the cookie helps, and is not enough: sibling subdomains and other
//! ports of one machine are the same site. Bytes of models are as they are: clients
//! ask for parts of them and count what comes.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;
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
    "/static/",
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
        .quality(level(request.uri().path()))
        .compress_when(SizeAbove::new(SIZE_MIN).and(is_plain_text));
    let Ok(answer) = service.call(request).await;
    answer.map(Body::new)
}

/// A page takes milliseconds to write: one more for a third of its bytes is worth it, five for a little less are not. Our own files
/// are asked for once and kept; those of JupyterLab are many megabytes.
fn level(path: &str) -> CompressionLevel {
    match path.starts_with("/static/") && !path.starts_with("/static/lab/") {
        true => CompressionLevel::Default,
        false => CompressionLevel::Fastest,
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
