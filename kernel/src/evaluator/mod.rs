//! The seam between protocol and language: [`Evaluator`].
//!
//! Three implementations: [`zygote`] compiles Rust quickly, [`evcxr`] is the reference for its language, and
//! [`scripted`] has a tiny language of its own, so that the whole protocol is tested without a compiler. An evaluator lives on its own thread ([`thread`]) and never sees a
//! socket.

pub mod evcxr;
mod link;
pub mod scripted;
pub(crate) mod thread;
pub mod zygote;

use std::path::PathBuf;
use std::sync::Arc;

use alephlab_link::MimeBundle;
use serde_json::Value;

use crate::cell::Cell;
use crate::comms::Comms;
use crate::debug::DebuggerOfEngine;
use crate::template::Template;
use crate::template::stamp::Stamp;

/// Stack of threads that parse or analyse cells: rust-analyzer and our parser recurse deeply on large ones.
pub(crate) const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Where a kernel that compiles Rust finds what it needs.
#[derive(Debug, Clone)]
pub struct RustConfig {
    /// The runtime template.
    pub template: PathBuf,
    /// The handover file for the runtime, if a broker runs beside this kernel.
    pub handover: Option<PathBuf>,
    /// This program, which is also the child.
    pub program: PathBuf,
    /// Folder that cells run in.
    pub work_dir: PathBuf,
}

/// `language_info` of a kernel that compiles Rust.
fn rust(template: &Template) -> Language {
    let version = Stamp::read(template)
        .ok()
        .and_then(|stamp| stamp.rustc.split(' ').nth(1).map(str::to_owned));
    Language {
        name: "rust",
        version: version.unwrap_or_else(|| "unknown".to_owned()),
        mimetype: "text/rust",
        file_extension: ".rs",
    }
}

/// Runs cells of one language. Called on one thread only.
pub trait Evaluator {
    /// Runs a cell. Text, displays and the result go to `cell` while it runs; all of it before this returns.
    ///
    /// # Errors
    /// The one error that the cell is answered with.
    fn execute(&mut self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError>;
}

/// Answers what clients ask about code that does not run. Called on any thread, also while a cell runs; may wait.
pub trait Analyst: Send + Sync {
    /// What could stand at `cursor`, a byte offset on a character border.
    fn complete(&self, code: &str, cursor: usize) -> Completions;

    /// What is known about the name at `cursor`, a byte offset on a character border.
    fn inspect(&self, code: &str, cursor: usize) -> Option<MimeBundle>;
}

/// Starts an evaluator, on its own thread.
pub type StartEvaluator = Box<dyn FnOnce() -> Result<Box<dyn Evaluator>, CellError> + Send>;

/// An evaluator that is not started yet, and what the kernel may do to it from outside its thread.
pub struct Engine {
    /// The language, as `kernel_info_reply` tells it.
    pub language: Language,
    /// Starts the evaluator, on its own thread. May take seconds; `kernel_info` does not wait for it.
    pub start: StartEvaluator,
    /// Completes and inspects, from the start.
    pub analyst: Arc<dyn Analyst>,
    /// Comms between clients and the code of cells.
    pub comms: Arc<Comms>,
    /// The debugger, where there is one.
    pub debugger: Option<DebuggerOfEngine>,
    /// Makes subshells (JEP 91), where cells can run beside others.
    pub subshell: Option<NewSubshell>,
    /// Stops the running cell, without waiting. Called only while some cell of the kernel runs, perhaps a subshell's.
    pub interrupt: Arc<dyn Fn() + Send + Sync>,
    /// Ends everything that the evaluator started and removes its files. Called once, at the end.
    pub stop: Arc<dyn Fn() + Send + Sync>,
}

/// Makes a subshell, which may have cells run in the main shell's turn.
pub type NewSubshell = Box<dyn Fn(MainShell) -> Subshell + Send + Sync>;

/// Runs a cell in the main shell's turn, and waits for its end.
pub type MainShell = Arc<dyn Fn(&str, &Arc<Cell>) -> Result<(), CellError> + Send + Sync>;

/// A subshell that is not started yet.
pub struct Subshell {
    /// Starts its evaluator, on a thread of its own.
    pub start: StartEvaluator,
    /// Stops its running cell, without waiting. Called only while one runs.
    pub interrupt: Arc<dyn Fn() + Send + Sync>,
}

/// `language_info` of the protocol.
#[derive(Debug, Clone)]
pub struct Language {
    /// Name, lower case.
    pub name: &'static str,
    /// Version of the compiler.
    pub version: String,
    /// Media type of source text.
    pub mimetype: &'static str,
    /// With the dot.
    pub file_extension: &'static str,
}

/// Why a cell failed: Jupyter's three fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellError {
    /// Kind of error, for example `CompileError`.
    pub name: String,
    /// One line.
    pub value: String,
    /// What the client prints, may contain ANSI colours.
    pub traceback: Vec<String>,
}

impl Completions {
    /// Nothing could stand at `cursor`.
    pub fn none(cursor: usize) -> Self {
        Self {
            matches: Vec::new(),
            start: cursor,
            end: cursor,
        }
    }
}

impl CellError {
    /// An error whose traceback is its name and value, and a hint where there is one.
    pub fn new(name: &str, value: impl Into<String>, hint: Option<&str>) -> Self {
        let value = value.into();
        let mut traceback = vec![format!("\u{1b}[1;31m{name}\u{1b}[0m: {value}")];
        traceback.extend(hint.map(|hint| format!("\u{1b}[1;36mhint\u{1b}[0m: {hint}")));
        Self {
            name: name.to_owned(),
            value,
            traceback,
        }
    }

    /// The name that clients know for "the person stopped it".
    pub const INTERRUPTED: &'static str = "KeyboardInterrupt";

    /// The cell was stopped before any of its code ran.
    pub fn interrupted_before_running() -> Self {
        Self::new(
            Self::INTERRUPTED,
            "stopped before the cell ran; variables are kept",
            None,
        )
    }

    /// Content of the `error` message and base of the error reply.
    pub fn content(&self) -> Value {
        serde_json::json!({ "ename": self.name, "evalue": self.value, "traceback": self.traceback })
    }
}

/// Answer of [`Analyst::complete`].
#[derive(Debug, Clone, Default)]
pub struct Completions {
    /// What could stand there, best first.
    pub matches: Vec<Match>,
    /// First byte that a match replaces.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

/// One completion.
#[derive(Debug, Clone)]
pub struct Match {
    /// Replaces the text between start and end.
    pub text: String,
    /// For the icon: `function`, `keyword`, …
    pub kind: String,
    /// Longer description, a signature for example; may be empty.
    pub signature: String,
}
