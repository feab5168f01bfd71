//! What was executed in this session: answers `history_request`.
//!
//! Kept in memory for the life of the kernel. Not on disk: notebooks keep their own cells, and cell text does
//! not belong in files that nobody asked for.

use serde_json::{Value, json};

use crate::request;

/// Number of this session in answers. Clients also ask for it as 0.
const SESSION: i64 = 1;
/// Entries kept; the oldest go first.
const MAX_ENTRIES: usize = 10_000;

struct Entry {
    line: u32,
    input: String,
    output: Option<String>,
}

/// The cells that were executed with `store_history`.
#[derive(Default)]
pub(crate) struct History {
    entries: Vec<Entry>,
}

impl History {
    /// Adds a cell, with its result as plain text.
    pub(crate) fn add(&mut self, line: u32, input: &str, output: Option<String>) {
        if self.entries.len() == MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(Entry {
            line,
            input: input.to_owned(),
            output,
        });
    }

    /// The `history` field of the reply.
    pub(crate) fn answer(&self, request: &request::History) -> Value {
        let mut found: Vec<&Entry> = match request.hist_access_type.as_str() {
            "tail" => self.entries.iter().collect(),
            "range" => self.range(request),
            "search" => self.search(request),
            _ => Vec::new(),
        };
        if request.hist_access_type != "range"
            && let Some(n) = request.n
        {
            found.drain(..found.len().saturating_sub(n));
        }
        found
            .into_iter()
            .map(|entry| entry.tuple(request.output))
            .collect()
    }

    fn range(&self, request: &request::History) -> Vec<&Entry> {
        if request.session != SESSION && request.session != 0 {
            return Vec::new();
        }
        let inside = |line: i64| line >= request.start && request.stop.is_none_or(|stop| line < stop);
        self.entries
            .iter()
            .filter(|entry| inside(i64::from(entry.line)))
            .collect()
    }

    fn search(&self, request: &request::History) -> Vec<&Entry> {
        let pattern: Vec<char> = request.pattern.as_deref().unwrap_or("*").chars().collect();
        let mut found: Vec<&Entry> = Vec::new();
        for entry in &self.entries {
            let input: Vec<char> = entry.input.chars().collect();
            if glob(&pattern, &input) {
                if request.unique {
                    found.retain(|earlier| earlier.input != entry.input);
                }
                found.push(entry);
            }
        }
        found
    }
}

impl Entry {
    fn tuple(&self, with_output: bool) -> Value {
        if with_output {
            json!([SESSION, self.line, [self.input, self.output]])
        } else {
            json!([SESSION, self.line, self.input])
        }
    }
}

/// `*` for anything, `?` for one character. Linear in the text: on a mismatch only the last `*` takes one more.
fn glob(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: Value) -> Value {
        let mut history = History::default();
        for (line, input) in [(1, "let a = 1;"), (2, "a"), (3, "let b = 2;"), (4, "a")] {
            history.add(line, input, (input == "a").then(|| "1".into()));
        }
        history.answer(&serde_json::from_value(request).unwrap())
    }

    #[test]
    fn tail_gives_the_last_n() {
        assert_eq!(
            ask(json!({ "hist_access_type": "tail", "n": 2 })),
            json!([[1, 3, "let b = 2;"], [1, 4, "a"]])
        );
    }

    #[test]
    fn range_ends_before_stop_and_knows_only_this_session() {
        let request = json!({ "hist_access_type": "range", "session": 0, "start": 1, "stop": 2 });
        assert_eq!(ask(request), json!([[1, 1, "let a = 1;"]]));
        assert_eq!(
            ask(json!({ "hist_access_type": "range", "session": 7, "start": 0 })),
            json!([])
        );
    }

    #[test]
    fn search_finds_by_pattern_and_can_leave_out_repeats() {
        let found = ask(json!({ "hist_access_type": "search", "pattern": "let ? = *" }));
        assert_eq!(found.as_array().unwrap().len(), 2);
        let unique =
            ask(json!({ "hist_access_type": "search", "pattern": "a", "unique": true, "output": true }));
        assert_eq!(unique, json!([[1, 4, ["a", "1"]]]));
    }

    #[test]
    fn glob_backs_up_to_the_last_star() {
        let matches = |pattern: &str, text: &str| {
            glob(
                &pattern.chars().collect::<Vec<_>>(),
                &text.chars().collect::<Vec<_>>(),
            )
        };
        assert!(matches("*ab", "aab") && matches("a*b*", "axxbyy") && matches("**", ""));
        assert!(!matches("a?", "a") && !matches("ab", "abc"));
    }
}
