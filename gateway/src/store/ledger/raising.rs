//! Raising a hold while what it pays for runs: its owner sets more aside, and never less.

use alephlab_api::money::Amount;
use alephlab_api::offer::usd;
use axum::http::StatusCode;

use super::{Connection, Hold, Store, add, purse_of, read_hold, set_held};
use crate::error::{GatewayError, Result};

impl Hold {
    /// What has to be set aside beside it for this whole amount, where so much is available.
    ///
    /// # Errors
    /// 400 `cap_too_small` for less than it is; 402 `balance_too_small`.
    pub(crate) fn more_for(&self, amount: Amount, available: Amount) -> Result<Amount> {
        let now = self.amount;
        let Some(more) = amount.checked_sub(now) else {
            let text = format!("a cap can only be raised: it is {now} credits ({} USD)", usd(now));
            return Err(GatewayError::bad_request("cap_too_small", text));
        };
        if more <= available {
            return Ok(more);
        }
        let text = format!(
            "{more} credits more ({} USD) would be set aside, and {available} ({} USD) are available",
            usd(more),
            usd(available)
        );
        Err(
            GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "balance_too_small", text)
                .with_hint("ask the gateway's operator for credits, or choose a lower cap"),
        )
    }
}

impl Store {
    /// Raises an owner's hold to this whole amount: asked for again, it changes nothing.
    ///
    /// # Errors
    /// 404 `hold_unknown`, also for another owner's; 409 `hold_ended`; those of [`Hold::more_for`].
    pub(crate) async fn raise_hold(&self, owner: &str, key: &str, amount: Amount) -> Result<Hold> {
        let mut transaction = self.begin().await?;
        let mut hold = own(&mut transaction, owner, key).await?;
        if !hold.is_open {
            return Err(hold_ended());
        }
        let wallet = purse_of(&mut transaction, hold.account).await?;
        let more = hold.more_for(amount, wallet.available())?;
        if more.is_zero() {
            return Ok(hold);
        }
        sqlx::query("UPDATE holds SET amount = $1 WHERE id = $2")
            .bind(&amount.to_bytes()[..])
            .bind(hold.id.to_string())
            .execute(&mut *transaction)
            .await?;
        set_held(&mut transaction, wallet.id, add(wallet.held, more)?).await?;
        transaction.commit().await?;
        hold.amount = amount;
        Ok(hold)
    }

    /// An owner's hold, also one that has ended.
    ///
    /// # Errors
    /// 404 `hold_unknown`, also for another owner's.
    pub(crate) async fn own_hold(&self, owner: &str, key: &str) -> Result<Hold> {
        let mut connection = self.read.acquire().await?;
        own(&mut connection, owner, key).await
    }
}

async fn own(connection: &mut Connection, owner: &str, key: &str) -> Result<Hold> {
    let row = sqlx::query(
        "SELECT h.* FROM holds h JOIN ledger_accounts a ON a.id = h.account WHERE h.key = $1 AND a.owner = $2",
    )
    .bind(key)
    .bind(owner)
    .fetch_optional(connection)
    .await?;
    let unknown = || {
        let text = "nothing is set aside for this kernel: it is free, or not one of this account";
        GatewayError::not_found("hold_unknown", text)
    };
    row.as_ref().map(read_hold).transpose()?.ok_or_else(unknown)
}

/// The answer where nothing can be raised any more.
pub(crate) fn hold_ended() -> GatewayError {
    let text = "this kernel has ended, and what was left of its cap goes back to the balance";
    GatewayError::refused(StatusCode::CONFLICT, "hold_ended", text).with_hint("start a new kernel")
}
