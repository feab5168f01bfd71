//! Releasing what was sold: `alephlab keys` of the seller asks its gateway what waits, and lets buyers in.
//!
//! Nothing is believed but signatures: the buyer's over the purchase, the owner's own over the terms, and that of the gateway that
//! the terms name over the payment. Each step can be done again: what was posted for an order is not posted twice.

use alephlab_api::client::ClientError;
use alephlab_api::market::{ModelTerms, NewOrder, OrderState, Purchase, ReleaseWay, Released, Sale};
use alephlab_api::model::Visibility;
use alephlab_gateway::{PurchaseError, check_paid, check_purchase};
use alephlab_vault::{Address, Keys, reader_keys_of, release_revision};

use super::engine::{Engine, refuse, vault};
use super::rules::{Answer, Rules};
use crate::error::Result;
use crate::models::Model;

const WHAT: &str = "what was sold was not released";
/// How far the clocks of owner and gateway may be apart, seconds: terms that were signed so shortly before count.
const CLOCKS: u64 = 600;

/// What saved answers say of sales. The terms that an owner signed are consent; a rule with the action `sell` can refuse it.
pub(super) struct SellRules {
    /// As rules call the gateway.
    pub(super) gateway: String,
    pub(super) rules: Rules,
}

impl SellRules {
    fn allow(&self, names: &[String]) -> bool {
        self.rules.find(&self.gateway, "sell", names) != Some(Answer::No)
    }
}

/// What became of what waited.
#[derive(Default)]
pub(super) struct Sold {
    /// One line each.
    pub(super) released: Vec<String>,
    /// Some could not be released, and are tried again.
    pub(super) left: bool,
}

impl Engine {
    /// Releases everything that was sold through the gateway and waits.
    pub(super) async fn release_sales(&self, rules: &SellRules) -> Result<Sold> {
        let sales = match self.gateway.sales(true).await {
            Ok(sales) => sales,
            // A gateway that sells nothing.
            Err(ClientError::Refused { status: 404, .. }) => return Ok(Sold::default()),
            Err(error) => return Err(error.into()),
        };
        let mut sold = Sold::default();
        for sale in sales {
            let purchase = &sale.order.purchase;
            match self.release_sale(&sale, rules).await {
                Ok(()) => sold.released.push(format!(
                    "sold {}@{} to {} for {}",
                    purchase.model,
                    purchase.revision,
                    purchase.buyer,
                    purchase.price.of(purchase.asset)
                )),
                Err(error) => {
                    tracing::warn!(order = %purchase.order, code = error.code(), %error, "an order is not released");
                    sold.left = true;
                }
            }
        }
        Ok(sold)
    }

    async fn release_sale(&self, sale: &Sale, rules: &SellRules) -> Result<()> {
        let purchase = &sale.order.purchase;
        let name = self.check_sale(sale).await?;
        let buyer: Address = purchase.buyer.parse().map_err(vault(WHAT))?;
        let reference = format!("{}@{}", purchase.model, purchase.revision);
        if !rules.allow(&[purchase.model.clone(), name, reference.clone()]) {
            return Err(refuse(
                "keys_refused",
                "a rule refuses this sale",
                "change rules.json",
            ));
        }
        let opened = self.open_here(&reference).await?;
        let head = opened.head.clone();
        let keys = self.narrowed(opened).await?;
        let Keys::Objects(keys) = &*keys else {
            return Err(refuse(
                "release_scope",
                "only keys of one revision are sold",
                "report this",
            ));
        };
        // Before the order is claimed: what can fail must not keep the buyer from taking back what was paid.
        let registered = reader_keys_of(&*self.storage, &purchase.buyer).await;
        if registered.map_err(vault(WHAT))?.is_empty() {
            return Err(refuse(
                "reader_key_needed",
                "the buyer has registered no key",
                "wait for it",
            ));
        }
        let claimed = self.gateway.claim_sale(purchase.order).await?;
        if claimed.state != OrderState::Paid {
            return Ok(());
        }
        let (wallet, order) = (self.account.wallet(), purchase.order.to_string());
        let posted = release_revision(&*self.storage, wallet, &head, keys, (&order, buyer)).await;
        let messages = posted.map_err(vault(WHAT))?;
        self.gateway
            .sale_released(purchase.order, &Released { messages })
            .await?;
        tracing::info!(order = %purchase.order, "an order was released");
        Ok(())
    }

    /// Whether this account sold exactly this: the plain name of the model.
    pub(super) async fn check_sale(&self, sale: &Sale) -> Result<String> {
        let purchase = &sale.order.purchase;
        let own = self.account.address();
        let no = |reason: &str| {
            refuse(
                "sale_refused",
                format!("this sale does not hold: {reason}"),
                "ask the gateway's operator",
            )
        };
        let unsigned = |error: PurchaseError| no(&error.to_string());
        let order = NewOrder {
            purchase: purchase.clone(),
            signature: sale.signature.clone(),
        };
        check_purchase(&order).map_err(unsigned)?;
        let name = purchase.model.strip_prefix(&format!("{own}/"));
        let name = name.ok_or_else(|| no("the model is another account's"))?;
        let models = self.index.fresh(&own).await?;
        let model = models.get(name).ok_or_else(|| no("there is no such model"))?;
        let mut all = model.revisions.iter().map(|one| &one.record);
        let record = all.find(|record| record.commit == purchase.revision);
        let record = record.ok_or_else(|| no("the revision is not offered"))?;
        if record.visibility != Visibility::Sealed || record.uuid != purchase.uuid {
            return Err(no("the revision is not one that is sold"));
        }
        let time = sale.paid.paid.time;
        let sold_by = |terms: &ModelTerms| is_sold_by(terms, purchase);
        let asked = [time, time.saturating_add(CLOCKS)];
        let mut asked = asked.into_iter().filter_map(|time| Model::asked_at(model, time));
        let terms = asked.find(|terms| sold_by(terms));
        let terms = terms.ok_or_else(|| no("no terms that this account signed sell it so"))?;
        check_paid(&sale.paid, purchase, &terms.gateway).map_err(unsigned)?;
        Ok(name.to_owned())
    }
}

/// Whether these terms sell it at what was paid, by the gateway that the buyer named, with a key from here.
fn is_sold_by(terms: &ModelTerms, purchase: &Purchase) -> bool {
    terms.release == ReleaseWay::Keys
        && terms.uuid == purchase.uuid
        && terms.asset == purchase.asset
        && terms.gateway == purchase.gateway
        && terms.price.is_some_and(|price| purchase.price >= price)
}
