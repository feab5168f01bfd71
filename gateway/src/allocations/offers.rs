//! What can be rented: the offers of all providers, kernelspecs for kinds of hardware, quotes, and which offer is taken.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::money::Amount;
use alephlab_api::offer::{Offer, Offers, usd};
use axum::http::StatusCode;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Allocations;
use crate::error::{GatewayError, Result};

/// Offers are asked for again when they are older; a rent fails in words when one is gone meanwhile.
const FRESH: Duration = Duration::from_secs(15);
/// How long providers may take to answer; what they said before is shown meanwhile.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// The trust line of an ordinary host.
pub(crate) const HOST_READS_MEMORY: &str = "Host can read memory";
/// The trust line of a measured VM whose evidence was accepted.
pub(crate) const MEASURED: &str = "Measured VM, attested";

/// What providers said last, and when.
#[derive(Default)]
pub(super) struct Known {
    offers: Mutex<Option<(Instant, Offers)>>,
    /// Every kind of hardware that there was, by its kernelspec.
    kinds: Mutex<BTreeMap<String, Offer>>,
    /// Held while they are asked, so that a crowd asks once.
    asking: tokio::sync::Mutex<()>,
}

impl Known {
    fn get(&self) -> Option<(Instant, Offers)> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a provider said last.
    fn of(&self, provider: &str) -> Vec<Offer> {
        let said = self.get().map_or_else(Vec::new, |(_, said)| said.offers);
        said.into_iter()
            .filter(|offer| offer.provider == provider)
            .collect()
    }

    /// Hardware that was there before stays in the list: that none is free now is said, and is not that there is none.
    fn remember(&self, offers: &mut Offers) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for offer in &offers.offers {
            kinds.insert(offer.kernelspec.clone(), offer.clone());
        }
        for kind in kinds.values() {
            if !offers
                .offers
                .iter()
                .any(|offer| offer.kernelspec == kind.kernelspec)
            {
                let mut gone = kind.clone();
                gone.unavailable.get_or_insert("all are rented now".to_owned());
                offers.offers.push(gone);
            }
        }
    }

    fn set(&self, offers: Offers) {
        *self.offers.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), offers));
    }
}

impl Allocations {
    /// Whether anything beyond this machine can be rented here at all.
    pub(crate) fn has_providers(&self) -> bool {
        !self.providers.is_empty()
    }

    /// All offers: those that can be had first, cheapest first.
    pub(crate) async fn offers(&self) -> Offers {
        if self.providers.is_empty() {
            return Offers {
                offers: Vec::new(),
                troubles: Vec::new(),
            };
        }
        let fresh = || self.known.get().filter(|(asked, _)| asked.elapsed() < FRESH);
        if let Some((_, offers)) = fresh() {
            return offers;
        }
        let _one = self.known.asking.lock().await;
        if let Some((_, offers)) = fresh() {
            return offers;
        }
        let offers = self.ask().await;
        self.known.set(offers.clone());
        offers
    }

    async fn ask(&self) -> Offers {
        let asked = self.providers.iter().map(|provider| async move {
            let said = tokio::time::timeout(ASKED_FOR, provider.offers()).await;
            said.unwrap_or_else(|_| Offers {
                offers: self.known.of(provider.name()),
                troubles: vec![format!(
                    "{} does not answer within {} s.",
                    provider.name(),
                    ASKED_FOR.as_secs()
                )],
            })
        });
        let mut all = Offers {
            offers: Vec::new(),
            troubles: Vec::new(),
        };
        for said in join_all(asked).await {
            all.offers.extend(said.offers);
            all.troubles.extend(said.troubles);
        }
        self.known.remember(&mut all);
        let key = |offer: &Offer| (offer.unavailable.is_some(), offer.price, offer.id.clone());
        all.offers.sort_by_key(key);
        all
    }

    /// Name and title of a kernelspec for each kind of hardware, for clients that can choose nothing else.
    pub(crate) async fn kernelspecs(&self) -> Vec<(String, String)> {
        let mut specs: Vec<(String, String)> = Vec::new();
        // The cheapest one that can be had comes first.
        for offer in self.offers().await.offers {
            if !specs.iter().any(|(name, _)| *name == offer.kernelspec) {
                specs.push((offer.kernelspec.clone(), title(&offer)));
            }
        }
        specs
    }

    /// The offer with this id, as it is now.
    pub(crate) async fn offer(&self, id: &str) -> Result<Offer> {
        let offers = self.offers().await.offers;
        let found = offers.into_iter().find(|offer| offer.id == id);
        let offer = found.ok_or_else(|| {
            let text = "this offer is gone: somebody else rented it, or its host went away";
            GatewayError::not_found("offer_gone", text).with_hint("choose another one")
        })?;
        available(offer)
    }

    /// The cheapest offer of a kernelspec, or for a card as people call it, at no more than `accepted` an hour.
    ///
    /// # Errors
    /// 404 `hardware_unknown`, 503 `hardware_unavailable` when all are taken, 402 `price_too_high`.
    pub(crate) async fn choose(&self, wanted: &Hardware<'_>, accepted: Option<Amount>) -> Result<Offer> {
        let offers = self.offers().await.offers;
        let is_wanted = |offer: &&Offer| match wanted {
            Hardware::Kernelspec(name) => offer.kernelspec == *name,
            Hardware::Gpu(model) => offer
                .gpu
                .as_ref()
                .is_some_and(|gpu| plain(&gpu.model) == plain(model)),
        };
        let found = offers.iter().find(is_wanted).cloned();
        let Some(offer) = found else {
            let mut all: Vec<_> = offers.into_iter().map(|offer| offer.hardware).collect();
            all.dedup();
            let text = match all.is_empty() {
                true => "no hardware can be rented at this gateway now".to_owned(),
                false => format!("there is no such hardware; there is {}", all.join(", ")),
            };
            return Err(GatewayError::not_found("hardware_unknown", text));
        };
        let offer = available(offer)?;
        match accepted.filter(|accepted| *accepted < offer.price) {
            None => Ok(offer),
            Some(accepted) => Err(too_expensive(&offer, accepted)),
        }
    }
}

/// What a client wants to rent.
pub(crate) enum Hardware<'a> {
    /// By the name of its kernelspec.
    Kernelspec(&'a str),
    /// By its card, as people call it.
    Gpu(&'a str),
}

fn available(offer: Offer) -> Result<Offer> {
    match &offer.unavailable {
        None => Ok(offer),
        Some(reason) => {
            let text = format!("{} cannot be had now: {reason}", offer.hardware);
            Err(GatewayError::refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "hardware_unavailable",
                text,
            ))
        }
    }
}

fn too_expensive(offer: &Offer, accepted: Amount) -> GatewayError {
    let text = format!(
        "{} costs {} credits an hour, and KERNEL_MAX_PRICE accepts {accepted}",
        offer.hardware, offer.price
    );
    GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "price_too_high", text)
        .with_hint("raise the limit, or choose other hardware")
}

/// `Rust · RTX 4090 · 0.26 USD/h · host can read memory`: all that some clients show.
fn title(offer: &Offer) -> String {
    let trust = match offer.trust.as_str() {
        HOST_READS_MEMORY => "host can read memory".to_owned(),
        other => other.to_owned(),
    };
    let now = match &offer.unavailable {
        None => "",
        Some(_) => " · not available now",
    };
    format!(
        "Rust · {} · {} USD/h · {trust}{now}",
        offer.hardware,
        usd(offer.price)
    )
}

/// Name of the kernelspec for a kind of hardware: `alephlab-rtx-4090`.
pub(crate) fn kernelspec(hardware: &str) -> String {
    let words: Vec<_> = hardware
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    format!("alephlab-{}", words.join("-").to_ascii_lowercase())
}

/// A card's name without what people leave out or write otherwise.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = kept.map(|c| c.to_ascii_lowercase()).collect();
    for maker in ["nvidia", "geforce"] {
        if let Some(rest) = name.strip_prefix(maker) {
            return plain(rest);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_as_people_write_them() {
        for written in ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "rtx-4090"] {
            assert_eq!(plain(written), "rtx4090");
        }
        assert_eq!(kernelspec("RTX 4000 ADA"), "alephlab-rtx-4000-ada");
        assert_eq!(kernelspec("2 × H100"), "alephlab-2-h100");
    }
}
