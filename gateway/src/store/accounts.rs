//! Accounts, their tokens, and the texts that wait for a signature.

use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Store, corrupt, seconds};
use crate::error::Result;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// All of an account.
    Account,
    /// The same, in a cookie, for a while.
    Browser,
    /// Key requests and shares of one kernel.
    Kernel,
}

impl TokenKind {
    fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Browser => "browser",
            Self::Kernel => "kernel",
        }
    }
}

/// Who shows a token.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub(crate) account: String,
    pub(crate) operator: bool,
    pub(crate) kind: TokenKind,
    pub(crate) kernel: Option<Uuid>,
}

impl Store {
    /// Makes the account if it is new; an operator stays one.
    pub(crate) async fn ensure_account(&self, address: &str, operator: bool) -> Result<()> {
        sqlx::query(
            "INSERT INTO accounts (address, operator, created) VALUES (?, ?, ?)
             ON CONFLICT (address) DO UPDATE SET operator = max(operator, excluded.operator)",
        )
        .bind(address)
        .bind(operator)
        .bind(seconds(unix_now()))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Makes `sha256` the only operator's token of this account that the configuration gives.
    pub(crate) async fn add_token(
        &self,
        sha256: &[u8; 32],
        account: &str,
        kind: TokenKind,
        expires: Option<u64>,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO tokens (sha256, account, kind, created, expires) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (sha256) DO UPDATE SET account = excluded.account, kind = excluded.kind",
        )
        .bind(sha256.as_slice())
        .bind(account)
        .bind(kind.name())
        .bind(seconds(unix_now()))
        .bind(expires.map(seconds))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Whose token has this hash.
    pub(crate) async fn bearer(&self, sha256: &[u8; 32]) -> Result<Option<Bearer>> {
        let row = sqlx::query(
            "SELECT t.account, t.kind, t.kernel, a.operator FROM tokens t JOIN accounts a ON a.address = t.account
             WHERE t.sha256 = ? AND (t.expires IS NULL OR t.expires > ?)",
        )
        .bind(sha256.as_slice())
        .bind(seconds(unix_now()))
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let kind = match row.try_get::<&str, _>("kind")? {
            "account" => TokenKind::Account,
            "browser" => TokenKind::Browser,
            "kernel" => TokenKind::Kernel,
            _ => return Err(corrupt("a token's kind")),
        };
        let kernel = row.try_get::<Option<String>, _>("kernel")?;
        let kernel = kernel
            .map(|id| id.parse())
            .transpose()
            .map_err(|_| corrupt("a token's kernel"))?;
        Ok(Some(Bearer {
            account: row.try_get("account")?,
            operator: row.try_get("operator")?,
            kind,
            kernel,
        }))
    }

    /// Keeps a text that is to be signed, and forgets those that are too old.
    pub(crate) async fn add_challenge(
        &self,
        nonce: &str,
        address: &str,
        message: &str,
        expires: u64,
    ) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        // Ten minutes beyond their end, so that a clock set back does not bring one to life.
        sqlx::query("DELETE FROM challenges WHERE expires < ?")
            .bind(seconds(unix_now().saturating_sub(600)).min(seconds(expires)))
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO challenges (nonce, address, message, expires) VALUES (?, ?, ?, ?)")
            .bind(nonce)
            .bind(address)
            .bind(message)
            .bind(seconds(expires))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes the text of a nonce away; none when unknown, used, too old or somebody else's.
    pub(crate) async fn take_challenge(
        &self,
        nonce: &str,
        address: &str,
        now: u64,
    ) -> Result<Option<String>> {
        let row = sqlx::query("DELETE FROM challenges WHERE nonce = ? RETURNING address, message, expires")
            .bind(nonce)
            .fetch_optional(&self.write)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let good = row.try_get::<&str, _>("address")? == address
            && row.try_get::<i64, _>("expires")? >= seconds(now);
        Ok(if good { Some(row.try_get("message")?) } else { None })
    }
}
