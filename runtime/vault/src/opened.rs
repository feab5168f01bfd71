//! Opened objects: plaintext that is kept for the next read, as much as a budget allows, each fetched once however many
//! ask for it. What is put out is zeroed (as far as the last slice of it has been dropped). Used by the reader.

use crate::Result;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

/// Opened objects of one version, by their number in the object table.
#[derive(Debug)]
pub(crate) struct OpenedObjects {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Most bytes of plaintext that are kept; the newest object always is.
    budget: u64,
    held: HashMap<u32, Slot>,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// Empty while it is fetched.
    object: Arc<OnceCell<Bytes>>,
    used: u64,
}

impl OpenedObjects {
    /// Keeps one object.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
        }
    }

    /// Keeps as much as `bytes` from now on.
    pub(crate) fn keep(&self, bytes: u64) {
        let mut state = self.lock();
        state.budget = bytes;
        state.shrink(None);
    }

    /// The object, if it is open.
    pub(crate) fn ready(&self, number: u32) -> Option<Bytes> {
        let mut state = self.lock();
        state.clock += 1;
        let clock = state.clock;
        let slot = state.held.get_mut(&number)?;
        slot.used = clock;
        slot.object.get().cloned()
    }

    /// Whether it is open, or being fetched.
    pub(crate) fn is_known(&self, number: u32) -> bool {
        self.lock().held.contains_key(&number)
    }

    /// The object: what is kept, what another caller is fetching, or what `fetch` gets.
    pub(crate) async fn get(
        &self,
        number: u32,
        fetch: impl Future<Output = Result<Vec<u8>>>,
    ) -> Result<Bytes> {
        let waiting = {
            let mut state = self.lock();
            state.clock += 1;
            let clock = state.clock;
            let slot = state.held.entry(number).or_default();
            slot.used = clock;
            Waiting {
                objects: self,
                number,
                object: Some(Arc::clone(&slot.object)),
            }
        };
        let object = waiting.object.clone().unwrap_or_default();
        let opened = object
            .get_or_try_init(|| async { Ok(Bytes::from_owner(Zeroizing::new(fetch.await?))) })
            .await
            .cloned();
        drop(object);
        drop(waiting);
        if opened.is_ok() {
            self.lock().shrink(Some(number));
        }
        opened
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for an object. When the last one goes and it was not got, or all of them were cancelled, the next who asks
/// begins anew.
struct Waiting<'a> {
    objects: &'a OpenedObjects,
    number: u32,
    object: Option<Arc<OnceCell<Bytes>>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.objects.lock();
        let Some(object) = self.object.take() else { return };
        let is_last = Arc::strong_count(&object) == 2;
        let is_held = state
            .held
            .get(&self.number)
            .is_some_and(|slot| Arc::ptr_eq(&slot.object, &object));
        if is_last && is_held && !object.initialized() {
            state.held.remove(&self.number);
        }
    }
}

impl State {
    /// Puts out what was used longest ago until the rest is within the budget. What is being fetched stays.
    fn shrink(&mut self, newest: Option<u32>) {
        let size = |slot: &Slot| slot.object.get().map_or(0, |bytes| bytes.len() as u64);
        let mut total: u64 = self.held.values().map(size).sum();
        while total > self.budget {
            let open = self
                .held
                .iter()
                .filter(|(number, slot)| Some(**number) != newest && size(slot) > 0);
            let Some((number, bytes)) = open
                .min_by_key(|(_, slot)| slot.used)
                .map(|(number, slot)| (*number, size(slot)))
            else {
                return;
            };
            self.held.remove(&number);
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn object(bytes: usize) -> Result<Vec<u8>> {
        Ok(vec![7; bytes])
    }

    #[tokio::test]
    async fn one_object_is_fetched_once_for_all_who_ask_and_again_after_a_failure() {
        let objects = OpenedObjects::new();
        let fetched = AtomicUsize::new(0);
        let fetch = || async {
            fetched.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            object(10).await
        };
        let (one, other) = tokio::join!(objects.get(3, fetch()), objects.get(3, fetch()));
        assert_eq!(
            (one.unwrap(), fetched.load(Ordering::SeqCst)),
            (other.unwrap(), 1)
        );
        let failed = objects.get(4, async { Err(crate::VaultError::KeyPoint) }).await;
        assert!(failed.is_err() && !objects.is_known(4));
        objects.get(4, object(1)).await.unwrap();
        assert!(objects.ready(4).is_some());
        // Nor does one that was cancelled look as if it was being fetched.
        let never = objects.get(5, std::future::pending());
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(1), never)
                .await
                .is_err()
        );
        assert!(!objects.is_known(5));
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_is_put_out_first() {
        let objects = OpenedObjects::new();
        objects.keep(25);
        for number in 0..2 {
            objects.get(number, object(10)).await.unwrap();
        }
        objects.ready(0).unwrap();
        objects.get(2, object(10)).await.unwrap();
        assert_eq!(
            [0, 1, 2].map(|number| objects.ready(number).is_some()),
            [true, false, true]
        );
        // The newest stays, though it is larger than everything that may be kept.
        objects.get(9, object(100)).await.unwrap();
        assert_eq!(
            [0, 2, 9].map(|number| objects.is_known(number)),
            [false, false, true]
        );
        objects.keep(0);
        assert!(!objects.is_known(9));
    }
}
