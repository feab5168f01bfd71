//! What a search looks at of every model, side by side: a scan that follows a pointer for each of 100,000 entries waits for
//! memory most of the time.

use std::collections::HashMap;
use std::ops::Range;

use alephlab_api::model::Visibility;
use alephlab_api::money::Amount;

use super::entry::{Badge, Entry, Format, Scale, Size};

/// Text of entries that are gone, bytes, before the rest is put together.
const WASTE: usize = 1 << 20;

/// One row for each entry, at the same place.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    pub(super) words: Words,
    /// The haystacks of all entries.
    text: String,
    waste: usize,
}

/// What choices and orders are made by.
#[derive(Clone, Copy)]
pub(super) struct Row {
    start: usize,
    length: usize,
    pub(super) task: WordId,
    pub(super) licence: WordId,
    pub(super) format: Format,
    pub(super) size: Size,
    pub(super) scale: Option<Scale>,
    pub(super) visibility: Visibility,
    pub(super) is_verified: bool,
    pub(super) reproduced: bool,
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) downloads: u64,
    /// What opening it costs, in millionths of an ALEPH and never less than one where it is sold; none for who is not let in
    /// for money.
    pub(super) cost: Option<u64>,
}

/// Number of a word. No word is zero.
pub(super) type WordId = u32;

/// Tasks and licences that there are or were.
#[derive(Default)]
pub(super) struct Words {
    ids: HashMap<String, WordId>,
    all: Vec<String>,
}

impl Words {
    fn add(&mut self, word: &str) -> WordId {
        if word.is_empty() {
            return 0;
        }
        if let Some(id) = self.ids.get(word) {
            return *id;
        }
        self.all.push(word.to_owned());
        let id = WordId::try_from(self.all.len()).unwrap_or(WordId::MAX);
        self.ids.insert(word.to_owned(), id);
        id
    }

    /// The number of a word, if any entry has or had it.
    pub(super) fn id(&self, word: &str) -> Option<WordId> {
        if word.is_empty() {
            return Some(0);
        }
        self.ids.get(word).copied()
    }

    /// How many numbers there are, with that of no word.
    pub(super) fn len(&self) -> usize {
        self.all.len() + 1
    }

    /// All words with their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &str)> {
        self.all
            .iter()
            .enumerate()
            .map(|(place, word)| (place + 1, word.as_str()))
    }
}

impl Rows {
    /// Adds the row of an entry after all others.
    pub(super) fn push(&mut self, entry: &Entry) {
        let row = self.row(entry);
        self.rows.push(row);
    }

    /// Puts another entry's row in a place.
    pub(super) fn set(&mut self, place: usize, entry: &Entry) {
        let row = self.row(entry);
        if let Some(old) = self.rows.get_mut(place) {
            self.waste += old.length;
            *old = row;
        }
        self.tidy();
    }

    /// Takes a row out; the last one takes its place.
    pub(super) fn swap_remove(&mut self, place: usize) {
        self.waste += self.rows.swap_remove(place).length;
        self.tidy();
    }

    /// What text is searched in.
    pub(super) fn text(&self, row: &Row) -> &str {
        self.text.get(row.span()).unwrap_or_default()
    }

    fn row(&mut self, entry: &Entry) -> Row {
        let start = self.text.len();
        self.text.push_str(&entry.haystack);
        Row {
            start,
            length: entry.haystack.len(),
            task: self.words.add(entry.task.as_deref().unwrap_or_default()),
            licence: self.words.add(&entry.licence),
            format: entry.format,
            size: Size::of(entry.bytes),
            scale: entry.parameters.map(Scale::of),
            visibility: entry.visibility,
            is_verified: matches!(entry.badge, Badge::Verified(_)),
            reproduced: entry.reproduced,
            created: entry.created,
            modified: entry.modified,
            downloads: entry.downloads,
            cost: cost(entry),
        }
    }

    fn tidy(&mut self) {
        if self.waste < WASTE || self.waste < self.text.len() / 2 {
            return;
        }
        let mut text = String::with_capacity(self.text.len() - self.waste);
        for row in &mut self.rows {
            let start = text.len();
            text.push_str(self.text.get(row.span()).unwrap_or_default());
            row.start = start;
        }
        self.text = text;
        self.waste = 0;
    }
}

fn cost(entry: &Entry) -> Option<u64> {
    if entry.visibility == Visibility::Public {
        return Some(0);
    }
    let millionth = Amount::from_base(1_000_000_000_000);
    entry.price.map(|price| price.times(millionth).max(1))
}

impl Row {
    fn span(&self) -> Range<usize> {
        self.start..self.start + self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_what_is_gone_is_given_back() {
        let mut rows = Rows::default();
        let entry = |number: usize| Entry {
            haystack: format!("{number} {}", "x".repeat(50_000)),
            ..Entry::of_test(&format!("a/{number}"))
        };
        for number in 0..4 {
            rows.push(&entry(number));
        }
        for number in 0..100 {
            rows.set(number % 3, &entry(number));
        }
        rows.swap_remove(0);
        assert!(rows.text.len() < 4 * WASTE, "{}", rows.text.len());
        let texts: Vec<_> = rows
            .rows
            .iter()
            .map(|row| rows.text(row).split(' ').next().unwrap())
            .collect();
        assert_eq!(texts, ["3", "97", "98"]);
    }
}
