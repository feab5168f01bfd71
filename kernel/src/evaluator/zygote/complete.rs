//! Completion and inspection: names of the notebook at once, everything else by evcxr's rust-analyzer.
//!
//! The analyzer costs a gigabyte and ten seconds, so it starts when somebody first asks for more than names. It is told
//! the notebook's declarations as text in front of what the person types, and never runs a cell. What the notebook
//! holds is a copy that the evaluator renews, so all of this also works while a cell runs.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use alephlab_link::MimeBundle;
use tokio::runtime::Handle;

use super::analyzer::Analyzer;
use super::commands;
use super::diagnostics::clean;
use super::generate::Session;
use super::toolbox::Toolbox;
use crate::evaluator::{Analyst, Completions, Match, RustConfig};
use crate::template::Template;

/// Keywords that begin something a person types.
const KEYWORDS: [&str; 28] = [
    "as", "async", "await", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl",
    "in", "let", "loop", "match", "mod", "move", "mut", "pub", "return", "static", "struct", "trait", "true",
    "use", "while",
];

/// Answers for the notebook as it was after the last cell.
pub(super) struct NotebookAnalyst {
    known: Mutex<Arc<Known>>,
    pub(super) analyzer: Analyzer,
}

/// What a cell of now could name.
#[derive(Default)]
struct Known {
    session: Session,
    toolbox: Option<Arc<Toolbox>>,
}

impl NotebookAnalyst {
    pub(super) fn new(config: RustConfig, template: Template, handle: Handle) -> Self {
        Self {
            known: Mutex::default(),
            analyzer: Analyzer::new(config, template, handle),
        }
    }

    /// Takes a copy of what there is now.
    pub(super) fn learn(&self, session: &Session, toolbox: &Arc<Toolbox>) {
        let known = Known {
            session: session.clone(),
            toolbox: Some(Arc::clone(toolbox)),
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Analyst for NotebookAnalyst {
    fn complete(&self, code: &str, cursor: usize) -> Completions {
        let before = code.get(..cursor).unwrap_or_default();
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let word = &before[start..];
        let lead = before[..start].trim_end();
        if let Some(found) = command_names(before, cursor) {
            return found;
        }
        self.analyzer.start();
        let known = self.known();
        // Behind a dot or a path names of the notebook mean nothing.
        let is_plain = !lead.ends_with('.') && !lead.ends_with("::");
        let mut matches = Vec::new();
        if is_plain && !word.is_empty() {
            matches.extend(known.names(word));
            matches.extend(local_names(code, word));
        }
        if matches.is_empty() {
            let declarations = known.declarations();
            let shift = declarations.len();
            let text = format!("{declarations}{code}");
            if let Some(found) = self.analyzer.complete(text, shift + cursor)
                && found.start >= shift
            {
                return Completions {
                    matches: found.matches,
                    start: found.start - shift,
                    end: found.end - shift,
                };
            }
        }
        matches.sort_by(|a, b| a.text.cmp(&b.text));
        matches.dedup_by(|a, b| a.text == b.text);
        Completions {
            matches,
            start,
            end: cursor,
        }
    }

    /// What is known of the name at the cursor: the notebook's own at once, others by the analyzer.
    fn inspect(&self, code: &str, cursor: usize) -> Option<MimeBundle> {
        self.analyzer.start();
        let known = self.known();
        if let Some(text) = known.own_name(code, cursor) {
            let mut bundle = MimeBundle::new();
            bundle.insert("text/plain".to_owned(), serde_json::Value::String(text));
            return Some(bundle);
        }
        let declarations = known.declarations();
        let shift = declarations.len();
        self.analyzer
            .inspect(format!("{declarations}{code}"), shift + cursor)
    }
}

impl Known {
    /// Type of a variable, or text of an item, when the name at the cursor is one and stands alone.
    fn own_name(&self, code: &str, cursor: usize) -> Option<String> {
        let in_name = |c: char| c.is_alphanumeric() || c == '_';
        let before = code.get(..cursor)?;
        let start = before.len()
            - before
                .chars()
                .rev()
                .take_while(|c| in_name(*c))
                .map(char::len_utf8)
                .sum::<usize>();
        let end = cursor
            + code[cursor..]
                .chars()
                .take_while(|c| in_name(*c))
                .map(char::len_utf8)
                .sum::<usize>();
        let name = code.get(start..end).filter(|name| !name.is_empty())?;
        let lead = code[..start].trim_end();
        if lead.ends_with('.') || lead.ends_with("::") {
            return None;
        }
        if let Some(variable) = self.session.variables.get(name) {
            let is_mut = if variable.is_mut { "mut " } else { "" };
            return Some(format!(
                "let {is_mut}{name}: {}",
                super::types::short(&variable.kind)
            ));
        }
        let defines = |item: &&super::item::Item| item.names.iter().any(|one| one == name);
        self.session
            .items
            .all()
            .find(defines)
            .map(|item| item.text().to_owned())
    }

    /// Variables, items, names of the prelude, crates and keywords that begin like this.
    fn names(&self, word: &str) -> Vec<Match> {
        let mut found = Vec::new();
        let mut add = |text: &str, kind: &str, signature: String| {
            if text.starts_with(word) && text != word {
                found.push(Match {
                    text: text.to_owned(),
                    kind: kind.to_owned(),
                    signature,
                });
            }
        };
        for (name, variable) in &self.session.variables {
            add(name, "instance", super::types::short(&variable.kind));
        }
        for item in self.session.items.all() {
            let head = item
                .text()
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end_matches(" {");
            item.names
                .iter()
                .for_each(|name| add(name, "function", head.to_owned()));
        }
        for leaf in &self.session.items.uses {
            leaf.name
                .iter()
                .for_each(|name| add(name, "module", leaf.text.clone()));
        }
        if let Some(toolbox) = &self.toolbox {
            toolbox
                .prelude
                .iter()
                .for_each(|name| add(name, "function", String::new()));
            toolbox
                .dependencies
                .crates
                .iter()
                .for_each(|(name, _)| add(name, "module", String::new()));
        }
        KEYWORDS
            .iter()
            .for_each(|word| add(word, "keyword", String::new()));
        found
    }

    /// The notebook as text in front of a cell: declarations, items, and variables without their values.
    fn declarations(&self) -> String {
        let mut text = String::new();
        self.session.items.uses.iter().for_each(|leaf| {
            let _ = writeln!(text, "{}", leaf.text);
        });
        for item in self.session.items.all() {
            let _ = writeln!(text, "{}", item.text());
        }
        for (name, variable) in &self.session.variables {
            let is_mut = if variable.is_mut { "mut " } else { "" };
            let _ = writeln!(text, "let {is_mut}{name}: {} = loop {{}};", clean(&variable.kind));
        }
        text
    }
}

/// Names that the cell itself binds.
fn local_names(code: &str, word: &str) -> Vec<Match> {
    let mut found = Vec::new();
    if word.is_empty() {
        return found;
    }
    for (at, _) in code.match_indices("let ") {
        let rest = code[at + 4..].trim_start().trim_start_matches("mut ");
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        if name.starts_with(word) && name != word {
            found.push(Match {
                text: name.to_owned(),
                kind: "instance".to_owned(),
                signature: String::new(),
            });
        }
    }
    found
}

/// Commands, when the line begins like one.
fn command_names(before: &str, cursor: usize) -> Option<Completions> {
    let line = before.rsplit('\n').next().unwrap_or_default();
    let typed = line.trim_start();
    if !typed.starts_with(':') || typed.starts_with("::") || typed.contains(char::is_whitespace) {
        return None;
    }
    let matches = commands::NAMES
        .iter()
        .filter(|name| name.starts_with(typed))
        .map(|name| Match {
            text: (*name).to_owned(),
            kind: "keyword".to_owned(),
            signature: String::new(),
        });
    Some(Completions {
        matches: matches.collect(),
        start: cursor - typed.len(),
        end: cursor,
    })
}
