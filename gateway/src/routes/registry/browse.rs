//! What the address of `/models` asks for, and the addresses of its neighbours: other pages, one filter less.

use alephlab_api::model::Visibility;

use crate::index::{Cost, Facet, Format, Order, Query, Scale, Size};

/// Models on one page.
pub(crate) const PAGE: usize = 24;
/// Longest text that is searched for, characters, and most choices of one facet; what is over is not looked at.
const TEXT_MAX: usize = 200;
const CHOICES_MAX: usize = 20;
/// The last page that can be asked for.
const PAGES_MAX: usize = 100_000;

/// Orders that can be chosen: word in addresses, words on the page. Not by name: that alone takes longer than all the rest, and
/// who knows a name searches for it.
pub(crate) const ORDERS: [(&str, &str, Order); 4] = [
    ("updated", "Last updated", Order::Modified),
    ("pulled", "Most pulled", Order::Downloads),
    ("created", "Newest", Order::Created),
    ("price", "Lowest price", Order::Price),
];
/// Prices with their words in addresses and on the page.
pub(crate) const COSTS: [(Cost, &str); 5] = [
    (Cost::Free, "Free, public"),
    (Cost::Little, "Below 10 ALEPH"),
    (Cost::Some, "10 to 100 ALEPH"),
    (Cost::Much, "100 to 1,000 ALEPH"),
    (Cost::Most, "1,000 ALEPH and more"),
];
/// Sizes with their words in addresses and on the page.
pub(crate) const SIZES: [(Size, &str); 4] = [
    (Size::Small, "Below 100 MB"),
    (Size::Medium, "100 MB to 2 GB"),
    (Size::Large, "2 to 16 GB"),
    (Size::Huge, "16 GB and more"),
];
/// Numbers in weights likewise.
pub(crate) const SCALES: [(Scale, &str); 4] = [
    (Scale::Tiny, "Below 100M"),
    (Scale::Some, "100M to 1B"),
    (Scale::Many, "1B to 10B"),
    (Scale::Most, "10B and more"),
];
/// Formats likewise.
pub(crate) const FORMATS: [(Format, &str); 4] = [
    (Format::Safetensors, "safetensors"),
    (Format::Gguf, "GGUF"),
    (Format::Onnx, "ONNX"),
    (Format::Other, "Other"),
];

/// A page of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Browse {
    pub(crate) query: Query,
    /// From 1.
    pub(crate) page: usize,
}

/// A filter that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) words: String,
    /// The list without it.
    pub(crate) without: String,
}

impl Browse {
    /// Models of this task.
    pub(crate) fn of_task(task: &str) -> Self {
        let mut browse = Self::parse("");
        browse.query.tasks.push(task.to_owned());
        browse
    }

    /// Models made from this one.
    pub(crate) fn of_base(name: &str) -> Self {
        let mut browse = Self::parse("");
        browse.query.words.push(format!("base_model:{name}"));
        browse
    }

    /// Of the query of an address. What it does not know it does not look at: an old link still leads somewhere.
    pub(crate) fn parse(address: &str) -> Self {
        let mut browse = Self {
            query: Query {
                limit: PAGE,
                ..Query::default()
            },
            page: 1,
        };
        for (name, value) in url::form_urlencoded::parse(address.as_bytes()) {
            browse.take(&name, value.trim());
        }
        browse.query.from = (browse.page - 1) * PAGE;
        browse
    }

    fn take(&mut self, name: &str, value: &str) {
        let query = &mut self.query;
        if value.is_empty() || value.contains('\0') {
            return;
        }
        match name {
            "q" => query.text = value.chars().take(TEXT_MAX).collect(),
            "owner" if value.len() <= TEXT_MAX => query.owner = Some(value.to_owned()),
            "base" if value.len() <= TEXT_MAX && query.words.is_empty() => {
                query.words.push(format!("base_model:{value}"));
            }
            "trust" => {
                query.verified |= value == "verified";
                query.reproduced |= value == "reproduced";
            }
            "open" => {
                let all = [Visibility::Public, Visibility::Sealed, Visibility::Private];
                push(
                    &mut query.visibilities,
                    all.into_iter().find(|one| one.word() == value),
                );
            }
            "task" => push(&mut query.tasks, Some(value.to_owned())),
            "licence" => push(&mut query.licences, Some(value.to_lowercase())),
            "format" => push(
                &mut query.formats,
                FORMATS
                    .iter()
                    .map(|(format, _)| *format)
                    .find(|one| one.word() == value),
            ),
            "parameters" => push(
                &mut query.scales,
                SCALES
                    .iter()
                    .map(|(scale, _)| *scale)
                    .find(|one| one.word() == value),
            ),
            "price" => push(
                &mut query.costs,
                COSTS
                    .iter()
                    .map(|(cost, _)| *cost)
                    .find(|one| one.word() == value),
            ),
            "size" => push(
                &mut query.sizes,
                SIZES
                    .iter()
                    .map(|(size, _)| *size)
                    .find(|one| one.word() == value),
            ),
            "sort" => {
                let found = ORDERS.iter().find(|(word, ..)| *word == value);
                query.order = found.map_or_else(Order::default, |(.., order)| *order);
                // The other orders begin with the most of it.
                query.ascending = query.order == Order::Price;
            }
            "page" => self.page = value.parse().unwrap_or(1).clamp(1, PAGES_MAX),
            _ => {}
        }
    }

    /// All that is asked, as pairs of the address; of the page only what is not the first.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.search_pairs();
        pairs.extend(self.filter_pairs());
        if self.page > 1 {
            pairs.push(("page", self.page.to_string()));
        }
        pairs
    }

    /// What is not a filter: the form of filters carries it along.
    pub(crate) fn search_pairs(&self) -> Vec<(&'static str, String)> {
        let query = &self.query;
        let mut pairs = Vec::new();
        if !query.text.is_empty() {
            pairs.push(("q", query.text.clone()));
        }
        if query.order != Order::default() {
            pairs.push(("sort", self.sort().to_owned()));
        }
        pairs
    }

    /// The filters: the form of the search carries them along.
    pub(crate) fn filter_pairs(&self) -> Vec<(&'static str, String)> {
        let query = &self.query;
        let mut pairs = Vec::new();
        pairs.extend(query.owner.iter().map(|owner| ("owner", owner.clone())));
        pairs.extend(self.base().map(|base| ("base", base.to_owned())));
        for (facet, name, _) in FACETS {
            pairs.extend(self.chosen(facet).into_iter().map(|word| (name, word)));
        }
        pairs
    }

    /// The model that those of the list were made from, where that is asked.
    pub(crate) fn base(&self) -> Option<&str> {
        self.query
            .words
            .iter()
            .find_map(|word| word.strip_prefix("base_model:"))
    }

    /// The word of the order.
    pub(crate) fn sort(&self) -> &'static str {
        ORDERS
            .iter()
            .find(|(.., order)| *order == self.query.order)
            .map_or(ORDERS[0].0, |(word, ..)| word)
    }

    /// What is chosen of a facet, in the words of addresses.
    pub(crate) fn chosen(&self, facet: Facet) -> Vec<String> {
        let query = &self.query;
        match facet {
            Facet::Trust => [("verified", query.verified), ("reproduced", query.reproduced)]
                .into_iter()
                .filter(|(_, on)| *on)
                .map(|(word, _)| word.to_owned())
                .collect(),
            Facet::Visibility => words(&query.visibilities, |one| one.word()),
            Facet::Price => words(&query.costs, |one| one.word()),
            Facet::Task => query.tasks.clone(),
            Facet::Format => words(&query.formats, |one| one.word()),
            Facet::Parameters => words(&query.scales, |one| one.word()),
            Facet::Size => words(&query.sizes, |one| one.word()),
            Facet::Licence => query.licences.clone(),
        }
    }

    /// The address of another page of the same.
    pub(crate) fn at_page(&self, page: usize) -> String {
        address(&Self { page, ..self.clone() }.pairs())
    }

    /// Each filter that is on, and the address of the list without it.
    pub(crate) fn filters(&self) -> Vec<Chosen> {
        let mut first = self.clone();
        first.page = 1;
        let all = first.pairs();
        let names = FACETS.map(|(_, name, _)| name);
        let is_filter = |name: &str| names.contains(&name) || name == "owner" || name == "base";
        let mut filters = Vec::new();
        for (at, (name, value)) in all.iter().enumerate() {
            if is_filter(name) {
                let rest: Vec<_> = all
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != at)
                    .map(|(_, pair)| pair.clone())
                    .collect();
                filters.push(Chosen {
                    words: said(name, value),
                    without: address(&rest),
                });
            }
        }
        filters
    }

    /// The list with no filter.
    pub(crate) fn without_filters(&self) -> String {
        address(&self.search_pairs())
    }
}

/// Facets in the order of the page, with their names in addresses and their titles.
pub(crate) const FACETS: [(Facet, &str, &str); 8] = [
    (Facet::Trust, "trust", "Trust"),
    (Facet::Visibility, "open", "Who can open it"),
    (Facet::Price, "price", "Price"),
    (Facet::Task, "task", "Task"),
    (Facet::Format, "format", "Format"),
    (Facet::Parameters, "parameters", "Parameters"),
    (Facet::Size, "size", "Size"),
    (Facet::Licence, "licence", "Licence"),
];

fn push<T: PartialEq>(chosen: &mut Vec<T>, value: Option<T>) {
    if let Some(value) = value.filter(|value| chosen.len() < CHOICES_MAX && !chosen.contains(value)) {
        chosen.push(value);
    }
}

fn words<T: Copy>(chosen: &[T], word: impl Fn(T) -> &'static str) -> Vec<String> {
    chosen.iter().map(|one| word(*one).to_owned()).collect()
}

/// `/models` with these pairs.
fn address(pairs: &[(&'static str, String)]) -> String {
    if pairs.is_empty() {
        return "/models".to_owned();
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    format!("/models?{}", query.finish())
}

/// A choice in words for people.
pub(crate) fn said(name: &str, value: &str) -> String {
    match name {
        "trust" => capital(value),
        "open" => capital(value),
        "task" => task(value),
        "parameters" => found(&SCALES, |scale| scale.word() == value),
        "price" => found(&COSTS, |cost| cost.word() == value),
        "size" => found(&SIZES, |size| size.word() == value),
        "format" => found(&FORMATS, |format| format.word() == value),
        "owner" => format!("Owner {}", super::short(value)),
        "base" => format!("Made from {}", super::short_name(value)),
        _ => value.to_owned(),
    }
}

fn found<T>(all: &[(T, &'static str)], is: impl Fn(&T) -> bool) -> String {
    all.iter()
        .find(|(one, _)| is(one))
        .map_or_else(String::new, |(_, words)| (*words).to_owned())
}

/// `Image classification` of the Hub's `image-classification`.
pub(crate) fn task(word: &str) -> String {
    capital(&word.replace('-', " "))
}

pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters
        .next()
        .iter()
        .flat_map(|letter| letter.to_uppercase())
        .collect();
    first + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_the_same() {
        for address in [
            "/models",
            "/models?q=tide+asr&sort=pulled",
            "/models?q=x&sort=price",
            "/models?trust=verified&trust=reproduced&open=public&open=private&price=free&price=10-100&task=text-generation&format=gguf&parameters=1b-10b&size=small&licence=mit",
            "/models?owner=0xAb&base=0xAb%2Fbase&page=3",
        ] {
            let query = address.split_once('?').map_or("", |(_, query)| query);
            let browse = Browse::parse(query);
            assert_eq!(browse.at_page(browse.page), address);
            assert_eq!(browse.query.from, (browse.page - 1) * PAGE);
        }
    }

    #[test]
    fn what_is_not_known_is_not_looked_at_and_all_is_bounded() {
        let long = format!(
            "q={}&{}&page=99999999999&sort=name&size=giant&x=y&task=&open=%00",
            "a".repeat(900),
            "task=b&".repeat(3)
                + &(0..90)
                    .map(|n| format!("licence=l{n}"))
                    .collect::<Vec<_>>()
                    .join("&"),
        );
        let browse = Browse::parse(&long);
        assert_eq!(browse.query.text.len(), TEXT_MAX);
        assert_eq!(
            (browse.query.tasks.len(), browse.query.licences.len()),
            (1, CHOICES_MAX)
        );
        assert_eq!((browse.page, browse.query.order), (PAGES_MAX, Order::Modified));
        assert!(browse.query.sizes.is_empty() && browse.query.visibilities.is_empty());
        assert_eq!(Browse::parse("page=0").page, 1);
        assert_eq!(Browse::parse("page=x").page, 1);
    }

    #[test]
    fn each_filter_can_be_taken_away_by_itself() {
        let browse = Browse::parse("q=x&trust=verified&format=gguf&format=onnx&page=4");
        let filters = browse.filters();
        assert_eq!(
            filters.iter().map(|one| one.words.as_str()).collect::<Vec<_>>(),
            ["Verified", "GGUF", "ONNX"]
        );
        assert_eq!(filters[1].without, "/models?q=x&trust=verified&format=onnx");
        assert_eq!(browse.without_filters(), "/models?q=x");
        assert_eq!(said("size", "huge"), "16 GB and more");
    }
}
