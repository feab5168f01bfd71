//! What sales have brought an account, by model and day.

use std::collections::BTreeMap;

use alephlab_api::market::{Earnings, EarningsRow, OrderState, PartKind};
use alephlab_api::money::Amount;
use sqlx::Row as _;

use super::ASSET;
use super::rows::{amount, kind};
use crate::error::{GatewayError, Result};
use crate::store::{Store, corrupt, unsigned};

const DAY: u64 = 86_400;

impl Store {
    /// All that an account has of sales that were not refunded.
    pub(crate) async fn earnings(&self, account: &str) -> Result<Earnings> {
        let rows = sqlx::query(
            "SELECT o.model, o.state, o.created, p.kind, p.amount FROM order_parts p
             JOIN orders o ON o.id = p.order_id
             WHERE p.account IN ($1, (SELECT address FROM accounts WHERE id = $1)) AND o.state <> 'refunded'",
        )
        .bind(account)
        .fetch_all(&self.read)
        .await?;
        let mut days: BTreeMap<(u64, String, &'static str), EarningsRow> = BTreeMap::new();
        let (mut pending, mut earned) = (Amount::ZERO, Amount::ZERO);
        for row in &rows {
            let created = unsigned(row.try_get("created")?);
            let state =
                OrderState::parse(row.try_get("state")?).ok_or_else(|| corrupt("an order's state"))?;
            let (model, kind): (String, PartKind) = (row.try_get("model")?, kind(row)?);
            let day = created - created % DAY;
            let one = days
                .entry((day, model.clone(), kind.name()))
                .or_insert(EarningsRow {
                    day,
                    model,
                    kind,
                    sales: 0,
                    pending: Amount::ZERO,
                    earned: Amount::ZERO,
                });
            one.sales += 1;
            let (part, sum) = match state {
                OrderState::Final => (&mut one.earned, &mut earned),
                _ => (&mut one.pending, &mut pending),
            };
            let amount = amount(row)?;
            (*part, *sum) = (add(*part, amount)?, add(*sum, amount)?);
        }
        Ok(Earnings {
            asset: ASSET,
            pending,
            earned,
            rows: days.into_values().rev().collect(),
        })
    }
}

fn add(one: Amount, other: Amount) -> Result<Amount> {
    let sum = one.checked_add(other);
    sum.ok_or_else(|| GatewayError::bad_request("amount_too_large", "the sum is larger than any amount"))
}
