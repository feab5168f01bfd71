//! The write half of Xet, which current clients upload large files by: chunks in xorbs, and shards that say which of
//! them make up a file. Both become whole files of the working area; what is stored knows nothing of chunks.
//!
//! Downloads are plain HTTP with ranges: no answer advertises Xet for reading, so no client asks for it.

mod hash;
mod rebuild;
mod shard;
mod xorb;

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alephlab_api::model::is_hex;
use alephlab_api::time::unix_now;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use self::rebuild::Rebuild;
use self::xorb::Scanner;
use crate::repo::{Asked, bearer};
use crate::staging::incoming::aside;
use crate::staging::{CallerKey, Incoming, Sink, Spool, failed};
use crate::{Hub, RegistryError, Writing};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// How long a token is good for; clients fetch another in time.
const GOOD_FOR: u64 = 15 * 60;
const PURPOSE: &str = "xet-write";

pub(crate) fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route(
            "/api/models/{namespace}/{name}/xet-write-token/{revision}",
            get(write_token),
        )
        .route("/xet/v1/xorbs/{prefix}/{hash}", post(put_xorb))
        .route("/xet/v1/shards", post(put_shard))
}

/// `GET .../xet-write-token/{revision}`: where to upload, and a token for it, in headers and in the body, because
/// clients read one or the other.
async fn write_token(asked: Asked) -> Result<Response> {
    let (writing, caller, _) = asked.writer().await?;
    let expires = unix_now() + GOOD_FOR;
    let token = token(writing, &writing.staging.key(&caller.account), expires);
    let url = format!("{}/xet", writing.base);
    let headers = [
        ("x-xet-cas-url", url.clone()),
        ("x-xet-access-token", token.clone()),
        ("x-xet-token-expiration", expires.to_string()),
    ];
    let body = json!({ "casUrl": url, "accessToken": token, "exp": expires });
    Ok((headers, Json(body)).into_response())
}

/// `caller.expiry.signature`: for one caller, and only for writing into its part of the working area. No repo stands in
/// it, because none of these routes has one: what a repo takes is decided by its commit.
fn token(writing: &Writing, caller: &CallerKey, expires: u64) -> String {
    let (caller, expires) = (caller.as_str(), expires.to_string());
    let signature = writing.signer.sign(PURPOSE, &[caller, &expires]);
    format!("{caller}.{expires}.{signature}")
}

fn caller(writing: &Writing, headers: &HeaderMap) -> Result<CallerKey> {
    let token = bearer(headers).ok_or(RegistryError::Token)?;
    let mut parts = token.expose().splitn(3, '.');
    let (Some(caller), Some(expires), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(RegistryError::Token);
    };
    let signed = writing.signer.is_signed(PURPOSE, &[caller, expires], signature);
    let lives = expires.parse::<u64>().is_ok_and(|expires| expires >= unix_now());
    CallerKey::parse(caller)
        .filter(|_| signed && lives)
        .ok_or(RegistryError::Token)
}

/// A xorb on its way in: stored as it comes, its hash computed from the chunks in it.
struct XorbSink {
    spool: Spool,
    scanner: Scanner,
}

impl Sink for XorbSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.scanner.push(bytes)?;
        self.spool.write(bytes)
    }
}

impl XorbSink {
    fn keep(self, announced: &str) -> Result<bool> {
        let found = self.scanner.end()?.hex();
        if found != announced {
            return Err(xorb::bad(&format!("its chunks have the hash {found}")));
        }
        self.spool.keep("xorbs", &found)
    }
}

/// Says that nobody waits any more: dropped with the request.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn put_xorb(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path((_, hash)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>> {
    let writing = hub.writing()?;
    let caller = caller(writing, &headers)?;
    if !is_hex(&hash, 64) {
        return Err(xorb::bad("its address has no hash"));
    }
    let sink = XorbSink {
        spool: Spool::new(&writing.staging, &caller, xorb::XORB_MAX)?,
        scanner: Scanner::default(),
    };
    let sink = Incoming::new(sink).body(body).await?;
    let is_new = aside(move || sink.keep(&hash)).await??;
    Ok(Json(json!({ "was_inserted": is_new })))
}

/// Answers when the files of the shard are whole objects. Clients wait for this as long as it takes; when one goes away,
/// the file that is being made is given up, and those that are whole stay.
async fn put_shard(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Result<Json<Value>> {
    let writing = hub.writing()?;
    let caller = caller(writing, &headers)?;
    let spool = Spool::new(&writing.staging, &caller, shard::SHARD_MAX)?;
    let spool = Incoming::new(spool).body(body).await?;
    let turn = Arc::clone(&writing.staging.rebuilds).acquire_owned().await;
    let turn = turn.map_err(|_| RegistryError::invalid("the registry is ending"))?;
    let mut rebuild = Rebuild::new(&writing.staging, &caller);
    let _gone = Gone(rebuild.stop());
    let read = move || {
        let _turn = turn;
        let file = File::open(spool.path()).map_err(failed)?;
        shard::read(BufReader::new(file), &mut rebuild)?;
        Ok::<_, RegistryError>(rebuild.finished())
    };
    let count = aside(read).await??;
    tracing::debug!(count, "files came by Xet");
    Ok(Json(json!({ "result": 1 })))
}
