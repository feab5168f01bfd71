//! Sales that are paid on the chain by what the buyer's wallet signed there (x402): what is agreed before it is sent, and the sale when
//! its tokens are booked.

use alephlab_api::Secret;
use alephlab_api::market::{NewOrder, OrderState, Part, Purchase, ReleaseWay, SoldShare};
use alephlab_api::time::unix_now;
use alephlab_vault::share::ShareToken;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::deposits::given;
use super::{divide, for_sale, lineage, may_be_released, pay_for};
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{NewSale, SOLD_FOR, StoredOrder, order_own};

/// A sale at the price of the moment in which the payment came: it holds though the terms change before the chain is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Agreed {
    pub(crate) purchase: Purchase,
    terms: String,
    parts: Vec<Part>,
}

/// Agrees with an address on a revision whose key is deposited.
///
/// # Errors
/// As [`super::buy`], but for what a balance lacks; 409 `order_again` where the account has it by another order.
pub(crate) async fn agree(app: &App, buyer: &str, model: &str, revision: &str) -> Result<Agreed> {
    let sale = for_sale(app, model, Some(revision)).await?;
    if sale.terms.release != ReleaseWay::Deposit {
        let text = format!("the key of {model} is not deposited here");
        return Err(GatewayError::refused(
            StatusCode::CONFLICT,
            "deposit_unavailable",
            text,
        ));
    }
    let record = &sale.model.record;
    if record.owner == buyer || sale.terms.split.iter().any(|split| split.to == buyer) {
        return Err(order_own());
    }
    let account = app.store.account_at(buyer).await?;
    if let Some(account) = &account
        && let Some(known) = app.store.standing_order(account, model, &record.commit).await?
    {
        let text = format!("this address has bought it already, with the order {known}");
        return Err(GatewayError::refused(StatusCode::CONFLICT, "order_again", text));
    }
    let purchase = Purchase {
        order: Uuid::new_v4(),
        buyer: buyer.to_owned(),
        model: record.name.clone(),
        uuid: record.uuid,
        revision: record.commit.clone(),
        price: sale.price,
        asset: SOLD_FOR,
        gateway: app.market.signer(),
        time: unix_now(),
    };
    may_be_released(app, buyer, &purchase, ReleaseWay::Deposit).await?;
    let ancestors = lineage(app, &sale.model, Some(buyer)).await?;
    Ok(Agreed {
        parts: divide(sale.price, app.market.config.fee, &sale.terms, &ancestors),
        purchase,
        terms: sale.message,
    })
}

/// Sells what was agreed, from the balance to which the payment is booked, and gives the buyer the share with this token. The same again
/// changes nothing. What cannot be given is given back to the balance.
pub(crate) async fn complete(app: &App, agreed: &Agreed, token: &Secret) -> Result<SoldShare> {
    let purchase = &agreed.purchase;
    let unknown = || GatewayError::not_found("account_unknown", "no account has the payer's address");
    let buyer = app.store.account_at(&purchase.buyer).await?.ok_or_else(unknown)?;
    let order = match app.store.order(purchase.order).await? {
        Some(order) => order,
        None => sell(app, &buyer, agreed).await?,
    };
    let token = ShareToken::parse(token.expose())?;
    match given(app, order, token).await {
        Ok((_, Some(share))) => Ok(share),
        Ok((_, None)) => {
            let text = "another answer gave it out at the same moment";
            Err(GatewayError::refused(StatusCode::CONFLICT, "order_again", text))
        }
        Err(error @ GatewayError::Refused { .. }) => {
            if let Some(order) = app.store.order(purchase.order).await?
                && order.state == OrderState::Paid
            {
                app.store.refund_order(None, purchase.order, unix_now()).await?;
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn sell(app: &App, buyer: &str, agreed: &Agreed) -> Result<StoredOrder> {
    let purchase = &agreed.purchase;
    let paid = pay_for(app, purchase)?;
    // What the buyer's wallet signed of it is on the chain.
    let signed = NewOrder {
        purchase: purchase.clone(),
        signature: String::new(),
    };
    let order = app
        .store
        .buy(&NewSale {
            signed: &signed,
            settles: paid.paid.time.saturating_add(app.market.config.settle.as_secs()),
            paid: &paid,
            buyer,
            seller: purchase.model.split('/').next().unwrap_or_default(),
            way: ReleaseWay::Deposit,
            terms: &agreed.terms,
            parts: &agreed.parts,
            // It is paid already.
            most_per_hour: u32::MAX,
            receipts: &app.market.receipts,
        })
        .await?;
    tracing::info!(order = %purchase.order, model = purchase.model, price = %purchase.price, "a model was sold, paid on the chain");
    Ok(order)
}
