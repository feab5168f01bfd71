//! Purchases that somebody in a browser asked for, and that wait for a machine with the buyer's wallet. In memory only: nothing is
//! paid or promised by one, and who asked can ask again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::Problem;
use alephlab_api::market::AskedPurchase;
use axum::http::StatusCode;
use uuid::Uuid;

use crate::error::{GatewayError, Result};

/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long it is known afterwards what became of it.
const KEEP: Duration = Duration::from_secs(3_600);
/// Purchases of one account that may wait.
const MOST: usize = 16;
/// Characters of a reason that are kept.
const TEXT_MAX: usize = 400;

/// All of them.
#[derive(Default)]
pub(crate) struct Wanted(Mutex<HashMap<Uuid, One>>);

struct One {
    account: String,
    purchase: AskedPurchase,
    since: Instant,
    refused: Option<Problem>,
}

/// Where one is that is not paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A machine may still sign it.
    Waiting,
    /// A machine said no.
    Refused(Problem),
    /// None answered in time.
    Late,
}

impl One {
    fn standing(&self) -> Standing {
        match &self.refused {
            Some(problem) => Standing::Refused(problem.clone()),
            None if self.since.elapsed() < PATIENCE => Standing::Waiting,
            None => Standing::Late,
        }
    }

    fn waits_for(&self, account: &str) -> bool {
        self.account == account && self.standing() == Standing::Waiting
    }
}

impl Wanted {
    /// Takes one in. While the same revision waits at the same price it is that one: who presses twice buys once.
    ///
    /// # Errors
    /// 429 `purchases_waiting`.
    pub(super) fn want(&self, account: &str, purchase: AskedPurchase) -> Result<Uuid> {
        let mut all = self.lock();
        all.retain(|_, one| one.since.elapsed() < KEEP);
        let mut waiting = 0;
        for one in all.values().filter(|one| one.waits_for(account)) {
            let known = &one.purchase;
            if (&known.model, &known.revision, known.price)
                == (&purchase.model, &purchase.revision, purchase.price)
            {
                return Ok(known.order);
            }
            waiting += 1;
        }
        if waiting >= MOST {
            let text = format!("{MOST} purchases of this account wait for its machine already");
            return Err(
                GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "purchases_waiting", text)
                    .with_hint("answer them: alephlab keys"),
            );
        }
        let order = purchase.order;
        all.insert(
            order,
            One {
                account: account.to_owned(),
                purchase,
                since: Instant::now(),
                refused: None,
            },
        );
        Ok(order)
    }

    /// What waits for this account's machines, the oldest first.
    pub(crate) fn waiting(&self, account: &str) -> Vec<AskedPurchase> {
        let all = self.lock();
        let mut waiting: Vec<_> = all.values().filter(|one| one.waits_for(account)).collect();
        waiting.sort_by_key(|one| one.since);
        waiting.into_iter().map(|one| one.purchase.clone()).collect()
    }

    /// A machine of the account says no. What does not wait stays as it is.
    pub(crate) fn refuse(&self, account: &str, order: Uuid, mut problem: Problem) {
        problem.message = cut(&problem.message);
        problem.hint = problem.hint.as_deref().map(cut);
        let mut all = self.lock();
        if let Some(one) = all.get_mut(&order).filter(|one| one.waits_for(account)) {
            one.refused = Some(problem);
        }
    }

    /// One of the account's, and where it is.
    pub(crate) fn find(&self, account: &str, order: Uuid) -> Option<(AskedPurchase, Standing)> {
        let all = self.lock();
        let one = all.get(&order).filter(|one| one.account == account)?;
        Some((one.purchase.clone(), one.standing()))
    }

    /// It is an order now.
    pub(super) fn forget(&self, order: Uuid) {
        self.lock().remove(&order);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use alephlab_api::money::{Amount, Asset};

    use super::*;

    fn purchase(revision: u64, price: u64) -> AskedPurchase {
        AskedPurchase {
            order: Uuid::new_v4(),
            model: "0xAb/digits".into(),
            revision: format!("{revision:040x}"),
            price: Amount::from_whole(price),
            asset: Asset::Aleph,
            asked: 1,
        }
    }

    #[test]
    fn who_presses_twice_asks_once_and_another_price_is_another_purchase() {
        let wanted = Wanted::default();
        let first = wanted.want("ada", purchase(1, 240)).unwrap();
        assert_eq!(wanted.want("ada", purchase(1, 240)).unwrap(), first);
        let dearer = wanted.want("ada", purchase(1, 250)).unwrap();
        assert_ne!(dearer, first);
        let orders: Vec<_> = wanted.waiting("ada").iter().map(|one| one.order).collect();
        assert_eq!(orders, [first, dearer]);
        assert_eq!(wanted.find("eve", first), None);
        wanted.refuse("eve", first, Problem::new("keys_refused", "no"));
        wanted.refuse("ada", first, Problem::new("keys_refused", "no"));
        let (_, standing) = wanted.find("ada", first).unwrap();
        assert_eq!(standing, Standing::Refused(Problem::new("keys_refused", "no")));
        // What was refused can be asked for again.
        assert_ne!(wanted.want("ada", purchase(1, 240)).unwrap(), first);
        wanted.forget(dearer);
        assert_eq!(wanted.find("ada", dearer), None);
    }

    #[test]
    fn few_wait_at_once() {
        let wanted = Wanted::default();
        for revision in 0..MOST as u64 {
            wanted.want("ada", purchase(revision, 1)).unwrap();
        }
        let busy = wanted.want("ada", purchase(99, 1)).unwrap_err();
        assert_eq!(busy.code(), "purchases_waiting");
        wanted.want("bob", purchase(99, 1)).unwrap();
    }
}
