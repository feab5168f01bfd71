//! The node's SQLite database: opening it and the clock that its rows use.
//!
//! Every change happens in a transaction begun with [`WRITE`], so that two writers queue
//! instead of failing when both have read first.

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::error::{Error, Result};

/// How a writing transaction begins.
pub(crate) const WRITE: &str = "BEGIN IMMEDIATE";

const SCHEMA: &str = include_str!("schema.sql");
const MIGRATE_1_TO_2: &str = include_str!("migrate_1_to_2.sql");
const SCHEMA_VERSION: i64 = 2;

/// Opens the database in `data`, and makes its tables when it is new.
pub(crate) async fn open(data: &Path) -> Result<SqlitePool> {
    let path = data.join("localnet.sqlite");
    let refuse = |cause: String| Error::Open {
        path: path.clone(),
        cause,
    };
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A message that was answered as processed must survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new()
        .max_connections(8)
        .connect_with(options)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&pool)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    if !(0..=SCHEMA_VERSION).contains(&version) {
        return Err(refuse(format!(
            "it has schema {version}, and this version knows schema {SCHEMA_VERSION}"
        )));
    }
    bring_up(&pool, version)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    Ok(pool)
}

/// Makes the tables and brings those of an older version up to date: all of it or nothing.
async fn bring_up(pool: &SqlitePool, version: i64) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with(WRITE).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
    if version == 1 {
        sqlx::raw_sql(MIGRATE_1_TO_2).execute(&mut *transaction).await?;
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "PRAGMA user_version = {SCHEMA_VERSION}"
    )))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Now, in Unix seconds.
pub(crate) fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// `seconds` as an ISO 8601 time in UTC, the form of `reception_time` and of posts v1.
pub(crate) fn iso(seconds: f64) -> String {
    // Seconds of any real message fit; others show as the epoch.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "out of range saturates, and the library refuses it"
    )]
    let micros = (seconds * 1e6).round() as i64;
    chrono::DateTime::from_timestamp_micros(micros)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Micros, false)
}

/// Size or count for a SQLite column.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Size or count from a SQLite column.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of schema 1 that schema 2 changes.
    const SCHEMA_1: &str = "
        CREATE TABLE pins (
            item_hash TEXT PRIMARY KEY, owner TEXT NOT NULL COLLATE NOCASE, file_hash TEXT NOT NULL, reference TEXT,
            size INTEGER NOT NULL, created REAL NOT NULL, rate REAL NOT NULL, consumed REAL NOT NULL DEFAULT 0,
            active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)));
        CREATE INDEX pins_by_owner ON pins (owner, active);
        INSERT INTO pins VALUES ('m1', '0xA', 'f1', NULL, 10, 1.0, 0.5, 40.0, 1),
                                ('m2', '0xa', 'f2', 'n', 20, 2.0, 0.5, 2.0, 0),
                                ('m3', '0xB', 'f3', NULL, 30, 3.0, 0.0, 0.0, 1);
        PRAGMA user_version = 1;";

    #[tokio::test]
    async fn schema_1_keeps_its_files_and_what_they_have_cost() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("localnet.sqlite");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let old = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        sqlx::raw_sql(SCHEMA_1).execute(&old).await.unwrap();
        old.close().await;
        // The second time it is up to date.
        for _ in 0..2 {
            let pool = open(folder.path()).await.unwrap();
            let charges: Vec<(String, f64, f64, i64)> =
                sqlx::query_as("SELECT item_hash, rate, consumed, active FROM charges ORDER BY item_hash")
                    .fetch_all(&pool)
                    .await
                    .unwrap();
            assert_eq!(charges, [("m1".into(), 0.5, 40.0, 1), ("m2".into(), 0.5, 2.0, 0)]);
            let spent: f64 = sqlx::query_scalar("SELECT spent FROM purses WHERE address = '0xa'")
                .fetch_one(&pool)
                .await
                .unwrap();
            assert_eq!(spent, 42.0);
            let pins: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pins")
                .fetch_one(&pool)
                .await
                .unwrap();
            assert_eq!(pins, 3);
            pool.close().await;
        }
    }
}
