//! From a cell's statements to a library, and from the child's report to the cell's outcome.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::build::{self, Built};
use super::diagnostics::{self, Diagnostic};
use super::generate::{Generated, Needs, Session, is_assigned};
use super::parse::Parsed;
use super::server::{SLOTS, Servers, slot_file};
use super::source::Source;
use super::store::{self, Facts, Fate, Moves, Store};
use super::toolbox::{Kind, Scope, Toolbox};
use super::{symbols, types};
use crate::Error;

/// Tries at one cell: with the runtime, and without giving back what it uses up.
const MAX_TRIES: usize = 6;

/// A cell that is ready to run.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) library: PathBuf,
    pub(super) facts: Facts,
    pub(super) source: Arc<Source>,
    /// Name of the folder that its source was compiled in, as locations of panics say it.
    pub(super) key: String,
}

/// Why a cell was not compiled.
#[derive(Debug)]
pub(super) enum Refused {
    /// The compiler refused it.
    Errors {
        errors: Vec<Diagnostic>,
        source: Arc<Source>,
        /// It printed more than anybody reads, and was stopped.
        too_long: bool,
    },
    /// A variable's type has no name: variable, type, reason.
    Unnameable(String, String, &'static str),
    /// The compiler was stopped, or crashed.
    Stopped(String),
    /// It could not be tried.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Compiles cells, one at a time. Used by the evaluator's thread, by the one that compiles the next cell meanwhile, and by
/// subshells.
pub(super) struct Compiler {
    pub(super) servers: Servers,
    pub(super) store: Store,
    folder: PathBuf,
    slots: PathBuf,
    taken_slots: Mutex<BTreeMap<(String, String), usize>>,
    /// Spelling by symbol of types that the compiler had to spell out.
    learned: Mutex<BTreeMap<String, String>>,
    /// Held while a cell compiles: another's may end the servers, or give a slot to another crate.
    turn: Mutex<()>,
}

impl Compiler {
    pub(super) fn new(servers: Servers, store: Store, folder: PathBuf, slots: PathBuf) -> Self {
        Self {
            servers,
            store,
            folder,
            slots,
            taken_slots: Mutex::default(),
            learned: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Compiles a cell's statements, or finds what was compiled before.
    pub(super) fn compile(
        &self,
        toolbox: &Toolbox,
        session: &Session,
        parsed: &Parsed,
    ) -> std::result::Result<Compiled, Refused> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moves = Moves::default();
        let mut needs = Needs::default();
        let mut first_key: Option<String> = None;
        for _ in 0..MAX_TRIES {
            let generated = session.generate(toolbox, parsed, &moves, needs, |one| self.slot(one));
            if first_key.is_none()
                && let Some(folder) = self.store.find(&generated.key)
                && let Some(facts) = store::read_facts(&folder)
            {
                return Ok(self.found(toolbox, session, parsed, &folder, facts, generated));
            }
            let key = first_key.get_or_insert_with(|| generated.key.clone()).clone();
            match self.try_once(toolbox, &generated, &key) {
                Ok((folder, kinds)) => {
                    let facts = Facts {
                        types: kinds,
                        moves,
                        full: needs.full,
                        fails: needs.fails,
                    };
                    return self.finish(toolbox, &folder, facts, generated, key);
                }
                Err(Refused::Errors {
                    errors,
                    source,
                    too_long,
                }) => {
                    let before = (moves.clone(), needs);
                    let used_up = used_up(&errors, &source);
                    if !used_up.is_empty() {
                        for one in used_up {
                            moves.note(one, parsed);
                        }
                    } else if generated.kind.scope == Scope::Lean && errors.iter().any(may_need_more) {
                        needs.full = true;
                    } else if errors.iter().any(has_question_mark) {
                        needs.fails = true;
                    }
                    if before == (moves.clone(), needs) {
                        return Err(Refused::Errors {
                            errors,
                            source,
                            too_long,
                        });
                    }
                }
                Err(other) => return Err(other),
            }
        }
        Err(Refused::Stopped("the cell was tried too often".to_owned()))
    }

    /// A cell that was compiled before, perhaps in another kernel. Its source is written again as it was then, so that
    /// the location of a panic leads back to the cell.
    fn found(
        &self,
        toolbox: &Toolbox,
        session: &Session,
        parsed: &Parsed,
        folder: &Path,
        facts: Facts,
        first: Generated,
    ) -> Compiled {
        let key = first.key.clone();
        let needs = Needs {
            full: facts.full,
            fails: facts.fails,
        };
        let generated = if needs != Needs::default() || facts.moves != Moves::default() {
            session.generate(toolbox, parsed, &facts.moves, needs, |one| self.slot(one))
        } else {
            first
        };
        Compiled {
            library: store::library(folder),
            facts,
            source: generated.source,
            key,
        }
    }

    fn try_once(
        &self,
        toolbox: &Toolbox,
        generated: &Generated,
        key: &str,
    ) -> std::result::Result<(PathBuf, BTreeMap<String, String>), Refused> {
        let folder = self.folder.join(key);
        // A retry, or the next cell's thread that was stopped.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        let file = folder.join("cell.rs");
        fs::write(&file, &generated.source.text).map_err(Error::file("write", &file))?;
        let started = Instant::now();
        let printed = self.servers.compile(toolbox, generated.kind, &folder)?;
        tracing::debug!(kind = ?generated.kind, took = ?started.elapsed(), "compiled");
        let (errors, other) = diagnostics::read(&printed.text);
        if !errors.is_empty() {
            return Err(Refused::Errors {
                errors,
                source: Arc::clone(&generated.source),
                too_long: printed.too_long,
            });
        }
        if !folder.join("cell.o").exists() {
            return Err(Refused::Stopped(other));
        }
        let kinds = self.types(toolbox, generated, &folder)?;
        Ok((folder, kinds))
    }

    /// Types of what the cell stores: by its symbols, or, when one of them is not known yet, by a second compile that
    /// spells them out.
    fn types(
        &self,
        toolbox: &Toolbox,
        generated: &Generated,
        folder: &Path,
    ) -> std::result::Result<BTreeMap<String, String>, Refused> {
        if generated.puts.is_empty() {
            return Ok(BTreeMap::new());
        }
        let object = folder.join("cell.o");
        let bytes = fs::read(&object).map_err(Error::file("read", object))?;
        let symbols = symbols::stored(&bytes);
        let known: Option<BTreeMap<String, String>> = {
            let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            let spelled =
                |symbol: &String| symbols::spelling(symbol).or_else(|| learned.get(symbol).cloned());
            let numbered = generated.puts.iter().enumerate();
            numbered
                .map(|(number, name)| Some((name.clone(), spelled(symbols.get(&number)?)?)))
                .collect()
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let kind = Kind {
            spells_types: true,
            ..generated.kind
        };
        let printed = self.servers.compile(toolbox, kind, folder)?;
        let mir = folder.join("cell.mir");
        // Stopped by the person: the first compile found no error.
        let mir = fs::read_to_string(mir).map_err(|_| Refused::Stopped(printed.text))?;
        let kinds = types::stored(&mir);
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, name) in generated.puts.iter().enumerate() {
            if let (Some(symbol), Some(kind)) = (symbols.get(&number), kinds.get(name)) {
                learned.insert(symbol.clone(), kind.clone());
            }
        }
        Ok(kinds)
    }

    fn finish(
        &self,
        toolbox: &Toolbox,
        folder: &Path,
        facts: Facts,
        generated: Generated,
        key: String,
    ) -> std::result::Result<Compiled, Refused> {
        for (name, kind) in &facts.types {
            if let Some(reason) = types::why_unnameable(kind) {
                return Err(Refused::Unnameable(name.clone(), kind.clone(), reason));
            }
        }
        let started = Instant::now();
        let kept = self.store.begin()?;
        build::link(
            toolbox,
            &folder.join("cell.o"),
            &generated.libraries,
            &store::library(&kept),
        )?;
        store::write_facts(&kept, &facts)?;
        let kept = self.store.keep(&kept, &key)?;
        let _ = fs::remove_dir_all(folder);
        tracing::debug!(took = ?started.elapsed(), "linked");
        Ok(Compiled {
            library: store::library(&kept),
            facts,
            source: generated.source,
            key,
        })
    }

    /// Number of the slot through which servers see a crate. When all are taken the servers start anew.
    fn slot(&self, one: &Built) -> usize {
        let mut taken = self.taken_slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (one.name.clone(), one.version.clone());
        if let Some(slot) = taken.get(&key) {
            return *slot;
        }
        if taken.len() >= SLOTS {
            taken.clear();
            self.servers.end();
        }
        let slot = taken.len();
        let file = slot_file(&self.slots, slot);
        let _ = fs::remove_file(&file);
        if let Err(error) = symlink(&one.metadata, &file) {
            tracing::warn!(%error, "a crate of items has no slot");
        }
        taken.insert(key, slot);
        slot
    }
}

/// A line of ours that gives a variable to the store, and that the compiler refused because it was moved.
enum UsedUp {
    /// From outside the body.
    Restored(String),
    /// At the body's end.
    Put(String),
}

/// Variables that the cell moved, so that they cannot be given back or stored.
fn used_up(errors: &[Diagnostic], source: &Source) -> Vec<UsedUp> {
    let line = |error: &Diagnostic| {
        let span = error.spans.iter().find(|span| span.is_primary)?;
        let is_ours = error.code() == "E0382" && source.place(span.byte_start).is_none();
        let before = source.text.get(..span.byte_start).filter(|_| is_ours)?;
        let name = error.quoted().next()?.trim_start_matches("r#").to_owned();
        let line = before.rsplit('\n').next().unwrap_or_default();
        Some(if line.contains("::restore(") {
            UsedUp::Restored(name)
        } else {
            UsedUp::Put(name)
        })
    };
    errors.iter().filter_map(line).collect()
}

impl Moves {
    fn note(&mut self, one: UsedUp, parsed: &Parsed) {
        match one {
            UsedUp::Restored(name) => {
                let fate = if is_assigned(parsed, &name) {
                    Fate::Remade
                } else {
                    Fate::UsedUp
                };
                self.taken.insert(name, fate);
            }
            UsedUp::Put(name) if self.taken.get(&name) == Some(&Fate::Remade) => {
                self.taken.insert(name, Fate::UsedUp);
            }
            UsedUp::Put(name) => {
                self.made.insert(name);
            }
        }
    }
}

/// Whether an error is that of a `?` in a body that cannot fail.
fn has_question_mark(error: &Diagnostic) -> bool {
    error.code() == "E0277" && error.message.starts_with("the `?` operator can only be used")
}

/// Whether a cell of a subshell was refused because a value of it may not go from thread to thread.
pub(super) fn is_bound_to_thread(refused: &Refused) -> bool {
    let Refused::Errors { errors, source, .. } = refused else {
        return false;
    };
    let is_ours = |error: &Diagnostic| {
        let span = error.spans.iter().find(|span| span.is_primary);
        span.is_some_and(|span| source.place(span.byte_start).is_none())
    };
    // What holds something that may not be shared may not be sent either, and rustc names that.
    let says = |error: &Diagnostic| {
        let ends = |words: &str| error.message.contains(words);
        ends("cannot be sent between threads safely") || ends("cannot be shared between threads safely")
    };
    errors
        .iter()
        .any(|error| error.code() == "E0277" && says(error) && is_ours(error))
}

/// Whether an error may be one of a name that only the runtime has.
fn may_need_more(error: &Diagnostic) -> bool {
    matches!(
        error.code(),
        "E0405"
            | "E0412"
            | "E0422"
            | "E0423"
            | "E0424"
            | "E0425"
            | "E0431"
            | "E0432"
            | "E0433"
            | "E0531"
            | "E0532"
            | "E0599"
    ) || error.message.starts_with("cannot find")
}
