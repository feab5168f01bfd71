//! Cells of a subshell (JEP 91): statements, run beside the main shell's in a thread of its child.
//!
//! What cannot run beside is run in the main shell's turn: commands, items and `use`s, which change what all cells see,
//! cells that name a variable which a running cell has, and values that must not leave the main shell's thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use alephlab_link::Outcome;

use super::beside::{Beside, Claim, Ended, Parts};
use super::complete::NotebookAnalyst;
use super::generate::Session;
use super::parse::{self, Parsed};
use super::run::{Compiled, is_bound_to_thread};
use super::source::CellText;
use super::{Ran, Wishes, child, commands, outcome};
use crate::cell::Cell;
use crate::evaluator::link::Link;
use crate::evaluator::link::errors;
use crate::evaluator::link::shared::{Report, Shared};
use crate::evaluator::{CellError, Evaluator, MainShell, Subshell};

/// Numbers subshells of this process, from 1.
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A subshell that is not started yet.
pub(super) fn new(
    main: &Arc<Shared>,
    analyst: Arc<NotebookAnalyst>,
    beside: Arc<Beside>,
    turn: MainShell,
) -> Subshell {
    let track = beside.spare().unwrap_or_else(|| Track::new(main));
    let (main, interrupting) = (Arc::clone(main), Arc::clone(&track.shared));
    let runner = Runner {
        main,
        track,
        analyst,
        beside,
        turn,
        is_busy: false,
    };
    Subshell {
        start: Box::new(move || Ok(Box::new(runner))),
        interrupt: Arc::new(move || interrupting.interrupt()),
    }
}

struct Runner {
    main: Arc<Shared>,
    track: Track,
    analyst: Arc<NotebookAnalyst>,
    beside: Arc<Beside>,
    turn: MainShell,
    /// A cell has begun and not ended.
    is_busy: bool,
}

/// What cells run on beside others. It outlives its subshell, for the next one: the child's thread has streams that are
/// never closed.
pub(super) struct Track {
    number: u32,
    /// Its own cells.
    shared: Arc<Shared>,
    /// Where its link and FIFOs are.
    folder: Option<PathBuf>,
    /// Of the child.
    thread: Option<child::Beside>,
}

impl Track {
    fn new(main: &Arc<Shared>) -> Self {
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            shared: Arc::new(Shared::beside(main)),
            folder: None,
            thread: None,
        }
    }

    fn run(&mut self, compiled: &Compiled) -> Option<child::RunFault> {
        let thread = self.thread.as_mut()?;
        let fault = thread.run(&compiled.library).err();
        if matches!(fault, Some(child::RunFault::Died(_))) {
            self.thread = None;
        }
        fault
    }

    /// Has the child start a thread, when there is none.
    fn connect(&mut self, child: u32, parts: &Parts) -> crate::Result<()> {
        if self.thread.as_ref().is_some_and(|thread| thread.child() == child) {
            return Ok(());
        }
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => self.bind(parts)?,
        };
        let started = child::Beside::start(child, &parts.link, self.folder.insert(folder));
        self.thread = Some(started.map_err(crate::Error::file("connect to", &parts.link))?);
        Ok(())
    }

    fn bind(&self, parts: &Parts) -> crate::Result<PathBuf> {
        let folder = parts.private.sockets().join(format!("s{}", self.number));
        std::fs::create_dir(&folder).map_err(crate::Error::file("make", &folder))?;
        Link::bind(&folder, &self.shared)?.serve();
        Ok(folder)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.beside.leave(self.track.number, None);
        // After a crash in the middle of a cell nobody knows how far it is with its child.
        if !self.is_busy {
            let spent = Track::new(&self.main);
            self.beside.keep(std::mem::replace(&mut self.track, spent));
        }
    }
}

/// Why a cell is not run beside.
enum NotHere {
    /// It is the main shell's turn.
    Turn,
    Error(CellError),
}

impl Evaluator for Runner {
    fn execute(&mut self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let split = commands::split(code);
        let parsed = parse::parse(&Arc::new(CellText {
            number: self.beside.next_number(),
            shown: cell.execution_count(),
            code: split.rust,
        }));
        let changes_what_all_see =
            !split.commands.is_empty() || !parsed.items.is_empty() || !parsed.uses.is_empty();
        if changes_what_all_see || parsed.returns {
            return (self.turn)(code, cell);
        }
        if parsed.statements.is_empty() && parsed.tail.is_none() {
            return Ok(());
        }
        let beside = Arc::clone(&self.beside);
        let Some(parts) = beside.parts() else {
            return (self.turn)(code, cell);
        };
        self.track.shared.begin(cell);
        self.is_busy = true;
        let worked = self.work(parsed, cell, &parts);
        self.is_busy = false;
        let report = self.track.shared.end();
        match worked {
            Ok((mut session, ran)) => {
                let outcome = outcome::conclude(&mut session, &parts.sources, &ran, &report, cell);
                self.beside
                    .leave(self.track.number, ended(ran, &report, self.track.thread.as_ref()));
                outcome
            }
            Err(NotHere::Turn) => {
                self.beside.leave(self.track.number, None);
                (self.turn)(code, cell)
            }
            Err(NotHere::Error(error)) => {
                self.beside.leave(self.track.number, None);
                Err(if cell.is_interrupted() {
                    errors::interrupted_compiling()
                } else {
                    error
                })
            }
        }
    }
}

impl Runner {
    fn work(&mut self, parsed: Parsed, cell: &Arc<Cell>, parts: &Parts) -> Result<(Session, Ran), NotHere> {
        let started = Instant::now();
        let Some((child, toolbox)) = self.main.child().zip(self.analyst.toolbox()) else {
            return Err(NotHere::Turn);
        };
        let claim = |session: &Session| Claim {
            shell: self.track.number,
            shown: cell.execution_count(),
            names: session.names(&parsed),
        };
        let joined = self.beside.join(child, || self.analyst.session(), claim);
        let session = joined.map_err(|held| {
            held.tell(cell);
            NotHere::Turn
        })?;
        let compiled = match parts.compiler.compile(&toolbox, &session, &parsed) {
            Ok(compiled) => compiled,
            Err(refused) if is_bound_to_thread(&refused) => return Err(NotHere::Turn),
            Err(refused) => return Err(NotHere::Error(outcome::refused(refused, &parsed.cell, &session))),
        };
        parts.sources.insert(compiled.key.clone(), &compiled.source);
        let compiling = started.elapsed();
        self.track.connect(child, parts).map_err(|error| {
            tracing::warn!(%error, "a subshell cannot run beside the main shell");
            NotHere::Turn
        })?;
        let started = Instant::now();
        let fault = self.track.run(&compiled);
        let ran = Ran {
            compiled,
            parsed,
            fault,
            wishes: Wishes::default(),
            compiling,
            running: started.elapsed(),
        };
        Ok((session, ran))
    }
}

/// What the main shell has to know of a cell that was run.
fn ended(ran: Ran, report: &Report, thread: Option<&child::Beside>) -> Option<Ended> {
    // Where it was not loaded, nothing has become of the variables; where the child has ended, they are nobody's.
    if ran.fault.is_some() {
        return None;
    }
    Some(Ended {
        child: thread?.child(),
        finished: matches!(report.outcome, Some(Outcome::Finished) | None),
        parsed: ran.parsed,
        compiled: ran.compiled,
    })
}
