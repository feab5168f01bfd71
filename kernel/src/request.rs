//! Contents of requests, read leniently: a missing optional field must not lose the message.
//!
//! Own types and not jupyter-protocol's, whose execute and history requests refuse what clients leave out.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `execute_request`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Execute {
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) silent: bool,
    #[serde(default = "yes")]
    pub(crate) store_history: bool,
    #[serde(default)]
    pub(crate) user_expressions: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) allow_stdin: bool,
    #[serde(default = "yes")]
    pub(crate) stop_on_error: bool,
}

/// `complete_request` and `inspect_request`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AtCursor {
    pub(crate) code: String,
    /// In Unicode code points; at the end when missing.
    #[serde(default)]
    pub(crate) cursor_pos: Option<usize>,
}

/// What a client counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// As the protocol says since 5.2.
    CodePoint,
    /// As VS Code counts: two for a character beyond U+FFFF.
    Utf16,
}

impl AtCursor {
    /// The cursor as a byte offset, moved into the text when it lies outside, and what the client counts in.
    ///
    /// Which it is is not said. They differ only behind a character beyond U+FFFF; there the one is meant at which a
    /// person would ask, the end of a name or of a `.`, and the protocol's where that does not tell.
    pub(crate) fn byte_offset(&self) -> (usize, Unit) {
        let Some(count) = self.cursor_pos else {
            return (self.code.len(), Unit::CodePoint);
        };
        let by_protocol = offset(&self.code, count, Unit::CodePoint);
        let by_utf16 = offset(&self.code, count, Unit::Utf16);
        match (by_protocol, by_utf16) {
            (Some(points), Some(utf16)) if points != utf16 => {
                let is_utf16 = ends_here(&self.code, utf16) && !ends_here(&self.code, points);
                if is_utf16 {
                    (utf16, Unit::Utf16)
                } else {
                    (points, Unit::CodePoint)
                }
            }
            (None, Some(utf16)) => (utf16, Unit::Utf16),
            (points, _) => (points.unwrap_or(self.code.len()), Unit::CodePoint),
        }
    }
}

/// The byte at which so much of the text has passed; nothing where it has less, or inside a character.
fn offset(code: &str, count: usize, unit: Unit) -> Option<usize> {
    let mut passed = 0;
    for (at, character) in code.char_indices() {
        if passed >= count {
            return (passed == count).then_some(at);
        }
        passed += size(character, unit);
    }
    (passed == count).then_some(code.len())
}

/// Whether a name, a path or a call ends here, and no name goes on.
fn ends_here(code: &str, at: usize) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let asks = |c: char| is_name(c) || matches!(c, '.' | ':' | '(' | '!');
    code[..at].ends_with(asks) && !code[at..].starts_with(is_name)
}

fn size(character: char, unit: Unit) -> usize {
    match unit {
        Unit::CodePoint => 1,
        Unit::Utf16 => character.len_utf16(),
    }
}

/// A byte offset as a client counts; an offset inside a character counts that character.
pub(crate) fn counted(code: &str, offset: usize, unit: Unit) -> usize {
    let before = code.char_indices().take_while(|(at, _)| *at < offset);
    before.map(|(_, character)| size(character, unit)).sum()
}

/// `is_complete_request`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct IsComplete {
    pub(crate) code: String,
}

/// `history_request`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    pub(crate) hist_access_type: String,
    pub(crate) output: bool,
    pub(crate) session: i64,
    pub(crate) start: i64,
    pub(crate) stop: Option<i64>,
    pub(crate) n: Option<usize>,
    pub(crate) pattern: Option<String>,
    pub(crate) unique: bool,
}

/// `shutdown_request`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shutdown {
    pub(crate) restart: bool,
}

/// `delete_subshell_request` (JEP 91).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeleteSubshell {
    pub(crate) subshell_id: String,
}

/// `comm_open`, `comm_msg` and `comm_close`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Comm {
    pub(crate) comm_id: String,
    pub(crate) target_name: String,
    pub(crate) data: serde_json::Value,
}

/// `comm_info_request`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CommInfo {
    pub(crate) target_name: Option<String>,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_execute_request_needs_only_its_code() {
        let request: Execute = serde_json::from_value(json!({ "code": "1" })).unwrap();
        assert!(request.store_history && request.stop_on_error && !request.silent && !request.allow_stdin);
    }

    #[test]
    fn a_cursor_counts_code_points_and_is_moved_into_the_text() {
        let at = |cursor_pos| {
            AtCursor {
                code: "a😀b".into(),
                cursor_pos,
            }
            .byte_offset()
            .0
        };
        assert_eq!(
            [
                at(Some(0)),
                at(Some(1)),
                at(Some(2)),
                at(Some(3)),
                at(Some(99)),
                at(None)
            ],
            [0, 1, 5, 6, 6, 6]
        );
        assert_eq!(counted("a😀b", 5, Unit::CodePoint), 2);
        assert_eq!(counted("a😀b", 6, Unit::CodePoint), 3);
        assert_eq!(counted("a😀b", 6, Unit::Utf16), 4);
    }

    #[test]
    fn a_cursor_of_vs_code_is_told_by_where_it_stands() {
        let at = |code: &str, cursor_pos| {
            AtCursor {
                code: code.into(),
                cursor_pos: Some(cursor_pos),
            }
            .byte_offset()
        };
        // "😀" is one code point and two of UTF-16. Behind the whole text there is no such code point.
        assert_eq!(at("\"😀\".len", 8), (10, Unit::Utf16));
        assert_eq!(at("\"😀\".len", 7), (10, Unit::CodePoint));
        // Text follows: 8 is in the middle of `count` in code points, and behind `x.` in UTF-16.
        let code = "\"😀\"; x.; count";
        assert_eq!(at(code, 8), (code.find("x.").unwrap() + 2, Unit::Utf16));
        assert_eq!(at(code, 7), (code.find("x.").unwrap() + 2, Unit::CodePoint));
        // Inside a pair of surrogates is nowhere.
        assert_eq!(at("😀", 1), (4, Unit::CodePoint));
        // Without such characters there is nothing to tell.
        assert_eq!(at("éa", 1), (2, Unit::CodePoint));
    }

    #[test]
    fn a_history_search_without_n_and_unique_is_understood() {
        let request: History =
            serde_json::from_value(json!({ "hist_access_type": "search", "pattern": "*" })).unwrap();
        assert_eq!(request.pattern.as_deref(), Some("*"));
        assert_eq!(request.n, None);
    }
}
