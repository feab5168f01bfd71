//! Orders' rows, and what their states do to the ledger. Which order is taken, at which price and whose it is, is decided in
//! `market`.
//!
//! Each step is one transaction: the state of the order and every entry that belongs to it, or nothing. A step that is asked for
//! again changes nothing, so whatever was cut off is done again.

mod deposits;
mod earnings;
mod rows;
mod terms;
#[cfg(test)]
mod tests;

use alephlab_api::ledger::EntryKind;
use alephlab_api::market::{NewOrder, OrderState, Part, PartKind, ReleaseWay, SignedPaid};
use alephlab_api::money::Asset;
use alephlab_api::receipt::ReceiptKind;
use axum::http::StatusCode;
use uuid::Uuid;

use super::identities::account_of;
use super::ledger::{Place, PurseKind, Transfer, transfer};
use super::receipts::{self, NewReceipt};
use super::{Connection, Store, seconds};
use crate::error::{GatewayError, Result};
use crate::receipts::ReceiptKey;

pub(crate) use rows::StoredOrder;
use rows::{find, locked, parts_of};
pub(crate) use terms::StoredTerms;

/// Of what models are sold.
pub(crate) const ASSET: Asset = Asset::Aleph;
const AN_HOUR: u64 = 3_600;

/// An order that is decided and not paid yet.
pub(crate) struct NewSale<'a> {
    pub(crate) signed: &'a NewOrder,
    /// What the gateway says of it from now on.
    pub(crate) paid: &'a SignedPaid,
    /// The buyer's account.
    pub(crate) buyer: &'a str,
    /// Address of the seller.
    pub(crate) seller: &'a str,
    pub(crate) way: ReleaseWay,
    /// Item hash of the terms' message.
    pub(crate) terms: &'a str,
    /// Together the price.
    pub(crate) parts: &'a [Part],
    /// Orders of one buyer in an hour, at most.
    pub(crate) most_per_hour: u32,
    /// When it is settled without the buyer, unix seconds.
    pub(crate) settles: u64,
    /// What signs the buyer's receipt.
    pub(crate) receipts: &'a ReceiptKey,
}

/// Where a part goes to or comes from when an order ends.
#[derive(Clone, Copy)]
enum Ending {
    Final,
    Refunded,
}

impl Store {
    /// Takes an order and pays it from the buyer's balance. The same order again is the order as it stands.
    ///
    /// # Errors
    /// 402 `balance_too_small`; 409 `key_conflict` when the id is another order's, `order_again` for a revision that this account
    /// has bought; 403 `order_own`; 429 `orders_too_many`.
    pub(crate) async fn buy(&self, new: &NewSale<'_>) -> Result<StoredOrder> {
        let mut transaction = self.begin().await?;
        let purchase = &new.signed.purchase;
        if let Some(known) = find(&mut transaction, purchase.order).await? {
            return match known.buyer == new.buyer && known.signed.purchase == *purchase {
                true => Ok(known),
                false => Err(another(purchase.order)),
            };
        }
        let seller = account_of(&mut transaction, new.seller).await?;
        if seller == new.buyer {
            return Err(order_own());
        }
        refuse_again(&mut transaction, new.buyer, new.signed).await?;
        refuse_more(&mut transaction, new).await?;
        rows::insert(&mut transaction, new, &seller).await?;
        for (number, part) in new.parts.iter().enumerate() {
            let account = match part.kind {
                PartKind::Fee => part.to.clone(),
                PartKind::Sale | PartKind::Royalty => account_of(&mut transaction, &part.to).await?,
            };
            // Linked to this account since the price was asked for.
            if account == new.buyer {
                return Err(order_own());
            }
            rows::insert_part(&mut transaction, purchase.order, number, part, &account).await?;
            let kind = match part.kind {
                PartKind::Sale => EntryKind::Sale,
                PartKind::Royalty => EntryKind::Royalty,
                PartKind::Fee => EntryKind::Fee,
            };
            let paid = Transfer {
                key: &format!("order:{}:{number}", purchase.order),
                kind,
                asset: ASSET,
                amount: part.amount,
                hold: None,
                memo: &memo(part.kind, &purchase.model),
                from: Place::wallet(new.buyer),
                to: pending(part.kind, &account),
            };
            transfer(&mut transaction, &paid).await?;
        }
        write_receipt(&mut transaction, new, &seller).await?;
        let order = locked(&mut transaction, purchase.order).await?;
        transaction.commit().await?;
        Ok(order)
    }

    /// Takes note that the seller's machine is about to release an order of this seller; its buyer cannot take it back then.
    ///
    /// # Errors
    /// 404 `order_unknown`, 409 `order_ended` when it was refunded or `until` is over.
    pub(crate) async fn claim_order(
        &self,
        seller: &str,
        id: Uuid,
        now: u64,
        until: u64,
    ) -> Result<StoredOrder> {
        let mut transaction = self.begin().await?;
        let order = locked(&mut transaction, id).await?;
        if order.seller != seller {
            return Err(order_unknown());
        }
        match order.state {
            OrderState::Released | OrderState::Final => return Ok(order),
            // Also of one that was claimed before: what is released so late may be refunded before it is seen.
            OrderState::Paid if now > until => return Err(ended(order.state)),
            OrderState::Paid if order.claimed.is_some() => return Ok(order),
            OrderState::Paid => {}
            OrderState::Refunded => return Err(ended(order.state)),
        }
        sqlx::query("UPDATE orders SET claimed = $1 WHERE id = $2")
            .bind(seconds(now))
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let order = locked(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(order)
    }

    /// Takes note of the messages by which the key of an order went out. Nothing is given back from then on.
    ///
    /// # Errors
    /// 404 `order_unknown`, 409 `order_ended` when it was refunded.
    pub(crate) async fn release_order(&self, id: Uuid, proof: &[String], now: u64) -> Result<StoredOrder> {
        let mut transaction = self.begin().await?;
        let order = locked(&mut transaction, id).await?;
        match order.state {
            OrderState::Released | OrderState::Final => return Ok(order),
            OrderState::Refunded => return Err(ended(order.state)),
            OrderState::Paid => {}
        }
        sqlx::query("UPDATE orders SET state = 'released', released = $1, proof = $2 WHERE id = $3")
            .bind(seconds(now))
            .bind(rows::written(&proof)?)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let order = locked(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(order)
    }

    /// Gives back what was paid for an order whose key has not gone out: to its buyer, who asks, while the seller's machine has
    /// not begun to release it; or, where nobody asks, because its time is over.
    ///
    /// # Errors
    /// 404 `order_unknown`, 409 `order_released` and `order_claimed`.
    pub(crate) async fn refund_order(&self, buyer: Option<&str>, id: Uuid, now: u64) -> Result<StoredOrder> {
        let mut transaction = self.begin().await?;
        let order = locked(&mut transaction, id).await?;
        if buyer.is_some_and(|buyer| buyer != order.buyer) {
            return Err(order_unknown());
        }
        match order.state {
            OrderState::Refunded => return Ok(order),
            OrderState::Released | OrderState::Final => return Err(released()),
            OrderState::Paid if buyer.is_some() && order.claimed.is_some() => return Err(claimed()),
            OrderState::Paid => {}
        }
        let order = end(&mut transaction, &order, Ending::Refunded, now).await?;
        transaction.commit().await?;
        Ok(order)
    }

    /// What was paid for an order becomes its seller's, and that of the others who have a part.
    ///
    /// # Errors
    /// 409 `order_ended` for one that is not released.
    pub(crate) async fn finish_order(&self, id: Uuid, now: u64) -> Result<StoredOrder> {
        let mut transaction = self.begin().await?;
        let order = locked(&mut transaction, id).await?;
        match order.state {
            OrderState::Final => return Ok(order),
            OrderState::Released => {}
            OrderState::Paid | OrderState::Refunded => return Err(ended(order.state)),
        }
        let order = end(&mut transaction, &order, Ending::Final, now).await?;
        transaction.commit().await?;
        Ok(order)
    }
}

/// Moves every part of an order on, and writes down that it has ended.
async fn end(
    transaction: &mut Connection,
    order: &StoredOrder,
    ending: Ending,
    now: u64,
) -> Result<StoredOrder> {
    let id = order.id();
    let model = &order.signed.purchase.model;
    for (number, part) in parts_of(transaction, id).await?.iter().enumerate() {
        // What an address earned is that of the account which has linked it since.
        let account = &account_of(transaction, &part.account).await?;
        let (step, kind, to) = match ending {
            Ending::Final => ("final", EntryKind::Release, earned(part.kind, account)),
            Ending::Refunded => ("refund", EntryKind::Refund, Place::wallet(&order.buyer)),
        };
        let moved = Transfer {
            key: &format!("order:{id}:{number}:{step}"),
            kind,
            asset: ASSET,
            amount: part.amount,
            hold: None,
            memo: &memo(part.kind, model),
            from: pending(part.kind, account),
            to,
        };
        transfer(transaction, &moved).await?;
    }
    let state = match ending {
        Ending::Final => OrderState::Final,
        Ending::Refunded => OrderState::Refunded,
    };
    sqlx::query("UPDATE orders SET state = $1, ended = $2 WHERE id = $3")
        .bind(state.name())
        .bind(seconds(now))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
    locked(transaction, id).await
}

/// What the buyer can show: that so much was paid for it. Of one that is given back the ledger has the refund.
async fn write_receipt(transaction: &mut Connection, new: &NewSale<'_>, seller: &str) -> Result<()> {
    let purchase = &new.signed.purchase;
    let receipt = NewReceipt {
        about: &receipts::about_order(purchase.order),
        payer: new.buyer,
        payee: seller,
        kind: ReceiptKind::Sale,
        subject: &format!("order {}", purchase.order),
        model: Some(purchase.uuid),
        commit: Some(&purchase.revision),
        units: 1,
        unit_price: purchase.price,
        amount: purchase.price,
        asset: ASSET,
        entry: None,
    };
    receipts::write(transaction, &receipt, new.receipts).await?;
    Ok(())
}

/// Where a part waits until the order is final.
fn pending(kind: PartKind, account: &str) -> Place<'_> {
    match kind {
        PartKind::Fee => Place::gateway(PurseKind::Pending),
        PartKind::Sale | PartKind::Royalty => Place {
            owner: account,
            kind: PurseKind::Pending,
        },
    }
}

/// Where it can be spent then.
fn earned(kind: PartKind, account: &str) -> Place<'_> {
    match kind {
        PartKind::Fee => Place::gateway(PurseKind::Fee),
        PartKind::Sale | PartKind::Royalty => Place::wallet(account),
    }
}

fn memo(kind: PartKind, model: &str) -> String {
    match kind {
        PartKind::Sale => format!("sale of {model}"),
        PartKind::Royalty => format!("royalty of the sale of {model}"),
        PartKind::Fee => format!("fee of the sale of {model}"),
    }
}

/// A revision is bought once.
async fn refuse_again(transaction: &mut Connection, buyer: &str, signed: &NewOrder) -> Result<()> {
    let purchase = &signed.purchase;
    let Some(known) = rows::standing(transaction, buyer, &purchase.model, &purchase.revision).await? else {
        return Ok(());
    };
    let text = format!("this account has bought it already, with the order {known}");
    Err(GatewayError::refused(StatusCode::CONFLICT, "order_again", text)
        .with_hint("`alephlab model orders` shows where it is"))
}

async fn refuse_more(transaction: &mut Connection, new: &NewSale<'_>) -> Result<()> {
    let since = new.paid.paid.time.saturating_sub(AN_HOUR);
    if rows::count_since(transaction, new.buyer, since).await? < u64::from(new.most_per_hour) {
        return Ok(());
    }
    let text = format!("an account may buy {} times in an hour here", new.most_per_hour);
    Err(
        GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "orders_too_many", text)
            .with_hint("try again later"),
    )
}

/// The answer to who would pay themselves.
pub(crate) fn order_own() -> GatewayError {
    let text = "this account would be paid by its own purchase";
    GatewayError::refused(StatusCode::FORBIDDEN, "order_own", text).with_hint(
        "what is yours you can read already; of what you have a share in, ask its owner for a grant",
    )
}

fn another(id: Uuid) -> GatewayError {
    let text = format!("{id} is another order's id");
    GatewayError::refused(StatusCode::CONFLICT, "key_conflict", text).with_hint("draw another id")
}

/// The answer where an account has no such order.
pub(crate) fn order_unknown() -> GatewayError {
    GatewayError::not_found("order_unknown", "this account has no such order")
}

fn released() -> GatewayError {
    let text = "its key has gone out, so what was paid is not given back any more";
    GatewayError::refused(StatusCode::CONFLICT, "order_released", text)
}

fn claimed() -> GatewayError {
    let text = "the seller's machine is releasing it";
    GatewayError::refused(StatusCode::CONFLICT, "order_claimed", text)
        .with_hint("the key comes in a moment; if it does not, what was paid goes back by itself")
}

fn ended(state: OrderState) -> GatewayError {
    let text = match state {
        OrderState::Refunded => "what was paid went back to its buyer",
        _ => "this order cannot be released any more",
    };
    GatewayError::refused(StatusCode::CONFLICT, "order_ended", text)
}
