//! What went wrong in a cell, as Jupyter's `ename`, `evalue` and `traceback`.

use std::fmt::Write;

use evcxr::CompilationError;

use crate::cell::Cell;
use crate::evaluator::CellError;
use crate::evaluator::link::errors::{
    BLUE, BOLD, CYAN, PLAIN, RED, child_died, interrupted_compiling, killed,
};
use crate::evaluator::link::shared::Report;

/// Said to every cell of a kernel whose evaluator did not start.
pub(in crate::evaluator) fn cannot_start(error: &crate::Error) -> CellError {
    let name = if error.code() == "template" {
        "RuntimeMissing"
    } else {
        "EvaluatorFailed"
    };
    CellError::new(name, error.to_string(), error.hint().as_deref())
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
        evcxr::Error::SubprocessTerminated(_) if report.killed => killed(),
        evcxr::Error::SubprocessTerminated(message) => {
            let status = message.split_once("terminated with status: ");
            child_died(
                status.map_or(message.as_str(), |(_, status)| status).trim(),
                report.last_words,
            )
        }
        _ if cell.is_interrupted() && !report.ran => interrupted_compiling(),
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
