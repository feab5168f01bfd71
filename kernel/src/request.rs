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

impl AtCursor {
    /// The cursor as a byte offset, moved into the text when it lies outside.
    pub(crate) fn byte_offset(&self) -> usize {
        let points = self.cursor_pos.unwrap_or(usize::MAX);
        self.code
            .char_indices()
            .nth(points)
            .map_or(self.code.len(), |(offset, _)| offset)
    }
}

/// A byte offset in code points; an offset inside a character counts that character.
pub(crate) fn code_points(code: &str, offset: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < offset).count()
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
        assert_eq!(code_points("a😀b", 5), 2);
        assert_eq!(code_points("a😀b", 6), 3);
    }

    #[test]
    fn a_history_search_without_n_and_unique_is_understood() {
        let request: History =
            serde_json::from_value(json!({ "hist_access_type": "search", "pattern": "*" })).unwrap();
        assert_eq!(request.pattern.as_deref(), Some("*"));
        assert_eq!(request.n, None);
    }
}
