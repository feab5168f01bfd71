//! The index of models in memory: what lists, searches and facets are answered from.
//!
//! One entry for each model that is not withdrawn, at its newest revision; some 500 bytes each. The database is the truth:
//! the index is read from it when the gateway starts, and changed after each change there. A scan of 100,000 entries takes
//! some milliseconds, counts facets in the same pass, and is the same on SQLite and PostgreSQL, whose text searches differ.

mod asked;
mod counts;
mod entry;
mod rows;
mod search;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use entry::{Badge, Cost, Entry, Format, Scale, Size, sentence};
use rows::Rows;
use search::Part;
pub(crate) use search::{Facet, Found, Order, Query};

/// All models that this gateway lists.
#[derive(Default)]
pub(crate) struct Index(RwLock<Entries>);

#[derive(Default)]
struct Entries {
    all: Vec<Arc<Entry>>,
    places: HashMap<String, usize>,
    rows: Rows,
}

impl Index {
    /// Puts a model in, in place of what was there under its name.
    pub(crate) fn put(&self, entry: Entry) {
        let mut entries = self.write();
        let entry = Arc::new(entry);
        if let Some(place) = entries.places.get(&entry.name).copied() {
            entries.rows.set(place, &entry);
            entries.all[place] = entry;
        } else {
            let place = entries.all.len();
            entries.places.insert(entry.name.clone(), place);
            entries.rows.push(&entry);
            entries.all.push(entry);
        }
    }

    /// Changes what is kept under a name, where there is something.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.write();
        if let Some(place) = entries.places.get(name).copied() {
            let mut entry = Entry::clone(&entries.all[place]);
            change(&mut entry);
            entries.rows.set(place, &entry);
            entries.all[place] = Arc::new(entry);
        }
    }

    /// Takes a model out.
    pub(crate) fn remove(&self, name: &str) {
        let mut entries = self.write();
        let Some(place) = entries.places.remove(name) else {
            return;
        };
        entries.all.swap_remove(place);
        entries.rows.swap_remove(place);
        if let Some(moved) = entries.all.get(place).map(|entry| entry.name.clone()) {
            entries.places.insert(moved, place);
        }
    }

    /// The model of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        let entries = self.read();
        let place = entries.places.get(name).copied()?;
        entries.all.get(place).map(Arc::clone)
    }

    /// How many models there are.
    pub(crate) fn len(&self) -> usize {
        self.read().all.len()
    }

    /// What a query finds.
    pub(crate) fn search(&self, query: &Query) -> Found {
        self.search_with(query, &[])
    }

    /// The same with private models of whoever asks, which are in no index.
    pub(crate) fn search_with(&self, query: &Query, own: &[Arc<Entry>]) -> Found {
        let mut rows = Rows::default();
        for entry in own {
            rows.push(entry);
        }
        let own = Part {
            entries: own,
            rows: &rows,
        };
        let entries = self.read();
        let index = Part {
            entries: &entries.all,
            rows: &entries.rows,
        };
        search::search(index, own, query)
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once_and_others_are_found_after_a_removal() {
        let index = Index::default();
        for name in ["a/1", "a/2", "a/3"] {
            index.put(Entry::of_test(name));
        }
        index.put(Entry {
            title: "new".into(),
            ..Entry::of_test("a/2")
        });
        assert_eq!(index.len(), 3);
        index.remove("a/1");
        index.remove("a/none");
        index.change("a/3", |entry| entry.downloads = 7);
        assert!(index.get("a/1").is_none());
        assert_eq!(index.get("a/2").unwrap().title, "new");
        assert_eq!(index.get("a/3").unwrap().downloads, 7);
    }
}
