//! How cells end, as Jupyter's `ename`, `evalue` and `traceback`: what is the same whoever compiled them.

use super::shared::Panic;
use crate::evaluator::CellError;

pub(in crate::evaluator) const RED: &str = "\u{1b}[1;31m";
pub(in crate::evaluator) const BLUE: &str = "\u{1b}[1;34m";
pub(in crate::evaluator) const CYAN: &str = "\u{1b}[1;36m";
pub(in crate::evaluator) const BOLD: &str = "\u{1b}[1m";
pub(in crate::evaluator) const PLAIN: &str = "\u{1b}[0m";

pub(in crate::evaluator) fn interrupted() -> CellError {
    let value = "stopped; variables from before this cell are kept, those it used by value may be lost";
    CellError::new(CellError::INTERRUPTED, value, None)
}

pub(in crate::evaluator) fn panicked(panic: Option<&Panic>) -> CellError {
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

pub(in crate::evaluator) fn question_mark(message: &str) -> CellError {
    let mut lines = message.lines();
    let mut error = CellError::new("Error", lines.next().unwrap_or_default(), None);
    error.traceback.extend(lines.map(str::to_owned));
    error
}

/// The cell did not stop within its time of grace.
pub(in crate::evaluator) fn killed() -> CellError {
    CellError::new(
        CellError::INTERRUPTED,
        "the cell did not stop, so its child was ended: all variables are gone, the kernel is ready again",
        Some("a loop that calls check_interrupt() can be stopped and keeps variables"),
    )
}

/// The compiler was stopped.
pub(in crate::evaluator) fn interrupted_compiling() -> CellError {
    CellError::new(
        CellError::INTERRUPTED,
        "stopped while it compiled; variables are kept",
        None,
    )
}

/// The child ended, with this status, after these words of its own.
pub(in crate::evaluator) fn child_died(status: &str, last_words: Option<&str>) -> CellError {
    let cause = last_words.map_or_else(|| cause(status), |words| format!("{words} ({status})"));
    CellError::new(
        "ChildDied",
        format!("{cause}: all variables are gone, the kernel is ready again"),
        None,
    )
}

/// How the child ended, in words.
fn cause(status: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_child_is_told_in_words_and_with_its_status() {
        let told = cause("exit status: 3");
        assert_eq!(told, "the cell ended its process (exit status: 3)");
        let told = cause("signal: 11 (SIGSEGV) (core dumped)");
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
