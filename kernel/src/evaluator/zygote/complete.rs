//! Completion and inspection: rust-analyzer's answers where it is ready, and until then the notebook's names at once.
//!
//! It costs hundreds of megabytes and seconds to load, so it starts when somebody first asks. It sees the notebook's
//! declarations, variables and the cell as one file, and never runs a cell. What the notebook holds is a copy that the
//! evaluator renews, so all of this also works while a cell runs.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use alephlab_link::MimeBundle;
use serde_json::json;

use super::analyzer::{Analyzer, Document, Manifest};
use super::commands;
use super::diagnostics::clean;
use super::generate::Session;
use super::toolbox::Toolbox;
use crate::evaluator::{Analyst, Completions, Match};
use crate::template::Template;
use crate::template::stamp::Stamp;

/// Keywords that begin something a person types.
const KEYWORDS: [&str; 28] = [
    "as", "async", "await", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl",
    "in", "let", "loop", "match", "mod", "move", "mut", "pub", "return", "static", "struct", "trait", "true",
    "use", "while",
];

/// In front of the cell's text. A variable's value comes from nowhere, and is not `loop {}`, behind which nothing is
/// reached.
const PROLOGUE: &str =
    "#![allow(warnings)]\nuse ::alephlab::prelude::*;\nfn alephlab_value<T>() -> T { loop {} }\n";
/// What the cell is the body of: `?` and `.await` mean something in it.
const BODY: &str =
    "async fn alephlab_cell() -> ::std::result::Result<(), ::std::boxed::Box<dyn ::std::error::Error>> {\n";
/// Crates of the runtime that cells name by themselves, as their lines in a manifest.
const RUNTIME_CRATES: [&str; 2] = ["candle-core", "candle-nn"];

/// Answers for the notebook as it was after the last cell.
pub(super) struct NotebookAnalyst {
    template: Template,
    known: Mutex<Arc<Known>>,
    analyzer: Arc<Analyzer>,
}

/// What a cell of now could name.
#[derive(Default)]
struct Known {
    session: Session,
    place: Option<Place>,
}

/// Where and with what the notebook's cells are compiled.
#[derive(Clone)]
struct Place {
    toolbox: Arc<Toolbox>,
    /// Folder for the analyzer.
    folder: PathBuf,
}

impl NotebookAnalyst {
    pub(super) fn new(template: Template) -> Self {
        Self {
            template,
            known: Mutex::default(),
            analyzer: Arc::default(),
        }
    }

    /// Takes a copy of what there is now. The folder is the analyzer's own.
    pub(super) fn learn(&self, session: &Session, toolbox: &Arc<Toolbox>, folder: PathBuf) {
        let known = Known {
            session: session.clone(),
            place: Some(Place {
                toolbox: Arc::clone(toolbox),
                folder,
            }),
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// The notebook as it was when the main shell last told of it.
    pub(super) fn session(&self) -> Session {
        self.known().session.clone()
    }

    /// What cells are compiled with; nothing before the evaluator has started.
    pub(super) fn toolbox(&self) -> Option<Arc<Toolbox>> {
        Some(Arc::clone(&self.known().place.as_ref()?.toolbox))
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What rust-analyzer loads; nothing before the evaluator has started.
    fn manifest(&self, known: &Known) -> Option<Manifest> {
        let Place { toolbox, folder } = known.place.as_ref()?;
        let stamp = Stamp::read(&self.template).ok()?;
        let runtime = self.template.source().join("runtime");
        let mut dependencies = vec![format!("alephlab = {{ path = {runtime:?} }}")];
        let asked = &toolbox.dependencies;
        let name_of = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let mut named = std::collections::BTreeSet::new();
        // Of two lines for one crate the later one counts.
        for (line, _) in asked.lines.iter().rev() {
            if named.insert(name_of(line)) {
                dependencies.push(line.clone());
            }
        }
        let others = RUNTIME_CRATES.iter().filter(|name| !named.contains(**name));
        dependencies
            .extend(others.map(|name| format!("{name} = {{ version = \"*\", default-features = false }}")));
        let bundle = asked.bundles.last();
        let source = bundle.map_or_else(
            || self.template.source(),
            |(name, _)| self.template.bundles().join(name),
        );
        Some(Manifest {
            folder: folder.clone(),
            dependencies,
            lock: source.join("Cargo.lock"),
            rustc: stamp.rustc,
            target: stamp.target,
        })
    }
}

impl Analyst for NotebookAnalyst {
    fn complete(&self, code: &str, cursor: usize) -> Completions {
        let before = code.get(..cursor).unwrap_or_default();
        if let Some(found) = command_names(before, cursor) {
            return found;
        }
        let known = self.known();
        let manifest = self.manifest(&known);
        let analyse = || {
            let manifest = manifest.clone()?;
            let found = self.analyzer.complete(manifest, known.document(code, cursor)?);
            found.filter(|found| !found.matches.is_empty())
        };
        if self.analyzer.is_warm()
            && let Some(found) = analyse()
        {
            return found;
        }
        // Loaded beside: whoever completes a name will soon ask for more.
        manifest
            .iter()
            .for_each(|manifest| self.analyzer.load(manifest.clone()));
        let found = known.complete(code, before, cursor);
        if found.matches.is_empty() {
            return analyse().unwrap_or(found);
        }
        found
    }

    /// What is known of the name at the cursor: the notebook's own at once, others by the analyzer.
    fn inspect(&self, code: &str, cursor: usize) -> Option<MimeBundle> {
        let known = self.known();
        let own = known.own_name(code, cursor);
        let manifest = self.manifest(&known);
        if let Some(manifest) = manifest
            && (own.is_none() || self.analyzer.is_warm())
            && let Some(found) = self.analyzer.inspect(manifest, known.document(code, cursor)?)
        {
            return Some(found);
        }
        let text = own?;
        let mut bundle = MimeBundle::new();
        bundle.insert("text/markdown".to_owned(), json!(format!("```rust\n{text}\n```")));
        bundle.insert("text/plain".to_owned(), json!(text));
        Some(bundle)
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
        if let Some(Place { toolbox, .. }) = &self.place {
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

    /// Names that begin like what was typed. Behind a dot or a path names of the notebook mean nothing.
    fn complete(&self, code: &str, before: &str, cursor: usize) -> Completions {
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let word = &before[start..];
        let lead = before[..start].trim_end();
        let mut matches = Vec::new();
        if !lead.ends_with('.') && !lead.ends_with("::") && !word.is_empty() {
            matches.extend(self.names(word));
            matches.extend(local_names(code, word));
        }
        matches.sort_by(|a, b| a.text.cmp(&b.text));
        matches.dedup_by(|a, b| a.text == b.text);
        Completions {
            matches,
            start,
            end: cursor,
        }
    }

    /// The notebook and a cell as one file: declarations, items, variables, the cell. Nothing when the cursor stands in
    /// a command.
    fn document(&self, code: &str, cursor: usize) -> Option<Document> {
        let mut text = PROLOGUE.to_owned();
        self.session.items.uses.iter().for_each(|leaf| {
            let _ = writeln!(text, "{}", leaf.text);
        });
        for item in self.session.items.all() {
            let _ = writeln!(text, "{}", item.text());
        }
        text.push_str(BODY);
        for (name, variable) in &self.session.variables {
            let is_mut = if variable.is_mut { "mut " } else { "" };
            let _ = writeln!(
                text,
                "let {is_mut}{name}: {} = alephlab_value();",
                clean(&variable.kind)
            );
        }
        let start = text.len();
        text.push_str(&without_commands(code));
        text.push_str("\n}\n");
        Some(Document {
            text,
            start,
            cursor: start.checked_add(cursor)?,
        })
    }
}

/// A cell with blanks in place of its commands, so that every byte stays where it is.
fn without_commands(code: &str) -> String {
    let rust = commands::split(code).rust;
    let mut lines = rust.split('\n');
    let blanked = code.split('\n').map(|line| {
        // Of `:time CODE` the code is left, which ends the line.
        let kept = lines.next().unwrap_or_default().trim_start();
        let kept = match line.ends_with(kept) {
            true => kept,
            false if commands::short_for(line.trim()).is_some() => "",
            false => line,
        };
        format!("{}{kept}", " ".repeat(line.len() - kept.len()))
    });
    blanked.collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_leave_every_byte_where_it_is() {
        for (code, expected) in [
            ("1 + 1", "1 + 1"),
            (":dep é\nlet x = 1;\n", "       \nlet x = 1;\n"),
            (":time x.len()", "      x.len()"),
            ("", ""),
        ] {
            assert_eq!(without_commands(code), expected);
        }
    }
}
