//! What the evaluator's thread, the link and interrupts share: the running cell, its phase, what it reported.
//!
//! Interrupting has stages: while the cell compiles, the compiler is killed; while the cell runs, the child gets
//! SIGINT (the runtime unwinds, variables are kept); after [`GRACE`] it is killed. Nothing happens when no cell
//! runs, and nothing of an interrupt outlives its cell.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_link::{Client, CommEvent, MimeBundle, Outcome};
use tokio::sync::{mpsc, oneshot};

use super::markers::{ERROR, PANIC};
use super::{errors, processes};
use crate::cell::Cell;
use crate::child;
use crate::comms::Comms;
use crate::debug::Debugger;
use crate::evaluator::CellError;
use crate::iopub::Stream;
use crate::template::private::Private;

/// How long an interrupted cell may take to unwind before its child is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How often an interrupt looks for compilers that started meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the end of a cell waits for the last text of a dead child.
const BARRIER_LIMIT: Duration = Duration::from_secs(5);

/// Shared by threads and tasks; see the module.
pub(in crate::evaluator) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    handle: tokio::runtime::Handle,
    comms: Arc<Comms>,
    /// The main shell's, where this is a subshell's.
    main: Option<Arc<Shared>>,
}

#[derive(Default)]
struct State {
    /// The running cell, or the last one: late text is its.
    cell: Option<Arc<Cell>>,
    /// Counts cells, so that an interrupt knows whether its cell has ended.
    number: u64,
    phase: Phase,
    interrupting: bool,
    /// Interrupts of the running cell.
    asked: u32,
    child: Option<u32>,
    /// Compile servers: they are not stopped with what they compile.
    servers: Vec<u32>,
    report: Report,
    /// Text of an error that `?` may have returned; see `ToKernel::ErrorText`.
    error_text: Option<String>,
    /// What the cell's last expression showed, until it is clear that nothing follows.
    pending: Option<(MimeBundle, MimeBundle)>,
    control: Vec<String>,
    barrier: Option<mpsc::Sender<oneshot::Sender<()>>>,
    private: Option<Arc<Private>>,
    debugger: Option<Arc<Debugger>>,
    /// The kernel ends.
    stopped: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// No cell.
    #[default]
    Idle,
    /// It is compiled.
    Compiling,
    /// The child runs it.
    Running,
}

/// What is known about a cell when the evaluator is done with it.
#[derive(Debug, Clone, Default)]
pub(in crate::evaluator) struct Report {
    pub(in crate::evaluator) panic: Option<Panic>,
    /// evcxr's generated code said that the cell panicked.
    pub(in crate::evaluator) panicked: bool,
    /// Message of the error that `?` returned.
    pub(in crate::evaluator) question_mark: Option<String>,
    /// How the cell ended, where the runtime says so: a cell of the zygote's.
    pub(in crate::evaluator) outcome: Option<Outcome>,
    /// Some of the cell's code ran.
    pub(in crate::evaluator) ran: bool,
    /// We killed the child.
    pub(in crate::evaluator) killed: bool,
    /// What std printed before it ended the child, in our words.
    pub(in crate::evaluator) last_words: Option<&'static str>,
}

/// What std prints before it ends a process, and what it means.
const LAST_WORDS: [(&str, &str); 2] = [
    (
        "has overflowed its stack",
        "the cell used up its stack, by recursion without an end perhaps",
    ),
    (
        "memory allocation of",
        "the cell wanted more memory than there is",
    ),
];

/// A panic of the cell's thread.
#[derive(Debug, Clone)]
pub(in crate::evaluator) struct Panic {
    pub(in crate::evaluator) message: String,
    pub(in crate::evaluator) location: String,
    pub(in crate::evaluator) interrupted: bool,
}

impl Report {
    /// The error of a cell that evcxr takes for a success.
    pub(in crate::evaluator) fn verdict(&self, cell: &Cell) -> Result<(), CellError> {
        if self.panicked {
            let by_interrupt = self.panic.as_ref().is_some_and(|panic| panic.interrupted);
            // A scoped thread that was interrupted ends in a panic of the cell.
            return Err(if by_interrupt || cell.is_interrupted() {
                errors::interrupted()
            } else {
                errors::panicked(self.panic.as_ref())
            });
        }
        match &self.question_mark {
            Some(message) => Err(errors::question_mark(message)),
            None => {
                self.tell_caught_panic(cell);
                Ok(())
            }
        }
    }
}

impl Report {
    /// Prints a panic that the cell caught itself, as std would have done.
    pub(in crate::evaluator) fn tell_caught_panic(&self, cell: &Cell) {
        if let Some(panic) = &self.panic {
            let text = format!("panicked at {}:\n{}\n", panic.location, panic.message);
            cell.text(Stream::Stderr, text.as_bytes());
        }
    }
}

impl Shared {
    pub(in crate::evaluator) fn new(handle: tokio::runtime::Handle, comms: Arc<Comms>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            handle,
            comms,
            main: None,
        }
    }

    /// A subshell's: cells of its own, in the child of the main shell.
    pub(in crate::evaluator) fn beside(main: &Arc<Self>) -> Self {
        Self {
            main: Some(Arc::clone(main)),
            ..Self::new(main.handle.clone(), Arc::clone(&main.comms))
        }
    }

    pub(in crate::evaluator) fn handle(&self) -> &tokio::runtime::Handle {
        &self.handle
    }

    /// Takes the folders that [`Shared::stop`] removes; does so itself when that came first.
    pub(in crate::evaluator) fn own(&self, private: &Arc<Private>) -> crate::Result<()> {
        let mut state = self.lock();
        if !state.stopped {
            state.private = Some(Arc::clone(private));
            return Ok(());
        }
        drop(state);
        private.remove();
        Err(crate::Error::Evaluator {
            message: "the kernel ends".to_owned(),
        })
    }

    /// One that may be attached to the child: an interrupt spares it.
    pub(in crate::evaluator) fn set_debugger(&self, debugger: &Arc<Debugger>) {
        self.lock().debugger = Some(Arc::clone(debugger));
    }

    /// The child, while it runs.
    pub(in crate::evaluator) fn child(&self) -> Option<u32> {
        self.lock().child
    }

    /// Processes that an interrupted compile leaves alone: the child and the debugger's adapter; and the compile servers,
    /// of which it stops what they compile.
    fn spared(&self, own: &State) -> (Vec<u32>, Vec<u32>) {
        let read = |state: &State| {
            let debugger = state.debugger.as_ref().and_then(|debugger| debugger.adapter());
            (
                state.child.into_iter().chain(debugger).collect(),
                state.servers.clone(),
            )
        };
        self.main
            .as_ref()
            .map_or_else(|| read(own), |main| read(&main.lock()))
    }

    pub(super) fn set_barrier(&self, barrier: mpsc::Sender<oneshot::Sender<()>>) {
        self.lock().barrier = Some(barrier);
    }

    /// Compile servers that run; an interrupt stops only what they compile.
    pub(in crate::evaluator) fn set_servers(&self, servers: Vec<u32>) {
        self.lock().servers = servers;
    }

    /// A cell begins.
    pub(in crate::evaluator) fn begin(&self, cell: &Arc<Cell>) {
        let mut state = self.lock();
        state.cell = Some(Arc::clone(cell));
        state.number += 1;
        state.asked = 0;
        state.phase = Phase::Compiling;
        state.report = Report::default();
    }

    /// The cell is done: waits until all text is published, and tells what the cell reported.
    pub(in crate::evaluator) fn end(&self) -> Report {
        let barrier = self.lock().barrier.clone();
        if let Some(barrier) = barrier {
            let wait = async {
                let (done, drained) = oneshot::channel();
                let _ = barrier.send(done).await;
                let _ = drained.await;
            };
            let _ = self
                .handle
                .block_on(async { tokio::time::timeout(BARRIER_LIMIT, wait).await });
        }
        let mut state = self.lock();
        state.show_pending(true);
        state.phase = Phase::Idle;
        let report = std::mem::take(&mut state.report);
        self.changed.notify_all();
        report
    }

    /// Stops the running cell; returns at once.
    pub(in crate::evaluator) fn interrupt(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.phase == Phase::Idle {
            return;
        }
        state.asked += 1;
        if state.interrupting {
            return;
        }
        state.interrupting = true;
        let number = state.number;
        drop(state);
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("interrupt".into());
        if let Err(error) = thread.spawn(move || shared.watch(number)) {
            tracing::error!(%error, "the cell cannot be interrupted");
            self.lock().interrupting = false;
        }
    }

    fn watch(&self, number: u64) {
        let mut signalled: Option<Instant> = None;
        let mut state = self.lock();
        while state.number == number && state.phase != Phase::Idle {
            match (state.phase, state.child) {
                (Phase::Compiling, _) => {
                    let (spared, servers) = self.spared(&state);
                    drop(state);
                    let compilers = processes::descendants(&spared, &servers);
                    compilers.into_iter().for_each(child::kill);
                    state = self.lock();
                }
                (Phase::Running, Some(pid)) => match signalled {
                    None => {
                        child::interrupt(pid);
                        signalled = Some(Instant::now());
                    }
                    // A subshell's that sleeps must not cost what the main shell's has learned: only when asked again.
                    Some(since)
                        if since.elapsed() >= GRACE
                            && !state.report.killed
                            && (self.main.is_none() || state.asked > 1) =>
                    {
                        state.report.killed = true;
                        child::kill_group(pid);
                    }
                    Some(_) => {}
                },
                _ => {}
            }
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.interrupting = false;
    }

    /// Ends the child and all compilers, and removes the kernel's folders.
    pub(in crate::evaluator) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let (spared, private) = (state.child.take(), state.private.take());
        drop(state);
        spared.into_iter().for_each(child::kill_group);
        processes::descendants(&[], &[])
            .into_iter()
            .for_each(child::kill_group);
        if let Some(private) = private {
            private.remove();
        }
    }

    // What the link reports.

    pub(super) fn child_started(&self, pid: u32) {
        self.lock().child = Some(pid);
    }

    /// The child has ended, and with it the other end of its comms.
    pub(super) fn child_gone(&self) {
        let mut state = self.lock();
        state.child = None;
        let cell = state.cell.clone();
        drop(state);
        if self.main.is_some() {
            return;
        }
        for comm_id in self.comms.end() {
            if let Some(cell) = &cell {
                cell.comm(&CommEvent::close(comm_id), None);
            }
        }
    }

    pub(super) fn comms(&self) -> &Comms {
        &self.comms
    }

    /// What kind of client sent the cell that begins.
    pub(super) fn cell_started(&self) -> Client {
        let mut state = self.lock();
        if state.phase == Phase::Compiling {
            state.phase = Phase::Running;
            state.report.ran = true;
            self.changed.notify_all();
        }
        state.cell.as_ref().map_or(Client::Notebook, |cell| cell.client())
    }

    pub(super) fn cell_ended(&self) -> Vec<String> {
        let mut state = self.lock();
        state.release_error_text();
        state.show_pending(true);
        if state.phase == Phase::Running {
            // evcxr may compile and run the same cell again.
            state.phase = Phase::Compiling;
        }
        std::mem::take(&mut state.control)
    }

    pub(super) fn returned(&self, outcome: Outcome) {
        self.lock().report.outcome = Some(outcome);
    }

    pub(super) fn panicked(&self, panic: Panic) {
        self.lock().report.panic = Some(panic);
    }

    pub(super) fn error_text(&self, text: String) {
        let mut state = self.lock();
        state.release_error_text();
        state.error_text = Some(text);
    }

    pub(super) fn control(&self, line: String) {
        let mut state = self.lock();
        if line == PANIC {
            state.report.panicked = true;
        } else if line == ERROR {
            let text = state.error_text.take();
            state.report.question_mark =
                Some(text.unwrap_or_else(|| "the cell returned an error".to_owned()));
        }
        state.control.push(line);
    }

    pub(super) fn text(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.lock();
        state.release_error_text();
        if stream == Stream::Stderr {
            let text = String::from_utf8_lossy(bytes);
            let said = LAST_WORDS.iter().find(|(words, _)| text.contains(words));
            state.report.last_words = said.map(|(_, meaning)| *meaning).or(state.report.last_words);
        }
        state.text(stream, bytes);
    }

    pub(super) fn result(&self, data: MimeBundle, metadata: MimeBundle) {
        let mut state = self.lock();
        // The block of another media type right behind it is the same output in another format.
        match &mut state.pending {
            Some((pending, _)) if data.keys().all(|key| !pending.contains_key(key)) => pending.extend(data),
            _ => {
                state.show_pending(false);
                state.pending = Some((data, metadata));
            }
        }
    }

    /// Whether a cell's code runs, so that somebody can be asked for it.
    pub(super) fn is_running(&self) -> bool {
        self.lock().phase == Phase::Running
    }

    /// The running cell, or the last one.
    pub(super) fn cell(&self) -> Option<Arc<Cell>> {
        self.lock().cell.clone()
    }

    /// The cell that output goes to; what its last expression showed comes before it.
    pub(super) fn cell_for_output(&self) -> Option<Arc<Cell>> {
        let mut state = self.lock();
        state.release_error_text();
        state.show_pending(false);
        state.cell.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn text(&mut self, stream: Stream, bytes: &[u8]) {
        self.show_pending(false);
        if let Some(cell) = &self.cell {
            cell.text(stream, bytes);
        }
    }

    /// No control line followed: it was the cell's own `eprintln!`.
    fn release_error_text(&mut self) {
        if let Some(text) = self.error_text.take() {
            self.text(Stream::Stderr, format!("{text}\n").as_bytes());
        }
    }

    fn show_pending(&mut self, is_result: bool) {
        if let (Some((data, metadata)), Some(cell)) = (self.pending.take(), &self.cell) {
            if is_result {
                cell.result(data, metadata);
            } else {
                cell.display(&data, &metadata, None);
            }
        }
    }
}
