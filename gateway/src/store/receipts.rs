//! Receipts' rows: written in the transaction that ends a hold, each naming the payer's one before.

use alephlab_api::money::Asset;
use alephlab_api::receipt::{Receipt, SignedReceipt};
use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::ledger::Hold;
use super::{Connection, Store, corrupt, seconds, unsigned};
use crate::error::{GatewayError, Result};
use crate::receipts::{ReceiptKey, hash};

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
        rows.iter()
            .map(|row| serde_json::from_str(row.try_get("signed")?).map_err(|_| corrupt("a receipt")))
            .collect()
    }
}

/// Writes the receipt of a hold that ends; none when nothing was charged.
pub(super) async fn write(connection: &mut Connection, hold: &Hold, key: &ReceiptKey) -> Result<()> {
    if hold.charged.is_zero() {
        return Ok(());
    }
    let row = sqlx::query("SELECT owner FROM ledger_accounts WHERE id = $1")
        .bind(hold.account)
        .fetch_one(&mut *connection)
        .await?;
    let payer: String = row.try_get("owner")?;
    let last =
        sqlx::query("SELECT sequence, hash FROM receipts WHERE payer = $1 ORDER BY sequence DESC LIMIT 1")
            .bind(&payer)
            .fetch_optional(&mut *connection)
            .await?;
    let (sequence, previous) = match last {
        Some(row) => (
            unsigned(row.try_get("sequence")?) + 1,
            hex::encode(row.try_get::<&[u8], _>("hash")?),
        ),
        None => (1, "00".repeat(32)),
    };
    let entry: i64 = sqlx::query_scalar("SELECT MAX(seq) FROM entries WHERE hold = $1")
        .bind(hold.id.to_string())
        .fetch_one(&mut *connection)
        .await?;
    let receipt = Receipt {
        id: Uuid::new_v4(),
        payer: payer.clone(),
        payee: key.payee.to_string(),
        kind: "compute".to_owned(),
        subject: hold.memo.clone(),
        units: hold.seconds,
        unit_price: hold.price,
        amount: hold.charged,
        asset: Asset::Credit,
        sequence,
        entry: unsigned(entry),
        previous,
        time: unix_now(),
    };
    let own = hash(&receipt).map_err(|_| corrupt("a payer"))?;
    let signed = serde_json::to_string(&key.sign(receipt)?).map_err(|error| GatewayError::Database {
        source: sqlx::Error::Encode(error.into()),
    })?;
    sqlx::query("INSERT INTO receipts (payer, sequence, hold, hash, signed) VALUES ($1, $2, $3, $4, $5)")
        .bind(&payer)
        .bind(seconds(sequence))
        .bind(hold.id.to_string())
        .bind(&own[..])
        .bind(signed)
        .execute(connection)
        .await?;
    Ok(())
}
