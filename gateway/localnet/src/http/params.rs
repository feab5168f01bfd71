//! Query parameters that lists share: comma-separated values, numbers, pages and cursors.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use super::failure::{Answer, Failure};

/// Items on a page when the request does not say.
const DEFAULT_PAGE_ITEMS: u64 = 20;
/// Most items on a page.
pub(crate) const MAX_PAGE_ITEMS: u64 = 200;

/// Query parameters by name.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Params(HashMap<String, String>);

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// Pages count from 1.
    Page(u64),
    /// After the item with this time and hash; `None` for the beginning.
    Cursor(Option<(f64, String)>),
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paging {
    pub(crate) per_page: u64,
    pub(crate) place: Place,
    pub(crate) ascending: bool,
}

impl Params {
    /// A parameter that is present and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Comma-separated values; empty when absent.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.text(name)
            .map(|value| value.split(',').map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// A number that is zero or more; `None` when absent.
    pub(crate) fn number(&self, name: &str) -> Answer<Option<f64>> {
        let parse = |value: &str| {
            value
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite() && *number >= 0.0)
        };
        match self.text(name) {
            None => Ok(None),
            Some(value) => parse(value)
                .map(Some)
                .ok_or_else(|| Failure::invalid(name, "Input should be a valid number")),
        }
    }

    /// A whole number; `None` when absent.
    pub(crate) fn integer(&self, name: &str) -> Answer<Option<u64>> {
        match self.text(name) {
            None => Ok(None),
            Some(value) => value
                .parse()
                .map(Some)
                .map_err(|_| Failure::invalid(name, "Input should be a valid integer of 0 or more")),
        }
    }

    /// True for the spellings of a validator that takes booleans in a query.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
    }

    /// Page or cursor and order; `order_name` is `sortOrder` or, for files, also `sort_order`.
    pub(crate) fn paging(&self) -> Answer<Paging> {
        let per_page = self.integer("pagination")?.unwrap_or(DEFAULT_PAGE_ITEMS);
        let ascending = match self.text("sortOrder").or_else(|| self.text("sort_order")) {
            None | Some("-1") => false,
            Some("1") => true,
            Some(_) => return Err(Failure::invalid("sortOrder", "Input should be -1 or 1")),
        };
        // An empty cursor is the first page of cursor mode, so it must be told from none.
        let place = match self.0.get("cursor") {
            Some(_) if per_page == 0 => {
                return Err(Failure::invalid(
                    "pagination",
                    "0 is not allowed with cursor-based pagination",
                ));
            }
            Some(_) if self.text("sortBy") == Some("tx-time") => {
                return Err(Failure::invalid(
                    "cursor",
                    "Cursor pagination is not supported with tx-time sort order.",
                ));
            }
            Some(cursor) if cursor.is_empty() => Place::Cursor(None),
            Some(cursor) => Place::Cursor(Some(
                decode(cursor).ok_or_else(|| Failure::invalid("cursor", "Invalid cursor"))?,
            )),
            None => match self.integer("page")?.unwrap_or(1) {
                0 => {
                    return Err(Failure::invalid(
                        "page",
                        "Input should be greater than or equal to 1",
                    ));
                }
                page => Place::Page(page),
            },
        };
        // The real node takes 0 for "all" in page mode; here every answer has a bound.
        let per_page = if per_page == 0 {
            MAX_PAGE_ITEMS
        } else {
            per_page.min(MAX_PAGE_ITEMS)
        };
        Ok(Paging {
            per_page,
            place,
            ascending,
        })
    }

    /// Start and end of a range of times; the end is not part of it.
    pub(crate) fn dates(&self) -> Answer<(Option<f64>, Option<f64>)> {
        // Zero means no limit, as on the real node.
        let positive = |date: Option<f64>| date.filter(|date| *date > 0.0);
        let (start, end) = (
            positive(self.number("startDate")?),
            positive(self.number("endDate")?),
        );
        if let (Some(start), Some(end)) = (start, end)
            && end < start
        {
            return Err(Failure::invalid(
                "endDate",
                "end date cannot be lower than start date.",
            ));
        }
        Ok((start, end))
    }
}

impl Paging {
    /// Rows to ask the database for: in cursor mode one more, which tells whether there is a next page.
    pub(crate) fn limit(&self) -> u64 {
        match self.place {
            Place::Page(_) => self.per_page,
            Place::Cursor(_) => self.per_page + 1,
        }
    }

    /// Rows to skip.
    pub(crate) fn offset(&self) -> u64 {
        match self.place {
            Place::Page(page) => (page - 1).saturating_mul(self.per_page),
            Place::Cursor(_) => 0,
        }
    }

    /// Puts a page of `items` in its frame. `total` counts all items, `key` gives an item's cursor.
    pub(crate) fn frame<T, S>(
        &self,
        name: &'static str,
        mut items: Vec<T>,
        total: u64,
        key: impl Fn(&T) -> (f64, String),
        show: impl Fn(T) -> S,
    ) -> Frame<S> {
        let mut rest = vec![
            ("pagination_per_page", json!(self.per_page)),
            ("pagination_item", json!(name)),
        ];
        match self.place {
            Place::Page(page) => {
                rest.push(("pagination_page", json!(page)));
                rest.push(("pagination_total", json!(total)));
            }
            Place::Cursor(_) => {
                let most = usize::try_from(self.per_page).unwrap_or(usize::MAX);
                let has_more = items.len() > most;
                items.truncate(most);
                let next = items.last().filter(|_| has_more).map(|last| encode(&key(last)));
                rest.push(("next_cursor", json!(next)));
            }
        }
        Frame {
            name,
            items: items.into_iter().map(show).collect(),
            rest,
        }
    }
}

/// A page of a list with what is said about it.
#[derive(Debug)]
pub(crate) struct Frame<S> {
    name: &'static str,
    items: Vec<S>,
    rest: Vec<(&'static str, Value)>,
}

impl<S> Frame<S> {
    /// Says one thing more.
    pub(crate) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.rest.push((name, value));
        self
    }
}

impl<S: Serialize> Serialize for Frame<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let mut map = serializer.serialize_map(Some(self.rest.len() + 1))?;
        map.serialize_entry(self.name, &self.items)?;
        for (name, value) in &self.rest {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The bits of the time, because its decimal form may not come back as the same number.
fn encode((time, hash): &(f64, String)) -> String {
    URL_SAFE_NO_PAD.encode(format!("{:016x}:{hash}", time.to_bits()))
}

fn decode(cursor: &str) -> Option<(f64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (bits, hash) = text.split_once(':')?;
    let time = f64::from_bits(u64::from_str_radix(bits, 16).ok()?);
    time.is_finite().then(|| (time, hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn cursor_brings_back_the_exact_time() {
        for time in [1_790_000_003.123_456_7, 0.1 + 0.2, 1.7e9] {
            assert_eq!(decode(&encode(&(time, "h".into()))), Some((time, "h".into())));
        }
        for broken in ["!", "AAAA", "ZZZZZZZZZZZZZZZZZZZZ"] {
            assert_eq!(decode(broken), None);
        }
    }

    #[test]
    fn empty_cursor_begins_cursor_mode() {
        assert_eq!(
            params(&[("cursor", "")]).paging().unwrap().place,
            Place::Cursor(None)
        );
        assert_eq!(params(&[]).paging().unwrap().place, Place::Page(1));
    }

    #[test]
    fn page_size_is_bounded() {
        assert_eq!(params(&[("pagination", "5000")]).paging().unwrap().per_page, 200);
        assert_eq!(params(&[("pagination", "0")]).paging().unwrap().per_page, 200);
        assert!(params(&[("pagination", "0"), ("cursor", "")]).paging().is_err());
        assert!(params(&[("pagination", "x")]).paging().is_err());
        assert!(params(&[("page", "0")]).paging().is_err());
    }

    #[test]
    fn dates_are_numbers_in_order() {
        assert!(params(&[("startDate", "2"), ("endDate", "1")]).dates().is_err());
        assert!(params(&[("startDate", "-1")]).dates().is_err());
        assert!(params(&[("startDate", "NaN")]).dates().is_err());
        assert_eq!(
            params(&[("startDate", "0"), ("endDate", "3.5")]).dates().unwrap(),
            (None, Some(3.5))
        );
    }
}
