//! `/buy`: what one gets, what it costs, who receives it and what is left, and the button that asks the buyer's own machine to sign.

use std::sync::Arc;

use alephlab_api::market::SaleQuote;
use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::offer::{Purse, Sale, available};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::market;
use crate::routes::browser::{own_form, sentence};
use crate::routes::contents::encoded;
use crate::routes::pages::short;
use crate::routes::registry::{Badge, Command, Print, badge, not_found, see};
use crate::routes::top::own_page;
use crate::routes::words::{self, short_hash};
use crate::state::App;

/// What is sold, as a page shows it beside a price.
pub(super) struct Goods {
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) owner_short: String,
    pub(super) own: String,
    pub(super) print: Print,
    pub(super) revision: String,
    pub(super) revision_short: String,
    /// Its tags, size and licence.
    pub(super) facts: String,
    pub(super) badge: Badge,
}

impl Goods {
    /// None where this gateway does not know the revision any more.
    pub(super) async fn of(app: &App, name: &str, revision: &str) -> Result<Option<Self>> {
        let known = app.models.page(name).await?;
        let chosen = known.as_ref().and_then(|known| {
            let mut all = known.revisions.iter();
            Some((known, all.find(|one| one.record.commit == revision)?))
        });
        let Some((known, chosen)) = chosen else {
            return Ok(None);
        };
        let record = &chosen.record;
        let Some((owner, own)) = record.name.split_once('/') else {
            return Ok(None);
        };
        let sizes = record.files.iter().map(|file| file.size);
        let bytes = sizes.fold(0, u64::saturating_add);
        let tags = known.tags.iter().filter(|(_, commit)| **commit == record.commit);
        let mut facts: Vec<String> = tags.map(|(tag, _)| tag.clone()).collect();
        facts.push(words::bytes(bytes));
        facts.extend(Some(record.card.licence.clone()).filter(|licence| !licence.is_empty()));
        let standing = crate::models::standing(record, &known.evidence);
        Ok(Some(Self {
            owner_short: short(owner),
            owner: owner.to_owned(),
            own: own.to_owned(),
            print: Print::square(&record.commit, record.card.task.as_deref()),
            revision_short: short_hash(&record.commit, 8),
            revision: record.commit.clone(),
            facts: facts.join(", "),
            badge: badge(standing.badge),
            name: record.name.clone(),
        }))
    }
}

#[derive(Template)]
#[template(path = "buy.html")]
struct BuyPage {
    version: &'static str,
    address: String,
    short: String,
    goods: Goods,
    sale: Sale,
    purse: Purse,
    /// What else stands in the way, or what went wrong.
    trouble: Option<String>,
    /// The account has no address to buy for.
    has_address: bool,
    /// Machines of the account that can sign now.
    machines: usize,
    command: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Revision {
    rev: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PayForm {
    rev: String,
    /// What the page said, in base units.
    price: String,
}

/// `GET /buy/{owner}/{name}?rev=`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
    Query(Revision { rev }): Query<Revision>,
) -> Result<Response> {
    let name = format!("{owner}/{name}");
    let Some(account) = account else {
        return Ok(see(&format!("/?next=/buy/{}", encoded(&name))));
    };
    page(&app, &account, &headers, (&name, &rev), None).await
}

/// `POST /buy/{owner}/{name}`: hands the purchase to the machines that have the account's wallet, and shows where it is.
pub(crate) async fn pay(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
    Form(form): Form<PayForm>,
) -> Result<Response> {
    own_form(&app, &headers, "buy models")?;
    let name = format!("{owner}/{name}");
    match ask(&app, &account, (&name, &form)).await {
        Ok(order) => Ok(see(&format!("/orders/{order}"))),
        Err(error @ GatewayError::Refused { .. }) => {
            page(
                &app,
                &account,
                &headers,
                (&name, &form.rev),
                Some(sentence(&error)),
            )
            .await
        }
        Err(error) => Err(error),
    }
}

async fn ask(app: &App, account: &Account, (name, form): (&str, &PayForm)) -> Result<uuid::Uuid> {
    let quote = quoted(app, name, &form.rev).await?;
    if super::words::base_units(quote.price) != form.price {
        let text = format!("it costs {} now", super::words::exact(quote.price));
        return Err(GatewayError::refused(StatusCode::CONFLICT, "price_changed", text)
            .with_hint("look at the new price below, and press again if you agree"));
    }
    let own = available(app, &account.id, quote.asset).await?;
    if own < quote.price {
        let text = "your balance is too small for it";
        return Err(GatewayError::refused(
            StatusCode::PAYMENT_REQUIRED,
            "balance_too_small",
            text,
        ));
    }
    market::want(app, account, &quote)
}

async fn quoted(app: &App, name: &str, rev: &str) -> Result<SaleQuote> {
    market::quote(app, name, Some(rev).filter(|rev| !rev.is_empty())).await
}

/// The page; what is owned or bought already has pages of its own.
async fn page(
    app: &App,
    account: &Account,
    headers: &HeaderMap,
    (name, rev): (&str, &str),
    trouble: Option<String>,
) -> Result<Response> {
    if [name, rev].into_iter().any(crate::routes::has_nul) {
        return not_found(app, Some(account), headers).await;
    }
    let quote = match quoted(app, name, rev).await {
        Ok(quote) => quote,
        Err(GatewayError::Refused { .. }) => return not_found(app, Some(account), headers).await,
        Err(error) => return Err(error),
    };
    let bought = app.store.bought(&account.id, &quote.model).await?;
    let same = |one: &&crate::store::StoredOrder| one.signed.purchase.revision == quote.revision;
    if let Some(order) = bought.iter().find(same) {
        return Ok(see(&format!("/orders/{}", order.id())));
    }
    let Some(goods) = Goods::of(app, &quote.model, &quote.revision).await? else {
        return not_found(app, Some(account), headers).await;
    };
    if account
        .address()
        .is_some_and(|own| own.eq_ignore_ascii_case(&goods.owner))
    {
        return Ok(see(&format!("/models/{}", goods.name)));
    }
    let own = available(app, &account.id, quote.asset).await?;
    let shown = BuyPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        sale: Sale::of(&quote, app.settlement.rate().ok()),
        purse: Purse::of(own, quote.price),
        trouble,
        has_address: account.address().is_some(),
        machines: app.keys.machines(&account.id),
        command: Command::new("alephlab model buy")
            .word(&format!("{}@{}", goods.name, goods.revision))
            .flag("--max", &quote.price.to_string())
            .text(),
        goods,
    };
    own_page(app, &account.id, headers, &shown).await
}
