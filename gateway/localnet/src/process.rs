//! Judging one pending message: signature, content, rules, and the one transaction that records it.
//!
//! Called only by `tasks::judge`, one message at a time, so rules may read and then write.

use aleph_types::message::item_type::ItemType;
use serde_json::Value;
use sqlx::SqliteConnection;
use tokio::io::AsyncReadExt;

use crate::{
    content::{Body, Content, Payment},
    db,
    envelope::Envelope,
    error::{Error, Result},
    faults::MessageFault,
    node::{Node, Verdict},
    permission::{self, Act},
    rejection::{ErrorCode, Halt, Judged, Rejection},
    rules,
};

/// Largest content that a message may keep in the storage engine instead of its envelope.
const MAX_STORED_CONTENT_BYTES: u64 = 32 * 1024 * 1024;

/// A row of the pending table.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Pending {
    id: i64,
    envelope: String,
    received: f64,
    attempts: i64,
}

/// A message whose content is readable, on its way through the rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) envelope: &'a Envelope,
    pub(crate) content: &'a Content,
}

impl Candidate<'_> {
    /// Refuses the message unless its sender may act for its owner.
    pub(crate) async fn check_permission(
        &self,
        connection: &mut SqliteConnection,
        act: Act<'_>,
    ) -> Judged<()> {
        let (sender, owner) = (self.envelope.sender.as_str(), self.content.address.as_str());
        if permission::may(connection, sender, owner, act).await? {
            return Ok(());
        }
        Err(Rejection::new(
            ErrorCode::Permission,
            format!("{sender} may not create this message for {owner}"),
        )
        .into())
    }
}

/// Judges a pending message and records the verdict, or puts it off when its target is missing.
pub(crate) async fn attempt(node: &Node, pending: &Pending) -> Result<()> {
    let envelope = match serde_json::from_str(&pending.envelope)
        .ok()
        .as_ref()
        .map(Envelope::parse)
    {
        Some(Ok(envelope)) => envelope,
        // It was well-formed when it came in; what changed since then is the row.
        _ => return drop_pending(node, pending).await,
    };
    let fault = node.faults.on_message(&envelope.kind.to_string());
    if fault == Some(MessageFault::StayPending) {
        return postpone(node, pending, pending.attempts).await;
    }
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    let rejection = match judge(node, &mut transaction, &envelope, pending.received, fault).await {
        Ok(is_new) => {
            remove_pending(&mut transaction, pending.id).await?;
            transaction.commit().await?;
            if is_new {
                // Nobody may be listening.
                let _ = node.accepted.send(envelope.item_hash.as_str().into());
            }
            None
        }
        Err(Halt::Broken(error)) => return Err(error),
        Err(Halt::Reject(rejection)) => {
            transaction.rollback().await?;
            let attempts = pending.attempts + 1;
            if rejection.may_resolve && attempts < i64::from(node.settings.max_attempts) {
                return postpone(node, pending, attempts).await;
            }
            refuse(node, pending, &envelope, &rejection).await?;
            tracing::info!(
                hash = envelope.item_hash,
                code = rejection.code,
                "message rejected"
            );
            Some(rejection)
        }
    };
    let _ = node.verdicts.send(Verdict {
        pending: pending.id,
        rejection,
    });
    Ok(())
}

/// Puts a message off without counting an attempt; for when the node itself failed.
pub(crate) async fn put_off(node: &Node, pending: &Pending) -> Result<()> {
    postpone(node, pending, pending.attempts).await
}

/// True when the message is new, false when it was processed before.
async fn judge(
    node: &Node,
    connection: &mut SqliteConnection,
    envelope: &Envelope,
    received: f64,
    fault: Option<MessageFault>,
) -> Judged<bool> {
    envelope.verify()?;
    let standing: Option<String> = sqlx::query_scalar("SELECT status FROM messages WHERE item_hash = ?")
        .bind(&envelope.item_hash)
        .fetch_optional(&mut *connection)
        .await?;
    match standing.as_deref() {
        Some("processed") => return Ok(false),
        Some("forgotten") => {
            return Err(Rejection::new(ErrorCode::ForgottenDuplicate, "this message was forgotten").into());
        }
        _ => {}
    }
    let raw = raw_content(node, envelope).await?;
    let value: Value =
        serde_json::from_str(&raw).map_err(|_| Rejection::format("the content is not JSON"))?;
    let content = Content::parse(envelope.kind, &value)?;
    if let Some(MessageFault::Reject(code)) = fault {
        let errors = vec![Value::String("a fault switch rejects this message".into())];
        return Err(Rejection {
            code: i64::from(code),
            errors,
            may_resolve: false,
        }
        .into());
    }
    let candidate = Candidate {
        envelope,
        content: &content,
    };
    apply(node, connection, candidate, &raw).await?;
    record(connection, candidate, &raw, received).await?;
    Ok(true)
}

/// Checks the rules of the message's type and makes its effects.
async fn apply(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    raw: &str,
) -> Judged<()> {
    let Candidate { envelope, content } = candidate;
    let (kind, chain) = (envelope.kind.to_string(), envelope.chain.to_string());
    let act = Act {
        kind: &kind,
        chain: &chain,
        channel: envelope.channel.as_deref(),
        post_type: None,
        aggregate_key: None,
    };
    match &content.body {
        Body::Post {
            kind,
            reference: Some(original),
            ..
        } if kind == "amend" => rules::post::check_amend(connection, candidate, original).await,
        Body::Post { kind, .. } => {
            candidate
                .check_permission(
                    connection,
                    Act {
                        post_type: Some(kind),
                        ..act
                    },
                )
                .await?;
            rules::credit::transfer(node, connection, candidate, kind, raw).await
        }
        Body::Aggregate { key, .. } => {
            candidate
                .check_permission(
                    connection,
                    Act {
                        aggregate_key: Some(key),
                        ..act
                    },
                )
                .await
        }
        Body::Store(store) => {
            rules::store::check_reference(connection, candidate, store).await?;
            candidate.check_permission(connection, act).await?;
            rules::store::pin(node, connection, candidate, store).await
        }
        Body::Machine(machine) => {
            rules::machine::check(connection, candidate, machine).await?;
            candidate.check_permission(connection, act).await?;
            rules::machine::charge(node, connection, candidate, machine).await
        }
        Body::Forget { hashes, aggregates } => {
            let targets = rules::forget::check(connection, candidate, hashes, aggregates).await?;
            rules::forget::forget(node, connection, candidate, &targets).await
        }
    }
}

/// The JSON text of the content: inline, or a file that the sender stored before.
async fn raw_content(node: &Node, envelope: &Envelope) -> Judged<String> {
    if let (ItemType::Inline, Some(content)) = (envelope.item_type, &envelope.item_content) {
        return Ok(content.clone());
    }
    let unavailable = || {
        Rejection::new(
            ErrorCode::ContentUnavailable,
            format!("File not found: {}", envelope.item_hash),
        )
    };
    // This node has no IPFS; like one whose IPFS finds nothing, it waits and then gives up.
    if envelope.item_type == ItemType::Ipfs {
        return Err(unavailable().into());
    }
    let Some((file, size)) = node.files.read(&envelope.item_hash).await? else {
        return Err(unavailable().into());
    };
    if size > MAX_STORED_CONTENT_BYTES {
        return Err(Rejection::format("the stored content is too large").into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_STORED_CONTENT_BYTES)
        .read_to_end(&mut bytes)
        .await
        .map_err(|cause| Error::File {
            path: envelope.item_hash.clone().into(),
            cause,
        })?;
    String::from_utf8(bytes).map_err(|_| Rejection::format("the stored content is not UTF-8").into())
}

/// What a row shows of a content, for filters.
#[derive(Default)]
struct Columns<'a> {
    kind: Option<&'a str>,
    key: Option<&'a str>,
    reference: Option<&'a str>,
    file_hash: Option<&'a str>,
    payment: Option<&'a str>,
    tags: Option<String>,
}

impl<'a> Columns<'a> {
    fn of(body: &'a Body) -> Self {
        let list =
            |tags: &Option<Vec<String>>| tags.as_ref().map(|tags| Value::from(tags.clone()).to_string());
        match body {
            Body::Post {
                kind,
                reference,
                tags,
            } => Self {
                kind: Some(kind),
                reference: reference.as_deref(),
                tags: list(tags),
                ..Self::default()
            },
            Body::Aggregate { key, tags } => Self {
                key: Some(key),
                tags: list(tags),
                ..Self::default()
            },
            Body::Store(store) => Self {
                reference: store.reference.as_deref(),
                file_hash: Some(&store.file_hash),
                payment: Some(store.payment.name()),
                tags: list(&store.tags),
                ..Self::default()
            },
            Body::Machine(machine) => Self {
                reference: machine.replaces.as_deref(),
                payment: machine.payment.map(Payment::name),
                ..Self::default()
            },
            Body::Forget { .. } => Self::default(),
        }
    }
}

async fn record(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    raw: &str,
    received: f64,
) -> Result<()> {
    let Candidate { envelope, content } = candidate;
    let columns = Columns::of(&content.body);
    // Replaces an earlier rejection of the same hash.
    sqlx::query(
        "INSERT OR REPLACE INTO messages (item_hash, status, received, type, chain, sender, signature, item_type,
             item_content, time, channel, size, content, owner, content_time, content_type, content_key,
             content_ref, content_hash, payment, tags)
         VALUES (?, 'processed', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&envelope.item_hash)
    .bind(received)
    .bind(envelope.kind.to_string())
    .bind(envelope.chain.to_string())
    .bind(envelope.sender.as_str())
    .bind(envelope.signature.to_string())
    .bind(item_type_name(envelope.item_type))
    .bind(&envelope.item_content)
    .bind(envelope.time)
    .bind(&envelope.channel)
    .bind(db::signed(raw.len() as u64))
    .bind(raw)
    .bind(&content.address)
    .bind(content.time)
    .bind(columns.kind)
    .bind(columns.key)
    .bind(columns.reference)
    .bind(columns.file_hash)
    .bind(columns.payment)
    .bind(columns.tags)
    .execute(connection)
    .await?;
    Ok(())
}

/// Records a rejection; a processed or forgotten message of the same hash stays what it is.
async fn refuse(node: &Node, pending: &Pending, envelope: &Envelope, rejection: &Rejection) -> Result<()> {
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    sqlx::query(
        "INSERT INTO messages (item_hash, status, received, type, chain, sender, signature, item_type,
             item_content, time, channel, size, error_code, details)
         VALUES (?, 'rejected', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (item_hash) DO UPDATE SET received = excluded.received, chain = excluded.chain,
             sender = excluded.sender, signature = excluded.signature, type = excluded.type, time = excluded.time,
             channel = excluded.channel, error_code = excluded.error_code, details = excluded.details
         WHERE status = 'rejected'",
    )
    .bind(&envelope.item_hash)
    .bind(pending.received)
    .bind(envelope.kind.to_string())
    .bind(envelope.chain.to_string())
    .bind(envelope.sender.as_str())
    .bind(envelope.signature.to_string())
    .bind(item_type_name(envelope.item_type))
    .bind(&envelope.item_content)
    .bind(envelope.time)
    .bind(&envelope.channel)
    .bind(db::signed(envelope.item_content.as_ref().map_or(0, String::len) as u64))
    .bind(rejection.code)
    .bind(rejection.details().to_string())
    .execute(&mut *transaction)
    .await?;
    remove_pending(&mut transaction, pending.id).await?;
    transaction.commit().await?;
    Ok(())
}

async fn postpone(node: &Node, pending: &Pending, attempts: i64) -> Result<()> {
    sqlx::query("UPDATE pending SET attempts = ?, due = ? WHERE id = ?")
        .bind(attempts)
        .bind(db::now() + node.settings.retry_interval.as_secs_f64())
        .bind(pending.id)
        .execute(&node.db)
        .await?;
    Ok(())
}

async fn drop_pending(node: &Node, pending: &Pending) -> Result<()> {
    tracing::error!(id = pending.id, "a pending message is unreadable and was dropped");
    let mut connection = node.db.acquire().await?;
    remove_pending(&mut connection, pending.id).await
}

async fn remove_pending(connection: &mut SqliteConnection, id: i64) -> Result<()> {
    sqlx::query("DELETE FROM pending WHERE id = ?")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

fn item_type_name(item_type: ItemType) -> &'static str {
    match item_type {
        ItemType::Inline => "inline",
        ItemType::Storage => "storage",
        ItemType::Ipfs => "ipfs",
    }
}
