//! The evaluator that compiles Rust quickly: a compile server made of a stock rustc, generated code that holds next to
//! nothing but the cell's own, the linker called directly, and nothing compiled twice.
//!
//! A cell: [`commands`] are taken out, [`parse`] takes the rest apart, [`items`] and [`build`] turn items into crates,
//! [`generate`] writes the statements' source, [`run`] has a [`server`] compile it and learns types from the
//! compiler ([`types`]), [`child`] runs it. [`diagnostics`] and [`outcome`] say what went wrong, in the cell's own
//! lines. The language is evcxr's; `kernel/tests/corpus` holds both to it. docs/adr/0007-zygote.md says why.

mod analyzer;
mod beside;
mod build;
mod bundle;
mod child;
pub(crate) mod commands;
mod complete;
mod diagnostics;
mod edits;
mod generate;
mod item;
mod items;
mod outcome;
mod parse;
mod perform;
mod run;
mod server;
mod source;
mod start;
mod store;
mod subshell;
mod symbols;
mod toolbox;
mod types;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::beside::{Beside, Claim, Ended, MAIN};
use self::build::{Fault, Workshop};
use self::child::{ChildSpec, RunFault, Running};
use self::commands::Command;
use self::complete::NotebookAnalyst;
use self::generate::{Session, Variable};
use self::parse::Parsed;
use self::run::{Compiled, Compiler, Refused};
use self::source::{CellText, Source, Sources};
use self::store::Fate;
use self::toolbox::Toolbox;
use super::link::shared::Shared;
use super::{CellError, Engine, Evaluator, RustConfig, STACK_BYTES};
use crate::cell::Cell;
use crate::comms::Comms;
use crate::debug::{Debugger, DebuggerOfEngine, Lines};
use crate::iopub::Stream;
use crate::template::Template;
use crate::template::private::Private;
use crate::template::stamp::Stamp;

/// The engine. Must be called inside a tokio runtime.
///
/// # Errors
/// [`crate::Error::File`] when the template's path cannot be made absolute. A missing or unfit template is no
/// error here: every cell answers it.
pub fn engine(config: RustConfig) -> crate::Result<Engine> {
    let template = Template::new(&config.template)?;
    let handle = tokio::runtime::Handle::current();
    let comms = Arc::new(Comms::default());
    let shared = Arc::new(Shared::new(handle, Arc::clone(&comms)));
    let analyst = Arc::new(NotebookAnalyst::new(template.clone()));
    let asked = Arc::clone(&analyst);
    let attached = DebuggerOfEngine::find();
    let debugger = attached.as_ref().map(|one| Arc::clone(&one.debugger));
    if let Some(debugger) = &debugger {
        shared.set_debugger(debugger);
    }
    let beside: Arc<Beside> = Arc::default();
    let (of_subshells, known) = (Arc::clone(&beside), Arc::clone(&analyst));
    let main = Arc::clone(&shared);
    let (starting, interrupting, stopping) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    Ok(Engine {
        language: super::rust(&template),
        start: Box::new(move || start::start(&config, template, starting, (analyst, beside), debugger)),
        analyst: asked,
        comms,
        debugger: attached,
        subshell: Some(Box::new(move |turn| {
            subshell::new(&main, Arc::clone(&known), Arc::clone(&of_subshells), turn)
        })),
        interrupt: Arc::new(move || interrupting.interrupt()),
        stop: Arc::new(move || stopping.stop()),
    })
}

/// The evaluator.
struct Zygote {
    config: RustConfig,
    template: Template,
    stamp: Stamp,
    toolbox: Arc<Toolbox>,
    compiler: Arc<Compiler>,
    session: Session,
    spec: ChildSpec,
    child: Option<Running>,
    shared: Arc<Shared>,
    /// Its folders, kept while anything uses them.
    private: Arc<Private>,
    sources: Arc<Sources>,
    beside: Arc<Beside>,
    /// Code of the last error, for `:explain`.
    last_code: Option<String>,
    ahead: Option<Ahead>,
    analyst: Arc<NotebookAnalyst>,
    debugger: Option<Arc<Debugger>>,
}

/// The next cell, compiled while this one runs.
struct Ahead {
    code: String,
    thread: JoinHandle<()>,
}

/// What became of a cell's statements.
struct Ran {
    compiled: Compiled,
    parsed: Parsed,
    fault: Option<RunFault>,
    wishes: Wishes,
    compiling: Duration,
    running: Duration,
}

/// What a cell wants beside being run.
#[derive(Debug, Default, Clone, Copy)]
struct Wishes {
    time: bool,
}

impl Evaluator for Zygote {
    fn execute(&mut self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        self.shared.begin(cell);
        let worked = self.work(code, cell);
        let report = self.shared.end();
        for notice in self.compiler.servers.notices() {
            cell.text(Stream::Stderr, format!("{notice}\n").as_bytes());
        }
        let outcome = match worked {
            // A stopped command of the shell says so itself.
            Err(error) if error.name == CellError::INTERRUPTED => Err(error),
            Err(_) if cell.is_interrupted() => Err(super::link::errors::interrupted_compiling()),
            Err(error) => Err(error),
            Ok(None) => Ok(()),
            Ok(Some(ran)) => outcome::conclude(&mut self.session, &self.sources, &ran, &report, cell),
        };
        self.beside.clone().leave_main(|| self.tell_analyst());
        self.tell_debugger();
        outcome
    }
}

impl Zygote {
    /// Commands, items, statements. Nothing is run when there are no statements.
    fn work(&mut self, code: &str, cell: &Arc<Cell>) -> Result<Option<Ran>, CellError> {
        let started = Instant::now();
        self.wait_for_ahead(code);
        self.absorb();
        let mut split = commands::split(code);
        self.session.debug = self.debugger.as_ref().is_some_and(|debugger| debugger.is_on());
        if let Some(debugger) = self.debugger.as_ref().filter(|_| self.session.debug) {
            debugger.begin(code, &split.rust);
        }
        let mut wishes = Wishes::default();
        for command in &split.commands {
            self.perform(command, cell, &mut wishes)?;
        }
        if split.rust.trim().is_empty() {
            let memory = split.commands.contains(&Command::Vars) && self.has_tensors();
            if !memory {
                return Ok(None);
            }
            // Their sizes are known in the child only.
            split.rust = "alephlab::show_held();".to_owned();
        }
        let parsed = self.parse(split.rust, cell);
        if parsed.returns {
            let hint = "use `if` and `else`, or `?` on an error";
            return Err(CellError::new(
                "CompileError",
                "a cell has nothing to return from",
                Some(hint),
            ));
        }
        self.claim(&parsed, cell, None)?;
        let mut session = self.declare(&parsed, cell)?;
        if !parsed.items.is_empty() {
            self.claim(&parsed, cell, Some(&mut session))?;
        }
        let has_statements = !parsed.statements.is_empty() || parsed.tail.is_some();
        if !has_statements && parsed.uses.is_empty() {
            self.session = session;
            return Ok(None);
        }
        // Declarations alone are compiled too: a wrong one must be told now.
        let compiled = self.compiler.compile(&self.toolbox, &session, &parsed);
        let compiled = compiled.map_err(|refused| self.refusal(refused, &parsed.cell, &session))?;
        self.session = session;
        self.sources.insert(compiled.key.clone(), &compiled.source);
        if !has_statements {
            return Ok(None);
        }
        let compiling = started.elapsed();
        tracing::debug!(took = ?compiling, "ready to run");
        self.tell_analyst();
        self.look_ahead(cell, &parsed, &compiled);
        let started = Instant::now();
        let fault = self.run_in_child(&compiled)?;
        Ok(Some(Ran {
            compiled,
            parsed,
            fault,
            wishes,
            compiling,
            running: started.elapsed(),
        }))
    }

    /// Whether a variable may hold tensors.
    fn has_tensors(&self) -> bool {
        let mut kinds = self.session.variables.values().map(|one| &one.kind);
        kinds.any(|kind| ["candle_core", "candle_nn"].iter().any(|of| kind.contains(of)))
    }

    /// Takes over what cells of subshells have made since.
    fn absorb(&mut self) {
        let beside = Arc::clone(&self.beside);
        beside.absorb(|ended| self.settle(ended, None));
    }

    /// Writes into the books what cells of subshells have made, also into those of the cell that begins.
    fn settle(&mut self, ended: &[Ended], mut begun: Option<&mut Session>) {
        let child = self.child.as_ref().map(Running::pid);
        for one in ended.iter().filter(|one| Some(one.child) == child) {
            one.settle(&mut self.session);
            begun.as_mut().iter_mut().for_each(|begun| one.settle(begun));
        }
        if !ended.is_empty() {
            self.tell_analyst();
        }
    }

    /// Claims the cell's variables, and waits while cells of subshells have them. `begun` are the books with the cell's own
    /// items, whose macros may name more.
    fn claim(
        &mut self,
        parsed: &Parsed,
        cell: &Cell,
        mut begun: Option<&mut Session>,
    ) -> Result<(), CellError> {
        let (beside, mut is_told) = (Arc::clone(&self.beside), false);
        loop {
            let claimed = beside.claim(|ended| {
                self.settle(ended, begun.as_deref_mut());
                let mut names = self.session.names(parsed);
                names.extend(begun.iter().flat_map(|begun| begun.names(parsed)));
                Claim {
                    shell: MAIN,
                    shown: cell.execution_count(),
                    names,
                }
            });
            match claimed {
                Ok(()) => return Ok(()),
                Err(held) if !std::mem::replace(&mut is_told, true) => held.tell(cell),
                Err(_) => {}
            }
            if cell.is_interrupted() {
                return Err(CellError::interrupted_before_running());
            }
            beside.wait();
        }
    }

    fn parse(&mut self, rust: String, cell: &Cell) -> Parsed {
        let text = CellText {
            number: self.beside.next_number(),
            shown: cell.execution_count(),
            code: rust,
        };
        parse::parse(&Arc::new(text))
    }

    /// The session with the cell's items and declarations, its items compiled. Kept by the caller when the rest of the
    /// cell compiles too.
    fn declare(&mut self, parsed: &Parsed, cell: &Cell) -> Result<Session, CellError> {
        let mut session = self.session.clone();
        if parsed.items.is_empty() && parsed.uses.is_empty() {
            return Ok(session);
        }
        session.items.add_uses(&parsed.uses);
        // A declaration and an item of one name: the later one counts.
        let hidden = parsed
            .uses
            .iter()
            .filter_map(|leaf| leaf.name.clone())
            .map(item::Key::Name)
            .collect();
        let (items, changes) = session.items.without(&hidden).with(&parsed.items);
        session.items = items;
        for new in parsed
            .items
            .iter()
            .filter(|item| changes.keys.contains(&item.key))
        {
            // The later meaning of a name counts here too. Types and modules live beside variables of their name.
            if new.is_value {
                session.variables.retain(|name, _| !new.names.contains(name));
            }
            let named =
                |leaf: &parse::UseLeaf| leaf.name.as_ref().is_some_and(|name| new.names.contains(name));
            session.items.end_leaves(parsed.cell.number, named);
        }
        if !changes.keys.is_empty() || !parsed.uses.is_empty() {
            self.build_items(&mut session, &changes.keys, parsed, cell)?;
        }
        for (title, number, methods) in changes.lost {
            let methods = methods.join("`, `");
            let text = format!(
                "`{title}` of cell [{number}] was replaced, and with it its `{methods}`: write them into this one\n"
            );
            cell.text(Stream::Stderr, text.as_bytes());
        }
        Ok(session)
    }

    /// Builds the crates of a session's items. Items of earlier cells that no longer compile are dropped, and said.
    fn build_items(
        &mut self,
        session: &mut Session,
        changed: &std::collections::BTreeSet<item::Key>,
        parsed: &Parsed,
        cell: &Cell,
    ) -> Result<(), CellError> {
        let mut dropped = Vec::new();
        loop {
            let plan = session.items.plan();
            let workshop = Workshop {
                toolbox: &self.toolbox,
                store: &self.compiler.store,
                items: &session.items,
                debug: session.debug,
            };
            match workshop.build(&plan) {
                Ok(built) => {
                    for one in built.values() {
                        self.place_breakpoints(Path::new(&build::source_name(&one.version)), &one.source);
                        session.known.insert(one.name.clone(), Arc::clone(one));
                        self.sources.insert(build::source_name(&one.version), &one.source);
                    }
                    session.built = built;
                    break;
                }
                Err(Fault::Errors { errors, source }) => {
                    let guilty = outcome::guilty_items(&errors, &source, &session.items, changed);
                    if guilty.is_empty() {
                        self.last_code = outcome::first_code(&errors);
                        return Err(outcome::compile_error(&errors, &source, &parsed.cell, session));
                    }
                    for key in &guilty {
                        let found = session.items.all().find(|item| item.key == *key);
                        dropped.extend(found.map(|item| (item.title().to_owned(), item.origin.cell.shown)));
                    }
                    session.items = session.items.without(&guilty);
                }
                Err(Fault::Stopped(said)) => return Err(outcome::crashed_compiler(&said)),
                Err(Fault::Failed(error)) => return Err(outcome::internal(&error)),
            }
        }
        for (title, number) in dropped {
            let text = format!(
                "`{title}` of cell [{number}] does not fit what this cell defines and is gone: run that cell again\n"
            );
            cell.text(Stream::Stderr, text.as_bytes());
        }
        Ok(())
    }

    fn refusal(&mut self, refused: Refused, cell: &CellText, session: &Session) -> CellError {
        if let Refused::Errors { errors, .. } = &refused {
            self.last_code = outcome::first_code(errors);
        }
        outcome::refused(refused, cell, session)
    }

    /// Runs a library; starts the child when there is none.
    fn run_in_child(&mut self, compiled: &Compiled) -> Result<Option<RunFault>, CellError> {
        let mut child = match self.child.take() {
            Some(child) => child,
            None => self.start_child()?,
        };
        let file = work_folder(&self.private).join(&compiled.key).join("cell.rs");
        self.place_breakpoints(&file, &compiled.source);
        let fault = child.run(&compiled.library).err();
        if !matches!(fault, Some(RunFault::Died(_))) {
            self.child = Some(child);
        } else if let Some(debugger) = &self.debugger {
            debugger.set_child(None);
        }
        Ok(fault)
    }

    fn start_child(&self) -> Result<Running, CellError> {
        let child = self.spec.start().map_err(|error| outcome::internal(&error))?;
        if let Some(debugger) = &self.debugger {
            debugger.set_child(Some(child.pid()));
        }
        Ok(child)
    }

    /// Has the debugger know a file that is about to be loaded.
    fn place_breakpoints(&self, file: &Path, source: &Source) {
        if let Some(debugger) = self.debugger.as_ref().filter(|_| self.session.debug) {
            let lines = source.lines().into_iter();
            let of_cells = lines.map(|place| {
                let place = place?;
                Some((place.cell.code.clone(), place.line_and_column().0))
            });
            let lines = Lines {
                of_cells: of_cells.collect(),
            };
            self.shared.handle().block_on(debugger.load(file, lines));
        }
    }

    /// Shows what there is now to whoever completes and inspects.
    fn tell_analyst(&self) {
        let folder = self.private.root().join("analysis");
        self.analyst.learn(&self.session, &self.toolbox, folder);
    }

    /// Shows variables to whoever looks with the debugger.
    fn tell_debugger(&self) {
        if let Some(debugger) = &self.debugger {
            let variables = self.session.variables.iter();
            let variables = variables.map(|(name, variable)| crate::debug::Variable {
                name: name.clone(),
                kind: types::short(&variable.kind),
            });
            debugger.set_variables(variables.collect());
        }
    }

    /// Compiles the cell that waits behind this one, as it will be when this one ends well.
    fn look_ahead(&mut self, cell: &Cell, parsed: &Parsed, compiled: &Compiled) {
        let Some(code) = cell.upcoming().filter(|_| !self.session.debug) else {
            return;
        };
        let split = commands::split(&code);
        if !split.commands.is_empty() {
            return;
        }
        let next = parse::parse(&Arc::new(CellText {
            number: self.beside.next_number(),
            shown: cell.execution_count() + 1,
            code: split.rust,
        }));
        // What defines something changes the session, and that is the next cell's own business.
        if !next.items.is_empty()
            || !next.uses.is_empty()
            || (next.statements.is_empty() && next.tail.is_none())
        {
            return;
        }
        let mut session = self.session.clone();
        commit(&mut session, parsed, compiled);
        let (compiler, toolbox) = (Arc::clone(&self.compiler), Arc::clone(&self.toolbox));
        let builder = std::thread::Builder::new()
            .name("ahead".into())
            .stack_size(STACK_BYTES);
        let thread = builder.spawn(move || {
            // An error is found again, and told, when the cell's turn comes.
            let _ = compiler.compile(&toolbox, &session, &next);
        });
        if let Ok(thread) = thread {
            self.ahead = Some(Ahead { code, thread });
        }
    }

    /// Nobody else may compile while this cell does: waits for what was begun, which is most often this very cell.
    fn wait_for_ahead(&mut self, code: &str) {
        let Some(ahead) = self.ahead.take() else { return };
        if ahead.code == code || !ahead.thread.is_finished() {
            let _ = ahead.thread.join();
        }
    }

    /// Forgets everything that cells made.
    fn clear(&mut self) {
        if let Some(child) = self.child.take() {
            child.end();
        }
        if let Some(debugger) = &self.debugger {
            debugger.set_child(None);
        }
        let optimise_all = self.session.optimise_all;
        self.session = Session {
            optimise_all,
            debug: self.session.debug,
            ..Session::default()
        };
        self.sources.clear();
    }
}

/// Variables after a cell that has ended well.
fn commit(session: &mut Session, parsed: &Parsed, compiled: &Compiled) {
    // One that was moved and made again is among the types.
    session
        .variables
        .retain(|name, one| match compiled.facts.moves.taken.get(name) {
            None => true,
            Some(Fate::UsedUp) => false,
            Some(Fate::Remade) => {
                compiled
                    .facts
                    .types
                    .get(name)
                    .iter()
                    .for_each(|kind| one.kind.clone_from(kind));
                true
            }
        });
    for binding in &parsed.bindings {
        // One that was made and moved away hides an older one of its name all the same.
        session.variables.remove(&binding.name);
        if let Some(kind) = compiled.facts.types.get(&binding.name) {
            let variable = Variable {
                kind: kind.clone(),
                is_mut: binding.is_mut,
            };
            session.variables.insert(binding.name.clone(), variable);
        }
    }
}

/// Folder for what is compiled now.
fn work_folder(private: &Private) -> PathBuf {
    private.root().join("cells")
}
