//! Bytes of a stored file: raw as a stream, or whole as base64. There are no range requests.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{fs::File, io::AsyncReadExt};
use tokio_util::io::ReaderStream;

use super::{
    Shared,
    failure::{Answer, Failure},
};
use crate::{envelope::parse_hash, error::Error, faults::DownloadFault, node::Node};

/// Bytes read from disk at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Pause before a fault switch breaks a download. A time and not a condition, because nothing tells a body when its
/// bytes have left: an error drops what the server still holds, the head included, and the client would see a
/// connection that never answered, which is another fault. Only downloads that a switch breaks wait.
const TRUNCATE_PAUSE: Duration = Duration::from_millis(50);
/// Characters on a line of base64, as the real node's encoder breaks it.
const BASE64_LINE: usize = 76;

/// `HEAD /api/v0/storage/raw/{hash}`.
pub(crate) async fn raw_head(State(node): Shared, Path(hash): Path<String>) -> Answer<Response> {
    let (_, size) = open(&node, &hash).await?;
    Ok((headers(size), Body::empty()).into_response())
}

/// `GET /api/v0/storage/raw/{hash}`.
pub(crate) async fn raw(State(node): Shared, Path(hash): Path<String>) -> Answer<Response> {
    let (file, size) = open(&node, &hash).await?;
    let body =
        match node.faults.on_download() {
            None => Body::from_stream(ReaderStream::with_capacity(file, CHUNK_BYTES)),
            Some(DownloadFault::Truncate(keep)) => {
                let broken = stream::once(async {
                    tokio::time::sleep(TRUNCATE_PAUSE).await;
                    Err(std::io::Error::new(
                        std::io::ErrorKind::ConnectionReset,
                        "a fault switch breaks this download",
                    ))
                });
                let kept = ReaderStream::with_capacity(file.take(keep), CHUNK_BYTES);
                Body::from_stream(kept.chain(broken))
            }
            Some(DownloadFault::WrongBytes) => {
                let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES).enumerate();
                Body::from_stream(chunks.map(|(index, chunk)| {
                    chunk.map(|bytes| if index == 0 { flip_first(&bytes) } else { bytes })
                }))
            }
        };
    Ok((headers(size), body).into_response())
}

/// `GET /api/v0/storage/{hash}`: `{status, hash, engine, content}`.
pub(crate) async fn base64(State(node): Shared, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let (mut file, size) = open(&node, &hash).await?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // Nothing larger than the storage engine's limit is ever stored.
    file.read_to_end(&mut bytes).await.map_err(|cause| Error::File {
        path: hash.clone().into(),
        cause,
    })?;
    let encoded = STANDARD.encode(&bytes);
    let mut content = String::with_capacity(encoded.len() + encoded.len() / BASE64_LINE + 1);
    for line in encoded.as_bytes().chunks(BASE64_LINE) {
        content.extend(line.iter().copied().map(char::from));
        content.push('\n');
    }
    Ok(Json(
        json!({ "status": "success", "hash": hash, "engine": "storage", "content": content }),
    ))
}

async fn open(node: &Node, hash: &str) -> Answer<(File, u64)> {
    if parse_hash(hash).is_none() {
        return Err(Failure::text(StatusCode::BAD_REQUEST, "Invalid hash"));
    }
    let known: Option<i64> = sqlx::query_scalar("SELECT size FROM files WHERE hash = ?")
        .bind(hash)
        .fetch_optional(&node.db)
        .await?;
    let file = match known {
        Some(_) => node.files.read(hash).await?,
        None => None,
    };
    file.ok_or_else(|| Failure::not_found("Not found"))
}

fn headers(size: u64) -> [(header::HeaderName, String); 3] {
    [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::ACCEPT_RANGES, "none".to_owned()),
    ]
}

fn flip_first(bytes: &Bytes) -> Bytes {
    let mut wrong = bytes.to_vec();
    if let Some(first) = wrong.first_mut() {
        *first ^= 0xff;
    }
    wrong.into()
}
