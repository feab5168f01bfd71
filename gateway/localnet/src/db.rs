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
const SCHEMA_VERSION: i64 = 1;

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
    if version != 0 && version != SCHEMA_VERSION {
        return Err(refuse(format!(
            "it has schema {version}, and this version knows schema {SCHEMA_VERSION}"
        )));
    }
    sqlx::raw_sql(SCHEMA)
        .execute(&pool)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    sqlx::raw_sql("PRAGMA user_version = 1")
        .execute(&pool)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    Ok(pool)
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
