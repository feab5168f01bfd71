//! Sessions: which document is served by which kernel.

use sqlx::Row as _;
use uuid::Uuid;

use super::{Row, Store, corrupt};
use crate::error::Result;

/// A session's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredSession {
    pub(crate) id: Uuid,
    pub(crate) kernel: Uuid,
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) kind: String,
}

impl Store {
    /// Adds a session, or changes one of this account.
    pub(crate) async fn put_session(&self, account: &str, session: &StoredSession) -> Result<()> {
        sqlx::query(
            "INSERT INTO sessions (id, account, kernel, path, name, kind) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET kernel = excluded.kernel, path = excluded.path,
                 name = excluded.name, kind = excluded.kind WHERE sessions.account = excluded.account",
        )
        .bind(session.id.to_string())
        .bind(account)
        .bind(session.kernel.to_string())
        .bind(&session.path)
        .bind(&session.name)
        .bind(&session.kind)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(crate) async fn sessions(&self, account: &str) -> Result<Vec<StoredSession>> {
        let rows = sqlx::query("SELECT * FROM sessions WHERE account = $1 ORDER BY rowid")
            .bind(account)
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }

    pub(crate) async fn session(&self, account: &str, id: Uuid) -> Result<Option<StoredSession>> {
        let row = sqlx::query("SELECT * FROM sessions WHERE account = $1 AND id = $2")
            .bind(account)
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    pub(crate) async fn remove_session(&self, account: &str, id: Uuid) -> Result<()> {
        sqlx::query("DELETE FROM sessions WHERE account = $1 AND id = $2")
            .bind(account)
            .bind(id.to_string())
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<StoredSession> {
    let id = |column: &str| -> Result<Uuid> {
        row.try_get::<&str, _>(column)?
            .parse()
            .map_err(|_| corrupt("a session's id"))
    };
    Ok(StoredSession {
        id: id("id")?,
        kernel: id("kernel")?,
        path: row.try_get("path")?,
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
    })
}
