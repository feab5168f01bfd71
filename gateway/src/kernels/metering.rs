//! Kernels that cost something: credits are set aside before one starts, charged by the second while it can be used, and
//! the rest is given back when it ends. A kernel never costs more than was set aside; its owner may set more aside while it
//! runs (`cap`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alephlab_api::kernel::KernelState;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::usd;
use alephlab_api::time;
use axum::http::StatusCode;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Kernels, Live};
use crate::error::{GatewayError, Result};
use crate::receipts::ReceiptKey;
use crate::store::{Hold, NewHold};

/// Highest price for an hour that a client accepts, in credits.
pub(super) const MAX_PRICE: &str = "KERNEL_MAX_PRICE";
/// Most credits that a client wants to spend on the kernel.
pub(super) const MAX_COST: &str = "KERNEL_MAX_COST";
/// Set aside when the client says nothing, in hours; less where the account has less.
const DEFAULT_HOURS: u64 = 12;
/// For how much less no kernel is started, seconds.
pub(super) const LEAST_SECONDS: u64 = 600;
/// How often what was used is charged.
const CHARGED_EVERY: Duration = Duration::from_secs(30);
/// How long the host of an adopted kernel has to tell that it is over.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long before the end a notebook is told, seconds.
const TOLD_BEFORE: u64 = 600;

/// What kernels cost, who states it, and how many and how long they may be.
pub(crate) struct Terms {
    /// In credits an hour; nothing where kernels are free.
    pub(crate) price: Amount,
    pub(crate) receipts: Arc<ReceiptKey>,
    /// Kernels of one account at the same time.
    pub(crate) max_kernels: usize,
    /// How long a kernel that nobody is connected to may be idle; none for ever.
    pub(crate) idle: Option<Duration>,
}

/// An amount that a client gives in a variable.
///
/// # Errors
/// 400 `kernel_env` when it is none.
pub(super) fn limit(env: &BTreeMap<String, String>, name: &str) -> Result<Option<Amount>> {
    let text = env.get(name).map(|text| text.trim());
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let wrong = |error| GatewayError::bad_request("kernel_env", format!("{name}: {error}"));
    text.parse().map(Some).map_err(wrong)
}

impl Kernels {
    /// Kernels of one account at the same time.
    pub(crate) fn most(&self) -> usize {
        self.terms.max_kernels
    }

    /// How long a kernel that nobody is connected to may be idle; none for ever.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        self.terms.idle
    }

    /// Whether kernels here cost nothing.
    pub(crate) fn are_free(&self) -> bool {
        self.terms.price.is_zero()
    }

    /// What a kernel on this machine costs, in words.
    pub(crate) fn own_price(&self) -> String {
        match self.terms.price.is_zero() {
            true => "Free".to_owned(),
            false => format!("{} USD/h", usd(self.terms.price)),
        }
    }

    /// The title of a kernelspec, with the price where there is one: some clients show nothing else.
    pub(crate) fn titled(&self, title: &str) -> String {
        match self.terms.price.is_zero() {
            true => title.to_owned(),
            false => format!("{title} · {} credits/h", self.terms.price),
        }
    }

    /// Whether an account has a kernel that it pays for, where kernels cost something: the host then runs its terminals, too.
    pub(crate) fn has_allocation(&self, account: &str) -> bool {
        // A rented host is not where terminals are.
        let runs = |live: Arc<Live>| live.rental.is_none() && !live.status().state.is_over();
        self.terms.price.is_zero() || self.of(account).into_iter().any(runs)
    }

    /// Sets aside what the kernel may cost; none where kernels are free.
    ///
    /// # Errors
    /// 402 `price_too_high` and `balance_too_small`, 400 `kernel_env` for limits that are no amounts.
    pub(super) async fn set_aside(
        &self,
        account: &str,
        kernel: Uuid,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<Hold>> {
        let price = self.terms.price;
        if price.is_zero() {
            return Ok(None);
        }
        if let Some(accepted) = limit(env, MAX_PRICE)?.filter(|accepted| *accepted < price) {
            let text =
                format!("a kernel here costs {price} credits an hour, and {MAX_PRICE} accepts {accepted}");
            return Err(
                GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "price_too_high", text)
                    .with_hint("raise the limit, or choose another kernelspec"),
            );
        }
        let amount = match limit(env, MAX_COST)? {
            Some(cost) => cost,
            None => self.affordable(account, price).await?,
        };
        let memo = format!("kernel {kernel}");
        let new = NewHold {
            owner: account,
            key: &kernel.to_string(),
            amount,
            price,
            memo: &memo,
        };
        self.store.hold(new).await.map(Some)
    }

    /// Twelve hours, or what the account has if that is less, and ten minutes at least.
    pub(super) async fn affordable(&self, account: &str, price: Amount) -> Result<Amount> {
        let cost = |seconds| price.part(seconds, 3_600).unwrap_or(price);
        let available = self.available(account).await?;
        Ok(cost(DEFAULT_HOURS * 3_600)
            .min(available)
            .max(cost(LEAST_SECONDS)))
    }

    /// Credits that an account can set aside.
    pub(crate) async fn available(&self, account: &str) -> Result<Amount> {
        let balances = self.store.balances(account).await?;
        let credits = balances.iter().find(|balance| balance.asset == Asset::Credit);
        Ok(credits.map_or(Amount::ZERO, |balance| balance.available))
    }

    /// Charges a kernel until it is over, and stops it when nothing of its hold is left.
    pub(super) async fn meter(self: Arc<Self>, live: Arc<Live>, mut hold: Hold) {
        let mut status = live.status.subscribe();
        // What starts cannot be used yet.
        let usable = status.wait_for(|status| {
            matches!(status.state, KernelState::Idle | KernelState::Busy) || status.state.is_over()
        });
        let _ = usable.await;
        if live.is_adopted {
            // It may have died while no gateway was there; its host tells that first.
            live.relay.restored().await;
            let over = status.wait_for(|status| status.state.is_over());
            let _ = tokio::time::timeout(TOLD_WITHIN, over).await;
        }
        let (begun, mut told) = (Instant::now(), Told::default());
        // An earlier run of the gateway may have begun it; from here on the clock may be set without harm.
        let before = match live.usable.load(Ordering::Acquire) {
            0 => 0,
            since => time::unix_now().saturating_sub(since),
        };
        loop {
            let is_over = status.borrow().state.is_over();
            let used = live.used_at_most(before + begun.elapsed().as_secs());
            let charged = match is_over {
                true => self.store.end_hold(hold.id, used, &self.terms.receipts).await,
                false => self.store.charge(hold.id, used).await,
            };
            let left = match charged {
                Ok(_) if is_over => return,
                Ok(charged) => {
                    // Its cap may have been raised since.
                    hold = charged;
                    hold.seconds_left()
                }
                Err(error) => {
                    tracing::error!(kernel = %live.id, %error, "a kernel could not be charged");
                    if is_over {
                        return;
                    }
                    CHARGED_EVERY.as_secs()
                }
            };
            if left == 0 {
                if self.is_spent(&live, &hold).await {
                    self.out_of_credits(&live, &hold).await;
                }
                continue;
            }
            if told.is_due(left) {
                live.say(&format!(
                    "The credits that were set aside for this kernel last {}. Then it is stopped: save what you need, or raise its \
                     cap on the page Kernels.",
                    more_time(left)
                ));
            }
            let pause = CHARGED_EVERY.min(Duration::from_secs(left));
            let _ = tokio::time::timeout(pause, status.wait_for(|status| status.state.is_over())).await;
        }
    }

    async fn out_of_credits(&self, live: &Live, hold: &Hold) {
        let reason = format!("the {} credits that were set aside for it are used", hold.amount);
        live.say(&format!("The kernel is stopped: {reason}."));
        if let Err(error) = self.stop(&live.account, live.id).await {
            tracing::error!(kernel = %live.id, %error, "a kernel without credits could not be stopped");
        }
    }
}

/// Whether a notebook knows that its kernel ends soon.
#[derive(Default)]
struct Told(bool);

impl Told {
    /// Whether it is to be told now that so many seconds are left: once, and again if there was more in between.
    fn is_due(&mut self, left: u64) -> bool {
        let is_soon = left <= TOLD_BEFORE;
        let knows = std::mem::replace(&mut self.0, is_soon);
        is_soon && !knows
    }
}

/// `3 more seconds`, `50 more minutes`, `7 more hours and 41 minutes`.
pub(super) fn more_time(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} more seconds"),
        120..7_200 => format!("{} more minutes", seconds / 60),
        _ => format!(
            "{} more hours and {} minutes",
            seconds / 3_600,
            seconds % 3_600 / 60
        ),
    }
}

impl Live {
    /// So many seconds, but none after its end: that may have come while no gateway was there.
    fn used_at_most(&self, used: u64) -> u64 {
        let (usable, ended) = (
            self.usable.load(Ordering::Acquire),
            self.ended.load(Ordering::Acquire),
        );
        let away = self.away.load(Ordering::Acquire);
        match (ended, away) {
            (0, 0) => used,
            // If its host comes back the kernel went on, and the time is made up for.
            (0, since) | (since, _) => used.min(since.saturating_sub(usable)),
        }
    }
}

impl Kernels {
    /// Goes on charging kernels of an earlier run that go on, and ends the holds of all others. What that run had not charged
    /// of those yet, at most half a minute of each, is the gateway's loss.
    pub(crate) async fn take_holds_over(self: &Arc<Self>) -> Result<()> {
        for hold in self.store.open_holds().await? {
            let live = hold
                .key
                .parse()
                .ok()
                .and_then(|id: Uuid| self.live().get(&id).cloned());
            match live {
                Some(live) => drop(tokio::spawn(Arc::clone(self).meter(live, hold))),
                None => drop(
                    self.store
                        .end_hold(hold.id, hold.seconds, &self.terms.receipts)
                        .await?,
                ),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notebook_is_told_once_and_again_after_its_cap_was_raised() {
        let mut told = Told::default();
        let due = [700, 600, 570, 30, 601, 580, 3].map(|left| told.is_due(left));
        assert_eq!(due, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn what_is_left_is_said_as_people_count_it() {
        for (seconds, said) in [
            (3, "3 more seconds"),
            (599, "9 more minutes"),
            (27_660, "7 more hours and 41 minutes"),
        ] {
            assert_eq!(more_time(seconds), said);
        }
    }
}
