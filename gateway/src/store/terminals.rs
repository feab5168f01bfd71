//! Terminals that are open.

use sqlx::Row as _;
use uuid::Uuid;

use super::{Row, Store, corrupt};
use crate::error::Result;

/// A terminal's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTerminal {
    pub(crate) id: Uuid,
    pub(crate) account: String,
    pub(crate) name: String,
}

impl Store {
    /// Adds a terminal that is to be opened on the host of a lease.
    pub(crate) async fn add_terminal(&self, lease: Uuid, terminal: &StoredTerminal) -> Result<()> {
        sqlx::query("INSERT INTO terminals (id, lease, account, name) VALUES ($1, $2, $3, $4)")
            .bind(terminal.id.to_string())
            .bind(lease.to_string())
            .bind(&terminal.account)
            .bind(&terminal.name)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Those on a lease that goes on; all others are over with theirs.
    pub(crate) async fn terminals_of(&self, lease: Uuid) -> Result<Vec<StoredTerminal>> {
        sqlx::query("DELETE FROM terminals WHERE lease <> $1")
            .bind(lease.to_string())
            .execute(&self.write)
            .await?;
        let rows = sqlx::query("SELECT id, account, name FROM terminals")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }

    pub(crate) async fn remove_terminal(&self, id: Uuid) -> Result<()> {
        sqlx::query("DELETE FROM terminals WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<StoredTerminal> {
    let id: &str = row.try_get("id")?;
    Ok(StoredTerminal {
        id: id.parse().map_err(|_| corrupt("a terminal's id"))?,
        account: row.try_get("account")?,
        name: row.try_get("name")?,
    })
}
