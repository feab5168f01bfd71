//! Selling and buying on the machine that has the keys: terms and purchases are signed here, and what a gateway says of a price is
//! compared with what its owner signed.

use alephlab_api::client::ClientError;
use alephlab_api::market::{
    Bought, MODEL_TERMS_TYPE, ModelTerms, NewDeposit, NewOrder, Order, OrderState, Purchase, ReleaseWay,
    SaleQuote, Split, deposit_text,
};
use alephlab_api::model::Visibility;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use alephlab_gateway::purchase_hash;
use alephlab_vault::share::ShareToken;
use alephlab_vault::{ReaderPublic, Release, register_reader_key, verify_text};
use uuid::Uuid;

use super::names::Posted;
use super::{Found, Registry, refuse, vault};
use crate::error::{CliError, Result};

const WHAT: &str = "nothing was bought";

/// What an owner asks.
pub(crate) struct Asks {
    /// None where it is not sold.
    pub(crate) price: Option<Amount>,
    /// Basis points.
    pub(crate) royalty: u16,
    pub(crate) split: Vec<Split>,
    pub(crate) release: ReleaseWay,
}

impl Registry {
    /// Signs what an own model costs from now on. None when that is so already.
    ///
    /// # Errors
    /// When it is not sealed, so that there is nothing to sell.
    pub(crate) async fn sell(&self, name: &str, asks: Asks) -> Result<Option<(ModelTerms, Posted)>> {
        let gateway = self.gateway()?.receipts(u64::MAX).await?.signer;
        // One after the other, by all processes of this account.
        let _lock = self.books.lock_publish().await?;
        let owner = self.account.address();
        let models = self.index.fresh(&owner).await?;
        let model = models.get(name).filter(|model| model.newest().is_some());
        let model = model.ok_or_else(|| {
            let message = format!("there is no model {name}");
            refuse("unknown_model", message, "check the name")
        })?;
        let newest = model.newest().map(|newest| newest.record.visibility);
        let reason = match newest {
            Some(Visibility::Public) if asks.price.is_some() => Some("public: anyone can read it"),
            Some(Visibility::Private) => Some("private: nobody is to know of it"),
            _ => None,
        };
        if let Some(reason) = reason {
            let message = format!("{name} is {reason}");
            return Err(refuse(
                "not_sealed",
                message,
                "publish a sealed revision first: --sealed",
            ));
        }
        self.index.check_clear(name, model.uuid())?;
        let last = model.asks();
        let terms = ModelTerms {
            name: format!("{owner}/{name}"),
            owner,
            uuid: model.uuid().unwrap_or_default(),
            price: asks.price,
            asset: Asset::Aleph,
            royalty: asks.royalty,
            split: asks.split,
            release: asks.release,
            gateway,
            per_hour: None,
            // The newest, whatever the clock of another machine said.
            created: last.map_or(0, |last| last.created + 1).max(unix_now()),
        };
        terms.check().map_err(|problem| CliError::Refused { problem })?;
        let is_same = |last: &ModelTerms| {
            let created = terms.created;
            ModelTerms {
                created,
                ..last.clone()
            } == terms
        };
        if last.is_some_and(is_same) {
            return Ok(None);
        }
        let posted = self.post(MODEL_TERMS_TYPE, &terms).await?;
        Ok(Some((terms, posted)))
    }

    /// What another account's revision costs at the gateway, which must be what its owner signed.
    ///
    /// # Errors
    /// When it is not for sale, this account can read it, or the gateway says another price.
    pub(crate) async fn quote(&self, found: &Found) -> Result<SaleQuote> {
        let record = &found.revision.record;
        let name = &found.name;
        if record.owner.eq_ignore_ascii_case(&self.account.address()) {
            return Err(refuse(
                "order_own",
                format!("{name} is yours"),
                "it opens already",
            ));
        }
        if self.open(record).await?.is_some() {
            let message = format!("this account can read {name} already");
            return Err(refuse(
                "already_granted",
                message,
                "alephlab model pull downloads it",
            ));
        }
        let terms = found.model.asks().filter(|terms| terms.price.is_some());
        let terms = terms.ok_or_else(|| {
            let message = format!("{name} is not for sale");
            refuse("not_for_sale", message, "ask its owner for a grant or a share")
        })?;
        let quote = self.gateway()?.sale_quote(name, Some(&record.commit)).await?;
        let is_signed = Some(quote.price) == terms.price
            && quote.asset == terms.asset
            && quote.release == terms.release
            && quote.gateway == terms.gateway
            && quote.uuid == record.uuid
            && quote.revision == record.commit;
        if is_signed {
            return Ok(quote);
        }
        let message = format!("the gateway sells {name} on other terms than its owner has signed");
        Err(refuse(
            "price_changed",
            message,
            "try again in a moment; the gateway may not have heard yet",
        ))
    }

    /// The order by which this account has bought a revision, if one stands.
    pub(crate) async fn order_of(&self, found: &Found) -> Result<Option<Order>> {
        let orders = self.gateway()?.orders().await?;
        let record = &found.revision.record;
        let is_this = |order: &Order| {
            let of = &order.purchase;
            of.model == found.name && of.revision == record.commit && order.state != OrderState::Refunded
        };
        Ok(orders.into_iter().find(is_this))
    }

    /// Signs the purchase of what was quoted, as an order of this id, and pays it. A request that was cut is sent again: it is paid
    /// once.
    pub(crate) async fn buy(&self, quote: &SaleQuote, order: Uuid) -> Result<Bought> {
        let (wallet, reader) = (self.account.wallet(), self.account.reader());
        // The seller wraps the key for it, and reads it from Aleph.
        let registered = register_reader_key(&*self.storage, wallet, reader).await;
        registered.map_err(vault(WHAT))?;
        let purchase = Purchase {
            order,
            buyer: wallet.address(),
            model: quote.model.clone(),
            uuid: quote.uuid,
            revision: quote.revision.clone(),
            price: quote.price,
            asset: quote.asset,
            gateway: quote.gateway.clone(),
            time: unix_now(),
        };
        self.pay(purchase).await
    }

    /// Asks for the answer to an order of this account again: of a deposited key with another token.
    pub(crate) async fn answer_again(&self, order: &Order) -> Result<Bought> {
        self.pay(order.purchase.clone()).await
    }

    async fn pay(&self, purchase: Purchase) -> Result<Bought> {
        let hash = purchase_hash(&purchase)
            .map_err(|error| refuse(error.code(), error.to_string(), "report this"))?;
        let signature = self.account.wallet().sign_hash(&hash).map_err(vault(WHAT))?;
        let order = NewOrder { purchase, signature };
        let gateway = self.gateway()?;
        let bought = match gateway.buy(&order).await {
            Err(ClientError::Unreachable { .. }) => gateway.buy(&order).await?,
            other => other?,
        };
        if let Some(share) = &bought.share {
            let token = ShareToken::parse(share.token.expose()).map_err(vault(WHAT))?;
            self.books.accept(share.uuid, &token)?;
        }
        Ok(bought)
    }

    /// Gives the gateway the key of the newest revision of an own model, which it may sell then. Its operator can read it.
    pub(crate) async fn deposit(&self, name: &str) -> Result<()> {
        const WHAT: &str = "the key was not deposited";
        let (engine, gateway) = (self.engine()?, self.gateway()?);
        let info = gateway.market().await?;
        let signed = verify_text(
            &info.gateway,
            &deposit_text(&info.deposit_key),
            &info.deposit_signature,
        );
        signed.map_err(vault(WHAT))?;
        let to = ReaderPublic::from_hex(&info.deposit_key).map_err(vault(WHAT))?;
        let found = self.find(None, name, None).await?;
        let reference = format!("{}@{}", found.name, found.revision.record.commit);
        let opened = engine.open_here(&reference).await?;
        let head = opened.head.clone();
        let keys = engine.narrow(opened, WHAT).await?;
        let recipient = info.gateway.parse().map_err(vault(WHAT))?;
        let sealed = Release::seal("deposit", &head, recipient, &to, &keys).map_err(vault(WHAT))?;
        let sealed = serde_json::to_value(sealed)
            .map_err(|error| refuse("keys_json", error.to_string(), "report this"))?;
        let model = found.name;
        Ok(gateway.deposit(&NewDeposit { model, sealed }).await?)
    }
}
