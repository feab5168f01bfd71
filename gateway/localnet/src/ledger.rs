//! Credits: what a STORE or a machine costs, what an address has left, and who may run more.
//!
//! Prices are the network's defaults (reference, section 7), those of machines what `foundation` says now. Every address starts with the credits
//! of the settings and gets those that others transfer to it. Everything is charged while the node
//! runs, by [`settle`]; the time it is stopped costs nothing.

use serde_json::json;
use sqlx::SqliteConnection;

use crate::{
    config::{MAX_UNAUTHENTICATED_BYTES, MIB, Settings},
    content::{Class, Machine, Payment},
    db,
    error::Result,
    rejection::{ErrorCode, Judged, Rejection},
};

/// Credits for one MiB and hour.
pub(crate) const CREDITS_PER_MIB_HOUR: f64 = 0.179_67;
/// ALEPH tokens to hold for one MiB.
const TOKENS_PER_MIB: f64 = 1.0 / 3.0;
/// A STORE is charged as at least this many MiB.
const MIN_CHARGED_MIB: f64 = 25.0;
/// For how long everything that runs must be covered when something more is accepted.
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

/// Price of a machine, in credits per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MachinePrice {
    /// Processors, memory and cards.
    pub(crate) compute: f64,
    /// Everything its host keeps for it.
    pub(crate) disk: f64,
    /// What of `disk` the compute units include.
    pub(crate) included: f64,
    /// Size in MiB that `disk` is for.
    pub(crate) disk_mib: u64,
}

impl MachinePrice {
    pub(crate) fn credits_per_second(&self) -> f64 {
        self.compute + self.disk - self.included
    }
}

/// Compute unit of a class of machines; each has one processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    pub(crate) memory_mib: u64,
    pub(crate) disk_mib: u64,
    /// What an hour of it costs where nobody has said otherwise.
    pub(crate) credits: u64,
}

/// The compute unit of a class.
pub(crate) fn unit(class: Class) -> Unit {
    const GIB: u64 = 1_024;
    let (memory_gib, disk_gib, credits) = match class {
        Class::Instance => (2, 20, 14_250),
        Class::Confidential => (2, 20, 28_500),
        Class::GpuStandard => (6, 60, 43_125),
        Class::GpuPremium => (6, 60, 86_250),
    };
    Unit {
        memory_mib: memory_gib * GIB,
        disk_mib: disk_gib * GIB,
        credits,
    }
}

/// Price of running `machine`, which mounts `mounted_mib` MiB of stored files as they are, at so many credits for a unit
/// and hour.
pub(crate) fn machine(machine: &Machine, mounted_mib: u64, credits_per_hour: f64) -> MachinePrice {
    let Unit {
        memory_mib, disk_mib, ..
    } = unit(machine.class);
    let units = u64::from(machine.vcpus)
        .max(machine.memory_mib.div_ceil(memory_mib))
        .max(machine.gpu_units.into());
    let kept_mib = machine.disk_mib.saturating_add(mounted_mib);
    let disk = |mib: u64| mib as f64 * CREDITS_PER_MIB_HOUR / 3_600.0;
    MachinePrice {
        compute: units as f64 * credits_per_hour / 3_600.0,
        disk: disk(kept_mib),
        included: disk(kept_mib.min(units.saturating_mul(disk_mib))),
        disk_mib: kept_mib,
    }
}

/// Charges everything up to `now`.
pub(crate) async fn settle(connection: &mut SqliteConnection, now: f64) -> Result<()> {
    let settled: Option<f64> = sqlx::query_scalar("SELECT settled FROM meter WHERE id = 1")
        .fetch_optional(&mut *connection)
        .await?;
    let elapsed = settled.map_or(0.0, |settled| (now - settled).max(0.0));
    if elapsed > 0.0 {
        sqlx::query("UPDATE charges SET consumed = consumed + rate * ? WHERE active = 1")
            .bind(elapsed)
            .execute(&mut *connection)
            .await?;
        let running: Vec<(String, f64)> =
            sqlx::query_as("SELECT owner, SUM(rate) FROM charges WHERE active = 1 GROUP BY owner")
                .fetch_all(&mut *connection)
                .await?;
        for (owner, rate) in running {
            spend(connection, &owner, rate * elapsed, now).await?;
        }
    }
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

/// Takes `amount` from what an address got, first what expires first, and then from its starting credits.
async fn spend(connection: &mut SqliteConnection, address: &str, amount: f64, now: f64) -> Result<()> {
    let received: Vec<(i64, f64)> = sqlx::query_as(
        "SELECT id, remaining FROM credits
         WHERE address = ? AND remaining > 0 AND (expiration IS NULL OR expiration > ?)
         ORDER BY expiration IS NULL, expiration, id",
    )
    .bind(address)
    .bind(now)
    .fetch_all(&mut *connection)
    .await?;
    let mut open = amount;
    for (id, remaining) in received {
        if open <= 0.0 {
            return Ok(());
        }
        let part = open.min(remaining);
        open -= part;
        sqlx::query("UPDATE credits SET remaining = remaining - ? WHERE id = ?")
            .bind(part)
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "INSERT INTO purses (address, spent) VALUES (?, ?)
         ON CONFLICT (address) DO UPDATE SET spent = spent + excluded.spent",
    )
    .bind(address)
    .bind(open)
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
    let spent: f64 = sqlx::query_scalar("SELECT COALESCE(SUM(spent), 0.0) FROM purses WHERE address = ?")
        .bind(address)
        .fetch_one(&mut *connection)
        .await?;
    let received: f64 = sqlx::query_scalar(
        "SELECT COALESCE(SUM(remaining), 0.0) FROM credits
         WHERE address = ? AND (expiration IS NULL OR expiration > ?)",
    )
    .bind(address)
    .bind(db::now())
    .fetch_one(connection)
    .await?;
    Ok((settings.starting_credits(address) as f64 - spent).max(0.0) + received)
}

/// Whether `address` may store `bytes` more; the credits per second that it will cost.
///
/// `free_small` is the hold tier's free 25 MiB, which authenticated uploads do not get.
pub(crate) async fn admit_store(
    connection: &mut SqliteConnection,
    settings: &Settings,
    address: &str,
    payment: Payment,
    bytes: u64,
    free_small: bool,
) -> Judged<f64> {
    let price = price(mebibytes(bytes));
    match payment {
        Payment::Hold if free_small && bytes <= MAX_UNAUTHENTICATED_BYTES => Ok(0.0),
        // Nobody holds tokens on a local node.
        Payment::Hold => Err(Rejection::with(
            ErrorCode::Balance,
            json!({"account_balance": "0", "required_balance": price.tokens.to_string()}),
        )
        .into()),
        Payment::Credit => {
            admit(connection, settings, address, price.credits_per_second).await?;
            Ok(price.credits_per_second)
        }
    }
}

/// Whether the credits of `address` cover a day of everything it runs and of `rate` more.
pub(crate) async fn admit(
    connection: &mut SqliteConnection,
    settings: &Settings,
    address: &str,
    rate: f64,
) -> Judged<()> {
    let running: f64 =
        sqlx::query_scalar("SELECT COALESCE(SUM(rate), 0.0) FROM charges WHERE owner = ? AND active = 1")
            .bind(address)
            .fetch_one(&mut *connection)
            .await?;
    let required = (running + rate) * ADMISSION_SECONDS;
    let credits = balance(connection, settings, address).await?;
    if credits >= required {
        return Ok(());
    }
    Err(too_few(credits, required))
}

fn too_few(credits: f64, required: f64) -> crate::rejection::Halt {
    Rejection::with(
        ErrorCode::Credits,
        json!({
            "account_credits": credits.to_string(),
            "required_credits": required.to_string(),
            "min_runtime_days": 1,
        }),
    )
    .into()
}

/// Charges `owner` for a message, whose signed time is `since`, from now on.
pub(crate) async fn begin(
    connection: &mut SqliteConnection,
    item_hash: &str,
    owner: &str,
    since: f64,
    rate: f64,
) -> Result<()> {
    sqlx::query("INSERT INTO charges (item_hash, owner, since, rate) VALUES (?, ?, ?, ?)")
        .bind(item_hash)
        .bind(owner)
        .bind(since)
        .bind(rate)
        .execute(connection)
        .await?;
    Ok(())
}

/// Charges no longer for a message; what it has cost stays.
pub(crate) async fn end(connection: &mut SqliteConnection, item_hash: &str) -> Result<()> {
    sqlx::query("UPDATE charges SET active = 0 WHERE item_hash = ?")
        .bind(item_hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// One entry of a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) amount: u64,
    /// Unix seconds.
    pub(crate) expiration: Option<f64>,
    pub(crate) message: &'a str,
    /// Place in the message's list.
    pub(crate) position: usize,
    /// Unix seconds.
    pub(crate) time: f64,
}

/// Takes `amount` from `address`, which must have it.
pub(crate) async fn take(
    connection: &mut SqliteConnection,
    settings: &Settings,
    address: &str,
    amount: u64,
) -> Judged<()> {
    let credits = balance(connection, settings, address).await?;
    if credits < amount as f64 {
        // The network's node calls it a malformed message.
        return Err(Rejection::format(format!(
            "the transfer is of {amount} credits, and {credits} are there"
        ))
        .into());
    }
    spend(connection, address, amount as f64, db::now()).await?;
    Ok(())
}

/// Gives what [`take`] took to one receiver.
pub(crate) async fn give(connection: &mut SqliteConnection, moved: &Moved<'_>) -> Result<()> {
    sqlx::query(
        "INSERT INTO credits (sender, address, amount, remaining, expiration, message, position, time)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(moved.from)
    .bind(moved.to)
    .bind(db::signed(moved.amount))
    .bind(moved.amount as f64)
    .bind(moved.expiration)
    .bind(moved.message)
    .bind(db::signed(moved.position as u64))
    .bind(moved.time)
    .execute(connection)
    .await?;
    Ok(())
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
