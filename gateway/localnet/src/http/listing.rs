//! Lists of processed messages: filters as SQL conditions, rows as the JSON that clients read.
//!
//! `messages` uses it for pages, `live` for history and for deciding what a websocket sees.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    failure::{Answer, Failure},
    params::{Paging, Params, Place},
};
use crate::db;

/// A processed message as stored.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct MessageRow {
    pub(crate) item_hash: String,
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    pub(crate) chain: String,
    pub(crate) sender: String,
    pub(crate) signature: String,
    pub(crate) item_type: String,
    pub(crate) item_content: Option<String>,
    pub(crate) time: f64,
    pub(crate) channel: Option<String>,
    pub(crate) size: i64,
    pub(crate) content: Option<String>,
}

/// Columns of [`MessageRow`].
pub(crate) const MESSAGE_COLUMNS: &str =
    "item_hash, type, chain, sender, signature, item_type, item_content, time, channel, size, content";

/// How much of the content is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentFormat {
    Full,
    Headers,
    None,
}

/// The filters of `messages.json`.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Column and accepted values; an empty list is no filter.
    accepted: Vec<(&'static str, Vec<String>)>,
    tags: Vec<String>,
    dates: (Option<f64>, Option<f64>),
    /// Nothing matches: a status that is never listed, or a block of a chain that there is not.
    nothing: bool,
    pub(crate) format: ContentFormat,
}

impl Filter {
    pub(crate) fn of(params: &Params) -> Answer<Self> {
        let mut types = params.list("msgTypes");
        types.extend(params.text("msgType").map(str::to_owned));
        if let Some(unknown) = types.iter().find(|kind| !MESSAGE_TYPES.contains(&kind.as_str())) {
            return Err(Failure::invalid(
                "msgTypes",
                &format!("{unknown} is not a message type"),
            ));
        }
        // Only messages that took effect are listed; the others have `messages/hashes`.
        let statuses = params.list("msgStatuses");
        if let Some(unknown) = statuses
            .iter()
            .find(|status| !STATUSES.contains(&status.as_str()))
        {
            return Err(Failure::invalid(
                "msgStatuses",
                &format!("{unknown} is not a message status"),
            ));
        }
        let unlisted = !statuses.is_empty() && !statuses.iter().any(|status| status == "processed");
        // No message is ever written to a chain, so none has a block.
        let blocks = params.integer("startBlock")?.unwrap_or(0) + params.integer("endBlock")?.unwrap_or(0);
        Ok(Self {
            accepted: vec![
                ("type", types),
                ("sender", params.list("addresses")),
                ("owner", params.list("owners")),
                ("content_ref", params.list("refs")),
                ("content_hash", params.list("contentHashes")),
                ("content_key", params.list("contentKeys")),
                ("content_type", params.list("contentTypes")),
                ("chain", params.list("chains")),
                ("channel", params.list("channels")),
                ("item_hash", params.list("hashes")),
                ("payment", params.list("paymentTypes")),
            ],
            tags: params.list("tags"),
            dates: params.dates()?,
            nothing: unlisted || blocks > 0,
            format: format(params)?,
        })
    }

    /// One page of messages, newest first unless told otherwise.
    pub(crate) async fn page(
        &self,
        connection: &mut SqliteConnection,
        paging: &Paging,
    ) -> Answer<Vec<MessageRow>> {
        let mut query = QueryBuilder::new(format!("SELECT {MESSAGE_COLUMNS} FROM messages"));
        self.conditions(&mut query);
        push_order(&mut query, paging, "time", "item_hash");
        Ok(query.build_query_as().fetch_all(connection).await?)
    }

    /// How many messages match.
    pub(crate) async fn count(&self, connection: &mut SqliteConnection) -> Answer<u64> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM messages");
        self.conditions(&mut query);
        let count: i64 = query.build_query_scalar().fetch_one(connection).await?;
        Ok(db::unsigned(count))
    }

    /// The message with this hash, if it matches.
    pub(crate) async fn matching(
        &self,
        connection: &mut SqliteConnection,
        hash: &str,
    ) -> Answer<Option<MessageRow>> {
        let mut query = QueryBuilder::new(format!("SELECT {MESSAGE_COLUMNS} FROM messages"));
        self.conditions(&mut query);
        query.push(" AND item_hash = ").push_bind(hash.to_owned());
        Ok(query.build_query_as().fetch_optional(connection).await?)
    }

    fn conditions(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push(if self.nothing {
            " WHERE 0"
        } else {
            " WHERE status = 'processed'"
        });
        for (column, values) in &self.accepted {
            push_accepted(query, column, values);
        }
        push_tags(query, "tags", &self.tags);
        push_dates(query, "time", self.dates);
    }
}

const MESSAGE_TYPES: [&str; 7] = [
    "POST",
    "AGGREGATE",
    "STORE",
    "PROGRAM",
    "INSTANCE",
    "V-PROGRAM",
    "FORGET",
];
const STATUSES: [&str; 6] = [
    "pending",
    "processed",
    "rejected",
    "forgotten",
    "removing",
    "removed",
];

fn format(params: &Params) -> Answer<ContentFormat> {
    match params.text("contentFormat") {
        Some("full") => Ok(ContentFormat::Full),
        Some("headers") => Ok(ContentFormat::Headers),
        Some("none") => Ok(ContentFormat::None),
        Some(_) => Err(Failure::invalid(
            "contentFormat",
            "Input should be 'full', 'headers' or 'none'",
        )),
        None if params.flag("excludeContent") => Ok(ContentFormat::None),
        None => Ok(ContentFormat::Full),
    }
}

/// `AND column IN (values)`; no values, no condition.
pub(crate) fn push_accepted(query: &mut QueryBuilder<Sqlite>, column: &str, values: &[String]) {
    if values.is_empty() {
        return;
    }
    query.push(format_args!(" AND {column} IN ("));
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value.clone());
    }
    query.push(")");
}

/// `AND` one of the tags is among those of the row.
pub(crate) fn push_tags(query: &mut QueryBuilder<Sqlite>, column: &str, tags: &[String]) {
    if tags.is_empty() {
        return;
    }
    query.push(format_args!(
        " AND EXISTS (SELECT 1 FROM json_each({column}) WHERE 1"
    ));
    push_accepted(query, "value", tags);
    query.push(")");
}

/// `AND` the time is in the range.
pub(crate) fn push_dates(
    query: &mut QueryBuilder<Sqlite>,
    column: &str,
    (start, end): (Option<f64>, Option<f64>),
) {
    if let Some(start) = start {
        query.push(format_args!(" AND {column} >= ")).push_bind(start);
    }
    if let Some(end) = end {
        query.push(format_args!(" AND {column} < ")).push_bind(end);
    }
}

/// Continues after the cursor, orders by time and then hash, and cuts the page.
pub(crate) fn push_order(query: &mut QueryBuilder<Sqlite>, paging: &Paging, time: &str, hash: &str) {
    if let Place::Cursor(Some((after_time, after_hash))) = &paging.place {
        let beyond = if paging.ascending { ">" } else { "<" };
        query
            .push(format_args!(" AND ({time} {beyond} "))
            .push_bind(*after_time);
        query.push(format_args!(" OR ({time} = ")).push_bind(*after_time);
        query
            .push(format_args!(" AND {hash} > "))
            .push_bind(after_hash.clone())
            .push("))");
    }
    let direction = if paging.ascending { "ASC" } else { "DESC" };
    query.push(format_args!(" ORDER BY {time} {direction}, {hash} ASC LIMIT "));
    query
        .push_bind(db::signed(paging.limit()))
        .push(" OFFSET ")
        .push_bind(db::signed(paging.offset()));
}

/// A message as clients read it. The content is shown as the text that was signed, because reading and
/// writing a number can change its last digit. Fields that a status does not have are absent.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    sender: String,
    chain: String,
    signature: Box<RawValue>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) item_content: Option<Option<String>>,
    item_type: String,
    item_hash: String,
    pub(crate) time: Value,
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) confirmed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) confirmations: Option<[(); 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payment_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forgotten_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reception_time: Option<String>,
}

/// Shows a stored message.
pub(crate) fn show(row: MessageRow, format: ContentFormat) -> Shown {
    let content = match format {
        ContentFormat::Full => Some(row.content.as_deref().map_or_else(null, raw)),
        ContentFormat::Headers => Some(headers(&row.kind, row.content.as_deref().unwrap_or_default())),
        ContentFormat::None => None,
    };
    Shown {
        sender: row.sender,
        chain: row.chain,
        signature: raw(&row.signature),
        kind: row.kind,
        item_content: (format != ContentFormat::Headers).then_some(row.item_content),
        item_type: row.item_type,
        item_hash: row.item_hash,
        time: json!(row.time),
        channel: row.channel,
        content,
        confirmed: Some(false),
        confirmations: Some([]),
        size: Some(row.size),
        owner: None,
        payment_type: None,
        forgotten_at: None,
        reception_time: None,
    }
}

/// The part of a content that `contentFormat=headers` shows.
fn headers(kind: &str, content: &str) -> Box<RawValue> {
    let names: &[&str] = match kind {
        "POST" => &["address", "type", "ref"],
        "AGGREGATE" => &["address", "key"],
        "STORE" => &["address", "item_hash", "ref"],
        _ => &["address"],
    };
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(content).unwrap_or_default();
    fields.retain(|name, _| names.contains(&name.as_str()));
    to_raw_value(&fields).unwrap_or_else(|_| null())
}

/// The user's `content` inside the content of a POST.
pub(crate) fn nested(content: &str) -> Box<RawValue> {
    #[derive(Deserialize)]
    struct Post {
        content: Option<Box<RawValue>>,
    }
    serde_json::from_str::<Post>(content)
        .ok()
        .and_then(|post| post.content)
        .unwrap_or_else(null)
}

/// Text that this node stored as JSON, as it is.
pub(crate) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| null())
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}
