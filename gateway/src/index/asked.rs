//! A query made ready for rows: words as finders and numbers, so that comparing 100,000 of them is quick.

use alephlab_api::model::Visibility;
use memchr::memmem::Finder;

use super::entry::{Cost, Entry};
use super::rows::{Row, Rows, WordId};
use super::search::{Facet, Query};

/// A query, as rows are compared with it.
pub(super) struct Asked<'a> {
    query: &'a Query,
    texts: Vec<Finder<'static>>,
    /// None asks nothing; words that no entry has are not in it.
    tasks: Option<Vec<WordId>>,
    licences: Option<Vec<WordId>>,
    words: Vec<Word<'a>>,
}

/// One of [`Query::words`].
enum Word<'a> {
    Licence(Option<WordId>),
    /// What it is, and the same in lower case: one that is not in the text is no tag, task or library either.
    Other(&'a str, Option<Box<Finder<'static>>>),
}

impl<'a> Asked<'a> {
    pub(super) fn new(query: &'a Query, rows: &Rows) -> Self {
        let ids = |words: &[String]| -> Option<Vec<WordId>> {
            let known = words.iter().filter_map(|word| rows.words.id(word));
            (!words.is_empty()).then(|| known.collect())
        };
        let word = |word: &'a String| match word.split_once(':') {
            Some(("license", licence)) => Word::Licence(rows.words.id(&licence.to_lowercase())),
            Some(_) => Word::Other(word, None),
            None => Word::Other(word, Some(Box::new(finder(word)))),
        };
        Self {
            query,
            texts: query.text.split_whitespace().map(finder).collect(),
            tasks: ids(&query.tasks),
            licences: ids(&query.licences),
            words: query.words.iter().map(word).collect(),
        }
    }

    /// Whether an entry is what is asked beside facets. The entry itself is looked at last.
    pub(super) fn wants(&self, row: &Row, text: &str, entry: &Entry) -> bool {
        let may_have = |word: &Word<'_>| match word {
            Word::Licence(licence) => *licence == Some(row.licence),
            Word::Other(word, Some(lower)) => has(text, lower) || row.format.word() == *word,
            Word::Other(_, None) => true,
        };
        let query = self.query;
        // What words a private model has is sealed.
        let has_words = self.words.is_empty() || row.visibility != Visibility::Private;
        has_words
            && self.words.iter().all(may_have)
            && self.texts.iter().all(|word| has(text, word))
            && query
                .owner
                .as_ref()
                .is_none_or(|owner| owner.eq_ignore_ascii_case(entry.owner()))
            && self.words.iter().all(|word| match word {
                Word::Licence(_) => true,
                Word::Other(word, _) => has_word(entry, word),
            })
            && query
                .parameters
                .is_none_or(|(least, most)| entry.parameters.is_some_and(|n| (least..=most).contains(&n)))
    }

    /// Whether anything is chosen of a facet.
    fn asks(&self, facet: Facet) -> bool {
        let query = self.query;
        match facet {
            Facet::Trust => query.verified || query.reproduced,
            Facet::Visibility => !query.visibilities.is_empty(),
            Facet::Price => !query.costs.is_empty(),
            Facet::Task => self.tasks.is_some(),
            Facet::Format => !query.formats.is_empty(),
            Facet::Parameters => !query.scales.is_empty(),
            Facet::Size => !query.sizes.is_empty(),
            Facet::Licence => self.licences.is_some(),
        }
    }

    /// Whether an entry is among what is chosen of a facet.
    pub(super) fn chosen(&self, facet: Facet, row: &Row) -> bool {
        let query = self.query;
        if !row.tells(facet) {
            return !self.asks(facet);
        }
        match facet {
            Facet::Trust => (!query.verified || row.is_verified) && (!query.reproduced || row.reproduced),
            Facet::Visibility => any(&query.visibilities, &row.visibility),
            Facet::Price => {
                let cost = row.cost.map(Cost::of);
                query.costs.is_empty() || cost.is_some_and(|cost| query.costs.contains(&cost))
            }
            Facet::Task => self.tasks.as_ref().is_none_or(|tasks| tasks.contains(&row.task)),
            Facet::Format => any(&query.formats, &row.format),
            Facet::Parameters => {
                query.scales.is_empty() || row.scale.is_some_and(|scale| query.scales.contains(&scale))
            }
            Facet::Size => any(&query.sizes, &row.size),
            Facet::Licence => self
                .licences
                .as_ref()
                .is_none_or(|licences| licences.contains(&row.licence)),
        }
    }
}

/// Looks for a word in lower case; made once for all rows, since making it takes longer than looking through one.
fn finder(word: &str) -> Finder<'static> {
    Finder::new(&word.to_lowercase()).into_owned()
}

fn has(text: &str, word: &Finder<'_>) -> bool {
    word.find(text.as_bytes()).is_some()
}

impl Row {
    /// Whether it is known what it is of this facet: of a private model that alone.
    pub(super) fn tells(&self, facet: Facet) -> bool {
        self.visibility != Visibility::Private || facet == Facet::Visibility
    }
}

fn any<T: PartialEq>(chosen: &[T], value: &T) -> bool {
    chosen.is_empty() || chosen.contains(value)
}

fn has_word(entry: &Entry, word: &str) -> bool {
    match word.split_once(':') {
        Some(("dataset", dataset)) => entry.dataset.as_deref() == Some(dataset),
        Some(("base_model", base)) => entry.base_model.as_deref() == Some(base),
        _ => {
            entry.tags.iter().any(|tag| tag == word)
                || entry.task.as_deref() == Some(word)
                || entry.library.as_deref() == Some(word)
                || entry.format.word() == word
        }
    }
}
