//! Credits: what a STORE costs, what an address has left, and who may store more.
//!
//! Prices are the network's defaults (reference, section 7). Every address starts with the credits
//! of the settings; there is no other income. Stored files are charged while the node runs, by
//! [`settle`]; the time it is stopped costs nothing.

use serde_json::json;
use sqlx::SqliteConnection;

use crate::{
    config::{MAX_UNAUTHENTICATED_BYTES, MIB, Settings},
    content::Payment,
    error::Result,
    rejection::{ErrorCode, Judged, Rejection},
};

/// Credits for one MiB and hour.
const CREDITS_PER_MIB_HOUR: f64 = 0.179_67;
/// ALEPH tokens to hold for one MiB.
const TOKENS_PER_MIB: f64 = 1.0 / 3.0;
/// A STORE is charged as at least this many MiB.
const MIN_CHARGED_MIB: f64 = 25.0;
/// For how long everything stored must be covered when a STORE is accepted.
const ADMISSION_SECONDS: f64 = 86_400.0;

/// Price of one STORE.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Price {
    /// Size in MiB that the price is for.
    pub(crate) size_mib: f64,
    /// Credits per second.
    pub(crate) credits_per_second: f64,
    /// ALEPH tokens to hold.
    pub(crate) tokens: f64,
}

/// Price of storing `size_mib` MiB.
pub(crate) fn price(size_mib: f64) -> Price {
    Price {
        size_mib,
        credits_per_second: size_mib.max(MIN_CHARGED_MIB) * CREDITS_PER_MIB_HOUR / 3_600.0,
        tokens: size_mib * TOKENS_PER_MIB,
    }
}

/// `bytes` in MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    // Sizes are far below 2^53, where a float is exact.
    bytes as f64 / MIB as f64
}

/// Charges all stored files up to `now`.
pub(crate) async fn settle(connection: &mut SqliteConnection, now: f64) -> Result<()> {
    let settled: Option<f64> = sqlx::query_scalar("SELECT settled FROM meter WHERE id = 1")
        .fetch_optional(&mut *connection)
        .await?;
    let elapsed = settled.map_or(0.0, |settled| (now - settled).max(0.0));
    sqlx::query("UPDATE pins SET consumed = consumed + rate * ? WHERE active = 1")
        .bind(elapsed)
        .execute(&mut *connection)
        .await?;
    start_meter(connection, now).await
}

/// Begins charging at `now`; what was before stays free.
pub(crate) async fn start_meter(connection: &mut SqliteConnection, now: f64) -> Result<()> {
    sqlx::query("INSERT INTO meter (id, settled) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET settled = excluded.settled")
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Credits that `address` has left, as of the last [`settle`].
pub(crate) async fn balance(
    connection: &mut SqliteConnection,
    settings: &Settings,
    address: &str,
) -> Result<f64> {
    let consumed: f64 =
        sqlx::query_scalar("SELECT CAST(COALESCE(SUM(consumed), 0) AS REAL) FROM pins WHERE owner = ?")
            .bind(address)
            .fetch_one(connection)
            .await?;
    Ok((settings.starting_credits(address) as f64 - consumed).max(0.0))
}

/// Whether `address` may store `bytes` more.
///
/// `free_small` is the hold tier's free 25 MiB, which authenticated uploads do not get.
pub(crate) async fn admit(
    connection: &mut SqliteConnection,
    settings: &Settings,
    address: &str,
    payment: Payment,
    bytes: u64,
    free_small: bool,
) -> Judged<()> {
    let price = price(mebibytes(bytes));
    match payment {
        Payment::Hold if free_small && bytes <= MAX_UNAUTHENTICATED_BYTES => Ok(()),
        // Nobody holds tokens on a local node.
        Payment::Hold => Err(Rejection::with(
            ErrorCode::Balance,
            json!({"account_balance": "0", "required_balance": price.tokens.to_string()}),
        )
        .into()),
        Payment::Credit => {
            let running: f64 = sqlx::query_scalar(
                "SELECT CAST(COALESCE(SUM(rate), 0) AS REAL) FROM pins WHERE owner = ? AND active = 1",
            )
            .bind(address)
            .fetch_one(&mut *connection)
            .await?;
            let required = (running + price.credits_per_second) * ADMISSION_SECONDS;
            let credits = balance(connection, settings, address).await?;
            if credits >= required {
                return Ok(());
            }
            Err(Rejection::with(
                ErrorCode::Credits,
                json!({
                    "account_credits": credits.to_string(),
                    "required_credits": required.to_string(),
                    "min_runtime_days": 1,
                }),
            )
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_is_charged_as_at_least_25_mib() {
        assert_eq!(price(0.001).credits_per_second, price(25.0).credits_per_second);
        assert!(price(25.1).credits_per_second > price(25.0).credits_per_second);
    }

    #[test]
    fn one_gibibyte_for_a_month_costs_what_the_reference_says() {
        let month = price(1_024.0).credits_per_second * 3_600.0 * 730.0;
        assert!((134_200.0..134_400.0).contains(&month), "{month}");
    }
}
