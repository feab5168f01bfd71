//! Accounts, who of them is admitted, whose token is shown, and the texts that wait for a signature. What tokens an account
//! makes and ends is in `store::tokens`.

use alephlab_api::time::unix_now;
use alephlab_api::token::Scope;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

/// Texts of one account that may wait for a signature; the oldest goes. Several, because anybody may ask in anybody's
/// name, and that must not at once push out the text that the account's own wallet is about to sign.
const MAX_TEXTS_OF_ONE: i64 = 8;
/// Texts of all accounts; the oldest goes.
const MAX_TEXTS: i64 = 1000;

/// Seconds of a day: how fine the last use of a token is noted, so that not each request writes.
const DAY: u64 = 86_400;

/// Who shows a token.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub(crate) account: String,
    /// The address that the account has proven, if it has one.
    pub(crate) address: Option<String>,
    /// The account runs the gateway, or has the role.
    pub(crate) operator: bool,
    /// What the token may do for its account; a kernel's has none, and opens key requests and shares only.
    pub(crate) scope: Option<Scope>,
    pub(crate) kernel: Option<Uuid>,
    pub(crate) sha256: [u8; 32],
    /// Hash of the token that this one ends with: its own, or that which a browser signed in with.
    pub(crate) root: [u8; 32],
    /// When that ends, if it is an access token: what is made with it ends with it.
    pub(crate) access_ends: Option<u64>,
    /// When it ends, if it is not first deleted.
    pub(crate) expires: Option<u64>,
}

impl Store {
    /// Makes `operator` the operator by its settings, `token` its only token from a configuration, and these addresses and
    /// whoever was admitted of this issuer's the only ones admitted. Tokens of others stay, opening nothing, in case their
    /// accounts are admitted again.
    pub(crate) async fn configure(
        &self,
        operator: &str,
        token: &[u8; 32],
        admitted: &[String],
        issuer: Option<&str>,
    ) -> Result<()> {
        let now = seconds(unix_now());
        let mut transaction = self.begin().await?;
        sqlx::query(
            "UPDATE accounts SET operator = 0, admitted = CASE WHEN EXISTS (
                 SELECT 1 FROM identities i
                 WHERE i.account = accounts.id AND i.issuer = $1 AND i.standing = 'admitted') THEN 1 ELSE 0 END",
        )
        .bind(issuer)
        .execute(&mut *transaction)
        .await?;
        let others = admitted
            .iter()
            .map(String::as_str)
            .filter(|other| *other != operator);
        let mut runs = operator.to_owned();
        for (address, is_operator) in others.map(|other| (other, false)).chain([(operator, true)]) {
            // The account that has this address, which may be one that was linked to it.
            let row = sqlx::query(
                "INSERT INTO accounts (id, address, operator, admitted, role, created) VALUES ($1, $1, $2, 1, 'user', $3)
                 ON CONFLICT (address) DO UPDATE SET operator = excluded.operator, admitted = 1 RETURNING id",
            )
            .bind(address)
            .bind(i64::from(is_operator))
            .bind(now)
            .fetch_one(&mut *transaction)
            .await?;
            if is_operator {
                runs = row.try_get("id")?;
            }
        }
        let operator = runs.as_str();
        // Browsers that signed in with a deleted token go with it.
        sqlx::query("DELETE FROM tokens WHERE kind = 'operator' AND (sha256 <> $1 OR account <> $2)")
            .bind(token.as_slice())
            .bind(operator)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO tokens (sha256, account, kind, scope, created) VALUES ($1, $2, 'operator', 'admin', $3)
             ON CONFLICT (sha256) DO UPDATE SET account = excluded.account, kind = 'operator', scope = 'admin',
                 kernel = NULL, parent = NULL, id = NULL, name = NULL, expires = NULL",
        )
        .bind(token.as_slice())
        .bind(operator)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The account of this address, if it may sign in.
    pub(crate) async fn admits(&self, address: &str) -> Result<Option<String>> {
        let row = sqlx::query("SELECT id FROM accounts WHERE address = $1 AND admitted = 1")
            .bind(address)
            .fetch_optional(&self.read)
            .await?;
        Ok(row.map(|row| row.try_get("id")).transpose()?)
    }

    /// Whose token has this hash. None as well when its account is not admitted, or its kernel is over: a dead kernel's
    /// row stays while it may be restarted in place, with the same token.
    pub(crate) async fn bearer(&self, sha256: &[u8; 32]) -> Result<Option<Bearer>> {
        let now = unix_now();
        let row = sqlx::query(
            "SELECT t.account, t.kind, t.scope, t.kernel, t.parent, t.expires, t.used, a.address,
                 CASE WHEN a.operator = 1 OR a.role = 'operator' THEN 1 ELSE 0 END AS operator,
                 p.kind AS parent_kind, p.expires AS parent_expires
             FROM tokens t
             JOIN accounts a ON a.id = t.account AND a.admitted = 1
             LEFT JOIN kernels k ON k.id = t.kernel
             LEFT JOIN tokens p ON p.sha256 = t.parent
             WHERE t.sha256 = $1 AND (t.expires IS NULL OR t.expires > $2)
                 AND (k.id IS NULL OR k.state NOT IN ('stopped', 'dead'))",
        )
        .bind(sha256.as_slice())
        .bind(seconds(now))
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let bearer = read(&row, sha256)?;
        let today = seconds(now - now % DAY);
        if bearer.scope.is_some()
            && row
                .try_get::<Option<i64>, _>("used")?
                .is_none_or(|used| used < today)
        {
            let noted = sqlx::query("UPDATE tokens SET used = $1 WHERE sha256 = $2")
                .bind(today)
                .bind(sha256.as_slice())
                .execute(&self.write)
                .await;
            // Who reads is not turned away because this cannot be written.
            if let Err(error) = noted {
                tracing::warn!(%error, "the last use of a token was not noted");
            }
        }
        Ok(Some(bearer))
    }

    /// Keeps a text that is to be signed, and forgets those that are too old or too many. `account` is the one that the address
    /// is to be linked to; none where it signs in.
    pub(crate) async fn add_challenge(
        &self,
        nonce: &str,
        (address, account): (&str, Option<&str>),
        message: &str,
        expires: u64,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        // Ten minutes beyond their end, so that a clock set back does not bring one to life.
        sqlx::query("DELETE FROM challenges WHERE expires < $1")
            .bind(seconds(unix_now().saturating_sub(600)).min(seconds(expires)))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO challenges (nonce, address, account, message, expires) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(nonce)
        .bind(address)
        .bind(account)
        .bind(message)
        .bind(seconds(expires))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM challenges WHERE (address = $1 AND rowid NOT IN
                 (SELECT rowid FROM challenges WHERE address = $1 ORDER BY rowid DESC LIMIT $2))
             OR rowid NOT IN (SELECT rowid FROM challenges ORDER BY rowid DESC LIMIT $3)",
        )
        .bind(address)
        .bind(MAX_TEXTS_OF_ONE)
        .bind(MAX_TEXTS)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes the text of a nonce away; none when unknown, used, too old, somebody else's or for another purpose.
    pub(crate) async fn take_challenge(
        &self,
        nonce: &str,
        (address, account): (&str, Option<&str>),
        now: u64,
    ) -> Result<Option<String>> {
        let row = sqlx::query(
            "DELETE FROM challenges WHERE nonce = $1 RETURNING address, account, message, expires",
        )
        .bind(nonce)
        .fetch_optional(&self.write)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let good = row.try_get::<&str, _>("address")? == address
            && row.try_get::<Option<&str>, _>("account")? == account
            && row.try_get::<i64, _>("expires")? >= seconds(now);
        Ok(if good { Some(row.try_get("message")?) } else { None })
    }
}

fn read(row: &Row, sha256: &[u8; 32]) -> Result<Bearer> {
    let kind = row.try_get::<&str, _>("kind")?;
    let scope = row.try_get::<Option<&str>, _>("scope")?;
    let scope = scope.map(str::parse).transpose();
    let kernel = row.try_get::<Option<String>, _>("kernel")?;
    let kernel = kernel
        .map(|id| id.parse())
        .transpose()
        .map_err(|_| corrupt("a token's kernel"))?;
    let root = match (kind, row.try_get::<Option<&[u8]>, _>("parent")?) {
        ("browser", Some(parent)) => parent.try_into().map_err(|_| corrupt("a token's hash"))?,
        _ => *sha256,
    };
    let expires = row.try_get::<Option<i64>, _>("expires")?;
    let access_ends = match (kind, row.try_get::<Option<&str>, _>("parent_kind")?) {
        ("access", _) => expires,
        ("browser", Some("access")) => row.try_get("parent_expires")?,
        _ => None,
    };
    Ok(Bearer {
        account: row.try_get("account")?,
        address: row.try_get("address")?,
        operator: row.try_get::<i64, _>("operator")? != 0,
        scope: scope.map_err(|_| corrupt("a token's scope"))?,
        kernel,
        sha256: *sha256,
        root,
        access_ends: access_ends.map(unsigned),
        expires: expires.map(unsigned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "0x00000000000000000000000000000000000000aD";
    const EVE: &str = "0x00000000000000000000000000000000000000eE";

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store
            .configure(ADA, &[1; 32], &[EVE.to_owned()], None)
            .await
            .unwrap();
        (folder, store)
    }

    async fn opens(store: &Store, token: u8) -> bool {
        store.bearer(&[token; 32]).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_new_configuration_ends_the_token_of_the_last_and_its_browsers() {
        let (_folder, store) = store().await;
        let later = unix_now() + 1000;
        let operator = store.bearer(&[1; 32]).await.unwrap().unwrap();
        store
            .add_browser_token(&[2; 32], &operator, "Firefox", later)
            .await
            .unwrap();
        store
            .add_token(&[3; 32], (ADA, "wallet"), None, later)
            .await
            .unwrap();
        store.configure(ADA, &[1; 32], &[], None).await.unwrap();
        assert!(opens(&store, 1).await && opens(&store, 2).await, "the same token");
        store.configure(ADA, &[4; 32], &[], None).await.unwrap();
        assert!(!opens(&store, 1).await && !opens(&store, 2).await);
        assert!(
            opens(&store, 3).await && opens(&store, 4).await,
            "what the wallet signed for stays"
        );
    }

    #[tokio::test]
    async fn an_account_that_is_no_longer_admitted_has_no_token_that_works() {
        let (_folder, store) = store().await;
        let kernel = Uuid::new_v4();
        store
            .add_token(&[2; 32], (EVE, "wallet"), None, unix_now() + 1000)
            .await
            .unwrap();
        store
            .add_kernel((kernel, EVE), "alephlab", None, &[3; 32], None)
            .await
            .unwrap();
        assert!(opens(&store, 2).await && opens(&store, 3).await);
        store.configure(ADA, &[1; 32], &[], None).await.unwrap();
        assert!(store.admits(EVE).await.unwrap().is_none());
        assert!(!opens(&store, 2).await && !opens(&store, 3).await);
        store.configure(EVE, &[4; 32], &[], None).await.unwrap();
        assert!(opens(&store, 2).await && store.admits(ADA).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_browser_cannot_outlive_what_it_signed_in_with() {
        let (_folder, store) = store().await;
        let soon = unix_now() + 50;
        store
            .add_token(&[2; 32], (EVE, "wallet"), None, soon)
            .await
            .unwrap();
        let eve = store.bearer(&[2; 32]).await.unwrap().unwrap();
        store
            .add_browser_token(&[3; 32], &eve, "Firefox", soon + 1000)
            .await
            .unwrap();
        let browser = store.bearer(&[3; 32]).await.unwrap().unwrap();
        assert_eq!((browser.expires, browser.root), (Some(soon), [2; 32]));
        store
            .add_browser_token(&[4; 32], &browser, "Firefox", soon + 2000)
            .await
            .unwrap();
        let again = store.bearer(&[4; 32]).await.unwrap().unwrap();
        assert_eq!((again.expires, again.root), (Some(soon), [2; 32]));
    }

    #[tokio::test]
    async fn texts_that_wait_are_bounded_for_one_account_and_for_all() {
        let (_folder, store) = store().await;
        let later = unix_now() + 1000;
        let add = async |nonce: String, address: String| {
            store
                .add_challenge(&nonce, (&address, None), "text", later)
                .await
                .unwrap();
        };
        add("eve".to_owned(), EVE.to_owned()).await;
        for number in 0..=MAX_TEXTS_OF_ONE {
            add(format!("ada{number}"), ADA.to_owned()).await;
        }
        let takes = async |nonce: &str, address: &str| {
            store
                .take_challenge(nonce, (address, None), unix_now())
                .await
                .unwrap()
                .is_some()
        };
        assert!(!takes("ada0", ADA).await, "the oldest went");
        assert!(takes("ada1", ADA).await && takes("eve", EVE).await);
        for number in 0..MAX_TEXTS {
            add(format!("n{number}"), format!("0x{number:040}")).await;
        }
        assert!(!takes("ada2", ADA).await, "the oldest of all went");
        assert!(takes("n0", &format!("0x{:040}", 0)).await);
    }
}
