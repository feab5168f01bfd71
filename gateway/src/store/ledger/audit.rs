//! The audit: the whole ledger added up again, in the order in which it was written.
//!
//! One pass over the entries, a part at a time, beside what each purse comes to by them; nothing is kept of an entry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use alephlab_api::money::{Amount, Asset};
use sqlx::Row as _;

use super::books::{PurseKind, add, amount, asset, read_purse};
use super::{Connection, Row, Store, corrupt, read_hold, unsigned};
use crate::error::Result;

/// Entries of one part.
const PART: i64 = 5_000;
/// Faults that are told; a ledger with more is as wrong.
const MOST: usize = 100;
/// How long between two audits of a gateway that runs.
const EVERY: Duration = Duration::from_secs(24 * 3_600);

/// What is wrong with the ledger; nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) entries: u64,
    pub(crate) purses: u64,
    /// One sentence each.
    pub(crate) faults: Vec<String>,
}

impl Audit {
    fn fault(&mut self, fault: impl FnOnce() -> String) {
        if self.faults.len() < MOST {
            self.faults.push(fault());
        }
    }
}

/// A purse as it stands, and as it comes out.
struct Checked {
    name: String,
    asset: Asset,
    may_owe: bool,
    stands: [Amount; 3],
    debits: Amount,
    credits: Amount,
    held: Amount,
}

impl Store {
    /// Adds everything up again: what purses say against their entries and holds, both sides of all entries, and that no purse ever
    /// owed that may not.
    pub(crate) async fn audit(&self) -> Result<Audit> {
        // All of one moment, whatever is written meanwhile.
        let mut read = self.read.begin().await?;
        let mut audit = Audit::default();
        let mut purses = purses(&mut read).await?;
        audit.purses = purses.len() as u64;
        let mut after = i64::MIN;
        loop {
            let part = part(&mut read, after).await?;
            let Some(last) = part.last() else { break };
            after = last.try_get("seq")?;
            for row in &part {
                add_entry(&mut audit, &mut purses, row)?;
            }
            audit.entries += part.len() as u64;
        }
        add_holds(&mut read, &mut purses).await?;
        let legs: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM legs")
            .fetch_one(&mut *read)
            .await?;
        if unsigned(legs) != 2 * audit.entries {
            let entries = audit.entries;
            audit.fault(|| format!("there are {legs} legs of {entries} entries"));
        }
        let mut purses: Vec<_> = purses.into_iter().collect();
        purses.sort_unstable_by_key(|(id, _)| *id);
        for (_, purse) in purses {
            purse.compare(&mut audit);
        }
        Ok(audit)
    }

    /// Audits once now and once a day, and tells what is wrong. Never ends.
    pub(crate) async fn keep_audited(&self) {
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            let began = Instant::now();
            match self.audit().await {
                Ok(audit) => {
                    for fault in &audit.faults {
                        tracing::error!(fault, "the ledger does not add up");
                    }
                    let (entries, took_ms) = (audit.entries, began.elapsed().as_millis());
                    tracing::info!(
                        entries,
                        took_ms,
                        faults = audit.faults.len(),
                        "the ledger was audited"
                    );
                }
                Err(error) => tracing::warn!(%error, "the ledger could not be audited"),
            }
        }
    }
}

async fn purses(read: &mut Connection) -> Result<HashMap<i64, Checked>> {
    let rows = sqlx::query("SELECT * FROM ledger_accounts")
        .fetch_all(read)
        .await?;
    let read = |row: &Row| {
        let purse = read_purse(row)?;
        let kind = PurseKind::parse(row.try_get("kind")?).ok_or_else(|| corrupt("a purse's kind"))?;
        let asset = asset(row)?;
        let owner: &str = row.try_get("owner")?;
        let checked = Checked {
            name: format!("{} of {owner} in {}", kind.name(), asset.name()),
            asset,
            may_owe: kind.may_owe(),
            stands: [purse.debits, purse.credits, purse.held],
            debits: Amount::ZERO,
            credits: Amount::ZERO,
            held: Amount::ZERO,
        };
        Ok((purse.id, checked))
    };
    rows.iter().map(read).collect()
}

/// Entries after this one, in order, each with what it moved from which purse to which.
async fn part(read: &mut Connection, after: i64) -> Result<Vec<Row>> {
    let rows = sqlx::query(
        "SELECT e.seq, e.asset, d.account AS giver, c.account AS taker, d.amount AS given, c.amount AS taken
         FROM entries e
         LEFT JOIN legs d ON d.entry = e.seq AND d.side = 'debit'
         LEFT JOIN legs c ON c.entry = e.seq AND c.side = 'credit'
         WHERE e.seq > $1 ORDER BY e.seq LIMIT $2",
    )
    .bind(after)
    .bind(PART)
    .fetch_all(read)
    .await?;
    Ok(rows)
}

fn add_entry(audit: &mut Audit, purses: &mut HashMap<i64, Checked>, row: &Row) -> Result<()> {
    let seq: i64 = row.try_get("seq")?;
    let (giver, taker): (Option<i64>, Option<i64>) = (row.try_get("giver")?, row.try_get("taker")?);
    let (Some(giver), Some(taker)) = (giver, taker) else {
        audit.fault(|| format!("entry {seq} does not have two legs"));
        return Ok(());
    };
    let (given, taken, asset) = (amount(row, "given")?, amount(row, "taken")?, asset(row)?);
    if given != taken {
        audit.fault(|| format!("entry {seq} takes {given} and gives {taken}"));
    }
    for (id, is_giver) in [(giver, true), (taker, false)] {
        let Some(purse) = purses.get_mut(&id) else {
            audit.fault(|| format!("entry {seq} is of a purse that is not there"));
            continue;
        };
        if purse.asset != asset {
            audit.fault(|| format!("entry {seq} moves {} of the purse {}", asset.name(), purse.name));
        }
        if !is_giver {
            purse.credits = add(purse.credits, taken)?;
            continue;
        }
        purse.debits = add(purse.debits, given)?;
        if purse.debits > purse.credits && !purse.may_owe {
            audit.fault(|| format!("the purse {} owes after entry {seq}", purse.name));
        }
    }
    Ok(())
}

async fn add_holds(read: &mut Connection, purses: &mut HashMap<i64, Checked>) -> Result<()> {
    let holds = sqlx::query("SELECT * FROM holds WHERE state = 'open'")
        .fetch_all(read)
        .await?;
    for row in &holds {
        let hold = read_hold(row)?;
        if let Some(purse) = purses.get_mut(&hold.account) {
            purse.held = add(purse.held, hold.left())?;
        }
    }
    Ok(())
}

impl Checked {
    fn compare(&self, audit: &mut Audit) {
        let [debits, credits, held] = self.stands;
        if (debits, credits) != (self.debits, self.credits) {
            audit.fault(|| format!("the purse {} is not what its entries say", self.name));
        }
        if held != self.held {
            audit.fault(|| {
                format!(
                    "the purse {} holds {held}, its holds are {}",
                    self.name, self.held
                )
            });
        }
    }
}
