//! `/kernels/new`: offers with their prices, a firm quote for the one that is chosen, and the start. Complete without script.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::jupyter::NewKernel;
use alephlab_api::money::Amount;
use alephlab_api::offer::{CREDITS_PER_USD, NewQuote, Offer, Quote, from_usd, usd};
use alephlab_api::time;
use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::browser::{own_form, sentence};
use super::kernels_page::{Trust, capital, lasts, trust};
use super::pages::{readable, short};
use super::top::own_page;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;

/// Times without a cell that the form offers, minutes.
const IDLES: [(u64, &str); 3] = [(30, "30 minutes"), (120, "2 hours"), (0, "Never, until the cap")];

#[derive(Template)]
#[template(path = "kernel_new.html")]
struct NewPage {
    version: &'static str,
    address: String,
    short: String,
    balance: String,
    count: String,
    as_of: String,
    trouble: Option<String>,
    offers: Vec<OfferRow>,
    reasons: Vec<String>,
    quote: Option<QuoteBox>,
    cap: String,
    idles: Vec<Idle>,
}

struct OfferRow {
    id: String,
    hardware: String,
    gpu: String,
    vcpus: u32,
    memory: u32,
    place: String,
    starts: String,
    unavailable: Option<String>,
    trust: Trust,
    usd: String,
    credits: String,
    chosen: bool,
}

struct QuoteBox {
    id: Uuid,
    hardware: String,
    place: String,
    trust: Trust,
    usd: String,
    credits: String,
    cap: String,
    after: String,
    lasts: String,
    until: String,
}

struct Idle {
    minutes: u64,
    title: &'static str,
    chosen: bool,
}

/// What was chosen on the page of offers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Chosen {
    #[serde(default)]
    offer: String,
    #[serde(default)]
    cap: String,
    #[serde(default)]
    idle: Option<u64>,
    #[serde(default)]
    quote: String,
}

/// `GET /kernels/new`: offers, and a quote for the one that is chosen.
pub(crate) async fn offers(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(chosen): Query<Chosen>,
) -> Result<Response> {
    match account {
        Some(account) => {
            let shown = new_page(&app, &account, &chosen, None).await?;
            own_page(&app, &account.id, &headers, &shown).await
        }
        None => Ok(Redirect::to("/?next=/kernels/new").into_response()),
    }
}

/// `POST /kernels/new`: starts by the quote that the page showed, or shows what changed since.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(chosen): Form<Chosen>,
) -> Result<Response> {
    own_form(&app, &headers, "start kernels")?;
    let again = async |trouble: String| {
        let shown = new_page(&app, &account, &chosen, Some(trouble)).await?;
        own_page(&app, &shown.address, &headers, &shown).await
    };
    let quote = match chosen.quote.parse() {
        Ok(id) => app.kernels.quoted(&account.id, id).await?,
        Err(_) => None,
    };
    let same = quote.as_ref().is_some_and(|quote| is_of(&chosen, quote));
    let Some(quote) = quote.filter(|_| same) else {
        return again("What you chose is not what was quoted. This is the quote for it.".to_owned()).await;
    };
    let wanted = NewKernel {
        env: [("KERNEL_QUOTE".to_owned(), quote.id.to_string())].into(),
        ..NewKernel::default()
    };
    match app.kernels.start(&account.id, &wanted).await {
        Ok(_) => Ok(Redirect::to("/kernels?done=started").into_response()),
        Err(error @ GatewayError::Refused { .. }) => again(sentence(&error)).await,
        Err(error) => Err(error),
    }
}

/// Whether a quote is for what the form says.
fn is_of(chosen: &Chosen, quote: &Quote) -> bool {
    let cap = chosen.cap.trim();
    chosen.offer == quote.offer.id
        && from_usd(cap) == Ok(quote.cap)
        && chosen.idle.unwrap_or(0) * 60 == quote.idle_seconds.unwrap_or(0)
}

async fn new_page(
    app: &App,
    account: &Account,
    chosen: &Chosen,
    mut trouble: Option<String>,
) -> Result<NewPage> {
    let all = app.kernels.allocations.offers().await;
    let wanted = all.offers.iter().find(|offer| offer.id == chosen.offer);
    let first = || all.offers.iter().find(|offer| offer.unavailable.is_none());
    let wanted = wanted.or_else(first).filter(|offer| offer.unavailable.is_none());
    let idle = chosen.idle.unwrap_or(IDLES[0].0);
    let quote = match wanted {
        Some(offer) => match quote(app, account, offer, chosen, idle).await {
            Ok(quote) => Some(quote),
            Err(error @ GatewayError::Refused { .. }) => {
                trouble.get_or_insert(sentence(&error));
                None
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    let mut reasons: Vec<String> = all.troubles.clone();
    for offer in &all.offers {
        if let Some(reason) = &offer.unavailable {
            let reason = format!("{}: {}", offer.hardware, capital(reason));
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    let chosen_id = wanted.map(|offer| offer.id.clone());
    let cap = match &quote {
        // Exactly: what is shown is sent back.
        Some(quote) => quote
            .cap
            .part(1, CREDITS_PER_USD)
            .unwrap_or(quote.cap)
            .to_string(),
        None => chosen.cap.clone(),
    };
    Ok(NewPage {
        version: env!("CARGO_PKG_VERSION"),
        address: account.id.clone(),
        short: short(&account.id),
        balance: usd(app.kernels.available(&account.id).await?),
        count: match all.offers.len() {
            1 => "1 offer".to_owned(),
            many => format!("{many} offers"),
        },
        as_of: readable(&time::now()),
        trouble,
        offers: all
            .offers
            .iter()
            .map(|offer| offer_row(offer, chosen_id.as_deref() == Some(&offer.id)))
            .collect(),
        reasons,
        quote: quote.as_ref().map(quote_box),
        cap,
        idles: IDLES
            .into_iter()
            .map(|(minutes, title)| Idle {
                minutes,
                title,
                chosen: minutes == idle,
            })
            .collect(),
    })
}

async fn quote(app: &App, account: &Account, offer: &Offer, chosen: &Chosen, idle: u64) -> Result<Quote> {
    let cap = match chosen.cap.trim().is_empty() {
        true => None,
        false => Some(dollars(&chosen.cap)?),
    };
    let new = NewQuote {
        offer: offer.id.clone(),
        cap,
        idle_seconds: Some(idle * 60),
    };
    app.kernels.quote(&account.id, &new).await
}

/// Dollars as somebody typed them, in credits.
pub(super) fn dollars(typed: &str) -> Result<Amount> {
    let wrong = |_| {
        let typed = typed.trim();
        let text = format!("`{typed}` is no amount; write dollars, for example 2.00");
        GatewayError::bad_request("cap", text)
    };
    from_usd(typed).map_err(wrong)
}

fn offer_row(offer: &Offer, chosen: bool) -> OfferRow {
    OfferRow {
        id: offer.id.clone(),
        hardware: offer.hardware.clone(),
        gpu: offer
            .gpu
            .as_ref()
            .map_or_else(String::new, |gpu| format!("{} GB", gpu.memory_gib)),
        vcpus: offer.vcpus,
        memory: offer.memory_gib,
        place: offer.place.clone(),
        starts: offer.starts.clone(),
        unavailable: offer.unavailable.clone(),
        trust: trust(&offer.trust),
        usd: usd(offer.price),
        credits: grouped(offer.price),
        chosen,
    }
}

/// `2,070,000`.
fn grouped(credits: Amount) -> String {
    let text = credits.to_string();
    let (whole, fine) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.len();
    let mut shown = String::with_capacity(digits + digits / 3 + fine.len());
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (digits - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + fine
}

fn quote_box(quote: &Quote) -> QuoteBox {
    let until = time::format(UNIX_EPOCH + Duration::from_secs(quote.expires));
    QuoteBox {
        id: quote.id,
        hardware: quote.offer.hardware.clone(),
        place: quote.offer.place.clone(),
        trust: trust(&quote.offer.trust),
        usd: usd(quote.offer.price),
        credits: grouped(quote.offer.price),
        cap: usd(quote.cap),
        after: usd(quote.balance_after),
        lasts: lasts(quote.seconds),
        until: until.get(11..16).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_grouped() {
        assert_eq!(grouped(Amount::from_whole(2_070_000)), "2,070,000");
        assert_eq!(grouped(Amount::from_whole(999)), "999");
        assert_eq!(grouped("43125.5".parse().unwrap()), "43,125.5");
    }
}
