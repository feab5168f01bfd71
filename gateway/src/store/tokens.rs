//! Tokens that an account makes and ends: access tokens, and what browsers and programs signed in with.

use std::time::Duration;

use alephlab_api::time::unix_now;
use alephlab_api::token::{Scope, TokenInfo};
use sqlx::{Any, Row as _, Transaction};
use uuid::Uuid;

use super::audit::{Action, note};
use super::{Bearer, Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

/// Access tokens of one account: more than anybody keeps apart.
const MAX_ACCESS_TOKENS: i64 = 100;
/// How often what stays open looks whether its token still stands: another gateway with the same database tells nobody.
const LOOK_AGAIN: u64 = 60;

/// What came of making an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Making {
    Made,
    /// The account has one of this name.
    NameTaken,
    /// The account has as many as it may have.
    TooMany,
}

/// A browser or program that signed in.
#[derive(Debug, Clone)]
pub(crate) struct SignedInAs {
    pub(crate) sha256: [u8; 32],
    /// What a browser says that it is; none of a program.
    pub(crate) browser: Option<String>,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) used: Option<u64>,
}

impl Store {
    /// Adds the token of an account that signed in by `way`, a wallet or a provider: a browser of this name, or a program.
    pub(crate) async fn add_token(
        &self,
        sha256: &[u8; 32],
        (account, way): (&str, &str),
        browser: Option<&str>,
        expires: u64,
    ) -> Result<()> {
        let mut transaction = self.without_old_tokens().await?;
        sqlx::query(
            "INSERT INTO tokens (sha256, account, kind, scope, name, created, expires)
             VALUES ($1, $2, 'account', 'admin', $3, $4, $5)",
        )
        .bind(sha256.as_slice())
        .bind(account)
        .bind(browser)
        .bind(seconds(unix_now()))
        .bind(seconds(expires))
        .execute(&mut *transaction)
        .await?;
        note(&mut transaction, account, Action::SignIn, way).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Adds the token of a browser that `bearer` signed in. It ends with `root` of the bearer, and no later than it.
    pub(crate) async fn add_browser_token(
        &self,
        sha256: &[u8; 32],
        bearer: &Bearer,
        browser: &str,
        expires: u64,
    ) -> Result<()> {
        let expires = bearer.expires.map_or(expires, |end| end.min(expires));
        let mut transaction = self.without_old_tokens().await?;
        sqlx::query(
            "INSERT INTO tokens (sha256, account, kind, scope, parent, name, created, expires)
             VALUES ($1, $2, 'browser', $3, $4, $5, $6, $7)",
        )
        .bind(sha256.as_slice())
        .bind(&bearer.account)
        .bind(bearer.scope.map(Scope::name))
        .bind(bearer.root.as_slice())
        .bind(browser)
        .bind(seconds(unix_now()))
        .bind(seconds(expires))
        .execute(&mut *transaction)
        .await?;
        note(&mut transaction, &bearer.account, Action::SignIn, "token").await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets what a browser signed in with; the configured token and access tokens stay.
    pub(crate) async fn remove_browser_token(&self, sha256: &[u8; 32]) -> Result<()> {
        sqlx::query("DELETE FROM tokens WHERE sha256 = $1 AND kind IN ('browser', 'account')")
            .bind(sha256.as_slice())
            .execute(&self.write)
            .await?;
        self.tokens_ended();
        Ok(())
    }

    /// Adds an access token of the account that `maker` proved. Made with another access token, it ends with that one.
    pub(crate) async fn add_access_token(
        &self,
        sha256: &[u8; 32],
        maker: &Bearer,
        token: &TokenInfo,
    ) -> Result<Making> {
        let mut transaction = self.without_old_tokens().await?;
        let has: i64 =
            sqlx::query("SELECT count(*) AS has FROM tokens WHERE account = $1 AND kind = 'access'")
                .bind(&maker.account)
                .fetch_one(&mut *transaction)
                .await?
                .try_get("has")?;
        if has >= MAX_ACCESS_TOKENS {
            return Ok(Making::TooMany);
        }
        let parent = maker.access_ends.is_some().then_some(maker.root.as_slice());
        let done = sqlx::query(
            "INSERT INTO tokens (sha256, account, kind, scope, parent, id, name, created, expires)
             VALUES ($1, $2, 'access', $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(sha256.as_slice())
        .bind(&maker.account)
        .bind(token.scope.name())
        .bind(parent)
        .bind(token.id.to_string())
        .bind(&token.name)
        .bind(seconds(token.created))
        .bind(seconds(token.expires))
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(Making::NameTaken);
        }
        let what = format!("{} {}", token.id, token.scope);
        note(&mut transaction, &maker.account, Action::TokenMade, &what).await?;
        transaction.commit().await?;
        Ok(Making::Made)
    }

    /// The account's access tokens that still work, newest first.
    pub(crate) async fn access_tokens(&self, account: &str) -> Result<Vec<TokenInfo>> {
        let rows = sqlx::query(
            "SELECT id, name, scope, created, expires, used FROM tokens
             WHERE account = $1 AND kind = 'access' AND expires > $2 ORDER BY created DESC, name",
        )
        .bind(account)
        .bind(seconds(unix_now()))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(access_token).collect()
    }

    /// Ends an access token with all that was made or signed in with it; false when the account has no such.
    pub(crate) async fn revoke_access_token(&self, account: &str, id: Uuid) -> Result<bool> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query("DELETE FROM tokens WHERE account = $1 AND id = $2 AND kind = 'access'")
            .bind(account)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        note(&mut transaction, account, Action::TokenRevoked, &id.to_string()).await?;
        transaction.commit().await?;
        self.tokens_ended();
        Ok(true)
    }

    /// Browsers and programs that are signed in for the account, newest first.
    pub(crate) async fn sign_ins(&self, account: &str) -> Result<Vec<SignedInAs>> {
        let rows = sqlx::query(
            "SELECT sha256, name, created, expires, used FROM tokens
             WHERE account = $1 AND kind IN ('browser', 'account') AND expires > $2 ORDER BY created DESC, sha256",
        )
        .bind(account)
        .bind(seconds(unix_now()))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(signed_in).collect()
    }

    /// Signs out every other browser and program of the account; access tokens and the configured one stay.
    pub(crate) async fn sign_out_others(&self, this: &Bearer) -> Result<()> {
        // What this browser signed in with stays: it would go with it.
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "DELETE FROM tokens
             WHERE account = $1 AND kind IN ('browser', 'account') AND sha256 <> $2 AND sha256 <> $3",
        )
        .bind(&this.account)
        .bind(this.sha256.as_slice())
        .bind(this.root.as_slice())
        .execute(&mut *transaction)
        .await?;
        let what = format!("{} signed out", done.rows_affected());
        note(&mut transaction, &this.account, Action::SignOutOthers, &what).await?;
        transaction.commit().await?;
        self.tokens_ended();
        Ok(())
    }

    /// Returns once a token opens nothing any more: it was revoked, or its time is over.
    pub(crate) async fn token_ends(&self, sha256: &[u8; 32]) {
        let mut ended = self.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let left = match self.bearer(sha256).await {
                Ok(None) => return,
                Ok(Some(bearer)) => bearer.expires.map(|end| end.saturating_sub(unix_now())),
                // What cannot be looked up now closes nothing.
                Err(_) => None,
            };
            let wait = Duration::from_secs(left.unwrap_or(LOOK_AGAIN).clamp(1, LOOK_AGAIN));
            tokio::select! {
                _ = ended.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Has everything that is open look at its token again.
    pub(super) fn tokens_ended(&self) {
        self.ended.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// A transaction in which tokens that are over are forgotten.
    async fn without_old_tokens(&self) -> Result<Transaction<'static, Any>> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM tokens WHERE expires <= $1")
            .bind(seconds(unix_now()))
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

fn access_token(row: &Row) -> Result<TokenInfo> {
    let id = row.try_get::<&str, _>("id")?.parse();
    let scope = row.try_get::<&str, _>("scope")?.parse();
    Ok(TokenInfo {
        id: id.map_err(|_| corrupt("a token's id"))?,
        name: row.try_get("name")?,
        scope: scope.map_err(|_| corrupt("a token's scope"))?,
        created: unsigned(row.try_get("created")?),
        expires: unsigned(row.try_get("expires")?),
        used: row.try_get::<Option<i64>, _>("used")?.map(unsigned),
    })
}

fn signed_in(row: &Row) -> Result<SignedInAs> {
    let sha256 = row.try_get::<&[u8], _>("sha256")?.try_into();
    Ok(SignedInAs {
        sha256: sha256.map_err(|_| corrupt("a token's hash"))?,
        browser: row.try_get("name")?,
        created: unsigned(row.try_get("created")?),
        expires: unsigned(row.try_get("expires")?),
        used: row.try_get::<Option<i64>, _>("used")?.map(unsigned),
    })
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;
    use crate::store::pools;
    use crate::store::tests::database_of;

    const ADA: &str = "0x00000000000000000000000000000000000000aD";

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.configure(ADA, &[1; 32], &[], None).await.unwrap();
        (folder, store)
    }

    fn token(name: &str, scope: Scope, life: u64) -> TokenInfo {
        let now = unix_now();
        TokenInfo {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            scope,
            created: now,
            expires: now + life,
            used: None,
        }
    }

    #[tokio::test]
    async fn a_browser_has_the_scope_of_what_it_signed_in_with_and_ends_with_that_alone() {
        let (_folder, store) = store().await;
        let operator = store.bearer(&[1; 32]).await.unwrap().unwrap();
        let (wide, narrow) = (
            token("wide", Scope::Admin, 900),
            token("narrow", Scope::Read, 600),
        );
        store.add_access_token(&[2; 32], &operator, &wide).await.unwrap();
        let maker = store.bearer(&[2; 32]).await.unwrap().unwrap();
        assert_eq!((maker.root, maker.access_ends), ([2; 32], Some(wide.expires)));
        store.add_access_token(&[3; 32], &maker, &narrow).await.unwrap();
        let bearer = store.bearer(&[3; 32]).await.unwrap().unwrap();
        assert_eq!(
            bearer.root, [3; 32],
            "its own, though it ends with the other one too"
        );
        store
            .add_browser_token(&[4; 32], &bearer, "Firefox", u64::MAX >> 1)
            .await
            .unwrap();
        let browser = store.bearer(&[4; 32]).await.unwrap().unwrap();
        assert_eq!(
            (browser.scope, browser.root, browser.access_ends, browser.expires),
            (
                Some(Scope::Read),
                [3; 32],
                Some(narrow.expires),
                Some(narrow.expires)
            )
        );
        assert!(store.revoke_access_token(ADA, narrow.id).await.unwrap());
        for (hash, stands) in [([4; 32], false), ([3; 32], false), ([2; 32], true)] {
            assert_eq!(store.bearer(&hash).await.unwrap().is_some(), stands, "{hash:?}");
        }
    }

    #[tokio::test]
    async fn an_account_has_only_so_many_tokens_and_each_name_once() {
        let (_folder, store) = store().await;
        let operator = store.bearer(&[1; 32]).await.unwrap().unwrap();
        for number in 0..MAX_ACCESS_TOKENS {
            let hash = crate::store::sha256(&number.to_le_bytes());
            let new = token(&number.to_string(), Scope::Run, 60);
            let made = store.add_access_token(&hash, &operator, &new).await;
            assert_eq!(made.unwrap(), Making::Made);
        }
        let more = token("more", Scope::Run, 60);
        let made = store.add_access_token(&[2; 32], &operator, &more).await.unwrap();
        assert_eq!(made, Making::TooMany);
        let all = store.access_tokens(ADA).await.unwrap();
        let five = all.iter().find(|token| token.name == "5").unwrap();
        assert!(store.revoke_access_token(ADA, five.id).await.unwrap());
        for (name, making) in [("6", Making::NameTaken), ("5", Making::Made)] {
            let again = token(name, Scope::Run, 60);
            let made = store.add_access_token(&[2; 32], &operator, &again).await;
            assert_eq!(made.unwrap(), making, "{name}");
        }
    }

    #[tokio::test]
    async fn a_use_is_written_once_a_day() {
        let (_folder, store) = store().await;
        store.bearer(&[1; 32]).await.unwrap().unwrap();
        let used = async || -> Option<i64> {
            let row = sqlx::query("SELECT used FROM tokens")
                .fetch_one(&store.read)
                .await;
            row.unwrap().try_get("used").unwrap()
        };
        let today = used().await.unwrap();
        assert_eq!(today % 86_400, 0);
        let set = async |day: i64| {
            let set = sqlx::query("UPDATE tokens SET used = $1").bind(day);
            set.execute(&store.write).await.unwrap();
            store.bearer(&[1; 32]).await.unwrap().unwrap();
        };
        set(today - 86_400).await;
        assert_eq!(used().await, Some(today));
        // Had it been written again, it would be today's.
        set(today + 1).await;
        assert_eq!(used().await, Some(today + 1));
    }

    #[tokio::test]
    async fn what_waits_for_a_tokens_end_goes_on_when_it_is_revoked() {
        let (_folder, store) = store().await;
        let operator = store.bearer(&[1; 32]).await.unwrap().unwrap();
        let new = token("t", Scope::Run, 600);
        store.add_access_token(&[2; 32], &operator, &new).await.unwrap();
        let waiting = {
            let store = store.clone();
            tokio::spawn(async move { store.token_ends(&[2; 32]).await })
        };
        assert!(store.revoke_access_token(ADA, new.id).await.unwrap());
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap()
            .unwrap();
    }

    /// A database of the sixth version: its tokens opened all, and still do.
    #[tokio::test]
    async fn tokens_of_an_older_database_keep_opening_all() {
        let folder = tempfile::tempdir().unwrap();
        let database = database_of(folder.path()).await;
        let (kind, options) = pools::place(folder.path(), database.as_ref()).unwrap();
        let mut old = pools::first(kind, &options, database.as_ref()).await.unwrap();
        kind.migrations.run_to(6, &mut old).await.unwrap();
        let later = seconds(unix_now() + 600);
        sqlx::query("INSERT INTO accounts (address, operator, admitted, created) VALUES ($1, 1, 1, 0)")
            .bind(ADA)
            .execute(&mut old)
            .await
            .unwrap();
        for (hash, kind, parent) in [(2, "account", None), (3, "browser", Some([2; 32]))] {
            let insert = sqlx::query(
                "INSERT INTO tokens (sha256, account, kind, parent, created, expires) VALUES ($1, $2, $3, $4, 0, $5)",
            );
            let insert = insert.bind([hash; 32].to_vec()).bind(ADA).bind(kind);
            let parent = parent.map(|parent: [u8; 32]| parent.to_vec());
            insert.bind(parent).bind(later).execute(&mut old).await.unwrap();
        }
        old.close().await.unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.configure(ADA, &[1; 32], &[], None).await.unwrap();
        for hash in [2, 3] {
            let bearer = store.bearer(&[hash; 32]).await.unwrap().unwrap();
            assert_eq!((bearer.scope, bearer.root), (Some(Scope::Admin), [2; 32]));
        }
        store.remove_browser_token(&[2; 32]).await.unwrap();
        assert!(
            store.bearer(&[3; 32]).await.unwrap().is_none(),
            "it ends with its parent"
        );
    }
}
