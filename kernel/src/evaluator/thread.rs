//! The evaluator's thread: starts the evaluator, then runs one cell after the other.
//!
//! A panic of the evaluator (not of a cell: that is the evaluator's own business) ends it; every later cell is
//! answered with one error that says so. Called by [`crate::execute`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::{CellError, Evaluator, MainShell, STACK_BYTES, StartEvaluator};
use crate::cell::Cell;

/// Jobs that may wait for the thread. The executor hands over one at a time.
const JOBS: usize = 4;

pub(crate) struct Job {
    pub(crate) code: String,
    pub(crate) cell: Arc<Cell>,
    pub(crate) reply: oneshot::Sender<Result<(), CellError>>,
    /// Set when it is no longer only waiting.
    pub(crate) begun: Arc<AtomicBool>,
}

/// Handle to the thread.
pub(crate) struct EvaluatorThread {
    jobs: mpsc::Sender<Job>,
    started: Arc<AtomicBool>,
}

impl EvaluatorThread {
    /// Starts the thread, which starts the evaluator.
    pub(crate) fn spawn(start: StartEvaluator) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(JOBS);
        let started = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&started);
        let builder = std::thread::Builder::new()
            .name("evaluator".into())
            .stack_size(STACK_BYTES);
        builder.spawn(move || run(start, &flag, queue))?;
        Ok(Self { jobs, started })
    }

    /// Whether the evaluator takes jobs, or never will because it failed to start.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Runs cells of others in this thread's turn. Must be called inside a tokio runtime.
    pub(crate) fn turn(&self) -> MainShell {
        let (jobs, handle) = (self.jobs.clone(), tokio::runtime::Handle::current());
        Arc::new(move |code, cell| {
            let (reply, outcome) = oneshot::channel();
            let begun = Arc::new(AtomicBool::new(false));
            let job = Job {
                code: code.to_owned(),
                cell: Arc::clone(cell),
                reply,
                begun: Arc::clone(&begun),
            };
            let run = async {
                let _ = jobs.send(job).await;
                outcome.await
            };
            let stopped_waiting = async {
                cell.interrupted.cancelled().await;
                if begun.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
            };
            handle.block_on(async {
                tokio::select! {
                    outcome = run => outcome.unwrap_or_else(|_| Err(if cell.is_interrupted() {
                        CellError::interrupted_before_running()
                    } else {
                        crashed()
                    })),
                    () = stopped_waiting => Err(CellError::interrupted_before_running()),
                }
            })
        })
    }

    /// Queues a job; its reply is dropped when the thread is gone.
    pub(crate) async fn send(&self, job: Job) {
        let _ = self.jobs.send(job).await;
    }
}

fn run(start: StartEvaluator, started: &AtomicBool, mut queue: mpsc::Receiver<Job>) {
    let mut evaluator = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|_| Err(crashed()));
    started.store(true, Ordering::Release);
    while let Some(job) = queue.blocking_recv() {
        let done = match &mut evaluator {
            Ok(evaluator) => catch_unwind(AssertUnwindSafe(|| work(evaluator.as_mut(), job))),
            Err(error) => {
                let _ = job.reply.send(Err(error.clone()));
                Ok(())
            }
        };
        if done.is_err() {
            evaluator = Err(crashed());
        }
    }
}

fn work(evaluator: &mut dyn Evaluator, job: Job) {
    job.begun.store(true, Ordering::Release);
    if !job.cell.is_interrupted() {
        let result = evaluator.execute(&job.code, &job.cell);
        let _ = job.reply.send(result);
    }
}

/// Said for the cell that crashed the evaluator and for every one after it.
pub(crate) fn crashed() -> CellError {
    CellError::new(
        "EvaluatorCrashed",
        "the evaluator crashed on this or an earlier cell, variables are gone",
        Some("restart the kernel"),
    )
}
