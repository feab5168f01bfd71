//! One pass over all entries: what is found, and how many a facet's other choices would find.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::model::Visibility;

use super::entry::{Badge, Entry, Format, Size};

/// What is asked. An empty list of a facet asks nothing of it; several choices of one facet are either-or.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Words that must all be in name, title, tags, task, dataset, base model or library, in any case.
    pub(crate) text: String,
    /// The owner's address.
    pub(crate) owner: Option<String>,
    /// Each must be among the words that the Hub's `filter` knows a model by: its tags, task, library, `license:x`, `dataset:x`.
    pub(crate) words: Vec<String>,
    pub(crate) verified: bool,
    pub(crate) reproduced: bool,
    pub(crate) visibilities: Vec<Visibility>,
    pub(crate) tasks: Vec<String>,
    pub(crate) licences: Vec<String>,
    pub(crate) formats: Vec<Format>,
    pub(crate) sizes: Vec<Size>,
    /// At least and at most so many parameters.
    pub(crate) parameters: Option<(u64, u64)>,
    pub(crate) order: Order,
    /// Smallest or oldest first.
    pub(crate) ascending: bool,
    /// Those before are left out.
    pub(crate) from: usize,
    /// The most that are given.
    pub(crate) limit: usize,
}

/// In which order; equal ones by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    #[default]
    Modified,
    Created,
    Downloads,
    Name,
}

/// What can be chosen beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Facet {
    /// `verified`, `reproduced`.
    Trust,
    /// [`Visibility::word`].
    Visibility,
    Task,
    /// [`Format::word`].
    Format,
    /// [`Size::word`].
    Size,
    Licence,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The page that was asked for.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// How many there are in all.
    pub(crate) total: usize,
    /// How many each choice of a facet would find, with everything else that is asked; those that find nothing are not there.
    pub(crate) facets: BTreeMap<Facet, BTreeMap<String, usize>>,
}

impl Facet {
    const ALL: [Self; 6] = [
        Self::Trust,
        Self::Visibility,
        Self::Task,
        Self::Format,
        Self::Size,
        Self::Licence,
    ];
}

impl Query {
    /// Whether an entry is what is asked beside facets.
    fn wants(&self, entry: &Entry, texts: &[String]) -> bool {
        texts.iter().all(|text| entry.haystack.contains(text))
            && self
                .owner
                .as_ref()
                .is_none_or(|owner| owner.eq_ignore_ascii_case(entry.owner()))
            && self.words.iter().all(|word| has_word(entry, word))
            && self
                .parameters
                .is_none_or(|(least, most)| entry.parameters.is_some_and(|n| (least..=most).contains(&n)))
    }

    /// Whether an entry is among what is chosen of a facet.
    fn chosen(&self, facet: Facet, entry: &Entry) -> bool {
        match facet {
            Facet::Trust => {
                (!self.verified || matches!(entry.badge, Badge::Verified(_)))
                    && (!self.reproduced || entry.reproduced)
            }
            Facet::Visibility => any(&self.visibilities, &entry.visibility),
            Facet::Task => among(&self.tasks, entry.task.as_deref()),
            Facet::Format => any(&self.formats, &entry.format),
            Facet::Size => any(&self.sizes, &Size::of(entry.bytes)),
            Facet::Licence => among(&self.licences, Some(&entry.licence)),
        }
    }
}

fn any<T: PartialEq>(chosen: &[T], value: &T) -> bool {
    chosen.is_empty() || chosen.contains(value)
}

fn among(chosen: &[String], value: Option<&str>) -> bool {
    chosen.is_empty() || value.is_some_and(|value| chosen.iter().any(|word| word == value))
}

fn has_word(entry: &Entry, word: &str) -> bool {
    match word.split_once(':') {
        Some(("license", licence)) => entry.licence.eq_ignore_ascii_case(licence),
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

/// Counts of one facet. Most facets have few values, tasks and licences some dozens.
#[derive(Default)]
struct Counts<'a>(Vec<(&'a str, usize)>);

impl<'a> Counts<'a> {
    fn add(&mut self, word: &'a str) {
        if let Some((_, count)) = self.0.iter_mut().find(|(known, _)| *known == word) {
            *count += 1;
        } else if !word.is_empty() {
            self.0.push((word, 1));
        }
    }
}

pub(super) fn search(all: &[Arc<Entry>], query: &Query) -> Found {
    let texts: Vec<_> = query.text.split_whitespace().map(str::to_lowercase).collect();
    let mut counts: [Counts<'_>; Facet::ALL.len()] = Default::default();
    let mut found = Vec::new();
    for entry in all.iter().filter(|entry| query.wants(entry, &texts)) {
        let mut missed = None;
        let mut misses = 0;
        for (place, facet) in Facet::ALL.into_iter().enumerate() {
            if !query.chosen(facet, entry) {
                misses += 1;
                missed = Some(place);
            }
        }
        match (misses, missed) {
            (0, _) => {
                found.push(entry);
                for (facet, counts) in Facet::ALL.into_iter().zip(&mut counts) {
                    count(facet, entry, counts);
                }
            }
            // It would be found if this facet were chosen otherwise.
            (1, Some(place)) => count(Facet::ALL[place], entry, &mut counts[place]),
            _ => {}
        }
    }
    let total = found.len();
    let facets = Facet::ALL.into_iter().zip(counts).map(|(facet, counts)| {
        let words = counts.0.into_iter().map(|(word, count)| (word.to_owned(), count));
        (facet, words.collect())
    });
    Found {
        facets: facets.collect(),
        entries: page(found, query),
        total,
    }
}

fn count<'a>(facet: Facet, entry: &'a Entry, counts: &mut Counts<'a>) {
    match facet {
        Facet::Trust => {
            if matches!(entry.badge, Badge::Verified(_)) {
                counts.add("verified");
            }
            if entry.reproduced {
                counts.add("reproduced");
            }
        }
        Facet::Visibility => counts.add(entry.visibility.word()),
        Facet::Task => counts.add(entry.task.as_deref().unwrap_or_default()),
        Facet::Format => counts.add(entry.format.word()),
        Facet::Size => counts.add(Size::of(entry.bytes).word()),
        Facet::Licence => counts.add(&entry.licence),
    }
}

/// Only as much is sorted as the page needs.
fn page(mut found: Vec<&Arc<Entry>>, query: &Query) -> Vec<Arc<Entry>> {
    let end = query.from.saturating_add(query.limit).min(found.len());
    if query.from >= end {
        return Vec::new();
    }
    let order = |a: &&Arc<Entry>, b: &&Arc<Entry>| compare(a, b, query);
    if end < found.len() {
        found.select_nth_unstable_by(end - 1, order);
        found.truncate(end);
    }
    found.sort_unstable_by(order);
    found.into_iter().skip(query.from).map(Arc::clone).collect()
}

fn compare(a: &Entry, b: &Entry, query: &Query) -> Ordering {
    let order = match query.order {
        Order::Modified => a.modified.cmp(&b.modified),
        Order::Created => a.created.cmp(&b.created),
        Order::Downloads => a.downloads.cmp(&b.downloads),
        // Names begin at A whichever way numbers go.
        Order::Name => {
            return if query.ascending {
                b.name.cmp(&a.name)
            } else {
                a.name.cmp(&b.name)
            };
        }
    };
    let order = if query.ascending { order } else { order.reverse() };
    order.then_with(|| a.name.cmp(&b.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Arc<Entry>> {
        let entry = |n: u64| {
            let mut entry = Entry::of_test(&format!("0xAb/model-{n}"));
            entry.task = Some(["text-generation", "image-classification"][n as usize % 2].to_owned());
            entry.licence = ["mit", "apache-2.0", ""][n as usize % 3].to_owned();
            entry.modified = n / 2;
            entry.downloads = n;
            entry.bytes = n * 1_000_000_000;
            entry.tags = vec![format!("tag{}", n % 4)];
            if n % 5 == 0 {
                entry.badge = Badge::Verified(1);
            }
            if n % 2 == 0 {
                entry.visibility = Visibility::Sealed;
            }
            Arc::new(entry)
        };
        (0..60).map(entry).collect()
    }

    fn query() -> Query {
        Query {
            limit: 1000,
            ..Query::default()
        }
    }

    #[test]
    fn counts_are_what_choosing_would_find() {
        let all = entries();
        let asked = Query {
            tasks: vec!["text-generation".into()],
            licences: vec!["mit".into()],
            verified: true,
            ..query()
        };
        let found = search(&all, &asked);
        for (word, count) in &found.facets[&Facet::Task] {
            let other = Query {
                tasks: vec![word.clone()],
                ..asked.clone()
            };
            assert_eq!(search(&all, &other).total, *count, "{word}");
        }
        for (word, count) in &found.facets[&Facet::Licence] {
            let other = Query {
                licences: vec![word.clone()],
                ..asked.clone()
            };
            assert_eq!(search(&all, &other).total, *count, "{word}");
        }
        assert_eq!(
            found.total,
            all.iter()
                .filter(|e| e.licence == "mit"
                    && e.badge != Badge::Unchecked
                    && e.task.as_deref() == Some("text-generation"))
                .count()
        );
        assert!(found.total > 0 && !found.facets[&Facet::Licence].contains_key(""));
    }

    #[test]
    fn pages_neither_repeat_nor_leave_out() {
        let all = entries();
        for order in [Order::Modified, Order::Created, Order::Downloads, Order::Name] {
            for ascending in [false, true] {
                let whole = Query {
                    order,
                    ascending,
                    ..query()
                };
                let whole: Vec<_> = search(&all, &whole)
                    .entries
                    .iter()
                    .map(|e| e.name.clone())
                    .collect();
                let mut paged = Vec::new();
                for from in (0..all.len()).step_by(7) {
                    let part = Query {
                        order,
                        ascending,
                        from,
                        limit: 7,
                        ..query()
                    };
                    paged.extend(search(&all, &part).entries.iter().map(|e| e.name.clone()));
                }
                assert_eq!(paged, whole, "{order:?}");
            }
        }
    }

    #[test]
    fn words_are_those_of_the_hub() {
        let all = entries();
        for (word, least) in [
            ("tag1", 15),
            ("license:MIT", 20),
            ("text-generation", 30),
            ("none", 0),
        ] {
            let found = search(
                &all,
                &Query {
                    words: vec![word.into()],
                    ..query()
                },
            );
            assert_eq!(found.total, least, "{word}");
        }
        let text = Query {
            text: "MODEL-1 0xab".into(),
            ..query()
        };
        assert_eq!(search(&all, &text).total, 11);
    }
}
