//! Amends: they replace the content of an original post, never of another amend.

use sqlx::SqliteConnection;

use crate::{
    permission::Act,
    process::Candidate,
    rejection::{ErrorCode, Judged, Rejection},
};

/// The post that an amend names.
#[derive(sqlx::FromRow)]
struct Original {
    owner: String,
    chain: String,
    channel: Option<String>,
    content_type: String,
}

/// Checks an amend of `original`; permission is judged by the original's type, chain and channel.
pub(crate) async fn check_amend(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    original: &str,
) -> Judged<()> {
    let found: Option<Original> = sqlx::query_as(
        "SELECT owner, chain, channel, content_type FROM messages
         WHERE item_hash = ? AND type = 'POST' AND status = 'processed'",
    )
    .bind(original)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(post) = found else {
        return Err(Rejection::new(
            ErrorCode::AmendTargetMissing,
            format!("there is no post {original}"),
        )
        .into());
    };
    if post.content_type == "amend" {
        return Err(Rejection::new(ErrorCode::AmendOfAmend, format!("{original} is itself an amend")).into());
    }
    if !post.owner.eq_ignore_ascii_case(&candidate.content.address) {
        return Err(Rejection::new(ErrorCode::Permission, "an amend keeps the owner of the post").into());
    }
    let act = Act {
        kind: "POST",
        chain: &post.chain,
        channel: post.channel.as_deref(),
        post_type: Some(&post.content_type),
        aggregate_key: None,
    };
    candidate.check_permission(connection, act).await
}
