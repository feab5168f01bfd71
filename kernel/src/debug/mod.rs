//! The debugger: DAP requests on the control channel (JEP 47), answered with the help of lldb-dap.
//!
//! It is attached to the child. A client sees its cells: their paths, lines and frames; the adapter sees the files that
//! they were compiled from, and [`cells`] leads from one to the other. While the debugger is on, cells are compiled with
//! debug information and not optimised; what was compiled before is stepped over. Requests are answered one after
//! the other by one task, which waits for the adapter and which nobody else waits for.

mod adapter;
mod cells;
mod translate;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use self::adapter::Adapter;
use self::cells::Cells;
pub(crate) use self::cells::Lines;
use self::cells::Place;

/// Signals that the kernel uses itself: the debugger passes them on without stopping.
const OWN_SIGNALS: [&str; 5] = ["SIGINT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGRTMAX"];
/// How long an interrupt waits for a child that stands still to go on.
const RESUME_LIMIT: Duration = Duration::from_secs(1);
/// How long a cell waits for its breakpoints to be set; a new child is attached to first, which takes seconds.
const LOAD_LIMIT: Duration = Duration::from_secs(15);
/// One step of a person's is at most so many of the adapter's: a line may call into the library many times.
const MAX_STEPS: u32 = 200;

/// What the evaluator tells the debugger about variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// Short, as a person reads it.
    pub(crate) kind: String,
}

/// A debugger that is not started yet, and its events for the clients.
pub struct DebuggerOfEngine {
    pub(crate) debugger: Arc<Debugger>,
    pub(crate) events: mpsc::UnboundedReceiver<Value>,
}

impl DebuggerOfEngine {
    /// One, where lldb-dap is installed.
    pub(crate) fn find() -> Option<Self> {
        let program = adapter::find()?;
        let (events, receiver) = mpsc::unbounded_channel();
        Some(Self {
            debugger: Arc::new_cyclic(|own| Debugger::new(program, events, own.clone())),
            events: receiver,
        })
    }
}

/// The debugger of one kernel.
pub struct Debugger {
    /// lldb-dap.
    program: PathBuf,
    /// The toolchain's printers of Rust's types.
    printers: Mutex<Option<PathBuf>>,
    /// Whether cells are to be compiled for it.
    is_on: AtomicBool,
    cells: Mutex<Cells>,
    variables: Mutex<Vec<Variable>>,
    attached: tokio::sync::Mutex<Option<Attached>>,
    /// The thread at which the child stands still, 0 when it runs.
    stopped: AtomicU64,
    /// The person has stopped the cell: it does not stand still again.
    is_interrupted: AtomicBool,
    /// Process id of the child, when there is one.
    child: Mutex<Option<u32>>,
    /// Whether there has been one.
    started: watch::Sender<bool>,
    /// Process id of the adapter: interrupts must spare it.
    adapter: AtomicU32,
    events: mpsc::UnboundedSender<Value>,
    own: Weak<Self>,
}

struct Attached {
    adapter: Adapter,
    /// The adapter's process id, also when it has ended.
    pid: Option<u32>,
    /// The child that it debugs.
    child: u32,
    /// A step that has not come to an end that a person would see.
    stepping: Option<Step>,
}

/// A step in or over.
struct Step {
    command: String,
    /// Where it began: number of frames, and the newest one.
    from: (usize, Option<Place>),
    /// Steps of the adapter that may still be taken.
    left: u32,
}

/// Why a request is not answered with a body.
struct Refused(String);

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl Debugger {
    fn new(program: PathBuf, events: mpsc::UnboundedSender<Value>, own: Weak<Self>) -> Self {
        let prefix = std::env::temp_dir().join(format!("alephlab_{}", std::process::id()));
        Self {
            program,
            printers: Mutex::default(),
            is_on: AtomicBool::new(false),
            cells: Mutex::new(Cells::new(format!("{}/", prefix.display()))),
            variables: Mutex::default(),
            attached: tokio::sync::Mutex::default(),
            stopped: AtomicU64::new(0),
            is_interrupted: AtomicBool::new(false),
            child: Mutex::default(),
            started: watch::Sender::new(false),
            adapter: AtomicU32::new(0),
            events,
            own,
        }
    }

    // What the evaluator calls.

    /// Whether cells are to be compiled for the debugger.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Where the toolchain keeps its printers of Rust's types.
    pub(crate) fn set_printers(&self, folder: PathBuf) {
        *lock(&self.printers) = Some(folder);
    }

    /// The child that runs cells from now on; none after one has ended.
    pub(crate) fn set_child(&self, child: Option<u32>) {
        *lock(&self.child) = child;
        self.started.send_replace(true);
    }

    /// Process id of the adapter, while it runs.
    pub(crate) fn adapter(&self) -> Option<u32> {
        Some(self.adapter.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    pub(crate) fn set_variables(&self, variables: Vec<Variable>) {
        *lock(&self.variables) = variables;
    }

    /// A cell begins: its text, and what of it is compiled.
    pub(crate) fn begin(&self, text: &str, compiled: &str) {
        self.is_interrupted.store(false, Ordering::Release);
        lock(&self.cells).begin(text, compiled);
    }

    /// A compiled file is about to be loaded: its breakpoints are set first.
    pub(crate) async fn load(&self, file: &Path, lines: Lines) {
        let wanted = lock(&self.cells).add_file(file, lines);
        let loading = async {
            let mut attached = self.attached.lock().await;
            self.follow(&mut attached).await;
            if let Some(one) = attached.as_mut().filter(|_| !wanted.is_empty()) {
                set(one, file, &wanted).await;
            }
        };
        if tokio::time::timeout(LOAD_LIMIT, loading).await.is_err() {
            tracing::warn!("the debugger does not answer and is given up");
            // Whoever holds it waits for an answer too, and gives it up then.
            if let Ok(mut attached) = self.attached.try_lock() {
                self.lose(&mut attached);
            }
        }
    }

    /// Lets a child that stands still run on, and past the breakpoints that follow: it cannot hear an interrupt
    /// otherwise.
    pub(crate) async fn resume(&self) {
        self.is_interrupted.store(true, Ordering::Release);
        if self.stopped.load(Ordering::Acquire) == 0 {
            return;
        }
        let going_on = async {
            if let Some(attached) = self.attached.lock().await.as_mut() {
                let _ = attached.adapter.ask("continue", &json!({ "threadId": 0 })).await;
            }
        };
        let _ = tokio::time::timeout(RESUME_LIMIT, going_on).await;
    }

    // What clients ask.

    /// Content of the reply to a `debug_request`.
    pub(crate) async fn answer(&self, request: &Value) -> Value {
        let command = request["command"].as_str().unwrap_or_default();
        let arguments = &request["arguments"];
        let answered = match command {
            "debugInfo" => Ok(self.info()),
            "initialize" => Ok(capabilities()),
            "attach" | "launch" => self.attach().await,
            "disconnect" | "terminate" => Ok(self.detach().await),
            "dumpCell" => Ok(self.dump(arguments)),
            "setBreakpoints" => Ok(self.set_breakpoints(arguments).await),
            // Done when it was attached. A second one would let a child go on that stands at a breakpoint.
            "configurationDone" | "setExceptionBreakpoints" => Ok(json!({})),
            "source" => self.source(arguments),
            "inspectVariables" => Ok(self.variables()),
            "stackTrace" | "scopes" | "variables" | "threads" | "continue" | "next" | "stepIn"
            | "stepOut" | "pause" | "evaluate" | "setVariable" => self.pass_on(command, arguments).await,
            _ => Err(Refused(format!("{command} is nothing that this debugger does"))),
        };
        reply(request, answered)
    }

    fn info(&self) -> Value {
        let cells = lock(&self.cells);
        json!({
            "isStarted": self.is_on(),
            "hashMethod": "Murmur2",
            "hashSeed": cells::HASH_SEED,
            "tmpFilePrefix": cells.prefix(),
            "tmpFileSuffix": cells::SUFFIX,
            "breakpoints": cells.breakpoints(),
            "stoppedThreads": match self.stopped.load(Ordering::Acquire) { 0 => json!([]), thread => json!([thread]) },
            "richRendering": false,
            "exceptionPaths": [],
            "copyToGlobals": false,
        })
    }

    fn dump(&self, arguments: &Value) -> Value {
        let text = arguments["code"].as_str().unwrap_or_default();
        json!({ "sourcePath": lock(&self.cells).dump(text) })
    }

    fn source(&self, arguments: &Value) -> Result<Value, Refused> {
        let path = arguments["source"]["path"].as_str().unwrap_or_default();
        let cells = lock(&self.cells);
        let text = cells
            .text(path)
            .ok_or_else(|| Refused(format!("{path} is no cell of this kernel")))?;
        Ok(json!({ "content": text, "mimeType": "text/rust" }))
    }

    fn variables(&self) -> Value {
        let variables: Vec<Value> = lock(&self.variables)
            .iter()
            .map(|one| {
                json!({ "name": one.name, "value": "", "type": one.kind, "variablesReference": 0,
                    "evaluateName": one.name })
            })
            .collect();
        json!({ "variables": variables })
    }

    async fn attach(&self) -> Result<Value, Refused> {
        // The evaluator starts while the first client connects. Later there may be no child, after a crash: the next
        // cell starts one, and it is attached to that.
        let mut started = self.started.subscribe();
        let _ = tokio::time::timeout(adapter::PATIENCE, started.wait_for(|started| *started)).await;
        let mut attached = self.attached.lock().await;
        self.is_on.store(true, Ordering::Release);
        self.follow(&mut attached).await;
        let child = *lock(&self.child);
        if attached.is_some() || child.is_none() {
            let _ = self
                .events
                .send(json!({ "type": "event", "event": "initialized", "seq": 0 }));
            return Ok(json!({}));
        }
        self.is_on.store(false, Ordering::Release);
        Err(Refused(
            "the process that runs cells cannot be debugged here".to_owned(),
        ))
    }

    async fn detach(&self) -> Value {
        self.is_on.store(false, Ordering::Release);
        let attached = self.attached.lock().await.take();
        if let Some(mut attached) = attached {
            let arguments = json!({ "terminateDebuggee": false });
            let _ = attached.adapter.ask("disconnect", &arguments).await;
        }
        self.adapter.store(0, Ordering::Release);
        self.stopped.store(0, Ordering::Release);
        json!({})
    }

    async fn set_breakpoints(&self, arguments: &Value) -> Value {
        let path = arguments["source"]["path"].as_str().unwrap_or_default();
        let asked = arguments["breakpoints"].as_array().cloned().unwrap_or_default();
        let lines: Vec<u64> = asked.iter().filter_map(|one| one["line"].as_u64()).collect();
        let changed = lock(&self.cells).set_breakpoints(path, lines.clone());
        let mut attached = self.attached.lock().await;
        if let Some(attached) = attached.as_mut() {
            for file in changed {
                let wanted = lock(&self.cells).lines(&file);
                set(attached, &file, &wanted).await;
            }
        }
        // The cell may not have been compiled yet: the breakpoint is set when it is.
        let placed: Vec<Value> = lines
            .iter()
            .enumerate()
            .map(|(id, line)| json!({ "id": id, "verified": true, "line": line, "source": { "path": path } }))
            .collect();
        json!({ "breakpoints": placed })
    }

    async fn pass_on(&self, command: &str, arguments: &Value) -> Result<Value, Refused> {
        let mut holder = self.attached.lock().await;
        let Some(attached) = holder.as_mut() else {
            return match command {
                // Nothing runs: the next cell starts the process.
                "threads" if self.is_on() => Ok(json!({ "threads": [] })),
                _ => Err(Refused("the debugger is not started".to_owned())),
            };
        };
        attached.stepping = match command {
            "stepIn" | "next" => Some(Step {
                command: command.to_owned(),
                from: self.position(attached, &arguments["threadId"]).await,
                left: MAX_STEPS,
            }),
            "continue" | "stepOut" | "pause" => None,
            _ => attached.stepping.take(),
        };
        let answered = attached.adapter.ask(command, arguments).await;
        if attached.adapter.is_hung() {
            self.lose(&mut holder);
        }
        let mut body = answered?;
        match command {
            "stackTrace" => translate::frames(&mut body, &lock(&self.cells)),
            "scopes" => translate::scopes(&mut body),
            "variables" => translate::variables(&mut body),
            _ => {}
        }
        Ok(body)
    }

    /// Attaches to the child that there is now, when it is another one than before.
    async fn follow(&self, attached: &mut Option<Attached>) {
        let child = *lock(&self.child);
        if !self.is_on() || attached.as_ref().map(|one| one.child) == child {
            return;
        }
        *attached = None;
        self.stopped.store(0, Ordering::Release);
        let Some(child) = child else { return };
        match self.attach_to(child).await {
            Ok(one) => *attached = Some(one),
            Err(message) => tracing::warn!(message, "the debugger cannot attach"),
        }
    }

    /// The adapter has ended, or is given up. What it debugged goes on without; but not where it has put breakpoints into
    /// its code, which would end it sooner or later.
    fn lose(&self, attached: &mut Option<Attached>) {
        if let Some(lost) = attached.take().filter(|_| lock(&self.cells).has_breakpoints()) {
            tracing::warn!("the debugger is gone, and with it the process that runs cells");
            crate::child::kill_group(lost.child);
        }
        self.adapter.store(0, Ordering::Release);
        self.stopped.store(0, Ordering::Release);
        if self.is_on() {
            let event = json!({ "type": "event", "event": "continued", "seq": 0,
                "body": { "threadId": 0, "allThreadsContinued": true } });
            let _ = self.events.send(event);
        }
    }

    async fn attach_to(&self, child: u32) -> Result<Attached, String> {
        let (events, mut said) = mpsc::unbounded_channel();
        let mut adapter = Adapter::start(&self.program, events).map_err(|error| error.to_string())?;
        self.adapter.store(adapter.pid().unwrap_or(0), Ordering::Release);
        let client = json!({ "clientID": "alephlab", "adapterID": "lldb", "pathFormat": "path",
            "linesStartAt1": true, "columnsStartAt1": true });
        adapter.ask("initialize", &client).await?;
        let arguments = json!({ "pid": child, "initCommands": self.commands(), "postRunCommands": signals(),
            "stopOnEntry": false });
        let attaching = adapter.send("attach", &arguments).await;
        // Says that it can be told breakpoints; some versions answer the request itself only behind the next one.
        loop {
            match tokio::time::timeout(adapter::PATIENCE, said.recv()).await {
                Ok(Some(event)) if event["event"] == "initialized" => break,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    attaching.wait().await?;
                    return Err("the debugger has ended".to_owned());
                }
            }
        }
        let files: Vec<(PathBuf, Vec<u64>)> = {
            let cells = lock(&self.cells);
            cells
                .files()
                .map(|file| (file.to_owned(), cells.lines(file)))
                .collect()
        };
        let mut attached = Attached {
            pid: adapter.pid(),
            adapter,
            child,
            stepping: None,
        };
        for (file, lines) in files {
            if !lines.is_empty() {
                set(&mut attached, &file, &lines).await;
            }
        }
        attached.adapter.ask("configurationDone", &Value::Null).await?;
        attaching.wait().await?;
        let (debugger, pid) = (Weak::clone(&self.own), attached.adapter.pid());
        tokio::spawn(async move {
            while let Some(event) = said.recv().await {
                let Some(debugger) = debugger.upgrade() else {
                    return;
                };
                debugger.hear(event).await;
            }
            // The adapter has ended, by itself when it is still the one that is used.
            let Some(debugger) = debugger.upgrade() else {
                return;
            };
            let mut attached = debugger.attached.lock().await;
            if attached.as_ref().is_some_and(|one| one.pid == pid) {
                tracing::warn!("the debugger has ended");
                debugger.lose(&mut attached);
            }
        });
        Ok(attached)
    }

    /// Passes on the events that clients understand, while somebody debugs.
    async fn hear(&self, event: Value) {
        match event["event"].as_str() {
            Some("stopped") => {
                let thread = event["body"]["threadId"].as_u64().unwrap_or(1);
                self.stopped.store(thread, Ordering::Release);
                if self.goes_on(&event["body"]).await {
                    self.stopped.store(0, Ordering::Release);
                    return;
                }
            }
            Some("continued" | "exited" | "terminated") => self.stopped.store(0, Ordering::Release),
            Some("thread") => {}
            _ => return,
        }
        if self.is_on() {
            let _ = self.events.send(event);
        }
    }

    /// Whether the child was let go on: the person has interrupted it, or is not where a step would take them, in the
    /// library or on the same line.
    async fn goes_on(&self, stopped: &Value) -> bool {
        let mut attached = self.attached.lock().await;
        let Some(attached) = attached.as_mut() else {
            return false;
        };
        if self.is_interrupted.load(Ordering::Acquire) {
            attached.stepping = None;
            let arguments = json!({ "threadId": stopped["threadId"] });
            return attached.adapter.ask("continue", &arguments).await.is_ok();
        }
        let Some(mut step) = attached.stepping.take() else {
            return false;
        };
        let thread = &stopped["threadId"];
        if stopped["reason"] != "step" {
            return false;
        }
        let now = self.position(attached, thread).await;
        let (in_cell, moved) = (now.1.is_some(), now != step.from);
        if step.left == 0 || (in_cell && moved) {
            return false;
        }
        step.left -= 1;
        // Out of the library at once; on the same line, on.
        let command = if in_cell {
            step.command.clone()
        } else {
            "stepOut".to_owned()
        };
        attached.stepping = Some(step);
        let going_on = attached
            .adapter
            .ask(&command, &json!({ "threadId": thread }))
            .await;
        going_on.is_ok()
    }

    /// Frames of cells on the stack, and the place of the newest frame when it is one.
    async fn position(&self, attached: &mut Attached, thread: &Value) -> (usize, Option<Place>) {
        let arguments = json!({ "threadId": thread });
        let body = attached
            .adapter
            .ask("stackTrace", &arguments)
            .await
            .unwrap_or_default();
        translate::position(&body, &lock(&self.cells))
    }

    /// Before there is a process.
    fn commands(&self) -> Vec<String> {
        let mut commands = vec!["settings set target.process.thread.step-out-avoid-nodebug true".to_owned()];
        if let Some(folder) = lock(&self.printers).as_ref() {
            let folder = folder.display();
            commands.push(format!("command script import \"{folder}/lldb_lookup.py\""));
            commands.push(format!("command source -s 0 \"{folder}/lldb_commands\""));
        }
        commands
    }
}

/// Sets the breakpoints of a generated file. A file that is not loaded yet is known to the adapter by its name.
async fn set(attached: &mut Attached, file: &Path, lines: &[u64]) {
    let breakpoints: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
    let arguments = json!({ "source": { "path": file }, "breakpoints": breakpoints, "lines": lines });
    if let Err(message) = attached.adapter.ask("setBreakpoints", &arguments).await {
        tracing::warn!(message, "breakpoints are not set");
    }
}

/// The reply where no debugger is installed.
pub(crate) fn missing(request: &Value) -> Value {
    let message =
        "there is no debugger on this machine: install lldb-dap (on Debian: apt-get install lldb-19)";
    reply(request, Err(Refused(message.to_owned())))
}

/// A response of the protocol.
fn reply(request: &Value, answered: Result<Value, Refused>) -> Value {
    let mut reply = json!({ "type": "response", "request_seq": request["seq"], "seq": request["seq"],
        "command": request["command"], "success": answered.is_ok() });
    match answered {
        Ok(body) => reply["body"] = body,
        Err(Refused(message)) => reply["message"] = json!(message),
    }
    reply
}

fn signals() -> Vec<String> {
    let handle = |signal: &&str| format!("process handle {signal} --stop false --notify false --pass true");
    OWN_SIGNALS.iter().map(handle).collect()
}

fn capabilities() -> Value {
    json!({ "supportsConfigurationDoneRequest": true, "supportsSetVariable": true,
        "supportsEvaluateForHovers": true, "supportTerminateDebuggee": false })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
