//! The audit: the whole ledger added up again, in the order in which it was written.
//!
//! One pass over the entries, a part at a time, beside what each purse and each hold comes to by them; nothing is kept of an entry.
//! What cannot be read or added up is a fault of that entry, purse or hold, and the rest is audited all the same.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use alephlab_api::ledger::EntryKind;
use alephlab_api::money::{Amount, Asset};
use sqlx::Row as _;

use super::books::{PurseKind, asset, read_purse};
use super::{Connection, Row, Store, read_hold, unsigned};
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
    /// It is told once that its amounts do not add up.
    is_told: bool,
}

/// Amounts that one side of a purse or a hold comes to; false where they are more than any amount.
fn raise(sum: &mut Amount, more: Amount) -> bool {
    match sum.checked_add(more) {
        Some(raised) => {
            *sum = raised;
            true
        }
        None => false,
    }
}

/// What entries took for a hold.
#[derive(Default)]
struct Taken {
    /// As charges.
    charged: Amount,
    /// In all, uses among them.
    all: Amount,
}

/// A ledger as it comes out, and what is wrong with it.
#[derive(Default)]
struct Auditor {
    audit: Audit,
    purses: HashMap<i64, Checked>,
    holds: HashMap<String, Taken>,
}

impl Store {
    /// Adds everything up again: what purses and holds say against their entries, purses against their holds, both sides of all entries,
    /// that no purse ever owed that may not, and that what ended with a charge has a receipt.
    pub(crate) async fn audit(&self) -> Result<Audit> {
        // One at a time: each holds a reader for seconds.
        let _turn = self.auditing.lock().await;
        // All of one moment, whatever is written meanwhile.
        let mut read = self.read.begin().await?;
        let mut auditor = Auditor::default();
        auditor.read_purses(&mut read).await?;
        let mut after = i64::MIN;
        while let Some(last) = last_of_part(&mut read, after).await? {
            let part = part(&mut read, self.is_file(), after, last).await?;
            for row in &part {
                // None where something is missing that the schema wants.
                let line = row.try_get::<Option<&str>, _>("line")?.unwrap_or_default();
                let (seq, rest) = line.split_once(' ').unwrap_or((line, ""));
                match Line::read(rest) {
                    Some(line) => auditor.add_entry(seq, &line),
                    None => auditor.audit.fault(|| format!("entry {seq} cannot be read")),
                }
            }
            auditor.audit.entries += part.len() as u64;
            after = last;
        }
        auditor.check_holds(&mut read).await?;
        let mut audit = auditor.audit;
        let legs: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM legs")
            .fetch_one(&mut *read)
            .await?;
        if unsigned(legs) != 2 * audit.entries {
            let entries = audit.entries;
            audit.fault(|| format!("there are {legs} legs of {entries} entries"));
        }
        let mut purses: Vec<_> = auditor.purses.into_iter().collect();
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
                Err(error) => tracing::error!(%error, "the ledger could not be audited"),
            }
        }
    }
}

impl Auditor {
    async fn read_purses(&mut self, read: &mut Connection) -> Result<()> {
        let rows = sqlx::query("SELECT * FROM ledger_accounts")
            .fetch_all(read)
            .await?;
        self.audit.purses = rows.len() as u64;
        for row in &rows {
            let id: i64 = row.try_get("id")?;
            match checked(row) {
                Ok(Some(purse)) => drop(self.purses.insert(id, purse)),
                Ok(None) => self.audit.fault(|| format!("the purse {id} is of no known kind")),
                Err(error) => self
                    .audit
                    .fault(|| format!("the purse {id} cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, seq: &str, line: &Line<'_>) {
        let audit = &mut self.audit;
        let (Some((giver, given)), Some((taker, taken))) = (line.giver, line.taker) else {
            audit.fault(|| format!("entry {seq} does not have two legs"));
            return;
        };
        let asset = line.asset;
        if given != taken {
            audit.fault(|| format!("entry {seq} takes {given} and gives {taken}"));
        }
        if let Some(hold) = line.hold {
            let of = self.holds.entry(hold.to_owned()).or_default();
            let is_charge = line.kind == EntryKind::Charge;
            let adds_up = raise(&mut of.all, given) && (!is_charge || raise(&mut of.charged, given));
            if !adds_up {
                audit.fault(|| {
                    format!("what was taken for the hold {hold} is larger than any amount after entry {seq}")
                });
            }
        }
        for (id, is_giver) in [(giver, true), (taker, false)] {
            let Some(purse) = self.purses.get_mut(&id) else {
                audit.fault(|| format!("entry {seq} is of a purse that is not there"));
                continue;
            };
            if purse.asset != asset {
                audit.fault(|| format!("entry {seq} moves {} of the purse {}", asset.name(), purse.name));
            }
            let adds_up = match is_giver {
                true => raise(&mut purse.debits, given),
                false => raise(&mut purse.credits, taken),
            };
            if !adds_up && !purse.is_told {
                purse.is_told = true;
                audit.fault(|| {
                    format!(
                        "the purse {} has more than any amount after entry {seq}",
                        purse.name
                    )
                });
            }
            if is_giver && purse.debits > purse.credits && !purse.may_owe {
                audit.fault(|| format!("the purse {} owes after entry {seq}", purse.name));
            }
        }
    }

    /// All holds against their entries and receipts; what open ones have set aside is added to their purses.
    async fn check_holds(&mut self, read: &mut Connection) -> Result<()> {
        let mut after = String::new();
        loop {
            let holds = sqlx::query(
                "SELECT h.*, r.id AS receipt FROM holds h LEFT JOIN receipts r ON r.about = 'hold:' || h.id
                 WHERE h.id > $1 ORDER BY h.id LIMIT $2",
            )
            .bind(&after)
            .bind(PART)
            .fetch_all(&mut *read)
            .await?;
            let Some(last) = holds.last() else {
                for hold in self.holds.keys() {
                    self.audit
                        .fault(|| format!("there are entries of the hold {hold}, which is not there"));
                }
                return Ok(());
            };
            last.try_get::<&str, _>("id")?.clone_into(&mut after);
            for row in &holds {
                let id: &str = row.try_get("id")?;
                if let Err(error) = self.check_hold(id, row) {
                    self.audit
                        .fault(|| format!("the hold {id} cannot be read: {error}"));
                }
            }
        }
    }

    fn check_hold(&mut self, id: &str, row: &Row) -> Result<()> {
        let (audit, hold) = (&mut self.audit, read_hold(row)?);
        let taken = self.holds.remove(id).unwrap_or_default();
        let charged = hold.charged;
        if charged < taken.charged || charged > taken.all {
            let of = taken.charged;
            audit.fault(|| format!("the hold {id} says that {charged} was charged, its entries say {of}"));
        }
        if !hold.is_open {
            if !charged.is_zero() && row.try_get::<Option<&str>, _>("receipt")?.is_none() {
                audit.fault(|| format!("the hold {id} ended over {charged} without a receipt"));
            }
            return Ok(());
        }
        let Some(purse) = self.purses.get_mut(&hold.account) else {
            audit.fault(|| format!("the hold {id} is of a purse that is not there"));
            return Ok(());
        };
        if !raise(&mut purse.held, hold.left()) {
            audit.fault(|| format!("the purse {} holds more than any amount", purse.name));
        }
        Ok(())
    }
}

/// None where its kind is none.
fn checked(row: &Row) -> Result<Option<Checked>> {
    let (purse, asset) = (read_purse(row)?, asset(row)?);
    let Some(kind) = PurseKind::parse(row.try_get("kind")?) else {
        return Ok(None);
    };
    let owner: &str = row.try_get("owner")?;
    Ok(Some(Checked {
        name: format!("{} of {owner} in {}", kind.name(), asset.name()),
        asset,
        may_owe: kind.may_owe(),
        stands: [purse.debits, purse.credits, purse.held],
        debits: Amount::ZERO,
        credits: Amount::ZERO,
        held: Amount::ZERO,
        is_told: false,
    }))
}

/// The last of the entries after this one that are read at once.
async fn last_of_part(read: &mut Connection, after: i64) -> Result<Option<i64>> {
    let last = sqlx::query_scalar(
        "SELECT MAX(seq) FROM (SELECT seq FROM entries WHERE seq > $1 ORDER BY seq LIMIT $2) AS part",
    )
    .bind(after)
    .bind(PART)
    .fetch_one(read)
    .await?;
    Ok(last)
}

/// Entries after this one up to that, in order, each a line as [`Line::read`] reads it. Legs are bounded, too: no plan of a server
/// reads all of them for each part.
async fn part(read: &mut Connection, is_file: bool, after: i64, last: i64) -> Result<Vec<Row>> {
    // One column: making a row of nine took more time than all that the database does for it.
    let hex = |amount: &str| match is_file {
        true => format!("HEX({amount})"),
        false => format!("ENCODE({amount}, 'hex')"),
    };
    let leg = |leg: &str| {
        let amount = hex(&format!("{leg}.amount"));
        format!("COALESCE({leg}.account || ' ' || {amount}, '- -')")
    };
    let (giver, taker) = (leg("d"), leg("c"));
    let statement = format!(
        "SELECT e.seq || ' ' || e.asset || ' ' || e.kind || ' ' || COALESCE(e.hold, '-') || ' ' || {giver} || ' ' || {taker} AS line
         FROM entries e
         LEFT JOIN legs d ON d.entry = e.seq AND d.side = 'debit' AND d.entry > $1 AND d.entry <= $2
         LEFT JOIN legs c ON c.entry = e.seq AND c.side = 'credit' AND c.entry > $1 AND c.entry <= $2
         WHERE e.seq > $1 AND e.seq <= $2 ORDER BY e.seq"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(after)
        .bind(last)
        .fetch_all(read)
        .await?;
    Ok(rows)
}

/// An entry: its asset and kind, its hold, and who gave and who took how much.
struct Line<'a> {
    asset: Asset,
    kind: EntryKind,
    hold: Option<&'a str>,
    giver: Option<(i64, Amount)>,
    taker: Option<(i64, Amount)>,
}

impl<'a> Line<'a> {
    /// None where a word is missing, is too many or cannot be read. `-` is nothing.
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let read = Self {
            asset: words.next()?.parse().ok()?,
            kind: EntryKind::parse(words.next()?)?,
            hold: words.next().map(|hold| (hold != "-").then_some(hold))?,
            giver: leg(words.next()?, words.next()?)?,
            taker: leg(words.next()?, words.next()?)?,
        };
        words.next().is_none().then_some(read)
    }
}

/// A leg's purse and amount; a part of nothing where there is no such leg.
fn leg(purse: &str, amount: &str) -> Option<Option<(i64, Amount)>> {
    if (purse, amount) == ("-", "-") {
        return Some(None);
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(amount, &mut bytes).ok()?;
    Some(Some((purse.parse().ok()?, Amount::from_bytes(bytes))))
}

impl Checked {
    fn compare(&self, audit: &mut Audit) {
        let [debits, credits, held] = self.stands;
        if (debits, credits) != (self.debits, self.credits) {
            audit.fault(|| format!("the purse {} is not what its entries say", self.name));
        }
        // What is set aside is there.
        if debits.checked_add(held).is_none_or(|bound| bound > credits) && !self.may_owe {
            audit.fault(|| format!("the purse {} holds {held}, which it does not have", self.name));
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
