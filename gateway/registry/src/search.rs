//! The list of models: what clients may ask, pages and their `Link`, and the answer for libraries held in memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::answer::RegistryError;
use crate::repo::{Asker, yes};
use crate::{Gated, Hub, Page, RepoInfo, describe};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Models in one answer, where the client does not say.
const PAGE: usize = 100;
/// The most in one answer.
const PAGE_MAX: usize = 1000;

/// What a client asks of the list of models. Unknown words of its query are left out, as the Hub does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Part of the id, in any case.
    pub text: Option<String>,
    /// Namespace.
    pub author: Option<String>,
    /// Each must be among the tags of a model.
    pub filters: Vec<String>,
    /// The task.
    pub task: Option<String>,
    /// Only gated ones, or only others.
    pub gated: Option<bool>,
    /// At least and at most so many parameters.
    pub parameters: Option<(u64, u64)>,
    /// In which order.
    pub sort: SortBy,
    /// Largest or newest first.
    pub descending: bool,
    /// The most in one page, at least one.
    pub limit: usize,
    /// Files of each are wanted, too.
    pub full: bool,
    /// [`Page::next`] of the page before.
    pub cursor: Option<String>,
}

/// Order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortBy {
    /// By newest revision.
    #[default]
    Modified,
    /// By first revision.
    Created,
    /// By downloads; also what `trendingScore` gets, which nothing here measures.
    Downloads,
    /// By likes.
    Likes,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            text: None,
            author: None,
            filters: Vec::new(),
            task: None,
            gated: None,
            parameters: None,
            sort: SortBy::default(),
            descending: true,
            limit: PAGE,
            full: false,
            cursor: None,
        }
    }
}

impl Search {
    fn parse(query: &str) -> Result<Self> {
        let mut search = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let text = Some(value.to_string()).filter(|text| !text.is_empty());
            match key.as_ref() {
                "search" => search.text = text.map(|text| text.to_lowercase()),
                "author" => search.author = text,
                // Several filters are given as several words of the query, or as one with commas.
                "filter" => search.filters.extend(value.split(',').map(str::to_owned)),
                "pipeline_tag" => search.task = text,
                "gated" => search.gated = text.map(|text| yes(Some(&text))),
                "num_parameters" => search.parameters = Some(parameters(&value)?),
                "sort" => search.sort = sort(&value)?,
                "direction" => search.descending = value == "-1",
                "limit" => {
                    let limit = value.parse::<usize>();
                    let limit = limit.map_err(|_| RegistryError::invalid("`limit` is not a number"))?;
                    search.limit = limit.clamp(1, PAGE_MAX);
                }
                "cursor" => search.cursor = text,
                "expand" => search.full |= matches!(value.as_ref(), "siblings" | "cardData"),
                "full" | "cardData" => search.full |= yes(Some(&value)),
                _ => {}
            }
        }
        Ok(search)
    }

    /// Whether a repo is what is asked for.
    pub fn matches(&self, info: &RepoInfo) -> bool {
        let tags = describe::tags(info);
        let namespace = info.id.split_once('/').map_or("", |(namespace, _)| namespace);
        let text = |text: &String| info.id.to_lowercase().contains(text);
        let author = |author: &String| author == namespace || *author == info.author;
        let within = |(least, most): (u64, u64)| info.parameters.is_some_and(|n| (least..=most).contains(&n));
        self.text.as_ref().is_none_or(text)
            && self.author.as_ref().is_none_or(author)
            && self
                .task
                .as_ref()
                .is_none_or(|task| info.card.task.as_ref() == Some(task))
            && self.gated.is_none_or(|gated| gated == (info.gated != Gated::No))
            && self.parameters.is_none_or(within)
            && self.filters.iter().all(|filter| tags.contains(filter))
    }

    /// The page of a library that has all its repos in memory.
    pub fn page(&self, repos: impl IntoIterator<Item = RepoInfo>) -> Page {
        let mut found: Vec<_> = repos.into_iter().filter(|info| self.matches(info)).collect();
        let key = |info: &RepoInfo| match self.sort {
            SortBy::Modified => info.modified.max(info.created),
            SortBy::Created => info.created,
            SortBy::Downloads => info.downloads,
            SortBy::Likes => info.likes,
        };
        // Equal ones by id, so that pages neither repeat nor leave out.
        found.sort_by(|a, b| a.id.cmp(&b.id));
        if self.descending {
            found.sort_by_key(|info| Reverse(key(info)));
        } else {
            found.sort_by_key(key);
        }
        let from = self
            .cursor
            .as_ref()
            .and_then(|cursor| cursor.parse().ok())
            .unwrap_or(0_usize);
        let end = from.saturating_add(self.limit);
        let next = (end < found.len()).then(|| end.to_string());
        Page {
            repos: found.into_iter().skip(from).take(self.limit).collect(),
            next,
        }
    }
}

fn sort(word: &str) -> Result<SortBy> {
    match word {
        "lastModified" | "last_modified" => Ok(SortBy::Modified),
        "createdAt" | "created_at" => Ok(SortBy::Created),
        "downloads" | "trendingScore" | "trending_score" => Ok(SortBy::Downloads),
        "likes" => Ok(SortBy::Likes),
        other => Err(RegistryError::invalid(format!(
            "models are not sorted by `{other}`"
        ))),
    }
}

/// `min:6B,max:128B`.
fn parameters(text: &str) -> Result<(u64, u64)> {
    let bad = || RegistryError::invalid("`num_parameters` is not like `min:6B,max:128B`");
    let mut bounds = (0, u64::MAX);
    for part in text.split(',') {
        let (side, number) = part.split_once(':').ok_or_else(bad)?;
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match number[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 1,
            "K" => 1_000,
            "M" => 1_000_000,
            "B" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(bad()),
        };
        let (whole, tenths) = digits.split_once('.').unwrap_or((digits, "0"));
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let tenth: u64 = tenths.get(..1).unwrap_or("0").parse().map_err(|_| bad())?;
        let number = whole.saturating_mul(unit).saturating_add(tenth * (unit / 10));
        match side {
            "min" => bounds.0 = number,
            "max" => bounds.1 = number,
            _ => return Err(bad()),
        }
    }
    Ok(bounds)
}

pub(crate) async fn list(
    State(hub): State<Arc<Hub>>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let query = query.unwrap_or_default();
    let search = Search::parse(&query)?;
    let page = hub.library().list(&search, asker.bearer.as_ref()).await?;
    let models = page.repos.iter().map(|info| {
        if search.full {
            describe::model(info, false)
        } else {
            describe::summary(info)
        }
    });
    let mut response = Json(models.collect::<Vec<_>>()).into_response();
    if let (Some(next), Some(base)) = (page.next, hub.base()) {
        let same = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "cursor");
        let mut words: Vec<_> = same.collect();
        words.push(("cursor".into(), next.into()));
        link(response.headers_mut(), &format!("{base}/api/models"), &words);
    }
    Ok(response)
}

/// Words that models of this library can be filtered by, in the Hub's groups.
pub(crate) async fn tags_by_type(State(hub): State<Arc<Hub>>, asker: Asker) -> Result<Json<Value>> {
    let search = Search {
        limit: PAGE_MAX,
        ..Search::default()
    };
    let page = hub.library().list(&search, asker.bearer.as_ref()).await?;
    let mut groups: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for group in ["pipeline_tag", "library", "license", "dataset", "other"] {
        groups.insert(group, BTreeMap::new());
    }
    for info in &page.repos {
        for tag in describe::tags(info) {
            let (group, label) = match tag.split_once(':') {
                Some((group @ ("license" | "dataset"), label)) => (group, label),
                _ if info.card.task.as_ref() == Some(&tag) => ("pipeline_tag", tag.as_str()),
                _ if info.card.library.as_ref() == Some(&tag) => ("library", tag.as_str()),
                _ => ("other", tag.as_str()),
            };
            let entry = json!({ "id": tag, "label": label, "type": group });
            let words = groups.iter_mut().find(|(name, _)| **name == group);
            if let Some((_, words)) = words {
                words.insert(tag.clone(), entry);
            }
        }
    }
    let lists = groups
        .into_iter()
        .map(|(name, words)| (name.to_owned(), words.into_values().collect::<Value>()));
    Ok(Json(Value::Object(lists.collect())))
}

/// Says where the next page is.
pub(crate) fn link<K: AsRef<str>, V: AsRef<str>>(headers: &mut HeaderMap, path: &str, query: &[(K, V)]) {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    if let Ok(value) = HeaderValue::from_str(&format!("<{path}?{query}>; rel=\"next\"")) {
        headers.insert("link", value);
    }
}

#[cfg(test)]
mod tests {
    use alephlab_api::Card;

    use super::*;

    fn named(id: &str, modified: u64) -> RepoInfo {
        RepoInfo {
            id: id.into(),
            author: id.split('/').next().unwrap().into(),
            modified,
            card: Card {
                licence: "MIT".into(),
                tags: vec!["tiny".into()],
                task: Some("text-generation".into()),
                ..Card::default()
            },
            ..RepoInfo::default()
        }
    }

    #[test]
    fn reads_what_clients_ask() {
        let search =
            Search::parse("search=BERT&filter=tiny&filter=license%3Amit&limit=0&full=true&sort=likes");
        let search = search.unwrap();
        assert_eq!(search.text.as_deref(), Some("bert"));
        assert_eq!(search.filters, ["tiny", "license:mit"]);
        assert_eq!((search.limit, search.sort), (1, SortBy::Likes));
        assert!(Search::parse("sort=colour").is_err());
        assert_eq!(
            parameters("min:6B,max:0.5T").unwrap(),
            (6_000_000_000, 500_000_000_000)
        );
        assert!(parameters("about:6B").is_err());
    }

    #[test]
    fn pages_neither_repeat_nor_leave_out() {
        let repos: Vec<_> = (0..7).map(|n| named(&format!("a/{n}"), n / 3)).collect();
        let mut search = Search {
            limit: 3,
            filters: vec!["license:mit".into()],
            ..Search::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = search.page(repos.clone());
            seen.extend(page.repos.into_iter().map(|info| info.id));
            match page.next {
                Some(next) => search.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, ["a/6", "a/3", "a/4", "a/5", "a/0", "a/1", "a/2"]);
        search.filters.push("huge".into());
        assert!(search.page(repos).repos.is_empty());
    }
}
