//! Sales: what a revision costs now and whom that pays, which orders are taken, and what becomes of them.
//!
//! `parts` divides a price, `typed` is what is signed, `settling` carries orders on; `store::market` moves the value. The gateway
//! never has the key of what is sold so: it says to the owner's machine that an order is paid, and looks on Aleph whether the
//! key went out.

mod asked;
mod by_chain;
mod deposits;
mod parts;
mod settling;
mod typed;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::keys::KeyWake;
use alephlab_api::market::{
    AskedPurchase, Bought, LINEAGE_MAX, ModelTerms, NewOrder, Order, Paid, Part, Purchase, ReleaseWay,
    SaleQuote, SignedPaid, Split,
};
use alephlab_api::model::{IndexedModel, ModelPage, Visibility};
use alephlab_api::money::Amount;
use alephlab_api::time::unix_now;
use alephlab_vault::storage::Storage;
use alephlab_vault::{Address, SignedHead, grants_of, reader_keys_of};
use axum::http::StatusCode;
use uuid::Uuid;

use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::models::canonical;
use crate::receipts::ReceiptKey;
use crate::state::App;
use crate::store::{NewSale, SOLD_FOR, StoredOrder, order_own};

pub(crate) use asked::{Standing as PurchaseStanding, Wanted};
pub(crate) use by_chain::{Agreed, agree, complete};
pub(crate) use deposits::{DepositKey, deposit, forget, info};
use parts::{Ancestor, divide};
pub(crate) use settling::{claim, released, settle};
pub use typed::{PurchaseError, check_paid, check_purchase, paid_hash, purchase_hash};

/// Models that are looked at on the way to ancestors, the seller's own with them.
const WALK_MAX: usize = 16;
/// How far a buyer's clock may be from this one's, seconds.
const CLOCKS: u64 = 3_600;

/// What a gateway asks of sales.
#[derive(Debug, Clone, Copy)]
pub struct MarketConfig {
    /// What it takes of each, basis points.
    pub fee: u16,
    /// Orders of one account in an hour, at most.
    pub orders_per_hour: u32,
    /// How long after it is paid an order is settled: to its buyer if no key came, else to its seller.
    pub settle: Duration,
}

impl Default for MarketConfig {
    fn default() -> Self {
        Self {
            fee: 500,
            orders_per_hour: 20,
            settle: Duration::from_secs(86_400),
        }
    }
}

/// What sales need of a running gateway.
pub(crate) struct Market {
    config: MarketConfig,
    receipts: Arc<ReceiptKey>,
    deposits: DepositKey,
    /// What is wanted in browsers, and waits for buyers' wallets.
    pub(crate) wanted: Wanted,
}

impl Market {
    /// With the key for deposits in `folder`.
    pub(crate) fn open(config: MarketConfig, folder: &Path, receipts: Arc<ReceiptKey>) -> Result<Self> {
        Ok(Self {
            config,
            deposits: DepositKey::open(folder, |text| receipts.sign_text(text))?,
            receipts,
            wanted: Wanted::default(),
        })
    }

    /// What it takes of each sale, basis points.
    pub(crate) fn fee(&self) -> u16 {
        self.config.fee
    }

    /// By which owners name this gateway in their terms, and buyers in their orders.
    pub(crate) fn signer(&self) -> String {
        self.receipts.address()
    }
}

/// A revision that is for sale here.
struct ForSale {
    model: IndexedModel,
    terms: ModelTerms,
    /// Item hash of the terms' message.
    message: String,
    price: Amount,
}

/// What a revision costs now, and whom that pays; the newest, or the one that a tag or commit names.
pub(crate) async fn quote(app: &App, name: &str, revision: Option<&str>) -> Result<SaleQuote> {
    let sale = for_sale(app, name, revision).await?;
    let ancestors = lineage(app, &sale.model, None).await?;
    let record = sale.model.record;
    Ok(SaleQuote {
        parts: divide(sale.price, app.market.config.fee, &sale.terms, &ancestors),
        model: record.name,
        uuid: record.uuid,
        revision: record.commit,
        price: sale.price,
        asset: SOLD_FOR,
        release: sale.terms.release,
        gateway: app.market.signer(),
        terms: sale.message,
        refund_seconds: app.market.config.settle.as_secs(),
    })
}

/// Takes an order of an account and pays it. The same order again changes nothing.
pub(crate) async fn buy(app: &App, account: &Account, new: &NewOrder) -> Result<Bought> {
    let unprocessable = |problem| GatewayError::Refused {
        status: StatusCode::BAD_REQUEST,
        problem,
    };
    let purchase = &new.purchase;
    purchase.check().map_err(unprocessable)?;
    let address = account.needs_address("buying")?;
    if let Some(known) = app.store.order(purchase.order).await? {
        return match known.buyer == account.id && known.signed.purchase == *purchase {
            true => deposits::answered(app, known).await,
            false => Err(GatewayError::refused(
                StatusCode::CONFLICT,
                "key_conflict",
                format!("{} is another order's id", purchase.order),
            )
            .with_hint("draw another id")),
        };
    }
    check_signed(app, address, new)?;
    let sale = for_sale(app, &purchase.model, Some(&purchase.revision)).await?;
    check_sale(purchase, &sale)?;
    let owner = sale.model.record.owner.as_str();
    if owner == address || sale.terms.split.iter().any(|split| split.to == address) {
        return Err(order_own());
    }
    if let Some(known) = app
        .store
        .standing_order(&account.id, &purchase.model, &purchase.revision)
        .await?
    {
        let text = format!("this account has bought it already, with the order {known}");
        return Err(GatewayError::refused(StatusCode::CONFLICT, "order_again", text));
    }
    may_be_released(app, address, purchase, sale.terms.release).await?;
    let ancestors = lineage(app, &sale.model, Some(address)).await?;
    let parts = divide(sale.price, app.market.config.fee, &sale.terms, &ancestors);
    let paid = pay_for(app, purchase)?;
    let sold = NewSale {
        signed: new,
        settles: paid.paid.time.saturating_add(app.market.config.settle.as_secs()),
        paid: &paid,
        buyer: &account.id,
        seller: owner,
        way: sale.terms.release,
        terms: &sale.message,
        parts: &parts,
        most_per_hour: app.market.config.orders_per_hour,
        receipts: &app.market.receipts,
    };
    let order = match app.store.buy(&sold).await {
        Ok(order) => order,
        Err(error) if error.code() == "balance_too_small" => {
            return Err(too_small(app, account, sale.price).await);
        }
        Err(error) => return Err(error),
    };
    app.market.wanted.forget(purchase.order);
    tracing::info!(order = %purchase.order, model = purchase.model, price = %sale.price, "a model was sold");
    if order.way == ReleaseWay::Keys {
        app.keys.tell(&order.seller, KeyWake::Sales);
    }
    deposits::answered(app, order).await
}

/// Whom a sale of a model would pay at a price and a split that are not signed yet.
///
/// # Errors
/// 404 for a model that is not here; a `model_terms` problem for what could not be signed.
pub(crate) async fn preview(
    app: &App,
    name: &str,
    (price, royalty): (Amount, u16),
    split: Vec<Split>,
) -> Result<Vec<Part>> {
    let page = app.models.page(name).await?;
    let newest = page.and_then(|page| page.revisions.into_iter().next());
    let model = newest.ok_or_else(|| {
        GatewayError::not_found("model_unknown", format!("this gateway knows no model {name}"))
    })?;
    let terms = ModelTerms {
        owner: model.record.owner.clone(),
        name: model.record.name.clone(),
        uuid: model.record.uuid,
        price: Some(price),
        asset: SOLD_FOR,
        royalty,
        split,
        release: ReleaseWay::Keys,
        gateway: app.market.signer(),
        per_hour: None,
        created: unix_now(),
    };
    terms.check().map_err(|problem| GatewayError::Refused {
        status: StatusCode::BAD_REQUEST,
        problem,
    })?;
    let ancestors = lineage(app, &model, None).await?;
    Ok(divide(price, app.market.config.fee, &terms, &ancestors))
}

/// Takes note that somebody in a browser wants to buy what was quoted, and tells it to the machines of the account: pages do not
/// sign. The same again, while it waits, is the same purchase.
pub(crate) fn want(app: &App, account: &Account, quote: &SaleQuote) -> Result<Uuid> {
    let address = account.needs_address("buying")?;
    if quote.model.starts_with(&format!("{address}/")) {
        return Err(order_own());
    }
    let wanted = AskedPurchase {
        order: Uuid::new_v4(),
        model: quote.model.clone(),
        revision: quote.revision.clone(),
        price: quote.price,
        asset: quote.asset,
        asked: unix_now(),
    };
    let order = app.market.wanted.want(&account.id, wanted)?;
    app.keys.tell(&account.id, KeyWake::Purchases);
    Ok(order)
}

/// An order as its buyer and seller see it.
pub(crate) async fn shown(app: &App, order: StoredOrder) -> Result<Order> {
    let parts = app.store.order_parts(order.id()).await?;
    Ok(order.shown(parts))
}

/// Whether the buyer's wallet signed it for this gateway, a moment ago.
fn check_signed(app: &App, address: &str, new: &NewOrder) -> Result<()> {
    let purchase = &new.purchase;
    let refused = |code: &str, text: &str| GatewayError::refused(StatusCode::FORBIDDEN, code, text);
    if purchase.buyer != address {
        return Err(refused("order_foreign", "the order is of another account"));
    }
    check_purchase(new).map_err(|error| refused(error.code(), &error.to_string()))?;
    if purchase.gateway != app.market.signer() {
        return Err(refused("order_elsewhere", "the order is for another gateway"));
    }
    if purchase.time.abs_diff(unix_now()) > CLOCKS {
        let text = "the order is not of this hour";
        return Err(
            GatewayError::bad_request("order_stale", text).with_hint("check the clock, and order again")
        );
    }
    Ok(())
}

/// Whether it is what is for sale, at the price in force.
fn check_sale(purchase: &Purchase, sale: &ForSale) -> Result<()> {
    let record = &sale.model.record;
    if purchase.price != sale.price || purchase.asset != SOLD_FOR {
        let text = format!("{} costs {} now", record.name, sale.price.of(SOLD_FOR));
        return Err(GatewayError::refused(StatusCode::CONFLICT, "price_changed", text)
            .with_hint("look at the price, and order again"));
    }
    if purchase.uuid != record.uuid || purchase.revision != record.commit {
        let text = "the order names another model than the one of this name";
        return Err(GatewayError::bad_request("order_malformed", text));
    }
    Ok(())
}

/// Finds a sealed revision that its owner sells here.
async fn for_sale(app: &App, name: &str, revision: Option<&str>) -> Result<ForSale> {
    let page = app.models.page(name).await?.ok_or_else(|| {
        GatewayError::not_found("model_unknown", format!("this gateway knows no model {name}"))
    })?;
    let model = revision_of(&page, revision).ok_or_else(|| {
        let text = format!("{name} has no revision {}", revision.unwrap_or_default());
        GatewayError::not_found("revision_unknown", text)
    })?;
    let conflict = |code: &str, text: String| GatewayError::refused(StatusCode::CONFLICT, code, text);
    let full = &model.record.name;
    match model.record.visibility {
        Visibility::Sealed => {}
        Visibility::Public => {
            let text = format!("{full} is public at this revision: anyone can read it");
            return Err(conflict("model_public", text));
        }
        Visibility::Private => return Err(not_for_sale(full)),
    }
    let indexed = page.terms.ok_or_else(|| not_for_sale(full))?;
    let price = indexed.terms.price.ok_or_else(|| not_for_sale(full))?;
    // A model that was made anew under the name is not what they are about; the seller's machine would refuse it.
    if indexed.terms.uuid != model.record.uuid {
        return Err(not_for_sale(full));
    }
    if !indexed.here {
        let text = format!("{full} is sold at the gateway {}", indexed.terms.gateway);
        return Err(conflict("sold_elsewhere", text).with_hint("buy it there"));
    }
    // Any owner may name any gateway; one without an account could not be told that something is paid.
    if app.store.admits(&model.record.owner).await?.is_none() {
        let text = format!("the owner of {full} has no account at this gateway");
        return Err(conflict("seller_unknown", text).with_hint("ask them to sign in here"));
    }
    let is_deposited = async || app.store.deposit(full, &model.record.commit).await;
    if indexed.terms.release == ReleaseWay::Deposit && is_deposited().await?.is_none() {
        let text = format!("the key of this revision of {full} is not deposited here");
        return Err(conflict("deposit_unavailable", text));
    }
    Ok(ForSale {
        model,
        terms: indexed.terms,
        message: indexed.message,
        price,
    })
}

fn revision_of(page: &ModelPage, revision: Option<&str>) -> Option<IndexedModel> {
    let commit = match revision {
        None | Some("main") => return page.revisions.first().cloned(),
        Some(named) => page.tags.get(named).map_or(named, String::as_str),
    };
    let mut all = page.revisions.iter();
    all.find(|one| one.record.commit == commit).cloned()
}

fn not_for_sale(name: &str) -> GatewayError {
    GatewayError::not_found("not_for_sale", format!("{name} is not for sale"))
        .with_hint("ask its owner for a grant or a share")
}

/// The models that one is made from, as its record and theirs say, whose owners ask for a royalty. Who buys or sells pays none
/// to themselves.
async fn lineage(app: &App, model: &IndexedModel, buyer: Option<&str>) -> Result<Vec<Ancestor>> {
    let seller = &model.record.owner;
    let mut seen = BTreeSet::from([model.record.name.clone()]);
    let mut base = model.record.card.base_model.clone();
    let mut found = Vec::new();
    let mut steps = 0;
    for _ in 0..WALK_MAX {
        let name = base
            .as_deref()
            .and_then(|base| canonical(base.split('@').next()?));
        // Models that say that they are made from each other end where they began.
        let Some(name) = name.filter(|name| seen.insert(name.clone())) else {
            break;
        };
        let Some(page) = app.models.page(&name).await? else {
            break;
        };
        let Some(newest) = page.revisions.first() else {
            break;
        };
        let owner = &newest.record.owner;
        let royalty = page.terms.as_ref().map_or(0, |terms| terms.terms.royalty);
        if royalty > 0 && owner != seller && Some(owner.as_str()) != buyer {
            found.push(Ancestor {
                model: name,
                owner: owner.clone(),
                royalty,
                steps,
            });
        }
        // Own models in between would be steps that are made to pay nothing.
        steps += usize::from(owner != seller);
        if steps == LINEAGE_MAX {
            break;
        }
        base.clone_from(&newest.record.card.base_model);
    }
    Ok(found)
}

/// Refuses what could not be released, and what the buyer can read already.
async fn may_be_released(app: &App, buyer: &str, purchase: &Purchase, way: ReleaseWay) -> Result<()> {
    let unknown = || GatewayError::not_found("revision_unknown", "this gateway does not know that revision");
    let stored = app.store.model(&purchase.model, &purchase.revision).await?;
    let head = stored.ok_or_else(unknown)?.head;
    let conflict = |code: &str, text: &str| GatewayError::refused(StatusCode::CONFLICT, code, text);
    if way == ReleaseWay::Keys && reader_keys_of(&*app.storage, buyer).await?.is_empty() {
        let text = "this account has registered no key that a model could be granted to";
        return Err(
            conflict("reader_key_needed", text).with_hint("register one: alephlab wallet register-key NAME")
        );
    }
    if is_granted(&*app.storage, &head, buyer).await? {
        return Err(conflict(
            "already_granted",
            "its owner has granted it to this account",
        ));
    }
    Ok(())
}

async fn is_granted(storage: &dyn Storage, head: &SignedHead, buyer: &str) -> Result<bool> {
    let Ok(buyer) = buyer.parse::<Address>() else {
        return Ok(false);
    };
    let (epoch, now) = (head.head.epoch, unix_now());
    let grants = grants_of(storage, head).await?;
    Ok(grants
        .iter()
        .any(|one| one.grant.recipient == buyer && one.holds(epoch, now)))
}

/// The gateway's word that an order is paid; it is given out when it is.
fn pay_for(app: &App, purchase: &Purchase) -> Result<SignedPaid> {
    let paid = Paid {
        order: purchase.order,
        buyer: purchase.buyer.clone(),
        model: purchase.model.clone(),
        revision: purchase.revision.clone(),
        price: purchase.price,
        asset: purchase.asset,
        time: unix_now(),
    };
    let hash =
        paid_hash(&paid).map_err(|error| GatewayError::bad_request(error.code(), error.to_string()))?;
    let signature = app.market.receipts.sign_hash(&hash)?;
    Ok(SignedPaid { paid, signature })
}

/// What is missing, of the whole price.
async fn too_small(app: &App, account: &Account, price: Amount) -> GatewayError {
    let balances = app.store.balances(&account.id).await.unwrap_or_default();
    let own = balances.iter().find(|balance| balance.asset == SOLD_FOR);
    let available = own.map_or(Amount::ZERO, |balance| balance.available);
    let (price, available) = (price.of(SOLD_FOR), available.of(SOLD_FOR));
    let text = format!("it costs {price}, and {available} are available");
    GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "balance_too_small", text)
        .with_hint("deposit ALEPH: alephlab wallet deposit")
}
