//! One pass over all entries: what is found, and how many a facet's other choices would find.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::model::Visibility;

use super::asked::Asked;
use super::counts::Counts;
use super::entry::{Cost, Entry, Format, Scale, Size};
use super::rows::{Row, Rows};

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
    pub(crate) scales: Vec<Scale>,
    pub(crate) costs: Vec<Cost>,
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
    /// What nobody can pay for comes last, in either direction.
    Price,
}

/// What can be chosen beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Facet {
    /// `verified`, `reproduced`.
    Trust,
    /// [`Visibility::word`].
    Visibility,
    /// [`Cost::word`].
    Price,
    Task,
    /// [`Format::word`].
    Format,
    /// [`Scale::word`].
    Parameters,
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
    const ALL: [Self; 8] = [
        Self::Trust,
        Self::Visibility,
        Self::Price,
        Self::Task,
        Self::Format,
        Self::Parameters,
        Self::Size,
        Self::Licence,
    ];
}

/// Entries and their rows, at the same places.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) entries: &'a [Arc<Entry>],
    pub(super) rows: &'a Rows,
}

/// One entry that was found, with its row.
type Hit<'a> = (&'a Row, &'a Arc<Entry>);

/// Looks through the index, and through private models of whoever asks. Tasks and licences are counted by the words of the index:
/// of a private model none is known.
pub(super) fn search(index: Part<'_>, own: Part<'_>, query: &Query) -> Found {
    let mut counts = Counts::new(index.rows);
    let mut found = Vec::new();
    for part in [index, own] {
        look_through(part, query, &mut counts, &mut found);
    }
    let total = found.len();
    Found {
        entries: page(found, query),
        total,
        facets: counts.facets(index.rows),
    }
}

fn look_through<'a>(part: Part<'a>, query: &Query, counts: &mut Counts, found: &mut Vec<Hit<'a>>) {
    let asked = Asked::new(query, part.rows);
    for (row, entry) in part.rows.rows.iter().zip(part.entries) {
        if !asked.wants(row, part.rows.text(row), entry) {
            continue;
        }
        let mut missed = None;
        let mut misses = 0;
        for facet in Facet::ALL {
            if !asked.chosen(facet, row) {
                misses += 1;
                missed = Some(facet);
            }
        }
        match (misses, missed) {
            (0, _) => {
                found.push((row, entry));
                for facet in Facet::ALL {
                    counts.add(facet, row);
                }
            }
            // It would be found if this facet were chosen otherwise.
            (1, Some(facet)) => counts.add(facet, row),
            _ => {}
        }
    }
}

/// Only as much is sorted as the page needs.
fn page(mut found: Vec<Hit<'_>>, query: &Query) -> Vec<Arc<Entry>> {
    let end = query.from.saturating_add(query.limit).min(found.len());
    if query.from >= end {
        return Vec::new();
    }
    let order = |a: &Hit<'_>, b: &Hit<'_>| {
        let names = || a.1.name.cmp(&b.1.name);
        compare(a.0, b.0, names, query)
    };
    if end < found.len() {
        found.select_nth_unstable_by(end - 1, order);
        found.truncate(end);
    }
    found.sort_unstable_by(order);
    found
        .into_iter()
        .skip(query.from)
        .map(|(_, entry)| Arc::clone(entry))
        .collect()
}

fn compare(a: &Row, b: &Row, names: impl Fn() -> Ordering, query: &Query) -> Ordering {
    let order = match query.order {
        Order::Modified => a.modified.cmp(&b.modified),
        Order::Created => a.created.cmp(&b.created),
        Order::Downloads => a.downloads.cmp(&b.downloads),
        Order::Price => match (a.cost, b.cost) {
            (Some(a), Some(b)) => a.cmp(&b),
            // The other way round where the order is.
            (a, b) if query.ascending => b.is_some().cmp(&a.is_some()),
            (a, b) => a.is_some().cmp(&b.is_some()),
        },
    };
    let order = if query.ascending { order } else { order.reverse() };
    order.then_with(names)
}

#[cfg(test)]
mod tests {
    use super::super::entry::Badge;
    use super::*;

    fn search(all: &[Arc<Entry>], query: &Query) -> Found {
        search_with(all, &[], query)
    }

    fn search_with(all: &[Arc<Entry>], own: &[Arc<Entry>], query: &Query) -> Found {
        let [mut rows, mut own_rows] = [Rows::default(), Rows::default()];
        all.iter().for_each(|entry| rows.push(entry));
        own.iter().for_each(|entry| own_rows.push(entry));
        let part = |entries, rows| Part { entries, rows };
        super::search(part(all, &rows), part(own, &own_rows), query)
    }

    #[test]
    fn private_models_stand_in_their_order_and_in_no_facet_but_their_own() {
        let all = entries();
        let private = |n: u64, modified| {
            Arc::new(Entry {
                visibility: Visibility::Private,
                modified,
                ..Entry::of_test(&format!("0xAb/{}", uuid::Uuid::from_u128(u128::from(n))))
            })
        };
        let own = [private(1, 29), private(2, 3)];
        let found = search_with(&all, &own, &query());
        let places: Vec<_> = own
            .iter()
            .map(|one| found.entries.iter().position(|entry| entry.name == one.name))
            .collect();
        assert_eq!(
            places,
            [Some(0), Some(53)],
            "newest first, and equal ones by name"
        );
        assert_eq!(
            (found.total, found.facets[&Facet::Visibility]["private"]),
            (62, 2)
        );
        let mut of_all = search(&all, &query()).facets;
        of_all
            .get_mut(&Facet::Visibility)
            .unwrap()
            .insert("private".into(), 2);
        assert_eq!(found.facets, of_all);
        let total = |query: Query| search_with(&all, &own, &query).total - search(&all, &query).total;
        let visibilities = vec![Visibility::Private];
        for (asked, more) in [
            (
                Query {
                    visibilities,
                    ..query()
                },
                2,
            ),
            (
                Query {
                    owner: Some("0xab".into()),
                    ..query()
                },
                2,
            ),
            (
                Query {
                    text: "000000000002".into(),
                    ..query()
                },
                1,
            ),
            (
                Query {
                    formats: vec![Format::Other],
                    ..query()
                },
                0,
            ),
            (
                Query {
                    sizes: vec![Size::Small],
                    ..query()
                },
                0,
            ),
            (
                Query {
                    licences: vec![String::new()],
                    ..query()
                },
                0,
            ),
            (
                Query {
                    words: vec!["other".into()],
                    ..query()
                },
                0,
            ),
            (
                Query {
                    verified: true,
                    ..query()
                },
                0,
            ),
            (
                Query {
                    parameters: Some((0, 9)),
                    ..query()
                },
                0,
            ),
        ] {
            assert_eq!(total(asked.clone()), more, "{asked:?}");
        }
        let first = Query { limit: 1, ..query() };
        assert_eq!(search_with(&all, &own, &first).entries[0].name, own[0].name);
    }

    fn entries() -> Vec<Arc<Entry>> {
        let entry = |n: u64| {
            let mut entry = Entry::of_test(&format!("0xAb/model-{n}"));
            entry.task = Some(
                ["text-generation", "image-classification"][usize::from(!n.is_multiple_of(2))].to_owned(),
            );
            entry.licence = ["mit", "apache-2.0", ""][usize::try_from(n).unwrap() % 3].to_owned();
            entry.modified = n / 2;
            entry.downloads = n;
            entry.bytes = n * 1_000_000_000;
            entry.tags = vec![format!("tag{}", n % 4)];
            // As cards have them.
            entry.haystack += &format!(
                "\n{}\n{}",
                entry.tags[0],
                entry.task.as_deref().unwrap_or_default()
            );
            if n.is_multiple_of(5) {
                entry.badge = Badge::Verified(1);
            }
            if n.is_multiple_of(2) {
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
        for order in [Order::Modified, Order::Created, Order::Downloads] {
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

    #[test]
    fn what_costs_least_comes_first_and_what_nobody_can_pay_for_last() {
        let entry = |name: &str, visibility, price: Option<&str>| {
            Arc::new(Entry {
                visibility,
                price: price.map(|price| price.parse().unwrap()),
                ..Entry::of_test(name)
            })
        };
        let all = [
            entry("a/dear", Visibility::Sealed, Some("240")),
            entry("a/granted", Visibility::Sealed, None),
            entry("a/dust", Visibility::Sealed, Some("0.000000000000000001")),
            entry("a/open", Visibility::Public, None),
        ];
        let names = |ascending, costs| {
            let asked = Query {
                order: Order::Price,
                ascending,
                costs,
                ..query()
            };
            let found = search(&all, &asked);
            let names = found.entries.iter().map(|entry| entry.short().to_owned());
            (names.collect::<Vec<_>>(), found.facets[&Facet::Price].clone())
        };
        let (cheapest, counts) = names(true, vec![]);
        assert_eq!(cheapest, ["open", "dust", "dear", "granted"]);
        assert_eq!(names(false, vec![]).0, ["dear", "dust", "open", "granted"]);
        assert_eq!(names(true, vec![Cost::Little, Cost::Most]).0, ["dust"]);
        let counted = [("free", 1), ("below-10", 1), ("100-1000", 1)];
        assert_eq!(
            counts,
            counted.map(|(word, count)| (word.to_owned(), count)).into()
        );
    }
}
