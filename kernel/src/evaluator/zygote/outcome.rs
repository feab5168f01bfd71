//! How a cell ended, told to the person.

use std::collections::BTreeSet;
use std::sync::Arc;

use alephlab_link::Outcome;

use super::child::RunFault;
use super::diagnostics::{self, Context, Diagnostic};
use super::generate::Session;
use super::item::Key;
use super::items::Items;
use super::parse::Parsed;
use super::run::{Compiled, Refused};
use super::source::{CellText, Source, Sources};
use super::{Ran, commit, types};
use crate::cell::Cell;
use crate::evaluator::CellError;
use crate::evaluator::link::errors::{self, BLUE, PLAIN, RED};
use crate::evaluator::link::shared::Report;
use crate::iopub::Stream;

/// The outcome of a cell whose library was run; its variables are the session's from now on, or gone.
pub(super) fn conclude(
    session: &mut Session,
    sources: &Sources,
    ran: &Ran,
    report: &Report,
    cell: &Cell,
) -> Result<(), CellError> {
    match &ran.fault {
        Some(RunFault::NotLoaded(reason)) => {
            // A damaged file would be found again.
            drop(ran.compiled.library.parent().map(std::fs::remove_dir_all));
            let hint = "run the cell again: it is compiled anew";
            return Err(CellError::new("LoadFailed", reason.clone(), Some(hint)));
        }
        Some(RunFault::Died(status)) => {
            session.variables.clear();
            return Err(if report.killed {
                errors::killed()
            } else {
                errors::child_died(status, report.last_words)
            });
        }
        None => {}
    }
    let finished = matches!(report.outcome, Some(Outcome::Finished) | None);
    let lost = settle(session, &ran.parsed, &ran.compiled, finished);
    if finished && !cell.is_interrupted() {
        report.tell_caught_panic(cell);
        if ran.wishes.time {
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
        forget_missing(session, &panic.message);
    }
    let mut error = match &report.outcome {
        // A scoped thread that was interrupted ends in a panic of the cell, a question in an error.
        _ if cell.is_interrupted() => interrupted(finished),
        Some(Outcome::Failed { message, location }) => {
            let mut error = errors::question_mark(message);
            error
                .traceback
                .insert(1, located(sources, location, &ran.parsed.cell));
            error
        }
        _ => panicked(sources, report, &ran.parsed.cell),
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

/// Variables after a cell that has ended, well or not: what it had moved is gone. The names that were lost by its failure.
pub(super) fn settle(
    session: &mut Session,
    parsed: &Parsed,
    compiled: &Compiled,
    finished: bool,
) -> Vec<String> {
    if finished {
        commit(session, parsed, compiled);
        return Vec::new();
    }
    let gone = compiled.facts.moves.taken.keys();
    gone.filter(|name| session.variables.remove(*name).is_some())
        .cloned()
        .collect()
}

/// A variable that the child does not have is not offered to the next cell again.
fn forget_missing(session: &mut Session, message: &str) {
    let name = message
        .strip_prefix("the variable `")
        .and_then(|rest| rest.split_once("` is not there"));
    if let Some((name, _)) = name {
        session.variables.remove(name);
    }
}

fn panicked(sources: &Sources, report: &Report, cell: &CellText) -> CellError {
    let Some(panic) = &report.panic else {
        return CellError::new("Panic", "the cell panicked", None);
    };
    let mut error = CellError::new("Panic", panic.message.clone(), None);
    error.traceback.push(located(sources, &panic.location, cell));
    error
}

/// `file:line:column` of generated source, as the line of the cell that it came from.
fn located(sources: &Sources, location: &str, cell: &CellText) -> String {
    let Some(place) = sources.place(location) else {
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

/// The error of a cell that was not compiled.
pub(super) fn refused(refused: Refused, cell: &CellText, session: &Session) -> CellError {
    match refused {
        Refused::Errors {
            errors,
            source,
            too_long,
        } => {
            let mut error = compile_error(&errors, &source, cell, session);
            if too_long {
                error
                    .traceback
                    .push("the compiler had more to say and was stopped".to_owned());
            }
            error
        }
        Refused::Unnameable(name, kind, reason) => unnameable(&name, &kind, reason),
        Refused::Stopped(said) => crashed_compiler(&said),
        Refused::Failed(error) => internal(&error),
    }
}

/// The error of a cell, or of its items, that does not compile.
pub(super) fn compile_error(
    found: &[Diagnostic],
    source: &Arc<Source>,
    cell: &CellText,
    session: &Session,
) -> CellError {
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

/// Code of the first error that has one, for `:explain`.
pub(super) fn first_code(found: &[Diagnostic]) -> Option<String> {
    let mut codes = found.iter().map(Diagnostic::code);
    codes.find(|code| code.starts_with('E')).map(str::to_owned)
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

fn unnameable(name: &str, kind: &str, reason: &str) -> CellError {
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
