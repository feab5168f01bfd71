//! What was read of late and need not be read again: bounded, and never older than what was last forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values by name. When the younger half is full, the older one goes.
pub(crate) struct Recent<T> {
    half: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    young: HashMap<String, T>,
    old: HashMap<String, T>,
    /// Counts what was forgotten.
    version: u64,
}

impl<T: Clone> Recent<T> {
    /// Keeps at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            half: (most / 2).max(1),
            state: Mutex::new(State {
                young: HashMap::new(),
                old: HashMap::new(),
                version: 0,
            }),
        }
    }

    /// What is kept under a name.
    pub(crate) fn get(&self, name: &str) -> Option<T> {
        let mut state = self.lock();
        if let Some(value) = state.young.get(name) {
            return Some(value.clone());
        }
        let value = state.old.remove(name)?;
        state.add(name, value.clone(), self.half);
        Some(value)
    }

    /// To be taken before something is read that is to be put here.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Keeps what was read at a version, unless something was forgotten since: it might have been this.
    pub(crate) fn put(&self, name: &str, value: T, version: u64) {
        let mut state = self.lock();
        if state.version == version {
            state.add(name, value, self.half);
        }
    }

    /// From now on it is read again.
    pub(crate) fn forget(&self, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        state.young.remove(name);
        state.old.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn add(&mut self, name: &str, value: T, half: usize) {
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_no_more_than_it_may() {
        let recent = Recent::new(8);
        let version = recent.version();
        for number in 0..100 {
            recent.put(&number.to_string(), number, version);
            assert_eq!(recent.get("0"), Some(0), "{number}");
        }
        let kept = (0..100)
            .filter(|number: &i32| recent.get(&number.to_string()).is_some())
            .count();
        assert!((1..=8).contains(&kept), "{kept}");
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let recent = Recent::new(8);
        let version = recent.version();
        recent.put("a", 1, version);
        recent.forget("a");
        recent.put("a", 1, version);
        assert_eq!(recent.get("a"), None);
        recent.put("a", 2, recent.version());
        assert_eq!(recent.get("a"), Some(2));
    }
}
