//! Buying what somebody asked for in a browser: pages sign nothing, so the gateway says it to `alephlab keys` of the buyer.
//!
//! The gateway is not believed: what it says is compared with what the model's owner signed, at the price that the page said, and
//! a rule that names `buy` or the person at the terminal decides.

use alephlab_api::Problem;
use alephlab_api::client::ClientError;
use alephlab_api::market::{AskedPurchase, PartKind, SaleQuote};

use super::consent::Consent;
use super::engine::{Engine, refuse};
use super::rules::Answer;
use super::service::problem;
use crate::error::{CliError, Result};
use crate::models::{Reference, Registry};

impl Engine {
    /// Buys everything that waits and is agreed to: one line each.
    pub(super) async fn buy_wanted(&self, consent: &mut Consent) -> Result<Vec<String>> {
        let mut bought = Vec::new();
        for wanted in self.wanted().await? {
            match self.buy_one(&wanted, consent).await {
                Ok(None) => {}
                Ok(Some(line)) => bought.push(line),
                Err(error) => {
                    tracing::warn!(order = %wanted.order, code = error.code(), %error, "it was not bought");
                    self.gateway
                        .refuse_purchase(wanted.order, &problem(&error))
                        .await?;
                }
            }
        }
        Ok(bought)
    }

    async fn wanted(&self) -> Result<Vec<AskedPurchase>> {
        match self.gateway.purchases().await {
            Ok(wanted) => Ok(wanted),
            // A gateway whose pages sell nothing.
            Err(ClientError::Refused { status: 404, .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn buy_one(&self, wanted: &AskedPurchase, consent: &mut Consent) -> Result<Option<String>> {
        let registry = self.registry();
        let reference = format!("{}@{}", wanted.model, wanted.revision);
        let quote = quoted(&registry, wanted, &reference).await?;
        let names = [wanted.model.clone(), reference.clone()];
        match consent.decide_purchase(&names, &lines(&quote)).await? {
            None => return Ok(None),
            Some(Answer::No) => {
                let said = Problem::new("keys_refused", "the person at the machine said no");
                return Err(CliError::Refused { problem: said });
            }
            Some(Answer::Yes) => {}
        }
        // Another machine of the account may have answered while this one was asked.
        if !self.wanted().await?.contains(wanted) {
            return Ok(None);
        }
        let bought = registry.buy(&quote, wanted.order).await?;
        let key = match bought.share {
            Some(share) => format!("this gateway's share {} opens it", share.uuid),
            None => "its owner's machine gives the key".to_owned(),
        };
        let price = quote.price.of(quote.asset);
        Ok(Some(format!("bought {reference} for {price}; {key}")))
    }

    fn registry(&self) -> Registry {
        let gateway = Some(self.gateway.clone());
        Registry::new(self.account.clone(), self.storage.clone(), gateway)
    }
}

/// What its owner signed, if it costs what the page said.
async fn quoted(registry: &Registry, wanted: &AskedPurchase, reference: &str) -> Result<SaleQuote> {
    let Reference::Model {
        owner,
        name,
        revision,
    } = Reference::parse(reference)?
    else {
        let text = "the gateway named no model to buy";
        return Err(refuse("order_malformed", text, "report this"));
    };
    let found = registry.find(owner, &name, revision.as_deref()).await?;
    let quote = registry.quote(&found).await?;
    if (quote.price, quote.asset) == (wanted.price, wanted.asset) {
        return Ok(quote);
    }
    let text = format!(
        "it costs {} now, and the page said {}",
        quote.price.of(quote.asset),
        wanted.price.of(wanted.asset)
    );
    Err(refuse("price_changed", text, "look at the page again"))
}

fn lines(quote: &SaleQuote) -> Vec<String> {
    let mut lines = vec![
        format!("model    {}@{}", quote.model, quote.revision),
        format!("price    {}", quote.price.of(quote.asset)),
    ];
    lines.extend(quote.parts.iter().map(|part| {
        let to = match part.kind {
            PartKind::Sale => part.to.clone(),
            PartKind::Royalty => format!("{}, of whose {} it is made", part.to, part.model),
            PartKind::Fee => "this gateway".to_owned(),
        };
        format!("         {} to {to}", part.amount.of(quote.asset))
    }));
    lines.push(format!("key      {}", quote.release.in_words()));
    lines
}
