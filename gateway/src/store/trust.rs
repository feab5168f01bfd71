//! Notebooks whose outputs their reader trusts, by the hash of the file.

use alephlab_api::time::unix_now;

use super::{Store, seconds};
use crate::error::Result;

/// Of one account; of more the oldest are forgotten, and shown without their scripts until they are run again.
const KEPT: i64 = 5_000;

impl Store {
    /// From now on a notebook of this content is shown whole to this account.
    pub(crate) async fn trust_notebook(&self, account: &str, sha256: &[u8; 32]) -> Result<()> {
        let mut change = self.begin().await?;
        sqlx::query(
            "INSERT INTO trusted_notebooks (account, sha256, made) VALUES ($1, $2, $3)
             ON CONFLICT (account, sha256) DO UPDATE SET made = excluded.made",
        )
        .bind(account)
        .bind(sha256.as_slice())
        .bind(seconds(unix_now()))
        .execute(&mut *change)
        .await?;
        sqlx::query(
            "DELETE FROM trusted_notebooks WHERE account = $1 AND sha256 NOT IN
                 (SELECT sha256 FROM trusted_notebooks WHERE account = $1 ORDER BY made DESC, sha256 LIMIT $2)
             AND (SELECT COUNT(*) FROM trusted_notebooks WHERE account = $1) > $2",
        )
        .bind(account)
        .bind(KEPT)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(())
    }

    /// Whether it is.
    pub(crate) async fn trusts_notebook(&self, account: &str, sha256: &[u8; 32]) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM trusted_notebooks WHERE account = $1 AND sha256 = $2")
            .bind(account)
            .bind(sha256.as_slice())
            .fetch_optional(&self.read)
            .await?;
        Ok(row.is_some())
    }
}
