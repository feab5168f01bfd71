//! The evaluator's thread: starts the evaluator, then does one job after the other.
//!
//! A panic of the evaluator (not of a cell: that is the evaluator's own business) ends it; every later cell is
//! answered with one error that says so. Called by [`crate::execute`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alephlab_link::MimeBundle;
use tokio::sync::{mpsc, oneshot};

use super::{CellError, Completions, Evaluator};
use crate::cell::Cell;

/// Jobs that may wait for the thread. The executor hands over one at a time.
const JOBS: usize = 4;

type Start = Box<dyn FnOnce() -> Result<Box<dyn Evaluator>, CellError> + Send>;

pub(crate) enum Job {
    Execute {
        code: String,
        cell: Arc<Cell>,
        reply: oneshot::Sender<Result<(), CellError>>,
    },
    Complete {
        code: String,
        cursor: usize,
        reply: oneshot::Sender<Completions>,
    },
    Inspect {
        code: String,
        cursor: usize,
        reply: oneshot::Sender<Option<MimeBundle>>,
    },
}

/// Handle to the thread.
pub(crate) struct EvaluatorThread {
    jobs: mpsc::Sender<Job>,
    started: Arc<AtomicBool>,
}

impl EvaluatorThread {
    /// Starts the thread, which starts the evaluator.
    pub(crate) fn spawn(start: Start) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(JOBS);
        let started = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&started);
        // rust-analyzer recurses deeply on large cells.
        let builder = std::thread::Builder::new()
            .name("evaluator".into())
            .stack_size(64 * 1024 * 1024);
        builder.spawn(move || run(start, &flag, queue))?;
        Ok(Self { jobs, started })
    }

    /// Whether the evaluator takes jobs, or never will because it failed to start.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Queues a job; its reply is dropped when the thread is gone.
    pub(crate) async fn send(&self, job: Job) {
        let _ = self.jobs.send(job).await;
    }
}

fn run(start: Start, started: &AtomicBool, mut queue: mpsc::Receiver<Job>) {
    let mut evaluator = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|_| Err(crashed()));
    started.store(true, Ordering::Release);
    while let Some(job) = queue.blocking_recv() {
        let done = match &mut evaluator {
            Ok(evaluator) => catch_unwind(AssertUnwindSafe(|| work(evaluator.as_mut(), job))),
            Err(error) => {
                refuse(error, job);
                Ok(())
            }
        };
        if done.is_err() {
            evaluator = Err(crashed());
        }
    }
}

fn work(evaluator: &mut dyn Evaluator, job: Job) {
    match job {
        Job::Execute { cell, .. } if cell.is_interrupted() => {}
        Job::Execute { code, cell, reply } => {
            let result = evaluator.execute(&code, &cell);
            let _ = reply.send(result);
        }
        Job::Complete { code, cursor, reply } => {
            let _ = reply.send(evaluator.complete(&code, cursor));
        }
        Job::Inspect { code, cursor, reply } => {
            let _ = reply.send(evaluator.inspect(&code, cursor));
        }
    }
}

fn refuse(error: &CellError, job: Job) {
    if let Job::Execute { reply, .. } = job {
        let _ = reply.send(Err(error.clone()));
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
