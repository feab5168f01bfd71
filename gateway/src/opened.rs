//! Shares that are open in memory, with the keys that open them: few, and not for long.
//!
//! It keeps and drops; whether a share still stands is looked up by `library` before anything from here is used.
//! Dropping the last use of a share wipes its keys (the vault's types do that).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long one is kept after its last request: a client that downloads a model asks for one file after the other.
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// At the same time; each may hold one decrypted object, 32 MiB.
const MAX_OPEN: usize = 8;

/// A share as it was opened: another token for the same id is another share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareId {
    pub(crate) uuid: Uuid,
    pub(crate) auth_sha256: [u8; 32],
}

/// What is open. Generic, because it knows nothing of what it keeps.
pub(crate) struct Opened<T>(Mutex<Vec<Kept<T>>>);

struct Kept<T> {
    share: ShareId,
    used: Instant,
    what: Arc<T>,
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Opened<T> {
    /// What is kept of this share; this counts as a use of it.
    pub(crate) fn get(&self, share: ShareId) -> Option<Arc<T>> {
        let mut kept = self.lock();
        let found = kept.iter_mut().find(|kept| kept.share == share)?;
        found.used = Instant::now();
        Some(Arc::clone(&found.what))
    }

    /// Keeps it; if that is one too many, the one unused longest goes.
    pub(crate) fn keep(&self, share: ShareId, what: &Arc<T>) {
        let mut kept = self.lock();
        kept.retain(|kept| kept.share.uuid != share.uuid);
        if kept.len() >= MAX_OPEN {
            let oldest = kept.iter().enumerate().min_by_key(|(_, kept)| kept.used);
            if let Some(oldest) = oldest.map(|(place, _)| place) {
                kept.remove(oldest);
            }
        }
        kept.push(Kept {
            share,
            used: Instant::now(),
            what: Arc::clone(what),
        });
    }

    /// Drops what is kept under this id.
    pub(crate) fn forget(&self, uuid: Uuid) {
        self.lock().retain(|kept| kept.share.uuid != uuid);
    }

    /// Drops what was not used for so long.
    pub(crate) fn drop_idle(&self, idle: Duration) {
        self.lock().retain(|kept| kept.used.elapsed() < idle);
    }

    /// What is kept now.
    pub(crate) fn shares(&self) -> Vec<ShareId> {
        self.lock().iter().map(|kept| kept.share).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> ShareId {
        ShareId {
            uuid: Uuid::new_v4(),
            auth_sha256: [1; 32],
        }
    }

    #[test]
    fn drops_what_is_idle_or_ended() {
        let (opened, one, two) = (Opened::default(), share(), share());
        let (first, second) = (Arc::new(1), Arc::new(2));
        opened.keep(one, &first);
        opened.keep(two, &second);
        opened.drop_idle(IDLE);
        assert_eq!(opened.get(one).as_deref(), Some(&1));
        let other = ShareId {
            auth_sha256: [2; 32],
            ..one
        };
        assert!(opened.get(other).is_none(), "another token opens nothing");
        opened.forget(one.uuid);
        assert_eq!((opened.shares(), Arc::strong_count(&first)), (vec![two], 1));
        opened.drop_idle(Duration::ZERO);
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    fn keeps_those_that_are_used() {
        let (opened, used, what) = (Opened::default(), share(), Arc::new(()));
        opened.keep(used, &what);
        for _ in 0..20 {
            assert!(opened.get(used).is_some());
            opened.keep(share(), &what);
        }
        assert_eq!(opened.shares().len(), MAX_OPEN);
        opened.keep(used, &what);
        assert_eq!(opened.shares().len(), MAX_OPEN, "one share is kept once");
    }
}
