//! The only way in which value moves: an entry with two legs of one amount, and both purses, in one transaction.

use alephlab_api::ledger::EntryKind;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use axum::http::StatusCode;
use sqlx::Row as _;
use uuid::Uuid;

use super::super::{Connection, Row, corrupt, seconds};
use crate::error::{GatewayError, Result};

/// Whose the gateway's own purses are.
pub(in crate::store) const GATEWAY: &str = "gateway";
/// What an account or the gateway has something for; `0016_market.sql` says of each what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) enum PurseKind {
    Wallet,
    Pending,
    Issued,
    Revenue,
    Fee,
    Custody,
    Payouts,
    Suspense,
    Exchange,
}

impl PurseKind {
    const ALL: [Self; 9] = [
        Self::Wallet,
        Self::Pending,
        Self::Issued,
        Self::Revenue,
        Self::Fee,
        Self::Custody,
        Self::Payouts,
        Self::Suspense,
        Self::Exchange,
    ];

    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::Wallet => "wallet",
            Self::Pending => "pending",
            Self::Issued => "issued",
            Self::Revenue => "revenue",
            Self::Fee => "fee",
            Self::Custody => "custody",
            Self::Payouts => "payouts",
            Self::Suspense => "suspense",
            Self::Exchange => "exchange",
        }
    }

    /// As [`PurseKind::name`] writes it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }

    /// Whether it is the other side of something elsewhere, and may owe any amount.
    pub(super) fn may_owe(self) -> bool {
        matches!(self, Self::Issued | Self::Custody | Self::Exchange)
    }
}

/// Whose purse, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Place<'a> {
    pub(in crate::store) owner: &'a str,
    pub(in crate::store) kind: PurseKind,
}

impl<'a> Place<'a> {
    /// What an account has to spend.
    pub(in crate::store) fn wallet(owner: &'a str) -> Self {
        Self {
            owner,
            kind: PurseKind::Wallet,
        }
    }

    /// One of the gateway's own.
    pub(in crate::store) fn gateway(kind: PurseKind) -> Self {
        Self { owner: GATEWAY, kind }
    }
}

/// An amount that goes from one purse to another.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Transfer<'a> {
    /// The same key and content is carried out once.
    pub(in crate::store) key: &'a str,
    pub(in crate::store) kind: EntryKind,
    pub(in crate::store) asset: Asset,
    pub(in crate::store) amount: Amount,
    /// Of what it is a use; none for everything else. What it moves leaves what is held with it: [`super::charge`] sees to that.
    pub(in crate::store) hold: Option<Uuid>,
    /// In words that accounts read.
    pub(in crate::store) memo: &'a str,
    pub(in crate::store) from: Place<'a>,
    pub(in crate::store) to: Place<'a>,
}

/// Carries out a transfer, as a part of something larger; nothing for nothing. Whether it was done now, not before.
///
/// # Errors
/// 402 `balance_too_small` where a wallet does not have it available; 409 `key_conflict` when the key is another entry's;
/// the database's error where another purse would owe: then what called this is wrong.
pub(in crate::store) async fn transfer(connection: &mut Connection, transfer: &Transfer<'_>) -> Result<bool> {
    if transfer.amount.is_zero() {
        return Ok(false);
    }
    let from = purse(connection, transfer.from, transfer.asset).await?;
    let to = purse(connection, transfer.to, transfer.asset).await?;
    let entry = NewEntry {
        key: transfer.key,
        kind: transfer.kind,
        asset: transfer.asset,
        hold: transfer.hold,
        amount: transfer.amount,
        memo: transfer.memo,
    };
    if is_repeated(connection, &entry, &from, &to).await? {
        return Ok(false);
    }
    if !transfer.from.kind.may_owe() && from.available() < transfer.amount {
        return Err(match transfer.from.kind {
            PurseKind::Wallet => too_small(transfer, from.available()),
            kind => GatewayError::Database {
                source: sqlx::Error::Protocol(format!(
                    "the purse {} would owe for {}",
                    kind.name(),
                    transfer.key
                )),
            },
        });
    }
    post(connection, &entry, &from, &to).await?;
    Ok(true)
}

/// Moves what an address has earned to the account that it belongs to from now on, as a part of linking them.
pub(in crate::store) async fn take_over(
    connection: &mut Connection,
    address: &str,
    account: &str,
) -> Result<()> {
    let rows = sqlx::query("SELECT * FROM ledger_accounts WHERE owner = $1 ORDER BY id")
        .bind(address)
        .fetch_all(&mut *connection)
        .await?;
    for row in &rows {
        let kind = PurseKind::parse(row.try_get("kind")?).ok_or_else(|| corrupt("a purse's kind"))?;
        let (purse, asset) = (read_purse(row)?, asset(row)?);
        let moved = Transfer {
            key: &format!("link:{address}:{}:{}", asset.name(), kind.name()),
            kind: EntryKind::Release,
            asset,
            amount: purse.available(),
            hold: None,
            memo: &format!("earned by {address}"),
            from: Place { owner: address, kind },
            to: Place { owner: account, kind },
        };
        transfer(connection, &moved).await?;
    }
    Ok(())
}

fn too_small(transfer: &Transfer<'_>, available: Amount) -> GatewayError {
    let text = format!(
        "it takes {}, and {} are available",
        transfer.amount.of(transfer.asset),
        available.of(transfer.asset)
    );
    let hint = match transfer.asset {
        Asset::Credit => {
            "ask the gateway's operator for credits, or turn ALEPH into credits: alephlab wallet convert"
        }
        Asset::Aleph => "deposit ALEPH: alephlab wallet deposit",
    };
    GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "balance_too_small", text).with_hint(hint)
}

/// One (owner, asset, kind).
pub(in crate::store) struct Purse {
    pub(super) id: i64,
    pub(super) debits: Amount,
    pub(super) credits: Amount,
    pub(super) held: Amount,
}

impl Purse {
    /// What it can set aside or spend; nothing for purses that owe.
    pub(super) fn available(&self) -> Amount {
        self.credits.saturating_sub(self.debits).saturating_sub(self.held)
    }
}

/// An entry that is not written yet.
pub(in crate::store) struct NewEntry<'a> {
    pub(super) key: &'a str,
    pub(super) kind: EntryKind,
    pub(super) asset: Asset,
    pub(super) hold: Option<Uuid>,
    pub(super) amount: Amount,
    pub(super) memo: &'a str,
}

/// The purse, made when it is not there.
pub(in crate::store) async fn purse(
    connection: &mut Connection,
    place: Place<'_>,
    asset: Asset,
) -> Result<Purse> {
    let (owner, kind) = (place.owner, place.kind.name());
    let nothing = Amount::ZERO.to_bytes();
    sqlx::query(
        "INSERT INTO ledger_accounts (owner, asset, kind, debits, credits, held) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (owner, asset, kind) DO NOTHING",
    )
    .bind(owner)
    .bind(asset.name())
    .bind(kind)
    .bind(&nothing[..])
    .bind(&nothing[..])
    .bind(&nothing[..])
    .execute(&mut *connection)
    .await?;
    let row = sqlx::query("SELECT * FROM ledger_accounts WHERE owner = $1 AND asset = $2 AND kind = $3")
        .bind(owner)
        .bind(asset.name())
        .bind(kind)
        .fetch_one(connection)
        .await?;
    read_purse(&row)
}

pub(in crate::store) async fn purse_of(connection: &mut Connection, id: i64) -> Result<Purse> {
    let row = sqlx::query("SELECT * FROM ledger_accounts WHERE id = $1")
        .bind(id)
        .fetch_one(connection)
        .await?;
    read_purse(&row)
}

pub(in crate::store) async fn set_held(connection: &mut Connection, id: i64, held: Amount) -> Result<()> {
    sqlx::query("UPDATE ledger_accounts SET held = $1 WHERE id = $2")
        .bind(&held.to_bytes()[..])
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether this very entry is written already; another one under its key is a conflict.
async fn is_repeated(
    connection: &mut Connection,
    entry: &NewEntry<'_>,
    from: &Purse,
    to: &Purse,
) -> Result<bool> {
    let legs = sqlx::query(
        "SELECT l.side, l.account, l.amount FROM entries e JOIN legs l ON l.entry = e.seq WHERE e.key = $1",
    )
    .bind(entry.key)
    .fetch_all(connection)
    .await?;
    for leg in &legs {
        let purse = if leg.try_get::<&str, _>("side")? == "debit" {
            from
        } else {
            to
        };
        if leg.try_get::<i64, _>("account")? != purse.id || amount(leg, "amount")? != entry.amount {
            return Err(key_conflict(entry.key));
        }
    }
    Ok(!legs.is_empty())
}

/// Writes an entry that moves its amount, and moves it.
pub(in crate::store) async fn post(
    connection: &mut Connection,
    entry: &NewEntry<'_>,
    from: &Purse,
    to: &Purse,
) -> Result<()> {
    let seq: i64 = sqlx::query_scalar(
        "INSERT INTO entries (id, key, kind, asset, hold, memo, time) VALUES ($1, $2, $3, $4, $5, $6, $7)
         RETURNING seq",
    )
    .bind(Uuid::new_v4().to_string())
    .bind(entry.key)
    .bind(entry.kind.name())
    .bind(entry.asset.name())
    .bind(entry.hold.map(|hold| hold.to_string()))
    .bind(entry.memo)
    .bind(seconds(unix_now()))
    .fetch_one(&mut *connection)
    .await?;
    let moved = [
        ("debit", from.id, "debits", add(from.debits, entry.amount)?),
        ("credit", to.id, "credits", add(to.credits, entry.amount)?),
    ];
    for (side, purse, column, sum) in moved {
        sqlx::query("INSERT INTO legs (entry, side, account, amount) VALUES ($1, $2, $3, $4)")
            .bind(seq)
            .bind(side)
            .bind(purse)
            .bind(&entry.amount.to_bytes()[..])
            .execute(&mut *connection)
            .await?;
        // One of two names that stand above.
        let statement = format!("UPDATE ledger_accounts SET {column} = $1 WHERE id = $2");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(&sum.to_bytes()[..])
            .bind(purse)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(in crate::store) fn key_conflict(key: &str) -> GatewayError {
    let text = format!("{key} was asked for before, with another content");
    GatewayError::refused(StatusCode::CONFLICT, "key_conflict", text).with_hint("choose another key")
}

pub(in crate::store) fn add(one: Amount, other: Amount) -> Result<Amount> {
    let sum = one.checked_add(other);
    sum.ok_or_else(|| GatewayError::bad_request("amount_too_large", "the sum is larger than any amount"))
}

pub(in crate::store) fn amount(row: &Row, column: &str) -> Result<Amount> {
    let bytes: &[u8] = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| corrupt("an amount"))?;
    Ok(Amount::from_bytes(bytes))
}

pub(in crate::store) fn asset(row: &Row) -> Result<Asset> {
    let name: &str = row.try_get("asset")?;
    name.parse().map_err(|_| corrupt("an asset"))
}

pub(in crate::store) fn id(row: &Row, column: &str) -> Result<Uuid> {
    row.try_get::<&str, _>(column)?
        .parse()
        .map_err(|_| corrupt("an id"))
}

pub(in crate::store) fn read_purse(row: &Row) -> Result<Purse> {
    Ok(Purse {
        id: row.try_get("id")?,
        debits: amount(row, "debits")?,
        credits: amount(row, "credits")?,
        held: amount(row, "held")?,
    })
}
