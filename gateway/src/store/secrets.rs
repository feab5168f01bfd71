//! Secrets of accounts, as they are sealed; what seals them is in `crate::secrets`.

use alephlab_api::secrets::{SECRETS_MAX, SecretInfo, SecretName};
use alephlab_api::time::unix_now;
use sqlx::Row as _;

use super::{Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

/// A sealed value.
pub(crate) struct SealedSecret {
    /// Which key file sealed it.
    pub(crate) key_id: [u8; 8],
    pub(crate) nonce: [u8; 12],
    pub(crate) sealed: Vec<u8>,
}

/// What a row has to be opened with.
pub(crate) struct StoredSecret {
    /// Counts how often it was set.
    pub(crate) version: i64,
    pub(crate) sealed: SealedSecret,
}

impl Store {
    /// Names and dates of an account's secrets, by name.
    pub(crate) async fn secrets(&self, account: &str) -> Result<Vec<SecretInfo>> {
        let rows = sqlx::query(
            "SELECT name, created, changed, last_read FROM secrets WHERE account = $1 ORDER BY name",
        )
        .bind(account)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(info).collect()
    }

    /// One secret, sealed.
    pub(crate) async fn secret(&self, account: &str, name: &SecretName) -> Result<Option<StoredSecret>> {
        let row = sqlx::query(
            "SELECT version, key_id, nonce, sealed FROM secrets WHERE account = $1 AND name = $2",
        )
        .bind(account)
        .bind(name.as_str())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(stored).transpose()
    }

    /// Stores what `seal` makes for the version that it is given; none when the account has too many others.
    pub(crate) async fn set_secret(
        &self,
        account: &str,
        name: &SecretName,
        seal: impl FnOnce(i64) -> Result<SealedSecret> + Send,
    ) -> Result<Option<SecretInfo>> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "SELECT count(*) AS others, coalesce(max(CASE WHEN name = $2 THEN version END), 0) AS version
             FROM secrets WHERE account = $1",
        )
        .bind(account)
        .bind(name.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        let (count, version): (i64, i64) = (row.try_get("others")?, row.try_get("version")?);
        if version == 0 && unsigned(count) >= SECRETS_MAX as u64 {
            return Ok(None);
        }
        let sealed = seal(version + 1)?;
        let row = sqlx::query(
            "INSERT INTO secrets (account, name, version, key_id, nonce, sealed, created, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
             ON CONFLICT (account, name) DO UPDATE SET version = excluded.version, key_id = excluded.key_id,
                 nonce = excluded.nonce, sealed = excluded.sealed, changed = excluded.changed
             RETURNING name, created, changed, last_read",
        )
        .bind(account)
        .bind(name.as_str())
        .bind(version + 1)
        .bind(sealed.key_id.as_slice())
        .bind(sealed.nonce.as_slice())
        .bind(sealed.sealed)
        .bind(seconds(unix_now()))
        .fetch_one(&mut *transaction)
        .await?;
        let info = info(&row)?;
        transaction.commit().await?;
        Ok(Some(info))
    }

    /// Notes that a kernel read a secret now.
    pub(crate) async fn note_secret_read(&self, account: &str, name: &SecretName) -> Result<()> {
        sqlx::query("UPDATE secrets SET last_read = $3 WHERE account = $1 AND name = $2")
            .bind(account)
            .bind(name.as_str())
            .bind(seconds(unix_now()))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Removes a secret of this account; false when there is none.
    pub(crate) async fn remove_secret(&self, account: &str, name: &SecretName) -> Result<bool> {
        let done = sqlx::query("DELETE FROM secrets WHERE account = $1 AND name = $2")
            .bind(account)
            .bind(name.as_str())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn info(row: &Row) -> Result<SecretInfo> {
    let name = row.try_get::<&str, _>("name")?;
    Ok(SecretInfo {
        name: name.parse().map_err(|_| corrupt("a secret's name"))?,
        created: unsigned(row.try_get("created")?),
        changed: unsigned(row.try_get("changed")?),
        last_read: row.try_get::<Option<i64>, _>("last_read")?.map(unsigned),
    })
}

fn stored(row: &Row) -> Result<StoredSecret> {
    let (key_id, nonce): (&[u8], &[u8]) = (row.try_get("key_id")?, row.try_get("nonce")?);
    let sealed = SealedSecret {
        key_id: key_id.try_into().map_err(|_| corrupt("a secret's key id"))?,
        nonce: nonce.try_into().map_err(|_| corrupt("a secret's nonce"))?,
        sealed: row.try_get("sealed")?,
    };
    Ok(StoredSecret {
        version: row.try_get("version")?,
        sealed,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alephlab_api::Secret;

    use super::*;
    use crate::secrets::{Place, SecretsKey};

    const ADA: &str = "0x00000000000000000000000000000000000000aD";
    const EVE: &str = "0x00000000000000000000000000000000000000eE";

    async fn store() -> (tempfile::TempDir, Store, SecretsKey) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.configure(ADA, &[1; 32], &[EVE.to_owned()]).await.unwrap();
        let key = SecretsKey::open(folder.path()).unwrap();
        (folder, store, key)
    }

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    async fn set(
        store: &Store,
        key: &SecretsKey,
        (account, text): (&str, &str),
        value: &str,
    ) -> Option<SecretInfo> {
        let (name, value) = (name(text), Secret::new(value));
        let seal = |version| {
            let place = Place {
                account,
                name: &name,
                version,
            };
            key.seal(place, &value)
        };
        store.set_secret(account, &name, seal).await.unwrap()
    }

    async fn get(store: &Store, key: &SecretsKey, account: &str, text: &str) -> Result<Secret> {
        let name = name(text);
        let stored = store.secret(account, &name).await.unwrap().unwrap();
        let place = Place {
            account,
            name: &name,
            version: stored.version,
        };
        key.unseal(place, &stored.sealed)
    }

    fn holds(folder: &Path, text: &str) -> bool {
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).any(|path| {
            std::fs::read(path)
                .unwrap()
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    }

    #[tokio::test]
    async fn nothing_on_the_disk_holds_the_value() {
        let folder = tempfile::tempdir().unwrap();
        // In files, whatever the others have: there they can be searched.
        let store = Store::lead(folder.path(), None, crate::store::Wait::Briefly)
            .await
            .unwrap();
        store.configure(ADA, &[1; 32], &[]).await.unwrap();
        let key = SecretsKey::open(folder.path()).unwrap();
        set(&store, &key, (ADA, "API_KEY"), "sk-canary-0123456789")
            .await
            .unwrap();
        assert_eq!(
            get(&store, &key, ADA, "API_KEY").await.unwrap().expose(),
            "sk-canary-0123456789"
        );
        // Also after everything went from the log into the database itself.
        for _ in 0..2 {
            assert!(
                holds(folder.path(), "API_KEY"),
                "the files that are searched are those that hold it"
            );
            assert!(!holds(folder.path(), "sk-canary"));
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&store.write)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_row_passes_for_no_other_account_name_or_version() {
        let (_folder, store, key) = store().await;
        for place in [(ADA, "A"), (ADA, "B"), (EVE, "A")] {
            set(&store, &key, place, &format!("{place:?}")).await.unwrap();
        }
        let swap = async |(from, name): (&str, &str), (to, other): (&str, &str)| {
            sqlx::query(
                "UPDATE secrets SET (nonce, sealed) =
                     (SELECT nonce, sealed FROM secrets WHERE account = $1 AND name = $2)
                 WHERE account = $3 AND name = $4",
            )
            .bind(from)
            .bind(name)
            .bind(to)
            .bind(other)
            .execute(&store.write)
            .await
            .unwrap();
        };
        swap((ADA, "A"), (ADA, "B")).await;
        swap((ADA, "A"), (EVE, "A")).await;
        assert!(get(&store, &key, ADA, "B").await.is_err(), "another name's");
        assert!(get(&store, &key, EVE, "A").await.is_err(), "another account's");
        assert!(get(&store, &key, ADA, "A").await.is_ok(), "its own");
        sqlx::query("UPDATE secrets SET version = 2 WHERE name = 'A'")
            .execute(&store.write)
            .await
            .unwrap();
        assert!(
            get(&store, &key, ADA, "A").await.is_err(),
            "an older value of its own"
        );
    }

    #[tokio::test]
    async fn a_value_is_replaced_read_and_removed() {
        let (_folder, store, key) = store().await;
        let first = set(&store, &key, (ADA, "A"), "one").await.unwrap();
        let second = set(&store, &key, (ADA, "A"), "two").await.unwrap();
        assert_eq!((second.created, second.last_read), (first.created, None));
        assert_eq!(get(&store, &key, ADA, "A").await.unwrap().expose(), "two");
        store.note_secret_read(ADA, &name("A")).await.unwrap();
        let listed = store.secrets(ADA).await.unwrap();
        assert!(listed.len() == 1 && listed[0].last_read.is_some(), "{listed:?}");
        assert!(store.secrets(EVE).await.unwrap().is_empty());
        assert!(!store.remove_secret(EVE, &name("A")).await.unwrap());
        assert!(store.remove_secret(ADA, &name("A")).await.unwrap());
        assert!(store.secret(ADA, &name("A")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_account_has_so_many_and_no_more() {
        let (_folder, store, key) = store().await;
        for number in 0..SECRETS_MAX {
            assert!(
                set(&store, &key, (ADA, &format!("S{number}")), "x")
                    .await
                    .is_some()
            );
        }
        assert!(set(&store, &key, (ADA, "ONE_MORE"), "x").await.is_none());
        assert!(set(&store, &key, (ADA, "S0"), "another value").await.is_some());
        assert!(set(&store, &key, (EVE, "S0"), "x").await.is_some());
    }
}
