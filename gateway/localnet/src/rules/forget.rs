//! FORGET: whoever could have created a message may have it forgotten.

use sqlx::SqliteConnection;

use crate::{
    db,
    error::Result,
    ledger,
    node::Node,
    permission::{self, Act},
    process::Candidate,
    rejection::{ErrorCode, Judged, Rejection},
};

/// A message that a FORGET names.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Target {
    item_hash: String,
    status: String,
    #[sqlx(rename = "type")]
    kind: String,
    chain: String,
    channel: Option<String>,
    owner: Option<String>,
    item_type: String,
    content_type: Option<String>,
    content_key: Option<String>,
}

/// Finds the targets and checks the sender's right to each. A hash in `aggregates` means every element of its
/// owner and key, not that one element.
pub(crate) async fn check(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    hashes: &[String],
    aggregates: &[String],
) -> Judged<Vec<Target>> {
    let mut targets = find_all(connection, candidate, hashes).await?;
    for element in find_all(connection, candidate, aggregates).await? {
        if element.kind != "AGGREGATE" {
            return Err(Rejection::format(format!("{} is no aggregate", element.item_hash)).into());
        }
        for beside in elements_beside(connection, &element).await? {
            check_one(connection, candidate, &beside).await?;
            targets.push(beside);
        }
        targets.push(element);
    }
    Ok(targets)
}

async fn find_all(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    hashes: &[String],
) -> Judged<Vec<Target>> {
    let mut targets = Vec::new();
    for hash in hashes {
        // A rejected message never took effect, so there is nothing to forget.
        let Some(target) = find(connection, hash)
            .await?
            .filter(|target| target.status != "rejected")
        else {
            return Err(Rejection::new(
                ErrorCode::ForgetTargetMissing,
                format!("there is no message {hash}"),
            )
            .into());
        };
        if target.status == "processed" {
            check_one(connection, candidate, &target).await?;
        }
        targets.push(target);
    }
    Ok(targets)
}

async fn check_one(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    target: &Target,
) -> Judged<()> {
    let hash = &target.item_hash;
    if target.kind == "FORGET" {
        return Err(Rejection::new(ErrorCode::ForgetOfForget, format!("{hash} is itself a FORGET")).into());
    }
    let user: Option<String> = sqlx::query_scalar("SELECT machine FROM uses WHERE store = ? LIMIT 1")
        .bind(hash)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(machine) = user {
        let text = format!("{hash} is used by the machine {machine}");
        return Err(Rejection::new(ErrorCode::ForgetNotAllowed, text).into());
    }
    let sender = candidate.envelope.sender.as_str();
    let owner = target.owner.as_deref().unwrap_or_default();
    let act = Act {
        kind: &target.kind,
        chain: &target.chain,
        channel: target.channel.as_deref(),
        post_type: target.content_type.as_deref(),
        aggregate_key: target.content_key.as_deref(),
    };
    if permission::may(connection, sender, owner, act).await? {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::Permission,
        format!("{sender} may not forget {hash} of {owner}"),
    )
    .into())
}

/// Forgets the targets; an original post takes its amends along, and a machine what replaces it.
pub(crate) async fn forget(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    targets: &[Target],
) -> Judged<()> {
    ledger::settle(connection, db::now()).await?;
    for target in targets {
        match target.status.as_str() {
            "processed" => {
                for newer in newer_than(connection, target).await? {
                    forget_one(node, connection, candidate, &newer).await?;
                }
                forget_one(node, connection, candidate, target).await?;
            }
            _ => add_forgotten_by(connection, candidate, &target.item_hash).await?,
        }
    }
    Ok(())
}

async fn forget_one(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    target: &Target,
) -> Result<()> {
    let keep_until = db::now() + node.settings.grace.as_secs_f64();
    if target.kind == "STORE" {
        sqlx::query("UPDATE files SET keep_until = MAX(keep_until, ?) WHERE hash IN (SELECT file_hash FROM pins WHERE item_hash = ?)")
            .bind(keep_until)
            .bind(&target.item_hash)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE pins SET active = 0 WHERE item_hash = ?")
            .bind(&target.item_hash)
            .execute(&mut *connection)
            .await?;
    }
    ledger::end(connection, &target.item_hash).await?;
    sqlx::query("DELETE FROM uses WHERE machine = ?")
        .bind(&target.item_hash)
        .execute(&mut *connection)
        .await?;
    if target.item_type == "storage" {
        sqlx::query("UPDATE files SET keep_until = MAX(keep_until, ?) WHERE hash = ?")
            .bind(keep_until)
            .bind(&target.item_hash)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "UPDATE messages SET status = 'forgotten', forgotten_by = json_array(?), forgotten_at = ?, item_content = NULL,
             content = NULL, content_type = NULL, content_key = NULL, content_ref = NULL, content_hash = NULL,
             tags = NULL
         WHERE item_hash = ? AND status = 'processed'",
    )
    .bind(&candidate.envelope.item_hash)
    .bind(candidate.content.time)
    .bind(&target.item_hash)
    .execute(connection)
    .await?;
    Ok(())
}

async fn add_forgotten_by(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    hash: &str,
) -> Result<()> {
    sqlx::query("UPDATE messages SET forgotten_by = json_insert(forgotten_by, '$[#]', ?) WHERE item_hash = ? AND status = 'forgotten'")
        .bind(&candidate.envelope.item_hash)
        .bind(hash)
        .execute(connection)
        .await?;
    Ok(())
}

const TARGET_COLUMNS: &str =
    "item_hash, status, type, chain, channel, owner, item_type, content_type, content_key";

async fn find(connection: &mut SqliteConnection, hash: &str) -> Result<Option<Target>> {
    let mut query = sqlx::QueryBuilder::<sqlx::Sqlite>::new("SELECT ");
    query
        .push(TARGET_COLUMNS)
        .push(" FROM messages WHERE item_hash = ")
        .push_bind(hash);
    Ok(query.build_query_as().fetch_optional(connection).await?)
}

/// The other elements of the aggregate that `element` is part of.
async fn elements_beside(connection: &mut SqliteConnection, element: &Target) -> Result<Vec<Target>> {
    let mut query = sqlx::QueryBuilder::<sqlx::Sqlite>::new("SELECT ");
    query.push(TARGET_COLUMNS);
    query.push(" FROM messages WHERE type = 'AGGREGATE' AND status = 'processed' AND owner = ");
    query.push_bind(element.owner.clone());
    query
        .push(" AND content_key = ")
        .push_bind(element.content_key.clone());
    query
        .push(" AND item_hash != ")
        .push_bind(element.item_hash.clone());
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// Amends of a post, and what replaces a machine.
async fn newer_than(connection: &mut SqliteConnection, target: &Target) -> Result<Vec<Target>> {
    let kind = match target.kind.as_str() {
        "POST" => "type = 'POST' AND content_type = 'amend'",
        "INSTANCE" => "type = 'INSTANCE'",
        _ => return Ok(Vec::new()),
    };
    let mut query = sqlx::QueryBuilder::<sqlx::Sqlite>::new("SELECT ");
    query
        .push(TARGET_COLUMNS)
        .push(" FROM messages WHERE ")
        .push(kind);
    query.push(" AND status = 'processed' AND content_ref = ");
    query.push_bind(target.item_hash.clone());
    Ok(query.build_query_as().fetch_all(connection).await?)
}
