//! The execution queue of a shell: one task takes executions in order.
//!
//! For each execution: busy, `execute_input`, outputs, result or error, reply, idle. An error aborts exactly the
//! requests that were queued when it happened. Called by the shell and control channels. The main shell and each
//! subshell have one; they count and remember their cells together.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_link::Client;
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::cell::{Audience, Cell, Setup, Upcoming};
use crate::evaluator::thread::{EvaluatorThread, Job, crashed};
use crate::evaluator::{CellError, MainShell, StartEvaluator};
use crate::history::History;
use crate::iopub::Publisher;
use crate::request::{self, Execute};
use crate::socket::{Questions, Replies};
use crate::wire::{Parent, Request};

/// Requests that may wait. More are refused, so that a runaway client cannot fill the memory.
const MAX_QUEUED: usize = 10_000;
/// Between a request and the reply that says that it failed: time to read what clients sent before they could know of
/// the error. What was sent with the request has long arrived when the cell took its time.
const ABORT_WINDOW: Duration = Duration::from_millis(20);

/// Handle to the queue.
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    common: Arc<Common>,
    thread: EvaluatorThread,
    interrupt: Arc<dyn Fn() + Send + Sync>,
    queue: Arc<Mutex<Queue>>,
    filled: Notify,
    /// Set when the shell is closed.
    closed: CancellationToken,
}

/// What the shells of a kernel have in common.
pub(crate) struct Common {
    publisher: Arc<Publisher>,
    questions: Questions,
    /// Executions that run, at most one of each shell, in the order in which they began.
    running: Mutex<Vec<Running>>,
    /// Counts executions, also those that do not count for the person.
    begun: AtomicU64,
    count: AtomicU32,
    history: Arc<Mutex<History>>,
}

/// An execution that runs.
struct Running {
    number: u64,
    /// Stops what runs it, also when its shell is closed meanwhile.
    stop: Arc<dyn Fn() + Send + Sync>,
    /// What an interrupt cancels.
    interrupted: CancellationToken,
    parent: Parent,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Request, Replies)>,
    /// Nobody takes from it any more.
    is_closed: bool,
}

impl Common {
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        questions: Questions,
        history: Option<PathBuf>,
    ) -> Arc<Self> {
        let history = Arc::new(Mutex::new(History::new(history)));
        let reading = Arc::clone(&history);
        // Read before anybody asks, and before the first cell has to wait for it.
        tokio::task::spawn_blocking(move || lock(&reading).load());
        Arc::new(Self {
            publisher,
            questions,
            running: Mutex::default(),
            begun: AtomicU64::new(0),
            count: AtomicU32::new(0),
            history,
        })
    }

    /// Says idle for what was answered beside executions, and that one still runs: clients show, and servers cull by,
    /// the last status that they saw.
    pub(crate) fn idle_beside(&self, request: &Request) {
        // Held until both are published: the execution's own idle cannot come in between.
        let running = lock(&self.running);
        self.idle(request, &running);
    }

    fn idle(&self, request: &Request, running: &[Running]) {
        self.status("idle", request);
        if let Some(running) = running.last() {
            let busy = json!({ "execution_state": "busy" });
            self.publisher.publish("status", &running.parent, &busy);
        }
    }

    /// Content of a history reply.
    pub(crate) async fn history(&self, content: &Value) -> Value {
        let asked: request::History = serde_json::from_value(content.clone()).unwrap_or_default();
        let history = Arc::clone(&self.history);
        // It may wait for the file, and search in ten thousand cells.
        let found = tokio::task::spawn_blocking(move || lock(&history).answer(&asked)).await;
        json!({ "status": "ok", "history": found.unwrap_or_else(|_| json!([])) })
    }

    /// Adds a cell to the history. Not on this thread: the file may be another kernel's for a while.
    async fn remember(&self, count: u32, code: String, output: Option<String>) {
        let history = Arc::clone(&self.history);
        let _ = tokio::task::spawn_blocking(move || lock(&history).add(count, &code, output)).await;
    }

    /// Answers an execution that cannot be queued.
    pub(crate) async fn refuse(&self, request: &Request, replies: &Replies, error: &CellError) {
        self.status("busy", request);
        if request.content["silent"] != json!(true) {
            self.publisher.publish("error", &request.parent, &error.content());
        }
        let content = error_reply(error, self.count.load(Ordering::Relaxed));
        replies.reply(request, &content).await;
        self.idle_beside(request);
    }

    fn status(&self, state: &str, request: &Request) {
        self.publisher
            .publish("status", &request.parent, &json!({ "execution_state": state }));
    }
}

impl Executor {
    /// Starts a shell: its evaluator's thread and its queue's task.
    pub(crate) fn start(
        common: &Arc<Common>,
        start: StartEvaluator,
        interrupt: Arc<dyn Fn() + Send + Sync>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            common: Arc::clone(common),
            thread: EvaluatorThread::spawn(start)?,
            interrupt,
            queue: Arc::default(),
            filled: Notify::new(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(Arc::clone(&shared).run());
        Ok(Self { shared })
    }

    /// Runs cells of subshells in this shell's turn.
    pub(crate) fn turn(&self) -> MainShell {
        self.shared.thread.turn()
    }

    /// Ends the shell when its running execution has ended; what waits is aborted.
    pub(crate) fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Queues an execute request.
    pub(crate) fn queue(&self, request: Request, replies: Replies) {
        let shared = &self.shared;
        let mut queue = lock(&shared.queue);
        if queue.is_closed {
            drop(queue);
            let common = Arc::clone(&shared.common);
            let error = CellError::new("NoSuchSubshell", "the subshell was closed", None);
            tokio::spawn(async move { common.refuse(&request, &replies, &error).await });
            return;
        }
        if queue.waiting.len() >= MAX_QUEUED {
            drop(queue);
            let common = Arc::clone(&shared.common);
            let message = format!("{MAX_QUEUED} cells wait already");
            let error = CellError::new("QueueFull", message, Some("interrupt the kernel"));
            tokio::spawn(async move { common.refuse(&request, &replies, &error).await });
            return;
        }
        queue.waiting.push_back((request, replies));
        drop(queue);
        shared.filled.notify_one();
    }

    /// Whether a closed shell has ended.
    pub(crate) fn is_ended(&self) -> bool {
        lock(&self.shared.queue).is_closed
    }

    /// Stops the executions that run, of all shells: the code that runs has one flag for it. This one's too where it runs
    /// a cell of another in its turn. Harmless when none runs: clients interrupt before they shut down.
    pub(crate) fn interrupt_all(&self) {
        let running = lock(&self.shared.common.running);
        if running.is_empty() {
            return;
        }
        for one in running.iter() {
            one.interrupted.cancel();
            (one.stop)();
        }
        self.shared.stop();
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        while !self.closed.is_cancelled() {
            let next = lock(&self.queue).waiting.pop_front();
            match next {
                None => tokio::select! {
                    () = self.filled.notified() => {}
                    () = self.closed.cancelled() => {}
                },
                Some((request, replies)) => self.execute(&request, &replies).await,
            }
        }
        let left = {
            let mut queue = lock(&self.queue);
            queue.is_closed = true;
            std::mem::take(&mut queue.waiting)
        };
        for (request, replies) in left {
            self.abort(&request, &replies).await;
        }
    }

    fn stop(&self) {
        if self.thread.is_started() {
            (self.interrupt)();
        }
    }

    async fn execute(self: &Arc<Self>, request: &Request, replies: &Replies) {
        let started = Utc::now();
        let (number, interrupted) = self.begin(request);
        let (content, aborted) = match serde_json::from_value::<Execute>(request.content.clone()) {
            Ok(asked) => self.execute_asked(request, &asked, interrupted).await,
            Err(error) => {
                let error = CellError::new("MalformedRequest", error.to_string(), None);
                (
                    error_reply(&error, self.common.count.load(Ordering::Relaxed)),
                    Vec::new(),
                )
            }
        };
        // JupyterLab shows a cell's time from when it was begun, not from when it was sent.
        let metadata = json!({ "started": started.to_rfc3339_opts(SecondsFormat::Micros, true),
            "status": content["status"], "dependencies_met": true });
        replies.reply_with(request, &metadata, &content).await;
        self.end(request, number);
        for (request, replies) in aborted {
            self.abort(&request, &replies).await;
        }
    }

    /// Says busy. From here on an interrupt means this execution: returned is what it cancels.
    fn begin(self: &Arc<Self>, request: &Request) -> (u64, CancellationToken) {
        let interrupted = CancellationToken::new();
        // Held until it is said: what is answered beside sees either no execution, or one that has said busy.
        let mut running = lock(&self.common.running);
        self.common.status("busy", request);
        let number = self.common.begun.fetch_add(1, Ordering::Relaxed);
        let shell = Arc::clone(self);
        running.push(Running {
            number,
            stop: Arc::new(move || shell.stop()),
            interrupted: interrupted.clone(),
            parent: request.parent.clone(),
        });
        (number, interrupted)
    }

    /// Says idle.
    fn end(&self, request: &Request, number: u64) {
        let mut running = lock(&self.common.running);
        running.retain(|running| running.number != number);
        self.common.idle(request, &running);
    }

    /// Runs a cell and publishes its outputs. Returns the content of its reply, and what its failure aborts.
    async fn execute_asked(
        &self,
        request: &Request,
        asked: &Execute,
        interrupted: CancellationToken,
    ) -> (Value, Vec<(Request, Replies)>) {
        let started = Instant::now();
        let stored = asked.store_history && !asked.silent;
        let count = self.common.count.fetch_add(u32::from(stored), Ordering::Relaxed) + u32::from(stored);
        if !asked.silent {
            let input = json!({ "code": asked.code, "execution_count": count });
            self.common
                .publisher
                .publish("execute_input", &request.parent, &input);
        }
        let audience = if asked.silent {
            Audience::Nobody
        } else {
            Audience::Everyone
        };
        let questions = asked
            .allow_stdin
            .then(|| (self.common.questions.clone(), request.identities.clone()));
        let setup = Setup {
            audience,
            execution_count: count,
            client: client_of(request, asked),
            questions,
            interrupted: interrupted.clone(),
            upcoming: Some(self.upcoming()),
        };
        let cell = Cell::new(&self.common.publisher, &request.parent, setup);
        let outcome = self.evaluate(&asked.code, &cell).await;
        cell.flush();
        if stored {
            let shown = cell.captured();
            let text = shown.and_then(|(data, _)| data.get("text/plain")?.as_str().map(str::to_owned));
            self.common.remember(count, asked.code.clone(), text).await;
        }
        let content = match &outcome {
            Ok(()) => {
                let expressions = asked.user_expressions.clone().unwrap_or_default();
                let answers = self
                    .user_expressions(request, expressions, count, &interrupted)
                    .await;
                json!({ "status": "ok", "execution_count": count, "user_expressions": answers,
                    "payload": cell.take_payload() })
            }
            Err(error) => {
                if !asked.silent {
                    self.common
                        .publisher
                        .publish("error", &request.parent, &error.content());
                }
                error_reply(error, count)
            }
        };
        if outcome.is_ok() || !asked.stop_on_error {
            return (content, Vec::new());
        }
        tokio::time::sleep(ABORT_WINDOW.saturating_sub(started.elapsed())).await;
        (content, self.take_executions())
    }

    /// Tells the running cell what comes behind it.
    fn upcoming(&self) -> Upcoming {
        let queue = Arc::clone(&self.queue);
        Arc::new(move || {
            let queue = lock(&queue);
            let (next, _) = queue.waiting.front()?;
            next.content["code"].as_str().map(str::to_owned)
        })
    }

    async fn evaluate(&self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let (reply, outcome) = oneshot::channel();
        let run = async {
            self.thread
                .send(Job {
                    code: code.to_owned(),
                    cell: Arc::clone(cell),
                    reply,
                    begun: Arc::default(),
                })
                .await;
            outcome.await
        };
        let before_start = async {
            cell.interrupted.cancelled().await;
            if self.thread.is_started() {
                // The evaluator answers itself, and says what happened to the variables.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            outcome = run => outcome.unwrap_or_else(|_| {
                if cell.is_interrupted() { Err(CellError::interrupted_before_running()) } else { Err(crashed()) }
            }),
            () = before_start => Err(CellError::interrupted_before_running()),
        }
    }

    async fn user_expressions(
        &self,
        request: &Request,
        expressions: BTreeMap<String, String>,
        count: u32,
        interrupted: &CancellationToken,
    ) -> Value {
        let mut answers = serde_json::Map::new();
        for (key, code) in expressions {
            let setup = Setup {
                audience: Audience::Nobody,
                execution_count: count,
                client: Client::default(),
                questions: None,
                interrupted: interrupted.clone(),
                upcoming: None,
            };
            let cell = Cell::new(&self.common.publisher, &request.parent, setup);
            let answer = match self.evaluate(&code, &cell).await {
                Ok(()) => {
                    let (data, metadata) = cell.captured().unwrap_or_default();
                    json!({ "status": "ok", "data": data, "metadata": metadata })
                }
                Err(error) => with_status("error", error.content()),
            };
            answers.insert(key, answer);
        }
        Value::Object(answers)
    }

    fn take_executions(&self) -> Vec<(Request, Replies)> {
        Vec::from(std::mem::take(&mut lock(&self.queue).waiting))
    }

    async fn abort(&self, request: &Request, replies: &Replies) {
        self.common.status("busy", request);
        let content = json!({ "status": "aborted", "execution_count": self.common.count.load(Ordering::Relaxed),
            "user_expressions": {}, "payload": [] });
        replies.reply(request, &content).await;
        self.common.idle_beside(request);
    }
}

fn error_reply(error: &CellError, count: u32) -> Value {
    let mut content = with_status("error", error.content());
    content["execution_count"] = json!(count);
    content["user_expressions"] = json!({});
    content["payload"] = json!([]);
    content
}

/// Notebooks name the cell; who does not, and yet can be asked for input, is a console.
fn client_of(request: &Request, asked: &Execute) -> Client {
    let names_its_cell = request.metadata.get("cellId").is_some();
    if names_its_cell || !asked.allow_stdin {
        Client::Notebook
    } else {
        Client::Terminal
    }
}

pub(crate) fn with_status(status: &str, mut content: Value) -> Value {
    content["status"] = json!(status);
    content
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
