//! How often shares are asked. It is counted in memory: a minute is soon over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::store::StoredShare;

const WINDOW: Duration = Duration::from_secs(60);

/// Requests by share. Only shares with a limit are in it, which their owners made.
#[derive(Default)]
pub(crate) struct Pace(Mutex<HashMap<Uuid, (Instant, u32)>>);

impl Pace {
    /// Counts a request; gives the seconds until there may be another where there were too many.
    pub(crate) fn exceeded(&self, share: &StoredShare) -> Option<u64> {
        self.count(share.uuid, share.limits.per_minute?)
    }

    fn count(&self, share: Uuid, most: u32) -> Option<u64> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, (since, _)| since.elapsed() < WINDOW);
        let (since, count) = asked.entry(share).or_insert((Instant::now(), 0));
        *count = count.saturating_add(1);
        let left = WINDOW.saturating_sub(since.elapsed()).as_secs() + 1;
        (*count > most).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_has_its_own_pace() {
        let (pace, one, other) = (Pace::default(), Uuid::new_v4(), Uuid::new_v4());
        assert!((0..3).all(|_| pace.count(one, 3).is_none()));
        assert!(pace.count(one, 3).is_some_and(|left| (1..=60).contains(&left)));
        assert!(pace.count(other, 3).is_none());
        assert!(pace.count(other, 0).is_some());
    }
}
