//! What stands where the price of a model is: on its own page, on the page that sells it and where a file is refused.

use alephlab_api::market::{OrderState, SaleQuote};
use alephlab_api::model::ModelPage;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::payout::Rate;
use uuid::Uuid;

use super::words::{self, PartRow};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::market;
use crate::state::App;

/// The box of prices on a model's page; all empty for a model that is not sold.
#[derive(Default)]
pub(in crate::routes) struct PriceBox {
    /// What this revision costs, for who has not bought it.
    pub(in crate::routes) sale: Option<Sale>,
    /// The account bought this revision.
    pub(in crate::routes) bought: Option<Bought>,
    /// What its owner asks now, where the owner looks.
    pub(in crate::routes) own: Option<String>,
}

/// What something costs.
pub(in crate::routes) struct Sale {
    /// `240.00 ALEPH`, exact.
    pub(in crate::routes) price: String,
    /// `240.00`.
    pub(in crate::routes) figure: String,
    /// With its rate and the time of that.
    pub(in crate::routes) usd: Option<String>,
    pub(in crate::routes) parts: Vec<PartRow>,
    /// Who holds the key, and who can read the model then.
    pub(in crate::routes) release: &'static str,
    /// How long a key that does not come is waited for.
    pub(in crate::routes) term: String,
    /// Of the page that sells it.
    pub(in crate::routes) buy: String,
    /// As it is signed.
    pub(in crate::routes) base: String,
}

/// An order that stands.
pub(in crate::routes) struct Bought {
    pub(in crate::routes) order: Uuid,
    pub(in crate::routes) price: String,
    /// The key went out.
    pub(in crate::routes) is_here: bool,
}

impl Sale {
    pub(in crate::routes) fn of(quote: &SaleQuote, rate: Option<Rate>) -> Self {
        Self {
            price: words::exact(quote.price),
            figure: words::full(quote.price),
            usd: words::at_rate(quote.price, rate),
            parts: words::parts(&quote.parts, &quote.model, quote.price),
            release: quote.release.in_words(),
            term: words::term(quote.refund_seconds),
            buy: format!("/buy/{}?rev={}", quote.model, quote.revision),
            base: words::base_units(quote.price),
        }
    }
}

/// What an account that looks is shown of a revision's price.
pub(in crate::routes) async fn price_box(
    app: &App,
    account: Option<&Account>,
    known: &ModelPage,
    (name, revision): (&str, &str),
) -> Result<PriceBox> {
    // Most models have none, and nobody's database is asked for it.
    let is_sold = known.terms.as_ref().is_some_and(|one| one.terms.price.is_some());
    let quote = match is_sold {
        false => None,
        true => match market::quote(app, name, Some(revision)).await {
            Ok(quote) => Some(quote),
            // Public at this revision, or not sold here.
            Err(GatewayError::Refused { .. }) => None,
            Err(error) => return Err(error),
        },
    };
    let rate = app.settlement.rate().ok();
    let Some(account) = account else {
        let sale = quote.map(|quote| Sale::of(&quote, rate));
        return Ok(PriceBox {
            sale,
            ..PriceBox::default()
        });
    };
    let owner = name.split('/').next().unwrap_or_default();
    let is_owner = account
        .address()
        .is_some_and(|own| own.eq_ignore_ascii_case(owner));
    if is_owner {
        return Ok(PriceBox {
            own: quote.map(|quote| words::exact(quote.price)),
            ..PriceBox::default()
        });
    }
    let bought = app.store.bought(&account.id, name).await?;
    let bought = bought
        .into_iter()
        .find(|order| order.signed.purchase.revision == revision);
    Ok(match bought {
        Some(order) => PriceBox {
            bought: Some(Bought {
                order: order.id(),
                price: words::exact(order.signed.purchase.price),
                is_here: matches!(order.state, OrderState::Released | OrderState::Final),
            }),
            ..PriceBox::default()
        },
        None => PriceBox {
            sale: quote.map(|quote| Sale::of(&quote, rate)),
            ..PriceBox::default()
        },
    })
}

/// Of an asset what an account can spend.
pub(in crate::routes) async fn available(app: &App, account: &str, asset: Asset) -> Result<Amount> {
    let balances = app.store.balances(account).await?;
    let own = balances.iter().find(|balance| balance.asset == asset);
    Ok(own.map_or(Amount::ZERO, |balance| balance.available))
}

/// What is paid from, and what is left then.
pub(in crate::routes) struct Purse {
    pub(in crate::routes) available: String,
    /// None where it is too little.
    pub(in crate::routes) after: Option<String>,
    pub(in crate::routes) missing: Option<String>,
}

impl Purse {
    pub(in crate::routes) fn of(available: Amount, price: Amount) -> Self {
        let after = available.checked_sub(price);
        Self {
            available: words::aleph(available),
            missing: match after {
                Some(_) => None,
                // To the last digit: less than that does not help.
                None => Some(words::exact(price.saturating_sub(available))),
            },
            after: after.map(words::aleph),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_to_the_last_digit() {
        let (price, little): (Amount, Amount) = ("240".parse().unwrap(), "239.999999".parse().unwrap());
        let purse = Purse::of(little, price);
        assert_eq!(
            (purse.after, purse.missing.as_deref()),
            (None, Some("0.000001 ALEPH"))
        );
        let purse = Purse::of(Amount::from_whole(1_842), price);
        assert_eq!(
            (purse.after.as_deref(), purse.missing),
            (Some("1,602.00 ALEPH"), None)
        );
    }
}
