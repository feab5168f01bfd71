//! `/orders/{id}`: a purchase from the press on the button until its key is there, and its receipt from then on.
//!
//! What it says of itself is read anew each time: the page asks again by itself where there is script, and by a link where there is none.

use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::market::{AskedPurchase, Order, OrderState, ReleaseWay};
use alephlab_api::money::Amount;
use alephlab_api::receipt::SignedReceipt;
use alephlab_api::time::unix_now;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::buying::Goods;
use super::offer::available;
use super::words::{self, PartRow, exact};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::market::{self, PurchaseStanding};
use crate::routes::browser::{own_form, sentence};
use crate::routes::pages::short;
use crate::routes::registry::{not_found, see};
use crate::routes::top::own_page;
use crate::state::App;

#[derive(Template)]
#[template(path = "order.html")]
struct OrderPage {
    version: &'static str,
    address: String,
    short: String,
    id: Uuid,
    model: String,
    own: String,
    revision: String,
    /// None where this gateway does not know the revision any more; what was bought stays bought.
    goods: Option<Goods>,
    price: String,
    usd: Option<String>,
    standing: Standing,
    title: String,
    lead: String,
    /// It goes on by itself.
    is_live: bool,
    is_seller: bool,
    trouble: Option<String>,
    balance: String,
    machines: usize,
    receipt: Option<ReceiptView>,
}

/// Where it is, as the page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    NotBought,
    Paid,
    Claimed,
    Here,
    Returned,
}

impl Standing {
    /// How far each step is, for a line of them.
    fn steps(self) -> [(&'static str, &'static str); 3] {
        let classes = match self {
            Self::Waiting | Self::NotBought | Self::Returned => ["now", "", ""],
            Self::Paid | Self::Claimed => ["done", "done", "now"],
            Self::Here => ["done", "done", "done"],
        };
        let [signed, paid, key] = classes;
        [("Signed", signed), ("Paid", paid), ("Key", key)]
    }
}

/// What was signed and paid.
struct ReceiptView {
    buyer: String,
    parts: Vec<PartRow>,
    base: String,
    paid: String,
    settles: String,
    state: (&'static str, &'static str, &'static str),
    released: Option<String>,
    proof: Vec<String>,
    release: &'static str,
    /// As the gateway signed it: its number in the buyer's chain, address and name of its file.
    signed: Option<(u64, (String, String))>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OrderQuery {
    /// Of a form that was refused: its code, of those that are known here.
    not: String,
    /// What a page that asks again shows already.
    was: String,
}

/// `GET /orders/{id}`, for its buyer and its seller.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(OrderQuery { not, was }): Query<OrderQuery>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(match id.parse::<Uuid>() {
            Ok(id) => see(&format!("/?next=/orders/{id}")),
            Err(_) => see("/?next=/receipts"),
        });
    };
    let trouble = match not.as_str() {
        "claimed" => {
            Some("The owner's machine has begun to give you the key, so it cannot be taken back now.")
        }
        "released" => Some("The key has gone out, so what was paid is not given back any more."),
        _ => None,
    };
    let Some(shown) = page(&app, &account, &id).await? else {
        return not_found(&app, Some(&account), &headers).await;
    };
    // Nothing is put in where nothing changed: who is at a button stays there, and nothing is read out twice.
    if headers.contains_key("hx-request") && shown.mark() == was {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let trouble = trouble.map(str::to_owned);
    own_page(&app, &account.id, &headers, &OrderPage { trouble, ..shown }).await
}

/// `POST /orders/{id}/cancel`: it is not to be bought after all.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "end purchases")?;
    let Ok(order) = id.parse::<Uuid>() else {
        return not_found(&app, Some(&account), &headers).await;
    };
    let said = Problem::new("purchase_ended", "you ended it in this browser");
    app.market.wanted.refuse(&account.id, order, said);
    Ok(see(&format!("/orders/{order}")))
}

/// `POST /orders/{id}/refund`: what was paid goes back, while no key came.
pub(crate) async fn refund(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "take payments back")?;
    let Ok(order) = id.parse::<Uuid>() else {
        return not_found(&app, Some(&account), &headers).await;
    };
    match app.store.refund_order(Some(&account.id), order, unix_now()).await {
        Ok(_) => {
            tracing::info!(%order, "an order was refunded");
            Ok(see(&format!("/orders/{order}")))
        }
        Err(error) => match error.code() {
            "order_claimed" => Ok(see(&format!("/orders/{order}?not=claimed"))),
            "order_released" => Ok(see(&format!("/orders/{order}?not=released"))),
            "order_unknown" => not_found(&app, Some(&account), &headers).await,
            _ => Err(error),
        },
    }
}

async fn page(app: &App, account: &Account, id: &str) -> Result<Option<OrderPage>> {
    let Ok(id) = id.parse::<Uuid>() else {
        return Ok(None);
    };
    let stored = app.store.order(id).await?;
    let stored = stored.filter(|order| [&order.buyer, &order.seller].contains(&&account.id));
    Ok(match stored {
        Some(order) => {
            let is_seller = order.seller == account.id;
            let order = market::shown(app, order).await?;
            Some(OrderPage::of_order(app, account, (&order, is_seller)).await?)
        }
        None => match app.market.wanted.find(&account.id, id) {
            Some((wanted, standing)) => Some(OrderPage::of_wanted(app, account, &wanted, standing).await?),
            None => None,
        },
    })
}

impl OrderPage {
    /// By which it is known whether anything has changed.
    fn mark(&self) -> String {
        format!("{:?}-{}", self.standing, self.machines)
    }

    async fn new(
        app: &App,
        account: &Account,
        (id, model, revision): (Uuid, &str, &str),
        price: Amount,
    ) -> Result<Self> {
        let own = model.split_once('/').map_or(model, |(_, own)| own);
        let rate = app.settlement.rate().ok();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            id,
            model: model.to_owned(),
            own: own.to_owned(),
            revision: revision.to_owned(),
            goods: Goods::of(app, model, revision).await?,
            price: exact(price),
            usd: words::in_usd(price, rate),
            standing: Standing::Waiting,
            title: String::new(),
            lead: String::new(),
            is_live: false,
            is_seller: false,
            trouble: None,
            balance: words::aleph(available(app, &account.id, crate::store::SOLD_FOR).await?),
            machines: app.keys.machines(&account.id),
            receipt: None,
        })
    }

    /// Of one that nobody has signed.
    async fn of_wanted(
        app: &App,
        account: &Account,
        wanted: &AskedPurchase,
        standing: PurchaseStanding,
    ) -> Result<Self> {
        let what = (wanted.order, wanted.model.as_str(), wanted.revision.as_str());
        let mut page = Self::new(app, account, what, wanted.price).await?;
        (page.standing, page.title, page.lead) = match standing {
            PurchaseStanding::Waiting => (
                Standing::Waiting,
                "Answer on your machine".to_owned(),
                "Nothing is paid yet. Your machine shows the model and its price and asks; your wallet signs there.".to_owned(),
            ),
            PurchaseStanding::Refused(problem) => (
                Standing::NotBought,
                "Not bought".to_owned(),
                format!("Nothing was paid. {}", in_words(&problem)),
            ),
            PurchaseStanding::Late => (
                Standing::NotBought,
                "Not bought".to_owned(),
                "Nothing was paid. No machine with your wallet answered within 15 minutes.".to_owned(),
            ),
        };
        page.is_live = page.standing == Standing::Waiting;
        Ok(page)
    }

    /// Of one that is paid.
    async fn of_order(app: &App, account: &Account, (order, is_seller): (&Order, bool)) -> Result<Self> {
        let purchase = &order.purchase;
        let what = (
            purchase.order,
            purchase.model.as_str(),
            purchase.revision.as_str(),
        );
        let mut page = Self::new(app, account, what, purchase.price).await?;
        let (price, settles) = (exact(purchase.price), words::moment(order.settles));
        page.standing = match order.state {
            OrderState::Paid if order.claimed => Standing::Claimed,
            OrderState::Paid => Standing::Paid,
            OrderState::Released | OrderState::Final => Standing::Here,
            OrderState::Refunded => Standing::Returned,
        };
        (page.title, page.lead) = match (page.standing, is_seller) {
            (Standing::Paid, true) => (
                format!("{} was bought", page.own),
                format!(
                    "Keep alephlab keys running on your machine: it gives the buyer the key. Without one the buyer has {price} \
                     back on {settles} UTC."
                ),
            ),
            (Standing::Paid, false) => (
                "Paid; the key is on its way".to_owned(),
                format!(
                    "{price} left your balance. The owner's machine gives you the key when it runs; if none comes, it is all back \
                     on {settles} UTC."
                ),
            ),
            (Standing::Claimed, _) => (
                "Paid; the key is coming".to_owned(),
                "The owner's machine is wrapping the key now.".to_owned(),
            ),
            (Standing::Returned, _) => (
                "Paid back".to_owned(),
                format!("{price} went back to the buyer's balance. No key had come."),
            ),
            (_, true) => (
                format!("You sold {}", page.own),
                match order.state {
                    OrderState::Final => "It is final: what you receive can be spent.".to_owned(),
                    _ => format!("The key went out. What you receive can be spent from {settles} UTC."),
                },
            ),
            (_, false) => (
                format!("You own {}", page.own),
                match order.release {
                    ReleaseWay::Keys => {
                        "The key is wrapped for yours. Open it in a notebook, or read it through alephlab hub and alephlab model pull."
                    }
                    ReleaseWay::Deposit => {
                        "This gateway gave your machine a share of it. Open it in a notebook, or read it through alephlab hub."
                    }
                }
                .to_owned(),
            ),
        };
        page.is_seller = is_seller;
        page.is_live = matches!(page.standing, Standing::Paid | Standing::Claimed);
        let signed = app.store.receipt_of_order(purchase.order).await?;
        page.receipt = Some(ReceiptView::of(order, signed));
        Ok(page)
    }
}

impl ReceiptView {
    fn of(order: &Order, signed: Option<SignedReceipt>) -> Self {
        let purchase = &order.purchase;
        Self {
            buyer: purchase.buyer.clone(),
            parts: words::parts(&order.parts, &purchase.model, purchase.price),
            base: words::base_units(purchase.price),
            paid: words::moment(order.paid),
            settles: words::moment(order.settles),
            state: state_badge(order.state),
            released: order.released.map(words::moment),
            proof: order.proof.clone(),
            release: order.release.in_words(),
            signed: signed.map(|one| (one.receipt.sequence, super::receipts::file(&one.receipt))),
        }
    }
}

/// Class, icon and words of a state.
pub(super) fn state_badge(state: OrderState) -> (&'static str, &'static str, &'static str) {
    match state {
        OrderState::Paid => ("warn", "i-clock", "Paid, no key yet"),
        OrderState::Released => ("good", "i-check", "Key given"),
        OrderState::Final => ("good", "i-check", "Final"),
        OrderState::Refunded => ("plain", "i-repeat", "Paid back"),
    }
}

/// What a machine said, as sentences.
fn in_words(problem: &Problem) -> String {
    sentence(&GatewayError::Refused {
        status: StatusCode::CONFLICT,
        problem: problem.clone(),
    })
}
