//! The evaluator that compiles Rust with evcxr, against the prebuilt runtime.
//!
//! evcxr runs on the evaluator's thread; our own child ([`crate::child`]) loads what it compiles. [`start`] makes
//! the kernel's copy of the template and the context, [`super::link`] reads the child's text and frames,
//! [`errors`] turns what went wrong into Jupyter's three fields.

pub(super) mod errors;
mod start;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use alephlab_link::MimeBundle;
use evcxr::CommandContext;
use serde_json::Value;

use super::link::shared::Shared;
use super::{Analyst, CellError, Completions, Engine, Evaluator, Match, RustConfig};
use crate::cell::Cell;
use crate::comms::Comms;
use crate::template::Template;
pub(crate) use start::warm_up;

/// The engine. Must be called inside a tokio runtime.
///
/// # Errors
/// [`crate::Error::File`] when the template's path cannot be made absolute. A missing or unfit template is no
/// error here: every cell answers it.
pub fn engine(config: RustConfig) -> crate::Result<Engine> {
    let template = Template::new(&config.template)?;
    let comms = Arc::new(Comms::default());
    let shared = Arc::new(Shared::new(tokio::runtime::Handle::current(), Arc::clone(&comms)));
    let (starting, interrupting, stopping) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    let analyst = Arc::new(EvcxrAnalyst::default());
    let asked = Arc::clone(&analyst);
    Ok(Engine {
        language: super::rust(&template),
        start: Box::new(move || {
            let evaluator = start(&config, template, starting)?;
            analyst.learn(&evaluator);
            Ok(Box::new(evaluator))
        }),
        analyst: asked,
        comms,
        debugger: None,
        // Its generated code takes no variable out.
        subshell: None,
        interrupt: Arc::new(move || interrupting.interrupt()),
        stop: Arc::new(move || stopping.stop()),
    })
}

/// Starts the evaluator, on its thread.
pub(super) fn start(
    config: &RustConfig,
    template: Template,
    shared: Arc<Shared>,
) -> Result<Evcxr, CellError> {
    let started = start::start(config, &template, &shared);
    let (context, has_rust_src) = started.map_err(|error| errors::cannot_start(&error))?;
    Ok(Evcxr {
        context: Arc::new(Mutex::new(context)),
        shared,
        template,
        has_rust_src,
    })
}

/// The evaluator.
pub(super) struct Evcxr {
    context: Context,
    shared: Arc<Shared>,
    template: Template,
    has_rust_src: bool,
}

/// evcxr itself: one thing at a time.
type Context = Arc<Mutex<CommandContext>>;

impl Evaluator for Evcxr {
    fn execute(&mut self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        refuse_commands(code)?;
        self.shared.begin(cell);
        let mut context = lock(&self.context);
        let outcome = context.execute(code);
        let report = self.shared.end();
        if has_command(code, ":clear") {
            // The runtime's names are gone with everything else.
            let _ = context.execute(&start::first_cell(&self.template));
        }
        drop(context);
        match outcome {
            Ok(outputs) => {
                report.verdict(cell)?;
                show(code, &outputs.content_by_mime_type, cell);
                Ok(())
            }
            Err(error) => Err(errors::failed(&error, code, &report, cell, self.has_rust_src)),
        }
    }
}

/// Asks the evaluator's own evcxr, which can do nothing else while it runs a cell: then there is no answer.
#[derive(Default)]
struct EvcxrAnalyst {
    context: OnceLock<Context>,
}

impl EvcxrAnalyst {
    fn learn(&self, evaluator: &Evcxr) {
        let _ = self.context.set(Arc::clone(&evaluator.context));
    }
}

impl Analyst for EvcxrAnalyst {
    fn complete(&self, code: &str, cursor: usize) -> Completions {
        match self.context.get().map(|context| context.try_lock()) {
            Some(Ok(mut context)) => complete(&mut context, code, cursor),
            _ => Completions::none(cursor),
        }
    }

    fn inspect(&self, code: &str, cursor: usize) -> Option<MimeBundle> {
        let mut context = self.context.get()?.try_lock().ok()?;
        inspect(&mut context, code, cursor)
    }
}

fn complete(context: &mut CommandContext, code: &str, cursor: usize) -> Completions {
    // Half-written code is what completion sees most, and rust-analyzer does not survive all of it.
    let found = catch_unwind(AssertUnwindSafe(|| context.completions(code, cursor)));
    let Ok(Ok(found)) = found else {
        return Completions::none(cursor);
    };
    let typed = code
        .get(found.start_offset..cursor)
        .unwrap_or_default()
        .to_lowercase();
    let fits = |text: &str| text.to_lowercase().starts_with(&typed);
    let matches = found.completions.into_iter().filter(|one| fits(&one.code));
    let matches = matches
        .map(|one| {
            let signature = if one.label == one.code {
                String::new()
            } else {
                one.label
            };
            Match {
                text: one.code,
                kind: one.kind.to_owned(),
                signature,
            }
        })
        .collect();
    Completions {
        matches,
        start: found.start_offset,
        end: found.end_offset,
    }
}

fn inspect(context: &mut CommandContext, code: &str, cursor: usize) -> Option<MimeBundle> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let end = code[cursor..]
        .find(|c| !is_name(c))
        .map_or(code.len(), |at| cursor + at);
    let found = catch_unwind(AssertUnwindSafe(|| context.hover_at(&code[..end], end)));
    let (text, html) = found.ok()?.ok()?;
    if text.trim().is_empty() || text == "No documentation found" {
        return None;
    }
    let mut bundle = MimeBundle::new();
    bundle.insert("text/plain".to_owned(), Value::String(text));
    bundle.insert("text/html".to_owned(), Value::String(html));
    Some(bundle)
}

fn lock(context: &Context) -> MutexGuard<'_, CommandContext> {
    context.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows what evcxr's own commands answer (`:vars`, `:help`).
fn show(code: &str, content: &std::collections::HashMap<String, String>, cell: &Cell) {
    if content.is_empty() {
        return;
    }
    let bundle: MimeBundle = content
        .iter()
        .map(|(kind, text)| (kind.clone(), Value::String(text.clone())))
        .collect();
    if has_command(code, ":help") {
        cell.page(&bundle);
    } else {
        cell.result(bundle, MimeBundle::new());
    }
}

/// Commands that would end the kernel or break the shared runtime.
fn refuse_commands(code: &str) -> Result<(), CellError> {
    let refused = |message: &str, hint| Err(CellError::new("CommandError", message, Some(hint)));
    if has_command(code, ":quit") {
        return refused(
            ":quit would end the kernel without a word to the client",
            "shut the kernel down instead",
        );
    }
    if has_command(code, ":allow_static_linking") {
        return refused(
            ":allow_static_linking does not work with this compiler",
            "leave it out",
        );
    }
    Ok(())
}

fn has_command(code: &str, command: &str) -> bool {
    code.lines()
        .any(|line| line.split_whitespace().next() == Some(command))
}
