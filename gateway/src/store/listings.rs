//! What pages list of an account's money, newest first.

use alephlab_api::ledger::Entry;
use alephlab_api::receipt::SignedReceipt;
use sqlx::Row as _;

use super::{Store, corrupt, seconds};
use crate::error::Result;

impl Store {
    /// Receipts of an account before the one of this number, newest first.
    pub(crate) async fn receipts_before(
        &self,
        payer: &str,
        before: u64,
        limit: u32,
    ) -> Result<Vec<SignedReceipt>> {
        let rows = sqlx::query(
            "SELECT signed FROM receipts WHERE payer = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3",
        )
        .bind(payer)
        .bind(seconds(before))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|row| serde_json::from_str(row.try_get("signed")?).map_err(|_| corrupt("a receipt")))
            .collect()
    }

    /// Entries of an account's balances before this one, newest first.
    pub(crate) async fn statement_before(&self, owner: &str, before: u64, limit: u32) -> Result<Vec<Entry>> {
        let rows = sqlx::query(
            "SELECT e.*, l.amount, l.side FROM legs l
             JOIN entries e ON e.seq = l.entry
             JOIN ledger_accounts a ON a.id = l.account
             WHERE a.owner = $1 AND a.kind = 'wallet' AND e.seq < $2 ORDER BY e.seq DESC LIMIT $3",
        )
        .bind(owner)
        .bind(seconds(before))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(super::ledger::entry).collect()
    }
}
