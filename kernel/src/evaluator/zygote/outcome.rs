//! How a cell ended, told to the person.

use std::collections::BTreeSet;
use std::sync::Arc;

use alephlab_link::Outcome;

use super::child::RunFault;
use super::diagnostics::{self, Context, Diagnostic};
use super::generate::Session;
use super::item::Key;
use super::items::Items;
use super::source::{CellText, Place, Source};
use super::{Ran, Wishes, Zygote, commit, types};
use crate::cell::Cell;
use crate::evaluator::CellError;
use crate::evaluator::link::errors::{self, BLUE, PLAIN, RED};
use crate::evaluator::link::shared::Report;
use crate::iopub::Stream;

/// Sources that locations of panics may still lead to.
const MAX_SOURCES: usize = 2_000;

impl Zygote {
    /// The outcome of a cell whose library was run.
    pub(super) fn conclude(
        &mut self,
        ran: &Ran,
        wishes: Wishes,
        report: &Report,
        cell: &Cell,
    ) -> Result<(), CellError> {
        while self.sources.len() > MAX_SOURCES {
            self.sources.pop_first();
        }
        match &ran.fault {
            Some(RunFault::NotLoaded(reason)) => {
                // A damaged file would be found again.
                drop(ran.compiled.library.parent().map(std::fs::remove_dir_all));
                let hint = "run the cell again: it is compiled anew";
                return Err(CellError::new("LoadFailed", reason.clone(), Some(hint)));
            }
            Some(RunFault::Died(status)) => {
                self.session.variables.clear();
                return Err(if report.killed {
                    errors::killed()
                } else {
                    errors::child_died(&status.to_string(), report.last_words)
                });
            }
            None => {}
        }
        let finished = matches!(report.outcome, Some(Outcome::Finished) | None);
        let lost: Vec<String> = if finished {
            commit(&mut self.session, &ran.parsed, &ran.compiled);
            Vec::new()
        } else {
            self.remove_used_up(ran)
        };
        if finished && !cell.is_interrupted() {
            report.tell_caught_panic(cell);
            if wishes.time {
                let text = format!(
                    "compiled in {}, ran in {}\n",
                    seconds(ran.compiling),
                    seconds(ran.running)
                );
                cell.text(Stream::Stdout, text.as_bytes());
            }
            return Ok(());
        }
        if let Some(panic) = &report.panic {
            self.forget_missing(&panic.message);
        }
        let mut error = match &report.outcome {
            // A scoped thread that was interrupted ends in a panic of the cell, a question in an error.
            _ if cell.is_interrupted() => interrupted(finished),
            Some(Outcome::Failed { message, location }) => {
                let mut error = errors::question_mark(message);
                error
                    .traceback
                    .insert(1, self.located(location, &ran.parsed.cell));
                error
            }
            _ => self.panicked(report, &ran.parsed.cell),
        };
        if !lost.is_empty() {
            let names = lost.join("`, `");
            error.traceback.push(format!(
                "the cell had used up `{names}`, which is gone; other variables are kept"
            ));
        }
        error.traceback.retain(|line| !line.is_empty());
        Err(error)
    }

    /// A variable that the child does not have is not offered to the next cell again.
    fn forget_missing(&mut self, message: &str) {
        let name = message
            .strip_prefix("the variable `")
            .and_then(|rest| rest.split_once("` is not there"));
        if let Some((name, _)) = name {
            self.session.variables.remove(name);
        }
    }

    /// Variables that the cell moved before it failed.
    fn remove_used_up(&mut self, ran: &Ran) -> Vec<String> {
        let gone = ran.compiled.facts.moves.taken.keys();
        gone.filter(|name| self.session.variables.remove(*name).is_some())
            .cloned()
            .collect()
    }

    fn panicked(&self, report: &Report, cell: &CellText) -> CellError {
        let Some(panic) = &report.panic else {
            return CellError::new("Panic", "the cell panicked", None);
        };
        let mut error = CellError::new("Panic", panic.message.clone(), None);
        error.traceback.push(self.located(&panic.location, cell));
        error
    }

    /// `file:line:column` of generated source, as the line of the cell that it came from.
    fn located(&self, location: &str, cell: &CellText) -> String {
        let Some(place) = self.place(location) else {
            // A place in a library, or in source of ours that means nothing to a person.
            let is_ours = location.contains("cell.rs") || location.contains("-items.rs");
            return if is_ours || location.is_empty() {
                String::new()
            } else {
                format!("{BLUE} --> {PLAIN}{location}")
            };
        };
        let (line, column) = place.line_and_column();
        let indent = " ".repeat(column - 1);
        format!(
            "{BLUE} --> {PLAIN}{}\n{BLUE}{line:>4} |{PLAIN} {}\n{BLUE}     |{PLAIN} {indent}{RED}^{PLAIN}",
            place.describe(cell),
            place.line()
        )
    }

    fn place(&self, location: &str) -> Option<Place> {
        let mut parts = location.rsplitn(3, ':');
        let column = parts.next()?.parse().ok()?;
        let line = parts.next()?.parse().ok()?;
        let path = std::path::Path::new(parts.next()?);
        let file = path.file_name()?.to_str()?;
        let name = if file == "cell.rs" {
            path.parent()?.file_name()?.to_str()?
        } else {
            file
        };
        self.sources.get(name)?.place_at(line, column)
    }

    /// The error of a cell, or of its items, that does not compile.
    pub(super) fn compile_error(
        &mut self,
        found: &[Diagnostic],
        source: &Arc<Source>,
        cell: &CellText,
        session: &Session,
    ) -> CellError {
        self.last_code = found
            .iter()
            .map(Diagnostic::code)
            .find(|code| code.starts_with('E'))
            .map(str::to_owned);
        if let [only] = found
            && let Some(message) = diagnostics::not_displayed(only)
        {
            return CellError::new("CompileError", message, None);
        }
        let context = Context {
            source,
            cell,
            hint: &|error| hint(error, source, session),
        };
        diagnostics::compile_error(found, &context)
    }
}

/// What rustc cannot know: that names come from other cells.
fn hint(error: &Diagnostic, source: &Source, session: &Session) -> Option<String> {
    let known = || error.quoted().find(|name| session.variables.contains_key(*name));
    match error.code() {
        "E0597" | "E0716" | "E0515" | "E0521" | "E0373" | "E0505" | "E0506" | "E0310" => Some(
            "variables of a cell outlive it and cannot borrow from others: clone, own or `Box::leak` the data, or put \
             owner and borrower into one pair of braces"
                .to_owned(),
        ),
        "E0594" | "E0596" | "E0384" => {
            let name = known()?;
            Some(format!("`{name}` was declared in an earlier cell; declare it there with `let mut {name}`"))
        }
        "E0432" | "E0433" | "E0463" => {
            let name = error.quoted().next().map(|path| path.split("::").next().unwrap_or_default().to_owned())?;
            let is_crate = name.starts_with(char::is_lowercase) && !session.items.defines(&name);
            is_crate.then(|| format!("if `{name}` is a crate, `:dep {name}` brings it in"))
        }
        "E0425" | "E0423" | "E0434" => {
            let name = known()?;
            let in_item = error.place(source).is_some();
            in_item.then(|| format!("functions do not see `{name}`, a variable of the notebook: pass it as an argument"))
        }
        "E0369" | "E0308" | "E0599" => {
            let old = session.variables.values().any(|variable| {
                types::crates(&variable.kind).iter().any(|name| is_old(name, session))
            });
            let about = old && error.message.contains(super::items::CRATE_PREFIX)
                || error.spans.iter().any(|span| {
                    span.label.as_deref().is_some_and(|label| label.contains(super::items::CRATE_PREFIX))
                });
            (old && about).then(|| "a variable made before its type was defined anew keeps the old type: make it again".to_owned())
        }
        _ => None,
    }
}

fn is_old(name: &str, session: &Session) -> bool {
    name.starts_with(super::items::CRATE_PREFIX) && !session.built.values().any(|one| one.name == name)
}

/// Items of earlier cells in which all the errors lie: they fit no longer. None when one lies in what changed.
pub(super) fn guilty_items(
    found: &[Diagnostic],
    source: &Source,
    items: &Items,
    changed: &BTreeSet<Key>,
) -> BTreeSet<Key> {
    let mut guilty = BTreeSet::new();
    for error in found {
        let Some(place) = error.place(source) else {
            return BTreeSet::new();
        };
        let inside = |item: &&super::item::Item| {
            item.origin.cell == place.cell && item.origin.range.contains(&place.offset)
        };
        match items.all().find(inside) {
            Some(item) if !changed.contains(&item.key) => guilty.insert(item.key.clone()),
            _ => return BTreeSet::new(),
        };
    }
    guilty
}

pub(super) fn unnameable(name: &str, kind: &str, reason: &str) -> CellError {
    CellError::new(
        "CompileError",
        format!(
            "`{name}` cannot live on after this cell: its type has no name, {reason} (`{}`)",
            diagnostics::clean(&types::short(&diagnostics::without_places(kind)))
        ),
        Some(
            "use it within this cell in braces, or give it a type: `Box<dyn Fn(i32) -> i32>`, `Vec<_>` by collect()",
        ),
    )
}

pub(super) fn crashed_compiler(said: &str) -> CellError {
    let mut error = CellError::new(
        "CompilerCrashed",
        "the compiler ended without a word about this cell; variables are kept",
        Some("a very deeply nested expression does that: split it"),
    );
    error.traceback.extend(said.lines().take(20).map(str::to_owned));
    error
}

pub(super) fn internal(error: &crate::Error) -> CellError {
    CellError::new("EvaluatorFailed", error.to_string(), error.hint().as_deref())
}

fn interrupted(finished: bool) -> CellError {
    if finished {
        let value = "stopped when the cell had just ended; variables are kept";
        return CellError::new(CellError::INTERRUPTED, value, None);
    }
    CellError::new(
        CellError::INTERRUPTED,
        "stopped; variables from before this cell are kept",
        None,
    )
}

pub(super) fn seconds(time: std::time::Duration) -> String {
    if time.as_secs() == 0 {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
