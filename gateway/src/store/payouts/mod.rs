//! Withdrawals: what has left wallets and is on its way to the chain. `batches` pays them, `custody` has what comes in and what
//! there should be, `conversions` turns ALEPH into credits.
//!
//! Whatever changes an amount is one transaction with its entry: a gateway that is killed between any two of these calls has
//! lost and doubled nothing. What is decided, and when, is in `settlement`.

mod batches;
mod conversions;
mod custody;
#[cfg(test)]
mod tests;

use alephlab_api::ledger::EntryKind;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::payout::{Withdrawal, WithdrawalState};
use alephlab_api::time::unix_now;
use alephlab_settlement::PAYOUTS_MAX;
use axum::http::StatusCode;
use sqlx::Row as _;
use uuid::Uuid;

use super::audit::{Action, note};
use super::ledger::{Place, PurseKind, Transfer, add, amount, id, key_conflict, transfer};
use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::{GatewayError, Result};

pub(crate) use batches::{Planning, Progressing};
pub(crate) use conversions::{AskedConversion, OpenConversion};
pub(crate) use custody::{Standing, Watched};

/// So many are listed.
const LISTED: i64 = 200;
/// What counts to an account's limit, seconds.
const DAY: u64 = 24 * 3600;

/// What an account asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedWithdrawal<'a> {
    pub(crate) id: Uuid,
    pub(crate) account: &'a str,
    /// Its own, which it has proven.
    pub(crate) address: &'a str,
    pub(crate) amount: Amount,
    /// Most that it has paid out in a day.
    pub(crate) daily: Option<Amount>,
    /// How often in a day.
    pub(crate) times: usize,
}

impl Store {
    /// Takes what is asked for out of the wallet. The same id and content is one withdrawal.
    ///
    /// # Errors
    /// 402 `balance_too_small`; 409 `withdrawal_open` or `key_conflict`; 429 `withdrawal_limit`; 503 `withdrawals_stopped`.
    pub(crate) async fn ask_withdrawal(&self, asked: AskedWithdrawal<'_>) -> Result<Withdrawal> {
        let mut transaction = self.begin().await?;
        let id = asked.id.to_string();
        if let Some(known) = withdrawal(&mut transaction, &id).await? {
            let is_same = known.account == asked.account && known.shown.amount == asked.amount;
            return if is_same {
                Ok(known.shown)
            } else {
                Err(key_conflict(&id))
            };
        }
        if let Some(stop) = custody::stop_of(&mut transaction).await? {
            return Err(stopped(&stop.code));
        }
        if is_one_open(&mut transaction, asked.account).await? {
            let text = "this account has a withdrawal that is not over";
            return Err(
                GatewayError::refused(StatusCode::CONFLICT, "withdrawal_open", text)
                    .with_hint("see how far it is: alephlab wallet withdraw --list"),
            );
        }
        within_limit(&mut transaction, &asked).await?;
        let memo = format!("withdrawal to {}", asked.address);
        transfer(
            &mut transaction,
            &Transfer {
                key: &format!("withdraw:{id}"),
                kind: EntryKind::Withdraw,
                asset: Asset::Aleph,
                amount: asked.amount,
                hold: None,
                memo: &memo,
                from: Place::wallet(asked.account),
                to: Place::gateway(PurseKind::Payouts),
            },
        )
        .await?;
        let now = seconds(unix_now());
        sqlx::query(
            "INSERT INTO withdrawals (id, account, address, amount, state, not_before, together, asked)
             VALUES ($1, $2, $3, $4, 'asked', $5, $6, $5)",
        )
        .bind(&id)
        .bind(asked.account)
        .bind(asked.address)
        .bind(&asked.amount.to_bytes()[..])
        .bind(now)
        .bind(i64::try_from(PAYOUTS_MAX).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
        let what = format!("{} to {}", asked.amount.of(Asset::Aleph), asked.address);
        note(&mut transaction, asked.account, Action::WithdrawalAsked, &what).await?;
        let written = withdrawal(&mut transaction, &id).await?;
        transaction.commit().await?;
        written
            .map(|known| known.shown)
            .ok_or_else(|| corrupt("a withdrawal"))
    }

    /// Gives a withdrawal back to the account that asked for it, as long as it is in no batch; does nothing to one that came back.
    ///
    /// # Errors
    /// 404 `withdrawal_unknown`; 409 `withdrawal_under_way`.
    pub(crate) async fn take_withdrawal_back(&self, account: &str, id: Uuid) -> Result<Withdrawal> {
        let (mut transaction, id) = (self.begin().await?, id.to_string());
        let known = withdrawal(&mut transaction, &id).await?;
        let Some(known) = known.filter(|known| known.account == account) else {
            let text = "this account has no such withdrawal";
            return Err(GatewayError::not_found("withdrawal_unknown", text));
        };
        match known.shown.state {
            WithdrawalState::Asked => {}
            WithdrawalState::Returned => return Ok(known.shown),
            state => {
                let text = format!("it is under way: {}", state.words());
                let refused = GatewayError::refused(StatusCode::CONFLICT, "withdrawal_under_way", text);
                return Err(refused.with_hint("wait until it is paid or tried again"));
            }
        }
        give_back(&mut transaction, &id, "its account took it back").await?;
        let written = withdrawal(&mut transaction, &id).await?;
        transaction.commit().await?;
        written
            .map(|known| known.shown)
            .ok_or_else(|| corrupt("a withdrawal"))
    }

    /// A withdrawal of this account, if it was asked for already: then minimum and limits of now mean nothing.
    pub(crate) async fn known_withdrawal(&self, account: &str, id: Uuid) -> Result<Option<Withdrawal>> {
        let mut read = self.read.acquire().await?;
        let found = withdrawal(&mut read, &id.to_string()).await?;
        Ok(found
            .filter(|known| known.account == account)
            .map(|known| known.shown))
    }

    /// Withdrawals of an account, newest first.
    pub(crate) async fn payouts_of(&self, account: &str) -> Result<Vec<Withdrawal>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SELECT} WHERE w.account = $1 ORDER BY w.asked DESC, w.id LIMIT $2"
        )))
        .bind(account)
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(|row| Ok(read(row)?.shown)).collect()
    }

    /// How many wait for a batch, and what they come to.
    pub(crate) async fn payouts_asked(&self) -> Result<(u64, Amount)> {
        let rows = sqlx::query("SELECT amount FROM withdrawals WHERE state = 'asked'")
            .fetch_all(&self.read)
            .await?;
        sum(&rows)
    }
}

const SELECT: &str = "SELECT w.*, b.stage, b.waiting,
         (SELECT a.hash FROM payout_attempts a WHERE a.batch = w.batch ORDER BY a.place DESC LIMIT 1) AS attempt
     FROM withdrawals w LEFT JOIN payout_batches b ON b.id = w.batch";

/// A row, and whose it is.
struct Known {
    account: String,
    shown: Withdrawal,
}

async fn withdrawal(connection: &mut Connection, id: &str) -> Result<Option<Known>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE w.id = $1")))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<Known> {
    let stage: Option<String> = row.try_get("stage")?;
    let state = match (row.try_get::<&str, _>("state")?, stage.as_deref()) {
        ("asked", _) => WithdrawalState::Asked,
        ("batched", Some("planned" | "signed")) => WithdrawalState::InBatch,
        ("batched", Some("sent")) => WithdrawalState::Sent,
        ("batched", Some("mined")) => WithdrawalState::Mined,
        ("paid", _) => WithdrawalState::Paid,
        ("returned", _) => WithdrawalState::Returned,
        _ => return Err(corrupt("a withdrawal's state")),
    };
    // The batch that it was in last tells nothing while it waits for another one.
    let waits = state == WithdrawalState::Asked;
    let is_moving = !waits && state != WithdrawalState::Paid && state != WithdrawalState::Returned;
    let (batch, transaction, waiting): (Option<String>, Option<String>, Option<String>) = (
        row.try_get("batch")?,
        row.try_get("attempt")?,
        row.try_get("waiting")?,
    );
    let reason: Option<String> = row.try_get("reason")?;
    let shown = Withdrawal {
        id: id(row, "id")?,
        amount: amount(row, "amount")?,
        address: row.try_get("address")?,
        state,
        batch: batch.filter(|_| !waits),
        transaction: transaction.filter(|_| !waits),
        reason: if is_moving { waiting } else { reason },
        asked: unsigned(row.try_get("asked")?),
        ended: row.try_get::<Option<i64>, _>("ended")?.map(unsigned),
    };
    Ok(Known {
        account: row.try_get("account")?,
        shown,
    })
}

/// The refusal while withdrawals are stopped.
pub(crate) fn stopped(code: &str) -> GatewayError {
    let text =
        format!("withdrawals and conversions are stopped until the gateway's operator has looked ({code})");
    GatewayError::refused(StatusCode::SERVICE_UNAVAILABLE, "withdrawals_stopped", text)
        .with_hint("nothing is lost: what you have stays in your account; ask the operator")
}

async fn is_one_open(connection: &mut Connection, account: &str) -> Result<bool> {
    let open = sqlx::query("SELECT 1 FROM withdrawals WHERE account = $1 AND ended IS NULL")
        .bind(account)
        .fetch_optional(connection)
        .await?;
    Ok(open.is_some())
}

/// Refuses what is above the account's limit of 24 hours. What came back does not count.
async fn within_limit(connection: &mut Connection, asked: &AskedWithdrawal<'_>) -> Result<()> {
    let since = seconds(unix_now().saturating_sub(DAY));
    let rows = sqlx::query(
        "SELECT amount FROM withdrawals WHERE account = $1 AND asked > $2 AND state <> 'returned'",
    )
    .bind(asked.account)
    .bind(since)
    .fetch_all(connection)
    .await?;
    let (_, before) = sum(&rows)?;
    let refused =
        |text: String| GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "withdrawal_limit", text);
    if rows.len() >= asked.times {
        let text = format!("an account may withdraw {} times in 24 hours", asked.times);
        return Err(refused(text).with_hint("withdraw more at once, later"));
    }
    let Some(daily) = asked.daily else {
        return Ok(());
    };
    let left = daily.saturating_sub(before);
    if asked.amount <= left {
        return Ok(());
    }
    let text = format!(
        "{} are left of the {} that an account may withdraw in 24 hours",
        left.of(Asset::Aleph),
        daily.of(Asset::Aleph)
    );
    Err(refused(text).with_hint("withdraw less, or later"))
}

/// Gives a withdrawal back to its account, as a part of something larger.
async fn give_back(connection: &mut Connection, id: &str, reason: &str) -> Result<()> {
    let Some(known) = withdrawal(connection, id).await? else {
        return Err(corrupt("a withdrawal"));
    };
    let memo = format!("withdrawal came back: {reason}");
    transfer(
        connection,
        &Transfer {
            key: &format!("return:{id}"),
            kind: EntryKind::Return,
            asset: Asset::Aleph,
            amount: known.shown.amount,
            hold: None,
            memo: &memo,
            from: Place::gateway(PurseKind::Payouts),
            to: Place::wallet(&known.account),
        },
    )
    .await?;
    sqlx::query("UPDATE withdrawals SET state = 'returned', reason = $1, ended = $2 WHERE id = $3")
        .bind(reason)
        .bind(seconds(unix_now()))
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// How many rows, and the sum of their column `amount`.
fn sum(rows: &[Row]) -> Result<(u64, Amount)> {
    let mut total = Amount::ZERO;
    for row in rows {
        total = add(total, amount(row, "amount")?)?;
    }
    Ok((rows.len() as u64, total))
}
