//! Batches of withdrawals: planned in one transaction, their transactions written before they are sent, and their end booked once
//! under the batch's id.

use alephlab_api::payout::OpenBatch;
use alephlab_settlement::{
    Address, Attempt, B256, Batch, Fees, PAYOUTS_MAX, Payout, Place as ChainPlace, Progress, Stage,
};

use super::*;

/// So often a withdrawal is tried that the token or its recipient does not take; then it goes back.
const TRIES_MAX: u32 = 5;
/// How long it waits before it is tried again, at first; four times as long each time.
const WAIT: u64 = 3_600;
/// Withdrawals that are looked at for one batch.
const CANDIDATES: i64 = 2_000;

/// What a new batch may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planning {
    pub(crate) place: ChainPlace,
    /// A name that was never used.
    pub(crate) id: B256,
    pub(crate) now: u64,
    pub(crate) deadline: u64,
    /// Most that the contract could pay.
    pub(crate) most: Amount,
}

/// The batch that is open.
#[derive(Debug, Clone)]
pub(crate) struct Progressing {
    pub(crate) progress: Progress,
    /// It was found to need halves.
    pub(crate) smaller: bool,
    stage: String,
    waiting: Option<String>,
}

impl Progressing {
    /// As the operator sees it.
    pub(crate) fn shown(&self) -> OpenBatch {
        let batch = &self.progress.batch;
        OpenBatch {
            id: batch.id().to_string(),
            stage: self.stage.clone(),
            total: batch.total(),
            payouts: batch.payouts().len() as u64,
            deadline: batch.deadline(),
            waiting: self.waiting.clone(),
        }
    }
}

/// A withdrawal that is due.
struct Due {
    id: String,
    address: String,
    amount: Amount,
    together: usize,
}

impl Store {
    /// Makes a batch of what is due; none when nothing is, while one is open, or while withdrawals are stopped.
    pub(crate) async fn plan_batch(&self, planning: &Planning) -> Result<Option<Batch>> {
        let mut transaction = self.begin().await?;
        let open = sqlx::query("SELECT 1 FROM payout_batches WHERE ended IS NULL")
            .fetch_optional(&mut *transaction)
            .await?;
        if open.is_some() || custody::stop_of(&mut transaction).await?.is_some() {
            return Ok(None);
        }
        let due = due(&mut transaction, planning.now).await?;
        let (chosen, too_large) = choose(due, planning.most);
        let reason = format!(
            "the contract that pays can pay {} at the moment",
            planning.most.of(Asset::Aleph)
        );
        for one in &too_large {
            sqlx::query("UPDATE withdrawals SET reason = $1 WHERE id = $2")
                .bind(&reason)
                .bind(&one.id)
                .execute(&mut *transaction)
                .await?;
        }
        let batch = match chosen.is_empty() {
            true => None,
            false => Some(write(&mut transaction, planning, &chosen).await?),
        };
        transaction.commit().await?;
        Ok(batch)
    }

    /// The open batch with everything that was written of it.
    pub(crate) async fn open_batch(&self) -> Result<Option<Progressing>> {
        // Not by a reader, which may be a moment behind: what is signed must be known.
        let mut transaction = self.begin().await?;
        let row = sqlx::query("SELECT * FROM payout_batches WHERE ended IS NULL")
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("id")?;
        let mut progress = Progress::new(read_batch(&mut transaction, &row).await?);
        let attempts = sqlx::query("SELECT * FROM payout_attempts WHERE batch = $1 ORDER BY place")
            .bind(&id)
            .fetch_all(&mut *transaction)
            .await?;
        for attempt in &attempts {
            progress.attempts.push(read_attempt(attempt)?);
        }
        Ok(Some(Progressing {
            progress,
            smaller: row.try_get::<i64, _>("smaller")? != 0,
            stage: row.try_get("stage")?,
            waiting: row.try_get("waiting")?,
        }))
    }

    /// Writes down what was signed; only then is it sent.
    pub(crate) async fn write_attempt(&self, batch: B256, place: usize, attempt: &Attempt) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO payout_attempts (batch, place, sender, nonce, fee_most, fee_tip, hash, raw)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(batch.to_string())
        .bind(i64::try_from(place).unwrap_or(i64::MAX))
        .bind(attempt.sender.to_string())
        .bind(seconds(attempt.nonce))
        .bind(attempt.fees.most.to_string())
        .bind(attempt.fees.tip.to_string())
        .bind(attempt.hash.to_string())
        .bind(&attempt.raw[..])
        .execute(&mut *transaction)
        .await?;
        set_stage(&mut transaction, batch, Stage::Signed, None).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes what a node said to the newest attempt of a batch.
    pub(crate) async fn note_attempt(&self, batch: B256, attempt: &Attempt) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query("UPDATE payout_attempts SET sent_at = $1, cheap = $2 WHERE batch = $3 AND hash = $4")
            .bind(attempt.sent_at.map(seconds))
            .bind(i64::from(attempt.is_cheap))
            .bind(batch.to_string())
            .bind(attempt.hash.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes how far a batch is, and what it waits for.
    pub(crate) async fn note_batch(
        &self,
        batch: B256,
        stage: Stage,
        (waiting, smaller): (Option<&str>, bool),
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        set_stage(&mut transaction, batch, stage, waiting).await?;
        if smaller {
            sqlx::query("UPDATE payout_batches SET smaller = 1 WHERE id = $1 AND ended IS NULL")
                .bind(batch.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Books a batch that was paid, but for those at `unpaid`: what was moved leaves the books, the rest is tried again later or goes
    /// back. Does nothing for one that has ended.
    pub(crate) async fn conclude_batch(&self, batch: &Batch, unpaid: &[usize]) -> Result<()> {
        let (mut transaction, id) = (self.begin().await?, batch.id().to_string());
        let Some(members) = members(&mut transaction, &id).await? else {
            return Ok(());
        };
        let mut paid = Amount::ZERO;
        for (place, withdrawal) in members.iter().enumerate() {
            let is_paid = !unpaid.contains(&place);
            sqlx::query("UPDATE payouts SET paid = $1 WHERE batch = $2 AND place = $3")
                .bind(i64::from(is_paid))
                .bind(&id)
                .bind(i64::try_from(place).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
            if is_paid {
                let payout = batch.payouts().get(place).ok_or_else(|| corrupt("a batch"))?;
                paid = add(paid, payout.amount)?;
                sqlx::query("UPDATE withdrawals SET state = 'paid', reason = NULL, ended = $1 WHERE id = $2")
                    .bind(seconds(unix_now()))
                    .bind(withdrawal)
                    .execute(&mut *transaction)
                    .await?;
            } else {
                try_again(
                    &mut transaction,
                    withdrawal,
                    "the token does not move to this address",
                )
                .await?;
            }
        }
        let memo = format!("batch {id}");
        transfer(
            &mut transaction,
            &Transfer {
                key: &format!("settle:{id}"),
                kind: EntryKind::Settle,
                asset: Asset::Aleph,
                amount: paid,
                hold: None,
                memo: &memo,
                from: Place::gateway(PurseKind::Payouts),
                to: Place::gateway(PurseKind::Custody),
            },
        )
        .await?;
        end(&mut transaction, &id, "paid").await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Books a batch that never will be paid: its withdrawals wait for another one, in halves where `smaller`.
    pub(crate) async fn drop_batch(&self, batch: &Batch, smaller: bool) -> Result<()> {
        let (mut transaction, id) = (self.begin().await?, batch.id().to_string());
        let Some(members) = members(&mut transaction, &id).await? else {
            return Ok(());
        };
        let half = members.len().div_ceil(2);
        for withdrawal in &members {
            if smaller && members.len() == 1 {
                try_again(&mut transaction, withdrawal, "paying it alone takes too much gas").await?;
                continue;
            }
            let together = if smaller { half } else { PAYOUTS_MAX };
            sqlx::query(
                "UPDATE withdrawals SET state = 'asked', reason = $1,
                     together = CASE WHEN together < $2 THEN together ELSE $2 END WHERE id = $3",
            )
            .bind("its batch was not paid in time; it goes into another one")
            .bind(i64::try_from(together).unwrap_or(i64::MAX))
            .bind(withdrawal)
            .execute(&mut *transaction)
            .await?;
        }
        end(&mut transaction, &id, "dropped").await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn due(connection: &mut Connection, now: u64) -> Result<Vec<Due>> {
    let rows = sqlx::query(
        "SELECT id, address, amount, together FROM withdrawals
         WHERE state = 'asked' AND not_before <= $1 ORDER BY not_before, asked, id LIMIT $2",
    )
    .bind(seconds(now))
    .bind(CANDIDATES)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                id: row.try_get("id")?,
                address: row.try_get("address")?,
                amount: amount(row, "amount")?,
                together: usize::try_from(row.try_get::<i64, _>("together")?).unwrap_or(1),
            })
        })
        .collect()
}

/// Who goes into one batch, and who is left out because the contract cannot pay so much now.
fn choose(due: Vec<Due>, most: Amount) -> (Vec<Due>, Vec<Due>) {
    let (mut chosen, mut too_large, mut left, mut limit) = (Vec::new(), Vec::new(), most, PAYOUTS_MAX);
    for one in due {
        if one.amount > most {
            too_large.push(one);
            continue;
        }
        let with_it = limit.min(one.together);
        // Who fits into the next one only does not stop those after it.
        if let Some(less) = left.checked_sub(one.amount).filter(|_| chosen.len() < with_it) {
            (left, limit) = (less, with_it);
            chosen.push(one);
        }
    }
    (chosen, too_large)
}

async fn write(connection: &mut Connection, planning: &Planning, chosen: &[Due]) -> Result<Batch> {
    let payouts = chosen.iter().map(|one| {
        Ok(Payout {
            to: parsed(&one.address, "an address")?,
            amount: one.amount,
        })
    });
    let payouts = payouts.collect::<Result<Vec<_>>>()?;
    let batch = Batch::new(planning.place, planning.id, planning.deadline, payouts)
        .map_err(|error| corrupt(&error.to_string()))?;
    let id = planning.id.to_string();
    sqlx::query(
        "INSERT INTO payout_batches (id, chain, contract, deadline, stage, created)
         VALUES ($1, $2, $3, $4, 'planned', $5)",
    )
    .bind(&id)
    .bind(seconds(planning.place.chain_id))
    .bind(planning.place.contract.to_string())
    .bind(seconds(planning.deadline))
    .bind(seconds(planning.now))
    .execute(&mut *connection)
    .await?;
    for (place, one) in chosen.iter().enumerate() {
        sqlx::query("INSERT INTO payouts (batch, place, withdrawal) VALUES ($1, $2, $3)")
            .bind(&id)
            .bind(i64::try_from(place).unwrap_or(i64::MAX))
            .bind(&one.id)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE withdrawals SET state = 'batched', batch = $1, reason = NULL WHERE id = $2")
            .bind(&id)
            .bind(&one.id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(batch)
}

/// Withdrawals of a batch in its order; none when it has ended.
async fn members(connection: &mut Connection, batch: &str) -> Result<Option<Vec<String>>> {
    let open = sqlx::query("SELECT 1 FROM payout_batches WHERE id = $1 AND ended IS NULL")
        .bind(batch)
        .fetch_optional(&mut *connection)
        .await?;
    if open.is_none() {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT withdrawal FROM payouts WHERE batch = $1 ORDER BY place")
        .bind(batch)
        .fetch_all(connection)
        .await?;
    let members = rows.iter().map(|row| Ok(row.try_get("withdrawal")?));
    members.collect::<Result<Vec<_>>>().map(Some)
}

/// Who was not paid waits longer each time, and has it back in the end.
async fn try_again(connection: &mut Connection, withdrawal: &str, reason: &str) -> Result<()> {
    let tries: i64 =
        sqlx::query_scalar("UPDATE withdrawals SET tries = tries + 1 WHERE id = $1 RETURNING tries")
            .bind(withdrawal)
            .fetch_one(&mut *connection)
            .await?;
    let tries = u32::try_from(tries).unwrap_or(u32::MAX);
    if tries >= TRIES_MAX {
        return give_back(connection, withdrawal, reason).await;
    }
    let not_before = unix_now() + WAIT * 4_u64.pow(tries.saturating_sub(1));
    sqlx::query("UPDATE withdrawals SET state = 'asked', not_before = $1, reason = $2 WHERE id = $3")
        .bind(seconds(not_before))
        .bind(format!("{reason}; it is tried again"))
        .bind(withdrawal)
        .execute(connection)
        .await?;
    Ok(())
}

async fn end(connection: &mut Connection, batch: &str, stage: &str) -> Result<()> {
    sqlx::query("UPDATE payout_batches SET stage = $1, waiting = NULL, ended = $2 WHERE id = $3")
        .bind(stage)
        .bind(seconds(unix_now()))
        .bind(batch)
        .execute(connection)
        .await?;
    Ok(())
}

async fn set_stage(
    connection: &mut Connection,
    batch: B256,
    stage: Stage,
    waiting: Option<&str>,
) -> Result<()> {
    let name = match stage {
        Stage::Planned => "planned",
        Stage::Signed => "signed",
        Stage::Sent => "sent",
        Stage::Mined => "mined",
        // How it ended is booked with what follows from it.
        Stage::Paid | Stage::Dropped => return Ok(()),
    };
    sqlx::query("UPDATE payout_batches SET stage = $1, waiting = $2 WHERE id = $3 AND ended IS NULL")
        .bind(name)
        .bind(waiting)
        .bind(batch.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

async fn read_batch(connection: &mut Connection, row: &Row) -> Result<Batch> {
    let id: String = row.try_get("id")?;
    let rows = sqlx::query(
        "SELECT w.address, w.amount FROM payouts p JOIN withdrawals w ON w.id = p.withdrawal
         WHERE p.batch = $1 ORDER BY p.place",
    )
    .bind(&id)
    .fetch_all(connection)
    .await?;
    let payouts = rows.iter().map(|row| {
        Ok(Payout {
            to: parsed(row.try_get("address")?, "an address")?,
            amount: amount(row, "amount")?,
        })
    });
    let place = ChainPlace {
        chain_id: unsigned(row.try_get("chain")?),
        contract: parsed::<Address>(row.try_get("contract")?, "a contract")?,
    };
    let deadline = unsigned(row.try_get("deadline")?);
    let batch = Batch::new(
        place,
        parsed(&id, "a batch's id")?,
        deadline,
        payouts.collect::<Result<_>>()?,
    );
    batch.map_err(|error| corrupt(&error.to_string()))
}

fn read_attempt(row: &Row) -> Result<Attempt> {
    Ok(Attempt {
        sender: parsed(row.try_get("sender")?, "a sender")?,
        nonce: unsigned(row.try_get("nonce")?),
        fees: Fees {
            most: parsed(row.try_get("fee_most")?, "a fee")?,
            tip: parsed(row.try_get("fee_tip")?, "a fee")?,
        },
        hash: parsed(row.try_get("hash")?, "a transaction")?,
        raw: row.try_get("raw")?,
        sent_at: row.try_get::<Option<i64>, _>("sent_at")?.map(unsigned),
        is_cheap: row.try_get::<i64, _>("cheap")? != 0,
    })
}

pub(super) fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(what))
}
