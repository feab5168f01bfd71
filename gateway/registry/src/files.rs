//! `resolve` and `raw`: the metadata and bytes of one file.
//!
//! Every file is described as the Hub describes a large one, by its SHA-256, because that is what the signed record
//! holds. Bytes come on this origin under the bearer, never by redirect.

use std::sync::Arc;

use alephlab_api::model::RecordFile;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::answer::RegistryError;
use crate::range::{self, Wanted};
use crate::repo::Asked;
use crate::{Bought, ReadBy, Repo, describe, percent};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// What a payment client sends (x402, version 2).
pub(crate) const PAYMENT: &str = "payment-signature";

/// `HEAD` and `GET /{namespace}/{name}/resolve/{revision}/{path}`.
pub(crate) async fn resolve(asked: Asked, method: Method, headers: HeaderMap) -> Result<Response> {
    let (repo, paid) = opened(&asked, &method, &headers).await?;
    let info = repo.info();
    let file = describe::file(info, &asked.at.path)?;
    let etag = format!("\"{}\"", file.sha256);
    let fresh = headers
        .get(header::IF_RANGE)
        .is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let wanted = headers
        .get(header::RANGE)
        .filter(|_| fresh)
        .and_then(|value| value.to_str().ok());
    let (status, range) = match range::parse(wanted, file.size) {
        Wanted::All => (StatusCode::OK, 0..file.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Outside => return Err(RegistryError::Range { size: file.size }),
    };
    let mut answer = describe(file, &info.revision, &etag);
    if let Some(paid) = &paid {
        set(&mut answer, "payment-response", &paid.response);
        set(&mut answer, "x-share-id", &paid.share);
        set(&mut answer, "x-share-token", paid.token.expose());
    }
    answer.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {}-{}/{}", range.start, range.end - 1, file.size);
        set(&mut answer, "content-range", &part);
    }
    let body = if method == Method::HEAD || range.is_empty() {
        Body::empty()
    } else {
        let by = ReadBy {
            peer: asked.asker.peer,
            bearer: asked.asker.bearer.as_ref(),
        };
        Body::from_stream(repo.read_by(file, range, by).await?)
    };
    Ok((status, answer, body).into_response())
}

/// The repo, for who may read it or pays for it with this request.
async fn opened(
    asked: &Asked,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Arc<dyn Repo>, Option<Bought>)> {
    let repo = asked.repo().await?;
    // Before the file is looked for: who may not read learns from this route no more than the list of files says.
    let Err(gated) = repo.gate() else {
        return Ok((repo, None));
    };
    let payment = headers.get(PAYMENT).filter(|_| method == Method::GET);
    let Some(payment) = payment.and_then(|payment| payment.to_str().ok()) else {
        return Err(gated);
    };
    let info = repo.info();
    // Nobody pays for what is not there.
    describe::file(info, &asked.at.path)?;
    match asked.hub.library().pay(&info.id, &info.revision, payment).await? {
        Some(bought) => Ok((Arc::clone(&bought.repo), Some(bought))),
        None => Err(gated),
    }
}

/// `GET /{namespace}/{name}/raw/{revision}/{path}`: what git holds, which is the git-lfs pointer. Only for people who
/// look at it in a browser.
pub(crate) async fn raw(asked: Asked) -> Result<Response> {
    let repo = asked.repo().await?;
    let info = repo.info();
    repo.gate()?;
    let pointer = describe::pointer(describe::file(info, &asked.at.path)?);
    let mut headers = HeaderMap::new();
    set(&mut headers, "x-repo-commit", &info.revision);
    set(
        &mut headers,
        "etag",
        &format!("\"{}\"", describe::blob_id(pointer.as_bytes())),
    );
    set(&mut headers, "content-type", "text/plain; charset=utf-8");
    set(&mut headers, "x-content-type-options", "nosniff");
    Ok((headers, pointer).into_response())
}

/// What every answer says of a file, whatever part of it is sent.
fn describe(file: &RecordFile, revision: &str, etag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-linked-size", file.size.into());
    for (name, value) in [
        ("x-repo-commit", revision),
        ("etag", etag),
        ("x-linked-etag", etag),
        ("accept-ranges", "bytes"),
        ("content-type", "application/octet-stream"),
        ("content-disposition", &disposition(&file.path)),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "private, no-transform"),
    ] {
        set(&mut headers, name, value);
    }
    headers
}

/// Paths and hashes of a record were checked, so this leaves nothing out that we make.
fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `attachment`, so that no browser shows what somebody published as a page of ours.
fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let encoded = percent::segment(name);
    format!("attachment; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_file_without_leaving_its_quotes() {
        assert_eq!(
            disposition("a/b \".txt"),
            "attachment; filename*=UTF-8''b%20%22.txt"
        );
    }
}
