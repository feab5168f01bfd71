//! What stands at the top of each page of somebody who is signed in: what runs and what it costs, and what is left to spend.

use std::any::Any;

use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::usd;
use askama::Template;
use axum::http::HeaderMap;
use axum::response::Response;

use super::pages::{Theme, html};
use crate::error::Result;
use crate::state::App;

/// Read by `top_account.html`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Top {
    /// `3 kernels`; none when nothing runs.
    pub(crate) running: Option<String>,
    /// `2.16 USD/h`, of what is rented.
    pub(crate) rate: Option<String>,
    /// `4.20 USD`: credits that can be spent, for who ever had some.
    pub(crate) balance: Option<String>,
    /// `1,842.50 ALEPH`, likewise.
    pub(crate) aleph: Option<String>,
}

impl Top {
    async fn of(app: &App, account: &str) -> Result<Self> {
        let running: Vec<_> = app.kernels.of(account);
        let running = running.iter().filter(|live| !live.status().state.is_over());
        let (mut count, mut rate) = (0, Amount::ZERO);
        for live in running {
            count += 1;
            if let Some(offer) = &live.rental {
                rate = rate.checked_add(offer.price).unwrap_or(rate);
            }
        }
        let balances = app.store.balances(account).await?;
        let of = |asset: Asset| {
            let mut all = balances.iter();
            all.find(|balance| balance.asset == asset)
                .map(|balance| balance.available)
        };
        Ok(Self::with(count, rate, (of(Asset::Credit), of(Asset::Aleph))))
    }

    fn with(count: usize, rate: Amount, (credits, aleph): (Option<Amount>, Option<Amount>)) -> Self {
        Self {
            running: match count {
                0 => None,
                1 => Some("1 kernel".to_owned()),
                many => Some(format!("{many} kernels")),
            },
            rate: (!rate.is_zero()).then(|| format!("{} USD/h", usd(rate))),
            balance: credits.map(|credits| format!("{} USD", usd(credits))),
            aleph: aleph.filter(|aleph| !aleph.is_zero()).map(super::shop::aleph),
        }
    }
}

/// A page of ours for this account.
pub(super) async fn own_page<T: Template>(
    app: &App,
    account: &str,
    headers: &HeaderMap,
    template: &T,
) -> Result<Response> {
    let (top, theme) = (Top::of(app, account).await?, Theme::of(headers));
    let mut values: Vec<(&str, &dyn Any)> = vec![("top", &top)];
    if let Some(theme) = &theme {
        values.push(("theme", theme));
    }
    html(template.render_with_values(&values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_what_is_not_there() {
        let nothing = Top::with(0, Amount::ZERO, (None, None));
        assert_eq!(
            (nothing.running, nothing.rate, nothing.balance),
            (None, None, None)
        );
        let own = Top::with(
            1,
            Amount::ZERO,
            (
                Some(Amount::from_whole(4_200_000)),
                Some(Amount::from_whole(1_842)),
            ),
        );
        assert_eq!((own.running.as_deref(), own.rate), (Some("1 kernel"), None));
        assert_eq!(
            (own.balance.as_deref(), own.aleph.as_deref()),
            (Some("4.20 USD"), Some("1,842.00 ALEPH"))
        );
        let rented = Top::with(3, Amount::from_whole(2_160_000), (None, None));
        assert_eq!(
            (rented.running.as_deref(), rented.rate.as_deref()),
            (Some("3 kernels"), Some("2.16 USD/h"))
        );
    }
}
