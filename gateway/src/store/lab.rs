//! What JupyterLab keeps of an account.

use alephlab_api::time::unix_now;
use sqlx::Row as _;

use super::{Row, Store, seconds, unsigned};
use crate::error::Result;

/// What kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LabKind {
    Settings,
    Workspace,
}

impl LabKind {
    fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Workspace => "workspace",
        }
    }
}

/// A document's row.
#[derive(Debug, Clone)]
pub(crate) struct LabDocument {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) created: u64,
    pub(crate) modified: u64,
}

impl Store {
    /// All of a kind, in order of their ids.
    pub(crate) async fn lab_documents(&self, account: &str, kind: LabKind) -> Result<Vec<LabDocument>> {
        let rows = sqlx::query("SELECT * FROM lab_documents WHERE account = $1 AND kind = $2 ORDER BY id")
            .bind(account)
            .bind(kind.name())
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }

    pub(crate) async fn lab_document(
        &self,
        account: &str,
        kind: LabKind,
        id: &str,
    ) -> Result<Option<LabDocument>> {
        let row = sqlx::query("SELECT * FROM lab_documents WHERE account = $1 AND kind = $2 AND id = $3")
            .bind(account)
            .bind(kind.name())
            .bind(id)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Writes one. False when the account has as many as it may.
    pub(crate) async fn put_lab_document(
        &self,
        account: &str,
        kind: LabKind,
        (id, body): (&str, &str),
        most: u32,
    ) -> Result<bool> {
        let now = seconds(unix_now());
        let done = sqlx::query(
            "INSERT INTO lab_documents (account, kind, id, body, created, modified)
             SELECT $1, $2, $3, $4, $5, $5
             WHERE (SELECT count(*) FROM lab_documents WHERE account = $1 AND kind = $2 AND id <> $3) < $6
             ON CONFLICT (account, kind, id) DO UPDATE SET body = excluded.body, modified = excluded.modified",
        )
        .bind(account)
        .bind(kind.name())
        .bind(id)
        .bind(body)
        .bind(now)
        .bind(i64::from(most))
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    pub(crate) async fn remove_lab_document(&self, account: &str, kind: LabKind, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM lab_documents WHERE account = $1 AND kind = $2 AND id = $3")
            .bind(account)
            .bind(kind.name())
            .bind(id)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<LabDocument> {
    Ok(LabDocument {
        id: row.try_get("id")?,
        body: row.try_get("body")?,
        created: unsigned(row.try_get("created")?),
        modified: unsigned(row.try_get("modified")?),
    })
}
