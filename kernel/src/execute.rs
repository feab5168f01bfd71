//! The execution queue: one task takes executions, completions and inspections in order.
//!
//! For each execution: busy, `execute_input`, outputs, result or error, reply, idle. An error aborts exactly the
//! requests that were queued when it happened. Called by the shell and control channels.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::cell::{Audience, Cell, Upcoming};
use crate::evaluator::thread::{EvaluatorThread, Job, crashed};
use crate::evaluator::{CellError, Completions, Engine};
use crate::history::History;
use crate::iopub::Publisher;
use crate::request::{self, AtCursor, Execute, code_points};
use crate::socket::{Questions, Replies};
use crate::wire::Request;

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
    publisher: Arc<Publisher>,
    questions: Questions,
    thread: EvaluatorThread,
    interrupt: Arc<dyn Fn() + Send + Sync>,
    queue: Arc<Mutex<Queue>>,
    filled: Notify,
    /// Set while an execution runs: what an interrupt cancels.
    running: Mutex<Option<CancellationToken>>,
    count: AtomicU32,
    history: Mutex<History>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Request, Replies)>,
    /// An execution was taken and has no outcome yet.
    executing: bool,
}

impl Queue {
    fn next(&mut self) -> Option<(Request, Replies)> {
        let next = self.waiting.pop_front();
        self.executing = next.as_ref().is_some_and(|(request, _)| is_execution(request));
        next
    }

    /// Whether another request would wait for somebody's code.
    fn is_busy(&self) -> bool {
        self.executing || self.waiting.iter().any(|(request, _)| is_execution(request))
    }
}

impl Executor {
    /// Starts the evaluator's thread and the queue's task.
    pub(crate) fn start(
        engine: Engine,
        publisher: Arc<Publisher>,
        questions: Questions,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            publisher,
            questions,
            thread: EvaluatorThread::spawn(engine.start)?,
            interrupt: engine.interrupt,
            queue: Arc::default(),
            filled: Notify::new(),
            running: Mutex::default(),
            count: AtomicU32::new(0),
            history: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&shared).run());
        Ok(Self { shared })
    }

    /// Queues an execute, complete or inspect request.
    pub(crate) fn queue(&self, request: Request, replies: Replies) {
        let shared = &self.shared;
        let mut queue = lock(&shared.queue);
        // While cells run the evaluator cannot look at anything else; no answer would be worse than none.
        let waits = !is_execution(&request) && queue.is_busy();
        if waits || queue.waiting.len() >= MAX_QUEUED {
            drop(queue);
            let shared = Arc::clone(shared);
            tokio::spawn(async move { shared.refuse(&request, &replies).await });
            return;
        }
        queue.waiting.push_back((request, replies));
        drop(queue);
        shared.filled.notify_one();
    }

    /// Stops the running execution. Harmless when none runs: clients interrupt before they shut down.
    pub(crate) fn interrupt(&self) {
        let running = lock(&self.shared.running);
        if let Some(interrupted) = running.as_ref() {
            interrupted.cancel();
            if self.shared.thread.is_started() {
                (self.shared.interrupt)();
            }
        }
    }

    /// Content of a history reply.
    pub(crate) fn history(&self, content: &Value) -> Value {
        let asked: request::History = serde_json::from_value(content.clone()).unwrap_or_default();
        json!({ "status": "ok", "history": lock(&self.shared.history).answer(&asked) })
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        loop {
            let next = lock(&self.queue).next();
            match next {
                None => self.filled.notified().await,
                Some((request, replies)) => match request.msg_type.as_str() {
                    "execute_request" => self.execute(&request, &replies).await,
                    "complete_request" => self.complete(&request, &replies).await,
                    _ => self.inspect(&request, &replies).await,
                },
            }
        }
    }

    async fn execute(&self, request: &Request, replies: &Replies) {
        self.status("busy", request);
        let (content, aborted) = match serde_json::from_value::<Execute>(request.content.clone()) {
            Ok(asked) => self.execute_asked(request, &asked).await,
            Err(error) => {
                let error = CellError::new("MalformedRequest", error.to_string(), None);
                (self.error_reply(&error), Vec::new())
            }
        };
        lock(&self.queue).executing = false;
        replies.reply(request, &content).await;
        self.status("idle", request);
        for (request, replies) in aborted {
            self.abort(&request, &replies).await;
        }
    }

    /// Runs a cell and publishes its outputs. Returns the content of its reply, and what its failure aborts.
    async fn execute_asked(&self, request: &Request, asked: &Execute) -> (Value, Vec<(Request, Replies)>) {
        let started = Instant::now();
        let stored = asked.store_history && !asked.silent;
        let count = self.count.fetch_add(u32::from(stored), Ordering::Relaxed) + u32::from(stored);
        if !asked.silent {
            let input = json!({ "code": asked.code, "execution_count": count });
            self.publisher.publish("execute_input", &request.parent, &input);
        }
        let interrupted = CancellationToken::new();
        *lock(&self.running) = Some(interrupted.clone());
        let audience = if asked.silent {
            Audience::Nobody
        } else {
            Audience::Everyone
        };
        let questions = asked
            .allow_stdin
            .then(|| (self.questions.clone(), request.identities.clone()));
        let cell = Cell::new(
            &self.publisher,
            &request.parent,
            audience,
            count,
            questions,
            interrupted.clone(),
            Some(self.upcoming()),
        );
        let outcome = self.evaluate(&asked.code, &cell).await;
        cell.flush();
        if stored {
            let text = cell
                .captured()
                .and_then(|(data, _)| data.get("text/plain")?.as_str().map(str::to_owned));
            lock(&self.history).add(count, &asked.code, text);
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
                    self.publisher.publish("error", &request.parent, &error.content());
                }
                self.error_reply(error)
            }
        };
        *lock(&self.running) = None;
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
            let (next, _) = queue.waiting.iter().find(|(request, _)| is_execution(request))?;
            next.content["code"].as_str().map(str::to_owned)
        })
    }

    async fn evaluate(&self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let (reply, outcome) = oneshot::channel();
        let run = async {
            self.thread
                .send(Job::Execute {
                    code: code.to_owned(),
                    cell: Arc::clone(cell),
                    reply,
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
            let nobody = Audience::Nobody;
            let cell = Cell::new(
                &self.publisher,
                &request.parent,
                nobody,
                count,
                None,
                interrupted.clone(),
                None,
            );
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
        let mut queue = lock(&self.queue);
        let (executions, others) = queue
            .waiting
            .drain(..)
            .partition(|(request, _)| is_execution(request));
        queue.waiting = others;
        Vec::from(executions)
    }

    async fn abort(&self, request: &Request, replies: &Replies) {
        self.status("busy", request);
        let content = json!({ "status": "aborted", "execution_count": self.count.load(Ordering::Relaxed),
            "user_expressions": {}, "payload": [] });
        replies.reply(request, &content).await;
        self.status("idle", request);
    }

    async fn complete(&self, request: &Request, replies: &Replies) {
        self.status("busy", request);
        let asked: Result<AtCursor, _> = serde_json::from_value(request.content.clone());
        let content = match asked {
            Ok(asked) => {
                let (reply, answer) = oneshot::channel();
                let cursor = asked.byte_offset();
                self.thread
                    .send(Job::Complete {
                        code: asked.code.clone(),
                        cursor,
                        reply,
                    })
                    .await;
                complete_content(&asked, &answer.await.unwrap_or_default())
            }
            Err(error) => malformed(&error),
        };
        replies.reply(request, &content).await;
        self.status("idle", request);
    }

    async fn inspect(&self, request: &Request, replies: &Replies) {
        self.status("busy", request);
        let asked: Result<AtCursor, _> = serde_json::from_value(request.content.clone());
        let content = match asked {
            Ok(asked) => {
                let (reply, answer) = oneshot::channel();
                let cursor = asked.byte_offset();
                self.thread
                    .send(Job::Inspect {
                        code: asked.code,
                        cursor,
                        reply,
                    })
                    .await;
                let data = answer.await.ok().flatten();
                json!({ "status": "ok", "found": data.is_some(), "data": data.unwrap_or_default(), "metadata": {} })
            }
            Err(error) => malformed(&error),
        };
        replies.reply(request, &content).await;
        self.status("idle", request);
    }

    /// Answers at once what cannot be done now.
    async fn refuse(&self, request: &Request, replies: &Replies) {
        self.status("busy", request);
        let asked: Option<AtCursor> = serde_json::from_value(request.content.clone()).ok();
        let content = match request.msg_type.as_str() {
            "complete_request" => match asked {
                Some(asked) => {
                    let cursor = asked.byte_offset();
                    complete_content(
                        &asked,
                        &Completions {
                            matches: Vec::new(),
                            start: cursor,
                            end: cursor,
                        },
                    )
                }
                None => {
                    json!({ "status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {} })
                }
            },
            "inspect_request" => json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
            _ => {
                let message = format!("{MAX_QUEUED} cells wait already");
                self.error_reply(&CellError::new(
                    "QueueFull",
                    message,
                    Some("interrupt the kernel"),
                ))
            }
        };
        replies.reply(request, &content).await;
        self.status("idle", request);
    }

    fn error_reply(&self, error: &CellError) -> Value {
        let mut content = with_status("error", error.content());
        content["execution_count"] = json!(self.count.load(Ordering::Relaxed));
        content["user_expressions"] = json!({});
        content["payload"] = json!([]);
        content
    }

    fn status(&self, state: &str, request: &Request) {
        self.publisher
            .publish("status", &request.parent, &json!({ "execution_state": state }));
    }
}

fn is_execution(request: &Request) -> bool {
    request.msg_type == "execute_request"
}

fn complete_content(asked: &AtCursor, found: &Completions) -> Value {
    let start = code_points(&asked.code, found.start);
    let end = code_points(&asked.code, found.end);
    let matches: Vec<&str> = found.matches.iter().map(|one| one.text.as_str()).collect();
    let types: Vec<Value> = found
        .matches
        .iter()
        .map(|one| {
            json!({ "text": one.text, "type": one.kind, "start": start, "end": end, "signature": one.signature })
        })
        .collect();
    json!({ "status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end,
        "metadata": { "_jupyter_types_experimental": types } })
}

fn malformed(error: &serde_json::Error) -> Value {
    with_status(
        "error",
        CellError::new("MalformedRequest", error.to_string(), None).content(),
    )
}

fn with_status(status: &str, mut content: Value) -> Value {
    content["status"] = json!(status);
    content
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
