//! `safetensors-metadata`: the headers of a model's weights in one answer, so that a client need not ask for ranges of
//! every shard. The format: eight bytes of length, little-endian, then a JSON object.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use alephlab_api::Problem;
use alephlab_api::model::RecordFile;
use axum::Json;
use futures_util::TryStreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::answer::RegistryError;
use crate::repo::Asked;
use crate::{Repo, describe};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// The longest header or index that is read here; longer ones clients read themselves, by ranges.
const HEADER_MAX: u64 = 4 << 20;
/// Headers of all shards together.
const HEADERS_MAX: usize = 32 << 20;
/// Shards of one index.
const SHARDS_MAX: usize = 512;
/// Bytes that are read at first: most headers are shorter.
const FIRST: u64 = 64 << 10;

/// `GET /api/models/{id}/safetensors-metadata/{path}` of an index or of one file.
pub(crate) async fn metadata(asked: Asked) -> Result<Json<Metadata>> {
    let (repo, at) = (asked.newest().await?, &asked.at);
    repo.gate()?;
    let file = describe::file(repo.info(), &at.path)?;
    let mut headers = BTreeMap::new();
    if !at.path.ends_with(".index.json") {
        headers.insert(at.path.clone(), raw(header(repo.as_ref(), file).await?)?);
        return Ok(Json(Metadata::new(&json!({}), headers)));
    }
    let index = bytes(repo.as_ref(), file, 0..file.size).await?;
    let index: Value = serde_json::from_slice(&index).map_err(|_| unreadable("it is not JSON"))?;
    let shards = shards(&index);
    if shards.len() > SHARDS_MAX {
        return Err(unreadable("it names too many files"));
    }
    let folder = at.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut read = 0;
    for shard in shards {
        let path = match folder {
            "" => shard.clone(),
            folder => format!("{folder}/{shard}"),
        };
        let text = header(repo.as_ref(), describe::file(repo.info(), &path)?).await?;
        read += text.len();
        if read > HEADERS_MAX {
            return Err(unreadable("the headers are too long together"));
        }
        headers.insert(shard, raw(text)?);
    }
    Ok(Json(Metadata::new(&index["metadata"], headers)))
}

/// The answer. Headers go on as they are: as trees they would be many times as large.
#[derive(Serialize)]
pub(crate) struct Metadata {
    index: Value,
    headers: BTreeMap<String, Box<RawValue>>,
}

impl Metadata {
    fn new(metadata: &Value, headers: BTreeMap<String, Box<RawValue>>) -> Self {
        Self {
            index: json!({ "metadata": metadata }),
            headers,
        }
    }
}

/// Names of the files that an index spreads tensors over.
fn shards(index: &Value) -> BTreeSet<String> {
    let map = index["weight_map"].as_object().into_iter().flat_map(Map::values);
    map.filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn header(repo: &dyn Repo, file: &RecordFile) -> Result<Vec<u8>> {
    let mut text = bytes(repo, file, 0..file.size.min(FIRST)).await?;
    let Some(length) = text.first_chunk::<8>() else {
        return Err(unreadable("it is too short"));
    };
    let end = u64::from_le_bytes(*length).saturating_add(8);
    let read = text.len() as u64;
    if end > read {
        text.extend(bytes(repo, file, read..end).await?);
    }
    text.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    Ok(text.split_off(8))
}

/// Some bytes of a file.
async fn bytes(repo: &dyn Repo, file: &RecordFile, range: Range<u64>) -> Result<Vec<u8>> {
    if range.end > file.size || range.end > HEADER_MAX || range.is_empty() {
        return Err(unreadable("its length is wrong or too large"));
    }
    let mut pieces = repo.read(file, range).await?;
    let mut read = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        read.extend_from_slice(&piece);
    }
    Ok(read)
}

fn raw(text: Vec<u8>) -> Result<Box<RawValue>> {
    let text = String::from_utf8(text).map_err(|_| unreadable("it is not UTF-8"))?;
    // Headers are filled up with blanks.
    RawValue::from_string(text.trim().to_owned()).map_err(|_| unreadable("it is not JSON"))
}

/// As if there were no such route: clients then read the file themselves, and say better what is wrong with it.
fn unreadable(why: &str) -> RegistryError {
    let message = format!("the header of these weights cannot be read: {why}");
    RegistryError::Route {
        problem: Problem::new("safetensors_unreadable", message),
    }
}
