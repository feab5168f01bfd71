//! The list of models as its page shows it.

use std::collections::BTreeMap;

use alephlab_api::model::Visibility;
use askama::Template;

use super::browse::{self, Browse, COSTS, Chosen, FACETS, FORMATS, ORDERS, PAGE, SCALES, SIZES};
use super::print::Print;
use super::{Visitor, short, shown_name};
use crate::index::{Badge, Entry, Facet, Format, Found};
use crate::routes::words::{self, Day};

/// Choices of a facet that are shown before "more".
const SHOWN: usize = 8;

#[derive(Template)]
#[template(path = "models.html")]
pub(crate) struct ModelsPage {
    version: &'static str,
    pub(crate) visitor: Visitor,
    text: String,
    summary: String,
    matches: String,
    narrowed: bool,
    sort: &'static str,
    /// What the form of filters carries along, and the form of the search.
    kept: Vec<(&'static str, String)>,
    filters_kept: Vec<(&'static str, String)>,
    facets: Vec<FacetBox>,
    filters: Vec<Chosen>,
    clear: String,
    cards: Vec<CardView>,
    range: String,
    previous: Option<String>,
    next: Option<String>,
    nothing: Option<Nothing>,
}

/// Why there is no card.
#[derive(PartialEq, Eq)]
enum Nothing {
    /// No model at all.
    AtAll,
    /// None that is asked for.
    Matches,
    /// None on this page, but on earlier ones.
    Here,
}

struct FacetBox {
    name: &'static str,
    title: &'static str,
    choices: Vec<Choice>,
    /// Those that are rarer.
    more: Vec<Choice>,
}

struct Choice {
    word: String,
    title: String,
    count: String,
    on: bool,
}

/// One model in a list.
pub(crate) struct CardView {
    address: String,
    owner: String,
    owner_whole: String,
    name: String,
    sentence: String,
    print: Print,
    verified: bool,
    refused: bool,
    reproduced: bool,
    facts: Vec<String>,
    visibility: Visibility,
    /// `240.00`, of what is sold.
    price: Option<String>,
    pulls: String,
}

impl CardView {
    pub(crate) fn of(entry: &Entry) -> Self {
        let mut facts = Vec::new();
        facts.extend(entry.task.as_deref().map(browse::task));
        facts.extend(entry.parameters.map(words::parameters));
        if entry.format != Format::Other {
            facts.push(browse::said("format", entry.format.word()));
        }
        match (entry.visibility, entry.parameters) {
            // When is all that is known.
            (Visibility::Private, _) => facts.push(format!("Updated {}", Day::at(entry.modified).text)),
            (_, None) => facts.push(words::bytes(entry.bytes)),
            (_, Some(_)) => {}
        }
        Self {
            address: format!("/models/{}", entry.name),
            owner: short(entry.owner()),
            owner_whole: entry.owner().to_owned(),
            name: shown_name(entry.short()),
            sentence: entry.sentence.clone(),
            print: Print::wide(&entry.revision, entry.task.as_deref()),
            verified: matches!(entry.badge, Badge::Verified(_)),
            refused: matches!(entry.badge, Badge::Refused(_)),
            reproduced: entry.reproduced,
            facts,
            visibility: entry.visibility,
            price: entry.price.map(crate::routes::shop::full),
            pulls: words::pulls(entry.downloads),
        }
    }
}

impl ModelsPage {
    /// What was found, of so many models that all may see, and so many private ones of whoever looks.
    pub(crate) fn of(
        visitor: Visitor,
        browse: &Browse,
        found: &Found,
        (shown, private): (usize, usize),
    ) -> Self {
        let all = shown + private;
        let filters = browse.filters();
        let first = browse.query.from;
        let last = first + found.entries.len();
        let nothing = match (all, found.total, found.entries.len()) {
            (0, ..) => Some(Nothing::AtAll),
            (_, 0, _) => Some(Nothing::Matches),
            (_, _, 0) => Some(Nothing::Here),
            _ => None,
        };
        let narrowed = !filters.is_empty() || !browse.query.text.is_empty();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            text: browse.query.text.clone(),
            summary: summary(shown, private),
            matches: match narrowed {
                true => words::counted(found.total as u64, "match", "matches"),
                false => words::counted(found.total as u64, "model", "models"),
            },
            narrowed,
            sort: browse.sort(),
            kept: browse.search_pairs(),
            filters_kept: browse.filter_pairs(),
            facets: FACETS
                .iter()
                .filter_map(|(facet, name, title)| facet_box(browse, found, (*facet, name, title)))
                .collect(),
            clear: browse.without_filters(),
            filters,
            cards: found.entries.iter().map(|entry| CardView::of(entry)).collect(),
            range: format!(
                "{} to {} of {}",
                words::grouped(first as u64 + 1),
                words::grouped(last as u64),
                words::grouped(found.total as u64)
            ),
            previous: (browse.page > 1)
                .then(|| browse.at_page((browse.page - 1).min(found.total.div_ceil(PAGE).max(1)))),
            next: (last < found.total && nothing.is_none()).then(|| browse.at_page(browse.page + 1)),
            nothing,
        }
    }

    fn orders(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        ORDERS.iter().map(|(word, title, _)| (*word, *title))
    }
}

fn summary(shown: usize, private: usize) -> String {
    let of_all = match shown {
        0 => "None is published here yet.".to_owned(),
        _ => format!(
            "{}. Names, cards and hashes are public; who can open the files stands at each.",
            words::counted(shown as u64, "model", "models")
        ),
    };
    match private {
        0 => of_all,
        1 if shown == 0 => format!("{of_all} One of yours is private: only you see it here."),
        _ if shown == 0 => format!("{of_all} {private} of yours are private: only you see them here."),
        1 => format!("{of_all} One more is private: only you see it here."),
        _ => format!("{of_all} {private} more are private: only you see them here."),
    }
}

fn facet_box(
    browse: &Browse,
    found: &Found,
    (facet, name, title): (Facet, &'static str, &'static str),
) -> Option<FacetBox> {
    let none = BTreeMap::new();
    let counts = found.facets.get(&facet).unwrap_or(&none);
    let on = browse.chosen(facet);
    let count = |word: &str| counts.get(word).copied().unwrap_or_default();
    let fixed: Option<Vec<&str>> = match facet {
        Facet::Trust => Some(vec!["verified", "reproduced"]),
        Facet::Visibility => Some(vec!["public", "sealed", "private"]),
        Facet::Format => Some(FORMATS.iter().map(|(format, _)| format.word()).collect()),
        Facet::Parameters => Some(SCALES.iter().map(|(scale, _)| scale.word()).collect()),
        Facet::Size => Some(SIZES.iter().map(|(size, _)| size.word()).collect()),
        Facet::Price => Some(COSTS.iter().map(|(cost, _)| cost.word()).collect()),
        Facet::Task | Facet::Licence => None,
    };
    let is_fixed = fixed.is_some();
    let mut all: Vec<&str> = fixed.unwrap_or_else(|| {
        let mut all: Vec<&str> = counts.keys().map(String::as_str).collect();
        all.extend(
            on.iter()
                .map(String::as_str)
                .filter(|word| !counts.contains_key(*word)),
        );
        // What is on comes first, so that it is seen; then what there is most of.
        all.sort_by_key(|word| (!on.iter().any(|one| one == word), usize::MAX - count(word), *word));
        all
    });
    if is_fixed && facet != Facet::Trust {
        all.retain(|word| count(word) > 0 || on.iter().any(|one| one == word));
    }
    if all.is_empty() {
        return None;
    }
    let mut choices: Vec<Choice> = all
        .into_iter()
        .map(|word| Choice {
            title: browse::said(name, word),
            count: words::grouped(count(word) as u64),
            on: on.iter().any(|one| one == word),
            word: word.to_owned(),
        })
        .collect();
    // What is on is never folded away.
    let shown = choices
        .iter()
        .rposition(|choice| choice.on)
        .map_or(0, |last| last + 1);
    let more = choices.split_off(choices.len().min(shown.max(SHOWN)));
    Some(FacetBox {
        name,
        title,
        choices,
        more,
    })
}
