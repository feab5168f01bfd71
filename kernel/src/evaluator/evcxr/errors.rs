//! What went wrong in a cell, as Jupyter's `ename`, `evalue` and `traceback`.

use std::fmt::Write;

use evcxr::CompilationError;

use super::shared::{Panic, Report};
use crate::cell::Cell;
use crate::evaluator::CellError;

const RED: &str = "\u{1b}[1;31m";
const BLUE: &str = "\u{1b}[1;34m";
const CYAN: &str = "\u{1b}[1;36m";
const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// Said to every cell of a kernel whose evaluator did not start.
pub(super) fn cannot_start(error: &crate::Error) -> CellError {
    let name = if error.code() == "template" {
        "RuntimeMissing"
    } else {
        "EvaluatorFailed"
    };
    CellError::new(name, error.to_string(), error.hint().as_deref())
}

pub(super) fn interrupted() -> CellError {
    let value = "stopped; variables from before this cell are kept, those it used by value may be lost";
    CellError::new(CellError::INTERRUPTED, value, None)
}

pub(super) fn panicked(panic: Option<&Panic>) -> CellError {
    let (message, location) = panic.map_or(("the cell panicked", String::new()), |panic| {
        (panic.message.as_str(), place(&panic.location))
    });
    let mut error = CellError::new("Panic", message, None);
    if !location.is_empty() {
        error.traceback.push(format!("{BLUE} --> {PLAIN}{location}"));
    }
    error
}

/// evcxr compiles each cell as `src/lib.rs` of a crate, with lines of its own before the cell's: their number says
/// nothing to the person.
fn place(location: &str) -> String {
    if location.starts_with("src/lib.rs:") {
        "in this cell or in a function of an earlier one".to_owned()
    } else {
        location.to_owned()
    }
}

pub(super) fn question_mark(message: &str) -> CellError {
    let mut lines = message.lines();
    let mut error = CellError::new("Error", lines.next().unwrap_or_default(), None);
    error.traceback.extend(lines.map(str::to_owned));
    error
}

/// What evcxr says, on one line.
pub(super) fn plain(error: &evcxr::Error) -> String {
    match error {
        evcxr::Error::CompilationErrors(errors) => errors
            .iter()
            .map(CompilationError::message)
            .collect::<Vec<_>>()
            .join("; "),
        other => other.to_string(),
    }
}

/// The error of a cell that evcxr could not run to its end.
pub(super) fn failed(
    error: &evcxr::Error,
    code: &str,
    report: &Report,
    cell: &Cell,
    has_rust_src: bool,
) -> CellError {
    match error {
        evcxr::Error::SubprocessTerminated(_) if report.killed => CellError::new(
            CellError::INTERRUPTED,
            "the cell did not stop, so its child was ended: all variables are gone, the kernel is ready again",
            Some("a loop that calls check_interrupt() can be stopped and keeps variables"),
        ),
        evcxr::Error::SubprocessTerminated(message) => CellError::new(
            "ChildDied",
            format!(
                "{}: all variables are gone, the kernel is ready again",
                cause(message)
            ),
            None,
        ),
        _ if cell.is_interrupted() && !report.ran => CellError::new(
            CellError::INTERRUPTED,
            "stopped while it compiled; variables are kept",
            None,
        ),
        evcxr::Error::CompilationErrors(errors) => compile_error(errors, code),
        other => {
            let message = other.to_string();
            let is_type = message.contains("determine type of variable");
            let hint = (is_type && !has_rust_src).then_some(
                "the sources of std are missing, without them types of variables are not known: \
                 run `rustup component add rust-src` and restart the kernel",
            );
            CellError::new("CompileError", message, hint)
        }
    }
}

/// How the child ended, in words.
fn cause(message: &str) -> String {
    let status = message
        .split_once("terminated with status: ")
        .map_or(message, |(_, status)| status)
        .trim();
    let words = [
        ("SIGSEGV", "the cell used memory that is not its own"),
        ("SIGABRT", "the cell aborted"),
        ("SIGKILL", "the child was killed, perhaps because memory ran out"),
        ("SIGILL", "the cell ran an illegal instruction"),
        ("SIGBUS", "the cell used memory that is not there"),
        ("exit status", "the cell ended its process"),
    ];
    let word = words
        .iter()
        .find(|(mark, _)| status.contains(mark))
        .map_or("the child ended", |(_, word)| word);
    format!("{word} ({status})")
}

fn compile_error(errors: &[CompilationError], code: &str) -> CellError {
    let real: Vec<_> = errors.iter().filter(|error| error.level() != "warning").collect();
    let shown = if real.is_empty() {
        errors.iter().collect()
    } else {
        real
    };
    let value = shown
        .first()
        .map_or_else(|| "the cell does not compile".to_owned(), |error| headline(error));
    let traceback = shown.iter().map(|error| render(error, code)).collect();
    CellError {
        name: "CompileError".to_owned(),
        value,
        traceback,
    }
}

fn headline(error: &CompilationError) -> String {
    match error.code() {
        Some(code) => format!("[{code}] {}", error.message()),
        None => error.message(),
    }
}

/// As rustc prints it, with lines and columns of the cell.
fn render(error: &CompilationError, code: &str) -> String {
    let number = error.code().map(|code| format!("[{code}]")).unwrap_or_default();
    let mut out = format!("{RED}error{number}{PLAIN}{BOLD}: {}{PLAIN}\n", error.message());
    let lines: Vec<&str> = code.lines().collect();
    let mut place_shown = false;
    let mut spans: Vec<_> = error.spanned_messages().iter().collect();
    // The place that the error is about first.
    spans.sort_by_key(|message| !message.is_primary);
    for message in spans {
        let Some(span) = message.span else { continue };
        if !std::mem::replace(&mut place_shown, true) {
            let _ = writeln!(
                out,
                "{BLUE} --> {PLAIN}cell:{}:{}",
                span.start_line, span.start_column
            );
        }
        let Some(line) = lines.get(span.start_line.saturating_sub(1)) else {
            continue;
        };
        let width = if span.end_line == span.start_line {
            span.end_column.saturating_sub(span.start_column)
        } else {
            line.chars()
                .count()
                .saturating_sub(span.start_column.saturating_sub(1))
        };
        let colour = if message.is_primary { RED } else { BLUE };
        let mark = if message.is_primary { "^" } else { "-" };
        let _ = writeln!(out, "{BLUE}{:>4} |{PLAIN} {line}", span.start_line);
        let indent = " ".repeat(span.start_column.saturating_sub(1));
        let marks = mark.repeat(width.max(1));
        let _ = writeln!(
            out,
            "{BLUE}     |{PLAIN} {indent}{colour}{marks} {}{PLAIN}",
            message.label
        );
    }
    for help in error.help() {
        let _ = writeln!(
            out,
            "{CYAN}     = help{PLAIN}: {}",
            help.replace('\n', "\n       ")
        );
    }
    if let Some(hint) = error.evcxr_extra_hint() {
        let _ = writeln!(out, "{CYAN}     = hint{PLAIN}: {hint}");
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_child_is_told_in_words_and_with_its_status() {
        let told = cause("Subprocess terminated with status: exit status: 3");
        assert_eq!(told, "the cell ended its process (exit status: 3)");
        let told = cause("Subprocess terminated with status: signal: 11 (SIGSEGV) (core dumped)");
        assert!(
            told.starts_with("the cell used memory that is not its own (signal: 11"),
            "{told}"
        );
    }

    #[test]
    fn only_the_first_line_of_a_long_error_is_its_value() {
        let error = question_mark("it failed\ncaused by x");
        assert_eq!((error.value.as_str(), error.traceback.len()), ("it failed", 2));
        assert!(error.traceback[1].contains("caused by x"));
    }
}
