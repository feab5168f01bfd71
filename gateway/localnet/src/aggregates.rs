//! Values of aggregates: the top-level merge of all elements of (owner, key) in order of `content.time`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sqlx::SqliteConnection;

use crate::{db, error::Result};

/// One element as stored.
#[derive(sqlx::FromRow)]
struct Element {
    item_hash: String,
    content_key: String,
    content_time: f64,
    content: String,
}

/// Top-level fields of a value, each as the text that was signed: reading and writing a number can
/// change its last digit.
pub(crate) type Fields = BTreeMap<String, Box<RawValue>>;

/// The merged value of one key with what `with_info` shows of it.
#[derive(Debug)]
pub(crate) struct Aggregate {
    pub(crate) key: String,
    pub(crate) value: Fields,
    /// Null where there is no message.
    pub(crate) info: Value,
}

/// The value of one key; `None` when there is no element.
pub(crate) async fn value(
    connection: &mut SqliteConnection,
    owner: &str,
    key: &str,
) -> Result<Option<Fields>> {
    let elements: Vec<Element> = sqlx::query_as(
        "SELECT item_hash, content_key, content_time, content FROM messages
         WHERE owner = ? AND type = 'AGGREGATE' AND content_key = ? AND status = 'processed'
         ORDER BY content_time, received, item_hash",
    )
    .bind(owner)
    .bind(key)
    .fetch_all(connection)
    .await?;
    Ok(merge(elements).pop().map(|aggregate| aggregate.value))
}

/// The values of all keys of `owner`, in order of the key.
pub(crate) async fn all(connection: &mut SqliteConnection, owner: &str) -> Result<Vec<Aggregate>> {
    let elements: Vec<Element> = sqlx::query_as(
        "SELECT item_hash, content_key, content_time, content FROM messages
         WHERE owner = ? AND type = 'AGGREGATE' AND status = 'processed'
         ORDER BY content_key, content_time, received, item_hash",
    )
    .bind(owner)
    .fetch_all(connection)
    .await?;
    Ok(merge(elements))
}

/// Owners that have an element of `key`.
pub(crate) async fn owners(connection: &mut SqliteConnection, key: &str) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT owner FROM messages
         WHERE type = 'AGGREGATE' AND content_key = ? AND status = 'processed' ORDER BY owner",
    )
    .bind(key)
    .fetch_all(connection)
    .await?)
}

/// Merges elements that come sorted by key and time.
fn merge(elements: Vec<Element>) -> Vec<Aggregate> {
    #[derive(Deserialize)]
    struct Content {
        content: Fields,
    }
    let mut merged: Vec<Aggregate> = Vec::new();
    for element in elements {
        // Only contents that were checked are stored, so nothing is skipped here.
        let Ok(Content { content: fields }) = serde_json::from_str(&element.content) else {
            continue;
        };
        let time = db::iso(element.content_time);
        match merged.last_mut() {
            Some(aggregate) if aggregate.key == element.content_key => {
                aggregate.value.extend(fields);
                aggregate.info["last_updated"] = json!(time);
                aggregate.info["last_update_item_hash"] = json!(element.item_hash);
            }
            _ => merged.push(Aggregate {
                key: element.content_key,
                value: fields,
                info: json!({
                    "created": time,
                    "last_updated": time,
                    "original_item_hash": element.item_hash,
                    "last_update_item_hash": element.item_hash,
                }),
            }),
        }
    }
    merged
}
