//! Receipts' rows: written in the transaction of what they are about, each naming the payer's one before, and each the next leaf of
//! the log of all (`log`).

mod log;
#[cfg(test)]
mod tests;

use alephlab_api::money::{Amount, Asset};
use alephlab_api::receipt::{RECEIPT_VERSION, Receipt, ReceiptKind, SignedReceipt};
use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::ledger::{Hold, key_conflict};
use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::{GatewayError, Result};
use crate::receipts::ReceiptKey;

pub(crate) use log::StoredHead;
#[cfg(test)]
pub(super) use log::path_of;

/// A receipt that is not written yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewReceipt<'a> {
    /// What it is about, such as `order:` and its id: the same has one receipt.
    pub(super) about: &'a str,
    /// An address, or an account's id.
    pub(super) payer: &'a str,
    /// An address, or an account's id.
    pub(super) payee: &'a str,
    pub(super) kind: ReceiptKind,
    /// In words.
    pub(super) subject: &'a str,
    pub(super) model: Option<Uuid>,
    /// The model's revision.
    pub(super) commit: Option<&'a str>,
    /// Seconds, or how many.
    pub(super) units: u64,
    /// Of what [`ReceiptKind::unit`] says.
    pub(super) unit_price: Amount,
    pub(super) amount: Amount,
    pub(super) asset: Asset,
    /// Last entry that it is about; the ledger's newest, which is one of the same transaction, when not given.
    pub(super) entry: Option<u64>,
}

impl Store {
    /// Receipts of a payer after the one with this sequence, in order.
    pub(crate) async fn receipts(&self, payer: &str, after: u64, limit: u32) -> Result<Vec<SignedReceipt>> {
        let rows = sqlx::query(
            "SELECT signed FROM receipts WHERE payer = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        )
        .bind(payer)
        .bind(seconds(after))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(signed).collect()
    }

    /// One receipt, whoever paid.
    pub(crate) async fn receipt(&self, id: Uuid) -> Result<Option<SignedReceipt>> {
        let row = sqlx::query("SELECT signed FROM receipts WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(signed).transpose()
    }

    /// The one of a purchase.
    pub(crate) async fn receipt_of_order(&self, order: Uuid) -> Result<Option<SignedReceipt>> {
        let row = sqlx::query("SELECT signed FROM receipts WHERE about = $1")
            .bind(about_order(order))
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(signed).transpose()
    }
}

/// What the receipt of a purchase is about.
pub(super) fn about_order(order: Uuid) -> String {
    format!("order:{order}")
}

fn signed(row: &Row) -> Result<SignedReceipt> {
    serde_json::from_str(row.try_get("signed")?).map_err(|_| corrupt("a receipt"))
}

/// Writes the receipt of a hold that ends; none when nothing was charged.
pub(super) async fn write_of_hold(
    connection: &mut Connection,
    hold: &Hold,
    key: &ReceiptKey,
) -> Result<Option<Uuid>> {
    if hold.charged.is_zero() {
        return Ok(None);
    }
    let row = sqlx::query("SELECT owner FROM ledger_accounts WHERE id = $1")
        .bind(hold.account)
        .fetch_one(&mut *connection)
        .await?;
    let entry: i64 = sqlx::query_scalar("SELECT MAX(seq) FROM entries WHERE hold = $1")
        .bind(hold.id.to_string())
        .fetch_one(&mut *connection)
        .await?;
    let (about, payee) = (format!("hold:{}", hold.id), key.payee.to_string());
    let new = NewReceipt {
        about: &about,
        payer: row.try_get("owner")?,
        payee: &payee,
        kind: ReceiptKind::Compute,
        subject: &hold.memo,
        model: None,
        commit: None,
        units: hold.seconds,
        unit_price: hold.price,
        amount: hold.charged,
        asset: Asset::Credit,
        entry: Some(unsigned(entry)),
    };
    write(connection, &new, key).await
}

/// Writes a receipt, as a part of what it is about; none over nothing. Gives its id, also of one that was written before.
///
/// # Errors
/// 409 `key_conflict` where another payment has a receipt that is about the same.
pub(super) async fn write(
    connection: &mut Connection,
    new: &NewReceipt<'_>,
    key: &ReceiptKey,
) -> Result<Option<Uuid>> {
    if new.amount.is_zero() {
        return Ok(None);
    }
    let known = sqlx::query("SELECT signed FROM receipts WHERE about = $1")
        .bind(new.about)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = known {
        let known = signed(&row)?.receipt;
        let is_same = known.payer == new.payer && known.kind == new.kind;
        if !is_same || (known.amount, known.asset) != (new.amount, new.asset) {
            return Err(key_conflict(new.about));
        }
        return Ok(Some(known.id));
    }
    let (place, sequence, previous) = after_last(connection, new.payer).await?;
    let entry = match new.entry {
        Some(entry) => entry,
        None => {
            let newest: i64 = sqlx::query_scalar("SELECT MAX(seq) FROM entries")
                .fetch_one(&mut *connection)
                .await?;
            unsigned(newest)
        }
    };
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        id: Uuid::new_v4(),
        payer: new.payer.to_owned(),
        payee: new.payee.to_owned(),
        kind: new.kind,
        subject: new.subject.to_owned(),
        model: new.model,
        commit: new.commit.map(str::to_owned),
        units: new.units,
        unit: new.kind.unit(),
        unit_price: new.unit_price,
        amount: new.amount,
        asset: new.asset,
        sequence,
        entry,
        previous,
        time: unix_now(),
    };
    let id = receipt.id;
    let (signed, own) = key.sign(receipt)?;
    let signed = serde_json::to_string(&signed).map_err(|error| GatewayError::Database {
        source: sqlx::Error::Encode(error.into()),
    })?;
    sqlx::query(
        "INSERT INTO receipts (place, id, payer, sequence, about, hash, signed) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(place)
    .bind(id.to_string())
    .bind(new.payer)
    .bind(seconds(sequence))
    .bind(new.about)
    .bind(&own[..])
    .bind(signed)
    .execute(connection)
    .await?;
    Ok(Some(id))
}

/// Where the next receipt of a payer stands: in the log, and in the payer's chain after which hash.
async fn after_last(connection: &mut Connection, payer: &str) -> Result<(i64, u64, String)> {
    let place: Option<i64> = sqlx::query_scalar("SELECT MAX(place) + 1 FROM receipts")
        .fetch_one(&mut *connection)
        .await?;
    let last =
        sqlx::query("SELECT sequence, hash FROM receipts WHERE payer = $1 ORDER BY sequence DESC LIMIT 1")
            .bind(payer)
            .fetch_optional(connection)
            .await?;
    let (sequence, previous) = match last {
        Some(row) => (
            unsigned(row.try_get("sequence")?) + 1,
            hex::encode(row.try_get::<&[u8], _>("hash")?),
        ),
        None => (1, "00".repeat(32)),
    };
    Ok((place.unwrap_or(0), sequence, previous))
}
