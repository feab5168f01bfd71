//! The ledger's rows: purses, entries with two legs, and holds. What moves, and when, is decided in `ledger`.
//!
//! Everything that changes an amount is one transaction: an entry, its legs and both purses, or nothing.

mod audit;
mod books;
mod raising;

use alephlab_api::ledger::{Balance, Entry, EntryKind};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use axum::http::StatusCode;
use sqlx::Row as _;
use uuid::Uuid;

use super::audit::{Action, note};
use super::identities::account_of;
use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::{GatewayError, Result};
use crate::receipts::ReceiptKey;

use books::{NewEntry, asset, post, purse, purse_of, read_purse, set_held};
pub(super) use books::{Place, PurseKind, Transfer, add, amount, id, key_conflict, take_over, transfer};
pub(crate) use raising::hold_ended;

/// Seconds that a price is for.
const HOUR: u64 = 3_600;

/// What is asked for with a hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewHold<'a> {
    /// Whose.
    pub(crate) owner: &'a str,
    /// The same key is the same hold.
    pub(crate) key: &'a str,
    /// Most that is charged.
    pub(crate) amount: Amount,
    /// For an hour.
    pub(crate) price: Amount,
    /// What for, in words.
    pub(crate) memo: &'a str,
}

/// A hold as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) id: Uuid,
    /// What it was asked for under: the kernel's id.
    pub(crate) key: String,
    pub(crate) amount: Amount,
    pub(crate) charged: Amount,
    /// That were charged.
    pub(crate) seconds: u64,
    pub(crate) is_open: bool,
    /// For an hour.
    pub(crate) price: Amount,
    pub(super) account: i64,
    pub(super) memo: String,
}

impl Hold {
    /// What is not charged yet.
    pub(crate) fn left(&self) -> Amount {
        self.amount.saturating_sub(self.charged)
    }

    /// For how many more seconds it lasts.
    pub(crate) fn seconds_left(&self) -> u64 {
        let whole = self
            .amount
            .part(HOUR, 1)
            .map_or(u64::MAX, |hours| hours.times(self.price));
        whole.saturating_sub(self.seconds)
    }

    /// What so many seconds cost, at most all of it. A price of which they cost more than any amount is more than the hold.
    fn due(&self, seconds: u64) -> Amount {
        self.price
            .part(seconds, HOUR)
            .map_or(self.amount, |due| due.min(self.amount))
    }
}

impl Store {
    /// Gives an account something to spend. The same key is carried out once.
    pub(crate) async fn credit(
        &self,
        (giver, owner): (&str, &str),
        asset: Asset,
        amount: Amount,
        key: &str,
        memo: &str,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        let key = format!("credit:{key}");
        // Here, so that the address is not linked in between.
        let owner = &account_of(&mut transaction, owner).await?;
        let given = Transfer {
            key: &key,
            kind: EntryKind::Credit,
            asset,
            amount,
            hold: None,
            memo,
            from: Place::gateway(PurseKind::Issued),
            to: Place::wallet(owner),
        };
        if !transfer(&mut transaction, &given).await? {
            return Ok(());
        }
        let what = format!("{amount} {} to {owner}", asset.name());
        note(&mut transaction, giver, Action::CreditGiven, &what).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// All assets of an account.
    pub(crate) async fn balances(&self, owner: &str) -> Result<Vec<Balance>> {
        let rows =
            sqlx::query("SELECT * FROM ledger_accounts WHERE owner = $1 AND kind = 'wallet' ORDER BY asset")
                .bind(owner)
                .fetch_all(&self.read)
                .await?;
        rows.iter()
            .map(|row| {
                let purse = read_purse(row)?;
                Ok(Balance {
                    asset: asset(row)?,
                    total: purse.credits.saturating_sub(purse.debits),
                    held: purse.held,
                    available: purse.available(),
                })
            })
            .collect()
    }

    /// Entries of an account after the one at `after`, oldest first.
    pub(crate) async fn statement(&self, owner: &str, after: u64, limit: u32) -> Result<Vec<Entry>> {
        let rows = sqlx::query(
            "SELECT e.*, l.amount, l.side FROM legs l
             JOIN entries e ON e.seq = l.entry
             JOIN ledger_accounts a ON a.id = l.account
             WHERE a.owner = $1 AND a.kind = 'wallet' AND e.seq > $2 ORDER BY e.seq LIMIT $3",
        )
        .bind(owner)
        .bind(seconds(after))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(entry).collect()
    }

    /// Sets credits aside for something that runs.
    ///
    /// # Errors
    /// 402 `balance_too_small`; 409 `key_conflict` when the key is another hold's.
    pub(crate) async fn hold(&self, new: NewHold<'_>) -> Result<Hold> {
        let mut transaction = self.begin().await?;
        let wallet = purse(&mut transaction, Place::wallet(new.owner), Asset::Credit).await?;
        let known = sqlx::query("SELECT * FROM holds WHERE key = $1")
            .bind(new.key)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(row) = known {
            let hold = read_hold(&row)?;
            let is_same = (hold.account, hold.amount, hold.price) == (wallet.id, new.amount, new.price);
            return if is_same && hold.is_open {
                Ok(hold)
            } else {
                Err(key_conflict(new.key))
            };
        }
        let available = wallet.available();
        let held = wallet
            .held
            .checked_add(new.amount)
            .filter(|_| new.amount <= available);
        let Some(held) = held else {
            let text = format!(
                "{} have to be set aside for it, and {} are available",
                new.amount.of(Asset::Credit),
                available.of(Asset::Credit)
            );
            return Err(
                GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "balance_too_small", text).with_hint(
                    "ask the gateway's operator for credits, or set a lower limit: KERNEL_MAX_PRICE",
                ),
            );
        };
        let id = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO holds (id, key, account, amount, price, charged, seconds, memo, state, created)
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 'open', $8)",
        )
        .bind(id.to_string())
        .bind(new.key)
        .bind(wallet.id)
        .bind(&new.amount.to_bytes()[..])
        .bind(&new.price.to_bytes()[..])
        .bind(&Amount::ZERO.to_bytes()[..])
        .bind(new.memo)
        .bind(seconds(unix_now()))
        .execute(&mut *transaction)
        .await?;
        set_held(&mut transaction, wallet.id, held).await?;
        transaction.commit().await?;
        Ok(Hold {
            id,
            key: new.key.to_owned(),
            amount: new.amount,
            charged: Amount::ZERO,
            seconds: 0,
            is_open: true,
            price: new.price,
            account: wallet.id,
            memo: new.memo.to_owned(),
        })
    }

    /// Charges a hold for so many seconds since its begin; what was charged for fewer is part of it. Never more than was set
    /// aside. Does nothing to one that has ended.
    pub(crate) async fn charge(&self, hold: Uuid, seconds: u64) -> Result<Hold> {
        let mut transaction = self.begin().await?;
        let hold = charge(&mut transaction, hold, seconds).await?;
        transaction.commit().await?;
        Ok(hold)
    }

    /// Charges a hold for the last time, gives the rest back and writes its receipt.
    pub(crate) async fn end_hold(&self, hold: Uuid, seconds: u64, receipts: &ReceiptKey) -> Result<Hold> {
        let mut transaction = self.begin().await?;
        let hold = end_hold(&mut transaction, hold, seconds, receipts).await?;
        transaction.commit().await?;
        Ok(hold)
    }

    /// The hold that was asked for under this key.
    pub(crate) async fn hold_of(&self, key: &str) -> Result<Option<Hold>> {
        let row = sqlx::query("SELECT * FROM holds WHERE key = $1")
            .bind(key)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read_hold).transpose()
    }

    /// Holds that have not ended.
    pub(crate) async fn open_holds(&self) -> Result<Vec<Hold>> {
        let rows = sqlx::query("SELECT * FROM holds WHERE state = 'open' ORDER BY created, id")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_hold).collect()
    }
}

/// Charges a hold for the last time, gives the rest back and writes its receipt, as a part of something larger.
pub(super) async fn end_hold(
    transaction: &mut Connection,
    hold: Uuid,
    seconds: u64,
    receipts: &ReceiptKey,
) -> Result<Hold> {
    let mut hold = charge(transaction, hold, seconds).await?;
    if !hold.is_open {
        return Ok(hold);
    }
    let wallet = purse_of(transaction, hold.account).await?;
    let held = wallet.held.saturating_sub(hold.left());
    set_held(transaction, wallet.id, held).await?;
    sqlx::query("UPDATE holds SET state = 'ended', ended = $1 WHERE id = $2")
        .bind(super::seconds(unix_now()))
        .bind(hold.id.to_string())
        .execute(&mut *transaction)
        .await?;
    super::receipts::write_of_hold(transaction, &hold, receipts).await?;
    hold.is_open = false;
    Ok(hold)
}

async fn charge(connection: &mut Connection, id: Uuid, seconds: u64) -> Result<Hold> {
    let row = sqlx::query("SELECT * FROM holds WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *connection)
        .await?;
    let row = row.ok_or_else(|| GatewayError::not_found("hold_unknown", "there is no such hold"))?;
    let mut hold = read_hold(&row)?;
    if !hold.is_open || seconds <= hold.seconds {
        return Ok(hold);
    }
    let due = hold.due(seconds);
    if let Some(more) = due.checked_sub(hold.charged).filter(|more| !more.is_zero()) {
        let wallet = purse_of(connection, hold.account).await?;
        set_held(connection, wallet.id, wallet.held.saturating_sub(more)).await?;
        let revenue = purse(connection, Place::gateway(PurseKind::Revenue), Asset::Credit).await?;
        let key = format!("charge:{id}:{seconds}");
        let entry = NewEntry {
            key: &key,
            kind: EntryKind::Charge,
            asset: Asset::Credit,
            hold: Some(id),
            amount: more,
            memo: &hold.memo,
        };
        post(connection, &entry, &wallet, &revenue).await?;
    }
    (hold.charged, hold.seconds) = (due, seconds);
    sqlx::query("UPDATE holds SET charged = $1, seconds = $2 WHERE id = $3")
        .bind(&due.to_bytes()[..])
        .bind(super::seconds(seconds))
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(hold)
}

/// An entry as one of its legs shows it.
pub(super) fn entry(row: &Row) -> Result<Entry> {
    Ok(Entry {
        seq: unsigned(row.try_get("seq")?),
        id: id(row, "id")?,
        kind: EntryKind::parse(row.try_get("kind")?).ok_or_else(|| corrupt("an entry's kind"))?,
        asset: asset(row)?,
        amount: amount(row, "amount")?,
        incoming: row.try_get::<&str, _>("side")? == "credit",
        memo: row.try_get("memo")?,
        time: unsigned(row.try_get("time")?),
    })
}

fn read_hold(row: &Row) -> Result<Hold> {
    Ok(Hold {
        id: id(row, "id")?,
        key: row.try_get("key")?,
        amount: amount(row, "amount")?,
        charged: amount(row, "charged")?,
        seconds: unsigned(row.try_get("seconds")?),
        is_open: row.try_get::<&str, _>("state")? == "open",
        price: amount(row, "price")?,
        account: row.try_get("account")?,
        memo: row.try_get("memo")?,
    })
}

#[cfg(test)]
mod figures;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
