//! What a kernel on rented hardware costs before it starts: firm quotes, and what a client asks for with its variables.

use std::collections::BTreeMap;

use alephlab_api::money::Amount;
use alephlab_api::offer::{NewQuote, Offer, Quote};
use alephlab_api::time::unix_now;
use axum::http::StatusCode;
use uuid::Uuid;

use super::metering::{LEAST_SECONDS, MAX_COST, MAX_PRICE, limit};
use super::{Kernels, SPECS};
use crate::allocations::Hardware;
use crate::error::{GatewayError, Result};
use crate::store::StoredQuote;

/// A quote that the client accepts.
const QUOTE: &str = "KERNEL_QUOTE";
/// The card that the client wants, as people call it.
const GPU: &str = "KERNEL_GPU";
/// How long a quote is firm, seconds.
const FIRM: u64 = 120;

/// What is to be rented.
pub(super) enum Choice {
    Quote(Uuid),
    Kernelspec(String, Option<Amount>),
    Gpu(String, Option<Amount>),
}

impl Choice {
    /// What the name of a kernelspec and the client's variables ask for; none for this machine.
    pub(super) fn of(name: &str, env: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let said = |name: &str| {
            env.get(name)
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
        };
        if let Some(quote) = said(QUOTE) {
            let wrong = |_| GatewayError::bad_request("kernel_env", format!("{QUOTE} is no quote's id"));
            return quote.parse().map(|id| Some(Self::Quote(id))).map_err(wrong);
        }
        let accepted = limit(env, MAX_PRICE)?;
        if let Some(gpu) = said(GPU) {
            return Ok(Some(Self::Gpu(gpu.to_owned(), accepted)));
        }
        let is_here = SPECS.iter().any(|(known, _)| *known == name);
        let is_ours = name.starts_with("alephlab-");
        Ok((!is_here && is_ours).then(|| Self::Kernelspec(name.to_owned(), accepted)))
    }
}

/// What is paid for, and how much at most.
pub(super) struct Terms {
    pub(super) offer: Offer,
    pub(super) cap: Amount,
    pub(super) idle: Option<u64>,
    pub(super) quote: Option<Uuid>,
}

impl Kernels {
    /// A firm price for an offer.
    ///
    /// # Errors
    /// 404 `offer_gone`, 503 `hardware_unavailable`, 402 `balance_too_small` when not even ten minutes can be paid.
    pub(crate) async fn quote(&self, account: &str, new: &NewQuote) -> Result<Quote> {
        let offer = self.allocations.offer(&new.offer).await?;
        let available = self.available(account).await?;
        let cap = match new.cap {
            Some(cap) => enough(cap, &offer)?,
            None => self.affordable(account, offer.price).await?,
        };
        let Some(balance_after) = available.checked_sub(cap) else {
            let text = format!("{cap} credits would be set aside, and {available} are available");
            return Err(too_little(text));
        };
        let stored = StoredQuote {
            id: Uuid::new_v4(),
            account: account.to_owned(),
            offer,
            cap,
            idle_seconds: new.idle_seconds.filter(|seconds| *seconds > 0),
            expires: unix_now() + FIRM,
            used: None,
        };
        self.store.add_quote(&stored).await?;
        Ok(shown(stored, balance_after))
    }

    /// A quote of this account, as it was given.
    pub(crate) async fn quoted(&self, account: &str, id: Uuid) -> Result<Option<Quote>> {
        let stored = self.store.quote(id).await?;
        let stored = stored.filter(|quote| quote.account == account);
        let available = self.available(account).await?;
        Ok(stored.map(|stored| {
            let balance_after = available.saturating_sub(stored.cap);
            shown(stored, balance_after)
        }))
    }

    /// What a choice costs.
    pub(super) async fn terms_of(
        &self,
        account: &str,
        choice: Choice,
        env: &BTreeMap<String, String>,
    ) -> Result<Terms> {
        let offer = match choice {
            Choice::Quote(id) => return self.accepted(account, id).await,
            Choice::Kernelspec(name, accepted) => {
                self.allocations
                    .choose(&Hardware::Kernelspec(&name), accepted)
                    .await?
            }
            Choice::Gpu(model, accepted) => self.allocations.choose(&Hardware::Gpu(&model), accepted).await?,
        };
        let cap = match limit(env, MAX_COST)? {
            Some(cost) => enough(cost, &offer)?,
            None => self.affordable(account, offer.price).await?,
        };
        Ok(Terms {
            offer,
            cap,
            idle: None,
            quote: None,
        })
    }

    /// What a quote says, if it can still be used.
    async fn accepted(&self, account: &str, id: Uuid) -> Result<Terms> {
        let quote = self
            .store
            .quote(id)
            .await?
            .filter(|quote| quote.account == account);
        let quote = quote.filter(|quote| quote.used.is_none() && quote.expires >= unix_now());
        let quote = quote.ok_or_else(|| {
            let text = "this quote is over: it was used, or two minutes have passed";
            GatewayError::refused(StatusCode::CONFLICT, "quote_over", text).with_hint("ask for another one")
        })?;
        Ok(Terms {
            offer: quote.offer,
            cap: quote.cap,
            idle: quote.idle_seconds,
            quote: Some(quote.id),
        })
    }
}

/// A quote as clients see it.
fn shown(stored: StoredQuote, balance_after: Amount) -> Quote {
    Quote {
        id: stored.id,
        seconds: lasts(stored.cap, stored.offer.price),
        offer: stored.offer,
        cap: stored.cap,
        idle_seconds: stored.idle_seconds,
        balance_after,
        expires: stored.expires,
    }
}

/// A cap for which something can be done.
///
/// # Errors
/// 400 `cap_too_small` below ten minutes: a host that boots for nothing costs the gateway.
fn enough(cap: Amount, offer: &Offer) -> Result<Amount> {
    let least = offer.price.part(LEAST_SECONDS, 3_600).unwrap_or(offer.price);
    if cap >= least {
        return Ok(cap);
    }
    let text = format!(
        "{cap} credits are not enough: ten minutes of {} cost {least}",
        offer.hardware
    );
    Err(GatewayError::bad_request("cap_too_small", text))
}

/// For how many seconds an amount lasts.
fn lasts(cap: Amount, price: Amount) -> u64 {
    cap.part(3_600, 1).map_or(u64::MAX, |hours| hours.times(price))
}

fn too_little(text: String) -> GatewayError {
    GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "balance_too_small", text)
        .with_hint("ask the gateway's operator for credits, or set a lower limit")
}
