//! Shares: the hash of an auth and the keys sealed under what the gateway never stores.

use alephlab_api::share::{ShareInfo, ShareLimits, ShareUse};
use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;
use crate::opened::ShareId;

/// Shares that open something, whatever their own end and limits say.
const STANDING: &str = "SELECT s.* FROM shares s JOIN accounts a ON a.id = s.account
     JOIN models ON models.name = s.model AND models.revision = s.revision
     WHERE a.admitted = 1 AND NOT EXISTS (SELECT 1 FROM model_withdrawals w WHERE w.name = models.name
         AND (w.revision = models.revision OR (w.revision = '' AND w.made >= models.made)))";

/// A share's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredShare {
    pub(crate) uuid: Uuid,
    pub(crate) model: String,
    pub(crate) revision: String,
    pub(crate) auth_sha256: [u8; 32],
    pub(crate) sealed: Vec<u8>,
    pub(crate) expires: Option<u64>,
    pub(crate) created: u64,
    /// What it opens at most, and what it has opened.
    pub(crate) limits: ShareLimits,
    pub(crate) used: ShareUse,
}

impl StoredShare {
    /// What tells it from others that are open.
    pub(crate) fn id(&self) -> ShareId {
        ShareId {
            uuid: self.uuid,
            auth_sha256: self.auth_sha256,
        }
    }

    /// What its owner sees.
    pub(crate) fn info(&self) -> ShareInfo {
        ShareInfo {
            uuid: self.uuid,
            model: self.model.clone(),
            revision: self.revision.clone(),
            expires: self.expires,
            created: self.created,
            limits: self.limits,
            used: self.used,
        }
    }

    /// Whether what it may open is used up.
    pub(crate) fn is_used_up(&self) -> bool {
        let all = |most: Option<u64>, used: u64| most.is_some_and(|most| used >= most);
        all(self.limits.downloads, self.used.downloads) || all(self.limits.bytes, self.used.bytes)
    }

    /// Whether it still opens anything.
    pub(crate) fn lives(&self) -> bool {
        self.expires.is_none_or(|expires| unix_now() <= expires)
    }
}

impl Store {
    /// Adds a share; false when its UUID or auth is taken.
    pub(crate) async fn add_share(&self, account: &str, share: &StoredShare) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO shares
                 (uuid, account, model, revision, auth_sha256, sealed, expires, created,
                  max_downloads, max_bytes, per_minute)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
        )
        .bind(share.uuid.to_string())
        .bind(account)
        .bind(&share.model)
        .bind(&share.revision)
        .bind(share.auth_sha256.as_slice())
        .bind(share.sealed.as_slice())
        .bind(share.expires.map(seconds))
        .bind(seconds(share.created))
        .bind(share.limits.downloads.map(seconds))
        .bind(share.limits.bytes.map(seconds))
        .bind(share.limits.per_minute.map(i64::from))
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// A share of an admitted account, of what is still offered: one that is no longer admitted cannot sign in to end its
    /// shares, and who withdraws a revision ends them.
    pub(crate) async fn share(&self, uuid: Uuid) -> Result<Option<StoredShare>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{STANDING} AND s.uuid = $1")))
            .bind(uuid.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The same by the hash of its auth.
    pub(crate) async fn share_by_auth(&self, auth_sha256: &[u8; 32]) -> Result<Option<StoredShare>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{STANDING} AND s.auth_sha256 = $1")))
            .bind(auth_sha256.as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Counts what is about to be sent or opened; false where a limit does not allow it, or the share is over. Counted before
    /// and in one step, so that any number of requests at once gets no more than is allowed.
    pub(crate) async fn spend_share(&self, share: ShareId, bytes: u64, downloads: u64) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE shares SET bytes = bytes + $1, downloads = downloads + $2, used = $3
             WHERE uuid = $4 AND auth_sha256 = $5 AND (max_bytes IS NULL OR bytes + $1 <= max_bytes)
               AND (max_downloads IS NULL OR downloads + $2 <= max_downloads)",
        )
        .bind(seconds(bytes))
        .bind(seconds(downloads))
        .bind(seconds(unix_now()))
        .bind(share.uuid.to_string())
        .bind(share.auth_sha256.as_slice())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Shares that an account made; what buyers have is theirs.
    pub(crate) async fn shares(&self, account: &str) -> Result<Vec<StoredShare>> {
        let rows = sqlx::query(
            "SELECT * FROM shares WHERE account = $1 AND order_id IS NULL ORDER BY created DESC, rowid DESC",
        )
        .bind(account)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Ends a share of this account; false when there is none.
    pub(crate) async fn remove_share(&self, account: &str, uuid: Uuid) -> Result<bool> {
        let done = sqlx::query("DELETE FROM shares WHERE account = $1 AND uuid = $2 AND order_id IS NULL")
            .bind(account)
            .bind(uuid.to_string())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read(row: &Row) -> Result<StoredShare> {
    let auth = row.try_get::<&[u8], _>("auth_sha256")?;
    let number = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(unsigned));
    Ok(StoredShare {
        uuid: row
            .try_get::<&str, _>("uuid")?
            .parse()
            .map_err(|_| corrupt("a share's id"))?,
        model: row.try_get("model")?,
        revision: row.try_get("revision")?,
        auth_sha256: auth.try_into().map_err(|_| corrupt("a share's auth"))?,
        sealed: row.try_get("sealed")?,
        expires: row.try_get::<Option<i64>, _>("expires")?.map(unsigned),
        created: unsigned(row.try_get("created")?),
        limits: ShareLimits {
            downloads: number("max_downloads")?,
            bytes: number("max_bytes")?,
            per_minute: number("per_minute")?.and_then(|often| u32::try_from(often).ok()),
        },
        used: ShareUse {
            downloads: unsigned(row.try_get("downloads")?),
            bytes: unsigned(row.try_get("bytes")?),
            last: number("used")?,
        },
    })
}
