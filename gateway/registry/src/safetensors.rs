//! `safetensors-metadata`: the headers of a model's weights in one answer, so that a client need not ask for ranges of
//! every shard. The format: eight bytes of length, little-endian, then a JSON object.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::model::RecordFile;
use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::HeaderMap;
use futures_util::TryStreamExt as _;
use serde_json::{Map, Value, json};

use crate::answer::RegistryError;
use crate::repo::{self, PlaceAt};
use crate::{Hub, Repo, describe};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// The longest header or index that is read here; longer ones clients read themselves, by ranges.
const HEADER_MAX: u64 = 4 << 20;
/// Headers of all shards together.
const HEADERS_MAX: usize = 32 << 20;

/// `GET /api/models/{id}/safetensors-metadata/{path}` of an index or of one file.
pub(crate) async fn metadata(
    State(hub): State<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(at): Path<PlaceAt>,
) -> Result<Json<Value>> {
    let repo = repo::open(&hub, peer, &headers, &at.place, None).await?;
    repo.gate()?;
    let file = describe::file(repo.info(), &at.path)?;
    let mut headers = Map::new();
    if !at.path.ends_with(".index.json") {
        headers.insert(at.path.clone(), parsed(&header(repo.as_ref(), file).await?)?);
        return Ok(Json(json!({ "index": { "metadata": {} }, "headers": headers })));
    }
    let index = parsed(&bytes(repo.as_ref(), file, file.size).await?)?;
    let folder = at.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut read = 0;
    for shard in shards(&index) {
        let path = match folder {
            "" => shard.clone(),
            folder => format!("{folder}/{shard}"),
        };
        let text = header(repo.as_ref(), describe::file(repo.info(), &path)?).await?;
        read += text.len();
        if read > HEADERS_MAX {
            return Err(unreadable("the headers are too long together"));
        }
        headers.insert(shard, parsed(&text)?);
    }
    Ok(Json(
        json!({ "index": { "metadata": index["metadata"] }, "headers": headers }),
    ))
}

/// Names of the files that an index spreads tensors over.
fn shards(index: &Value) -> BTreeSet<String> {
    let map = index["weight_map"].as_object().into_iter().flat_map(Map::values);
    map.filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn header(repo: &dyn Repo, file: &RecordFile) -> Result<Vec<u8>> {
    let length = bytes(repo, file, 8).await?;
    let length = <[u8; 8]>::try_from(length.as_slice()).map_err(|_| unreadable("it is too short"))?;
    let end = u64::from_le_bytes(length).saturating_add(8);
    let mut text = bytes(repo, file, end).await?;
    Ok(text.split_off(8))
}

/// The first bytes of a file.
async fn bytes(repo: &dyn Repo, file: &RecordFile, end: u64) -> Result<Vec<u8>> {
    if end > file.size || end > HEADER_MAX {
        return Err(unreadable("its length is wrong or too large"));
    }
    let mut pieces = repo.read(file, 0..end).await?;
    let mut read = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        read.extend_from_slice(&piece);
    }
    Ok(read)
}

fn parsed(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|_| unreadable("it is not JSON"))
}

/// As if there were no such route: clients then read the file themselves, and say better what is wrong with it.
fn unreadable(why: &str) -> RegistryError {
    let message = format!("the header of these weights cannot be read: {why}");
    RegistryError::Route {
        problem: Problem::new("safetensors_unreadable", message),
    }
}
