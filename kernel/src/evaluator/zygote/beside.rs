//! What the main shell and the subshells share: who has which variable now, and what a subshell's cells have made.
//!
//! A cell claims all the variables that it takes or stores before it runs. The main shell's books ([`Session`]) are its
//! own; what a subshell's cell has done to the variables is written down here, and the main shell takes it over before
//! its next cell.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::generate::Session;
use super::outcome;
use super::parse::Parsed;
use super::run::{Compiled, Compiler};
use super::source::Sources;
use super::subshell::Track;
use crate::cell::Cell;
use crate::iopub::Stream;
use crate::template::private::Private;

/// Number of the main shell.
pub(super) const MAIN: u32 = 0;
/// How often who waits for a variable looks whether the person has had enough.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Default)]
pub(super) struct Beside {
    state: Mutex<State>,
    /// A claim has ended.
    released: Condvar,
    /// Counts cells, also silent ones.
    cells: AtomicU32,
    parts: Mutex<Option<Arc<Parts>>>,
    /// Of subshells that were closed.
    spare: Mutex<Vec<Track>>,
}

/// What the main shell's evaluator has made by the time it has started.
pub(super) struct Parts {
    pub(super) compiler: Arc<Compiler>,
    pub(super) sources: Arc<Sources>,
    /// The child's link.
    pub(super) link: PathBuf,
    /// Its folders.
    pub(super) private: Arc<Private>,
}

#[derive(Default)]
struct State {
    claims: Vec<Claim>,
    ended: Vec<Ended>,
}

/// Variables of a cell that is about to run, or runs.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) shell: u32,
    /// Execution count, as the person sees it.
    pub(super) shown: u32,
    pub(super) names: BTreeSet<String>,
}

/// A variable that another cell has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    name: String,
    /// Execution count of the cell that has it.
    by: u32,
}

/// A cell of a subshell that has ended.
pub(super) struct Ended {
    /// The child that ran it.
    pub(super) child: u32,
    pub(super) parsed: Parsed,
    pub(super) compiled: Compiled,
    /// By itself, and not by an error.
    pub(super) finished: bool,
}

impl Ended {
    /// Whether the books differ after it: a client may look at a counter once a second for days.
    fn changes_something(&self) -> bool {
        !self.compiled.facts.moves.taken.is_empty() || (self.finished && !self.parsed.bindings.is_empty())
    }

    /// Writes into the books what became of the variables.
    pub(super) fn settle(&self, session: &mut Session) {
        outcome::settle(session, &self.parsed, &self.compiled, self.finished);
    }
}

impl Held {
    /// Says why a cell does not run yet.
    pub(super) fn tell(&self, cell: &Cell) {
        let text = format!(
            "`{}` is in use by cell [{}], which still runs: waiting for it\n",
            self.name, self.by
        );
        cell.text(Stream::Stderr, text.as_bytes());
    }
}

impl Beside {
    /// None when another evaluator takes its place.
    pub(super) fn set_parts(&self, parts: Option<Parts>) {
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = parts.map(Arc::new);
    }

    /// None before the main shell's evaluator has started.
    pub(super) fn parts(&self) -> Option<Arc<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a closed subshell ran on.
    pub(super) fn spare(&self) -> Option<Track> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps what a closed subshell ran on for the next one.
    pub(super) fn keep(&self, track: Track) {
        self.spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(track);
    }

    /// A number for a cell, larger than all before.
    pub(super) fn next_number(&self) -> u32 {
        self.cells.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Shows the main shell what subshells have made since it last looked. Nobody claims anything meanwhile.
    pub(super) fn absorb(&self, look: impl FnOnce(&[Ended])) {
        let mut state = self.lock();
        look(&state.ended);
        state.ended.clear();
    }

    /// As [`Beside::absorb`], and claims for the main shell what is then found to be needed.
    pub(super) fn claim(&self, look: impl FnOnce(&[Ended]) -> Claim) -> Result<(), Held> {
        let mut state = self.lock();
        let claim = look(&state.ended);
        state.ended.clear();
        state.claim(claim)
    }

    /// The main shell's cell has ended, and its books are told while nobody looks.
    pub(super) fn leave_main(&self, tell: impl FnOnce()) {
        let mut state = self.lock();
        tell();
        state.release(MAIN);
        self.released.notify_all();
    }

    /// The books as they are now for a cell of a subshell that runs in a child, and its variables claimed.
    pub(super) fn join(
        &self,
        child: u32,
        known: impl FnOnce() -> Session,
        claim: impl FnOnce(&Session) -> Claim,
    ) -> Result<Session, Held> {
        let mut state = self.lock();
        let mut session = known();
        let of_child = state.ended.iter().filter(|one| one.child == child);
        of_child.for_each(|one| one.settle(&mut session));
        state.claim(claim(&session))?;
        session.beside = true;
        session.debug = false;
        Ok(session)
    }

    /// A subshell's cell has ended, or was not run.
    pub(super) fn leave(&self, shell: u32, ended: Option<Ended>) {
        let mut state = self.lock();
        state.ended.extend(ended.filter(Ended::changes_something));
        state.release(shell);
        self.released.notify_all();
    }

    /// Waits until some claim has ended, or a little.
    pub(super) fn wait(&self) {
        drop(self.released.wait_timeout(self.lock(), LOOK_EVERY));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn claim(&mut self, claim: Claim) -> Result<(), Held> {
        let others = self.claims.iter().filter(|other| other.shell != claim.shell);
        for other in others {
            if let Some(name) = other.names.intersection(&claim.names).next() {
                return Err(Held {
                    name: name.clone(),
                    by: other.shown,
                });
            }
        }
        self.release(claim.shell);
        self.claims.push(claim);
        Ok(())
    }

    fn release(&mut self, shell: u32) {
        self.claims.retain(|claim| claim.shell != shell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(shell: u32, names: &[&str]) -> Claim {
        Claim {
            shell,
            shown: shell + 10,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_variable_is_one_shells_at_a_time_and_a_refused_claim_takes_nothing() {
        let beside = Beside::default();
        assert_eq!(beside.claim(|_| claim(MAIN, &["a", "b"])), Ok(()));
        let refused = beside
            .join(1, Session::default, |_| claim(1, &["c", "b"]))
            .map(drop);
        assert_eq!(
            refused,
            Err(Held {
                name: "b".to_owned(),
                by: 10
            })
        );
        assert!(
            beside
                .join(1, Session::default, |_| claim(2, &["c"]))
                .is_ok_and(|session| session.beside)
        );
        assert_eq!(
            beside.claim(|_| claim(MAIN, &["c"])),
            Err(Held {
                name: "c".to_owned(),
                by: 12
            })
        );
        beside.leave(2, None);
        beside.leave_main(|| {});
        assert_eq!(beside.claim(|_| claim(MAIN, &["b", "c"])), Ok(()));
    }
}
