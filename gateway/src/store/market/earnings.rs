//! What sales have brought an account, by model and day, and what of it is still there.

use std::collections::BTreeMap;

use alephlab_api::ledger::EntryKind;
use alephlab_api::market::{Earnings, EarningsRow, OrderState, PartKind, Waiting, WaitingReason};
use alephlab_api::money::Amount;
use futures_util::TryStreamExt as _;
use sqlx::Row as _;

use super::ASSET;
use super::rows::{amount, kind};
use crate::error::{GatewayError, Result};
use crate::store::{Connection, Store, corrupt, unsigned};

const DAY: u64 = 86_400;

impl Store {
    /// All that an account has of sales that were not refunded, and what of it is left: as of one moment.
    pub(crate) async fn earnings(&self, account: &str) -> Result<Earnings> {
        let mut snapshot = self.read.begin().await?;
        let rows = sqlx::query(
            "SELECT o.model, o.state, o.created, o.settles, p.kind, p.amount FROM order_parts p
             JOIN orders o ON o.id = p.order_id
             WHERE p.account IN ($1, (SELECT address FROM accounts WHERE id = $1)) AND o.state <> 'refunded'",
        )
        .bind(account)
        .fetch_all(&mut *snapshot)
        .await?;
        let mut days: BTreeMap<(u64, String, &'static str), EarningsRow> = BTreeMap::new();
        let mut waiting: BTreeMap<WaitingReason, Waiting> = BTreeMap::new();
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
            let amount = amount(row)?;
            let (part, sum) = match reason(state) {
                None => (&mut one.earned, &mut earned),
                Some(reason) => {
                    wait(&mut waiting, reason, amount, unsigned(row.try_get("settles")?))?;
                    (&mut one.pending, &mut pending)
                }
            };
            (*part, *sum) = (add(*part, amount)?, add(*sum, amount)?);
        }
        // Never more than was earned, whatever the books say.
        let paid_out = left_the_wallet(&mut snapshot, account).await?.min(earned);
        Ok(Earnings {
            asset: ASSET,
            pending,
            waiting: waiting.into_values().collect(),
            available: earned.saturating_sub(paid_out),
            paid_out,
            earned,
            rows: days.into_values().rev().collect(),
        })
    }
}

/// Why an order's parts are pending; none for one that is final.
fn reason(state: OrderState) -> Option<WaitingReason> {
    match state {
        OrderState::Final => None,
        OrderState::Released => Some(WaitingReason::Settling),
        OrderState::Paid | OrderState::Refunded => Some(WaitingReason::NoKey),
    }
}

fn wait(
    waiting: &mut BTreeMap<WaitingReason, Waiting>,
    reason: WaitingReason,
    amount: Amount,
    settles: u64,
) -> Result<()> {
    let one = waiting.entry(reason).or_insert(Waiting {
        reason,
        sales: 0,
        amount: Amount::ZERO,
        first: settles,
        last: settles,
    });
    one.sales += 1;
    one.amount = add(one.amount, amount)?;
    (one.first, one.last) = (one.first.min(settles), one.last.max(settles));
    Ok(())
}

/// What of an account's earnings has left its wallet. An amount of ALEPH is like any other, so a rule says which one went: earnings go
/// first, and what comes back (a withdrawal that was taken back, a purchase that was refunded) makes up for them first.
async fn left_the_wallet(snapshot: &mut Connection, account: &str) -> Result<Amount> {
    let mut entries = sqlx::query(
        "SELECT e.kind, l.amount, l.side FROM legs l
         JOIN entries e ON e.seq = l.entry
         JOIN ledger_accounts a ON a.id = l.account
         WHERE a.owner = $1 AND a.kind = 'wallet' AND a.asset = $2 ORDER BY e.seq",
    )
    .bind(account)
    .bind(ASSET.name())
    .fetch(&mut *snapshot);
    let (mut here, mut out) = (Amount::ZERO, Amount::ZERO);
    while let Some(row) = entries.try_next().await? {
        let amount = amount(&row)?;
        let comes = row.try_get::<&str, _>("side")? == "credit";
        match (comes, EntryKind::parse(row.try_get("kind")?)) {
            (true, Some(EntryKind::Release)) => here = add(here, amount)?,
            (true, Some(EntryKind::Return | EntryKind::Refund)) => {
                let back = amount.min(out);
                (here, out) = (add(here, back)?, out.saturating_sub(back));
            }
            (true, _) => {}
            (false, _) => {
                let goes = amount.min(here);
                (here, out) = (here.saturating_sub(goes), add(out, goes)?);
            }
        }
    }
    Ok(out)
}

fn add(one: Amount, other: Amount) -> Result<Amount> {
    let sum = one.checked_add(other);
    sum.ok_or_else(|| GatewayError::bad_request("amount_too_large", "the sum is larger than any amount"))
}
