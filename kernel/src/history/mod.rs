//! What was executed: answers `history_request`, also for earlier kernels where there is a file.
//!
//! With a file ([`file`]) consoles find what was typed before a restart; a kernel that is given none remembers its own
//! cells only and writes nothing. Hosts of others are given none: cell text does not stay there.

mod file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::file::HistoryFile;
use crate::request;

/// Entries kept; the oldest go first.
const MAX_ENTRIES: usize = 10_000;
/// Of an output so much is kept, in bytes: the history is for what was typed.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// A cell that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    session: i64,
    line: u32,
    input: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// The cells that were executed with `store_history`.
pub(crate) struct History {
    /// Number of this kernel's session. Clients also ask for it as 0.
    session: i64,
    entries: Vec<Entry>,
    path: Option<PathBuf>,
    file: Option<HistoryFile>,
}

impl History {
    /// A history that goes on from the one in a file, once [`History::load`] was called.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self {
            session: 1,
            entries: Vec::new(),
            path,
            file: None,
        }
    }

    /// Reads the file, and begins a session of its own there. Without effect when it was called before. A file that
    /// cannot be used is said in the log, and done without.
    pub(crate) fn load(&mut self) {
        let Some(path) = self.path.take() else { return };
        match HistoryFile::open(&path) {
            Ok((file, session, entries)) => {
                self.session = session;
                self.entries = entries;
                self.file = Some(file);
            }
            Err(error) => tracing::warn!(%error, "the history of earlier kernels is not there"),
        }
    }

    /// Adds a cell, with its result as plain text.
    pub(crate) fn add(&mut self, line: u32, input: &str, output: Option<String>) {
        self.load();
        let entry = Entry {
            session: self.session,
            line,
            input: input.to_owned(),
            output: output.map(shortened),
        };
        if let Some(file) = &mut self.file
            && let Err(error) = file.append(&entry)
        {
            tracing::warn!(%error, "the cell is not in the history");
        }
        if self.entries.len() == MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }

    /// The `history` field of the reply.
    pub(crate) fn answer(&mut self, request: &request::History) -> Value {
        self.load();
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

    /// A session is named by its number, or counted back from this one, which is 0.
    fn range(&self, request: &request::History) -> Vec<&Entry> {
        let session = if request.session > 0 {
            request.session
        } else {
            self.session + request.session
        };
        let inside = |line: i64| line >= request.start && request.stop.is_none_or(|stop| line < stop);
        self.entries
            .iter()
            .filter(|entry| entry.session == session && inside(i64::from(entry.line)))
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

fn shortened(mut output: String) -> String {
    if output.len() > MAX_OUTPUT_BYTES {
        output.truncate(output.floor_char_boundary(MAX_OUTPUT_BYTES));
        output.push('…');
    }
    output
}

impl Entry {
    fn tuple(&self, with_output: bool) -> Value {
        if with_output {
            json!([self.session, self.line, [self.input, self.output]])
        } else {
            json!([self.session, self.line, self.input])
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
        let mut history = History::new(None);
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
    fn another_kernel_finds_what_was_executed_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/history.jsonl");
        let ask =
            |history: &mut History, request: Value| history.answer(&serde_json::from_value(request).unwrap());
        let mut first = History::new(Some(path.clone()));
        first.add(1, "let a = \"é\";\na", Some("\"é\"".into()));
        let mut second = History::new(Some(path.clone()));
        second.add(1, "b", None);
        // A line that was cut by a full disk costs only itself.
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"{\"session\":2,"))
            .unwrap();
        let mut third = History::new(Some(path.clone()));
        let tail = ask(&mut third, json!({ "hist_access_type": "tail", "n": 5 }));
        assert_eq!(tail, json!([[1, 1, "let a = \"é\";\na"], [2, 1, "b"]]));
        let before = json!({ "hist_access_type": "range", "session": -1, "start": 1, "stop": 9 });
        assert_eq!(ask(&mut third, before), json!([[2, 1, "b"]]));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_kernel_that_runs_goes_on_adding_after_another_has_shortened_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let mut first = History::new(Some(path.clone()));
        first.add(1, "before", Some("x".repeat(MAX_OUTPUT_BYTES + 1)));
        let line = b"{\"session\":1,\"line\":2,\"input\":\"many\"}\n";
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &line.repeat(2 * MAX_ENTRIES)).unwrap();
        let long = std::fs::metadata(&path).unwrap().len();
        History::new(Some(path.clone())).load();
        assert!(std::fs::metadata(&path).unwrap().len() < long * 2 / 3);
        first.add(3, "after", None);
        let mut third = History::new(Some(path));
        let request = json!({ "hist_access_type": "tail", "n": 1 });
        let tail = third.answer(&serde_json::from_value(request).unwrap());
        assert_eq!(tail, json!([[1, 3, "after"]]));
    }

    #[test]
    fn of_a_long_output_the_beginning_is_kept() {
        let kept = shortened("é".repeat(MAX_OUTPUT_BYTES));
        assert_eq!(kept.len(), MAX_OUTPUT_BYTES + '…'.len_utf8());
        assert_eq!(shortened("short".to_owned()), "short");
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
