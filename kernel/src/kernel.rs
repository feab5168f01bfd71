//! Puts the kernel together: binds the channels, starts a task for each, waits for the end.
//!
//! [`Core`] is what all channels share. The program calls [`Kernel::start`], then [`Kernel::wait`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alephlab_link::{CommEvent, CommKind};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use crate::analysis;
use crate::comms::Comms;
use crate::completeness::{Completeness, completeness};
use crate::connection::{Channel, Connection};
use crate::debug::{self, Debugger};
use crate::evaluator::{Analyst, Engine, Language};
use crate::execute::{Common, Executor};
use crate::iopub::{Limits, Publisher};
use crate::request;
use crate::socket::{self, Control, Heartbeat, Replies, Shell, Stdin};
use crate::subshells::Subshells;
use crate::wire::{PROTOCOL_VERSION, Parent, Request, Session};
use crate::{Error, Result};

/// How long the process lives on after the shutdown reply. zeromq tells that a message is queued, not that it
/// is sent: a process that ends at once lost the reply 15 times of 15, with 50 ms never.
const LINGER: Duration = Duration::from_millis(150);

/// How long the first request waits for somebody to listen on iopub.
const SUBSCRIBER_WAIT: Duration = Duration::from_secs(1);

/// How to start a kernel.
pub struct Config {
    /// Where the client wants the channels.
    pub connection: Connection,
    /// What runs the cells.
    pub engine: Engine,
    /// When a client of iopub is too slow.
    pub limits: Limits,
    /// File of what was executed, shared with earlier and later kernels.
    pub history: Option<PathBuf>,
}

/// A running kernel.
pub struct Kernel {
    core: Arc<Core>,
    stop: Arc<dyn Fn() + Send + Sync>,
}

/// What all channels share.
pub(crate) struct Core {
    pub(crate) publisher: Arc<Publisher>,
    executor: Executor,
    subshells: Subshells,
    common: Arc<Common>,
    analyst: Arc<dyn Analyst>,
    comms: Arc<Comms>,
    debugger: Option<Arc<Debugger>>,
    language: Language,
    announced: OnceCell<()>,
    /// Set by a shutdown request.
    shutdown: CancellationToken,
}

impl Kernel {
    /// Binds the channels and starts serving. The evaluator starts in the background.
    ///
    /// # Errors
    /// [`Error::Bind`] when a port is taken, [`Error::Evaluator`] when no thread can be made.
    pub async fn start(config: Config) -> Result<Self> {
        let Config {
            connection,
            mut engine,
            limits,
            history,
        } = config;
        let shutdown = CancellationToken::new();
        let session = Arc::new(Session::new(connection.key()));
        let shell = socket::bind(&connection, Channel::Shell, &session).await?;
        let control = socket::bind(&connection, Channel::Control, &session).await?;
        let stdin = socket::bind(&connection, Channel::Stdin, &session).await?;
        let heartbeat = Heartbeat::bind(&connection).await?;
        let iopub = connection.address(Channel::IoPub);
        let publisher =
            Publisher::bind(&iopub, Arc::clone(&session), limits, CancellationToken::new()).await?;
        let (stdin, questions) = Stdin::new(stdin.0, stdin.1, session);
        let stop = Arc::clone(&engine.stop);
        let language = engine.language.clone();
        let debugger = engine.debugger.take();
        let (analyst, comms) = (Arc::clone(&engine.analyst), Arc::clone(&engine.comms));
        let common = Common::new(Arc::clone(&publisher), questions, history);
        let executor = Executor::start(&common, engine.start, engine.interrupt);
        let executor = executor.map_err(|error| Error::Evaluator {
            message: error.to_string(),
        })?;
        let core = Arc::new(Core {
            publisher,
            executor,
            subshells: Subshells::new(engine.subshell),
            common,
            analyst,
            comms,
            debugger: debugger.as_ref().map(|one| Arc::clone(&one.debugger)),
            language,
            announced: OnceCell::new(),
            shutdown,
        });
        if let Some(debugger) = debugger {
            let publisher = Arc::clone(&core.publisher);
            tokio::spawn(publish_debug_events(debugger.events, publisher));
        }
        let cancel = &core.shutdown;
        tokio::spawn(heartbeat.run(cancel.clone()));
        tokio::spawn(stdin.run(cancel.clone()));
        tokio::spawn(Control::new(Arc::clone(&core), control.0, control.1).run(cancel.clone()));
        tokio::spawn(Shell::new(Arc::clone(&core), shell.0, shell.1).run(cancel.clone()));
        let announcing = Arc::clone(&core);
        tokio::spawn(async move { announcing.announce().await });
        Ok(Self { core, stop })
    }

    /// Stops the running cell, as an interrupt request does.
    pub fn interrupt(&self) {
        // At once: later it could be the next cell's.
        self.core.executor.interrupt_all();
        let core = Arc::clone(&self.core);
        tokio::spawn(async move { core.resume().await });
    }

    /// Ends the kernel as a shutdown request does.
    pub fn shut_down(&self) {
        self.core.shutdown.cancel();
    }

    /// Cancelled when somebody asked for the end.
    pub fn ended(&self) -> CancellationToken {
        self.core.shutdown.clone()
    }

    /// Waits for the end: stops the evaluator and gives the last messages time to leave.
    pub async fn wait(self) {
        self.core.shutdown.cancelled().await;
        let replied = tokio::time::Instant::now();
        let stop = self.stop;
        let stopped = tokio::task::spawn_blocking(move || stop());
        if stopped.await.is_err() {
            tracing::warn!("the evaluator could not be stopped in order");
        }
        tokio::time::sleep_until(replied + LINGER).await;
    }
}

impl Core {
    pub(crate) fn busy(&self, request: &Request) {
        self.status("busy", &request.parent);
    }

    pub(crate) fn idle(&self, request: &Request) {
        self.common.idle_beside(request);
    }

    /// Answers what needs no evaluator, on shell and control alike. Unknown requests get busy and idle.
    pub(crate) async fn answer(&self, request: &Request, replies: &Replies) {
        self.busy(request);
        let content = match request.msg_type.as_str() {
            "kernel_info_request" => Some(self.kernel_info()),
            "is_complete_request" => Some(is_complete(&request.content)),
            "history_request" => Some(self.common.history(&request.content).await),
            "comm_info_request" => Some(self.comm_info(&request.content)),
            "shutdown_request" => Some(self.shutdown_content(request)),
            _ => self.subshells.answer(request),
        };
        if let Some(content) = content {
            replies.reply(request, &content).await;
        }
        self.idle(request);
        if request.msg_type == "shutdown_request" {
            self.shutdown.cancel();
        }
    }

    /// Queues an execution in its shell.
    pub(crate) fn execute(&self, request: Request, replies: Replies) {
        match request.subshell_id.clone() {
            None => self.executor.queue(request, replies),
            Some(id) => self
                .subshells
                .queue(&id, request, replies, &self.executor, &self.common),
        }
    }

    /// Stops the running cells. A child that stands at a breakpoint goes on first: it could not hear of it.
    pub(crate) async fn interrupt(&self) {
        self.executor.interrupt_all();
        self.resume().await;
    }

    async fn resume(&self) {
        if let Some(debugger) = &self.debugger {
            debugger.resume().await;
        }
    }

    /// Answers a request to the debugger.
    pub(crate) async fn debug(&self, request: &Request, replies: &Replies) {
        self.busy(request);
        let content = match &self.debugger {
            Some(debugger) => debugger.answer(&request.content).await,
            None => debug::missing(&request.content),
        };
        replies.reply(request, &content).await;
        self.idle(request);
    }

    /// Completes or inspects.
    pub(crate) async fn analyse(&self, request: &Request, replies: &Replies) {
        self.busy(request);
        let content = analysis::answer(&self.analyst, request).await;
        replies.reply(request, &content).await;
        self.idle(request);
    }

    /// Hands what a client says on a comm to the code of cells. A comm that nobody there wants is closed: the client
    /// would wait for it otherwise.
    pub(crate) fn hear_comm(self: &Arc<Self>, request: Request) {
        self.busy(&request);
        let said: request::Comm = serde_json::from_value(request.content.clone()).unwrap_or_default();
        let comm_id = said.comm_id.clone();
        let opens = request.msg_type == "comm_open";
        let event = CommEvent {
            comm_id: said.comm_id,
            kind: match request.msg_type.as_str() {
                "comm_open" => CommKind::Open {
                    target_name: said.target_name,
                },
                "comm_msg" => CommKind::Message,
                _ => CommKind::Close,
            },
            data: said.data,
            metadata: request.metadata.as_object().cloned().unwrap_or_default(),
            buffers: request.buffers.iter().map(|buffer| buffer.to_vec()).collect(),
        };
        let Some(heard) = self.comms.forward(event, &request.parent) else {
            if opens {
                let content = json!({ "comm_id": comm_id, "data": {} });
                self.publisher.publish("comm_close", &request.parent, &content);
            }
            self.idle(&request);
            return;
        };
        let core = Arc::clone(self);
        // Idle when it was heard: clients of widgets send the next change then, and not all of them at once.
        tokio::spawn(async move {
            let _ = heard.await;
            core.idle(&request);
        });
    }

    fn kernel_info(&self) -> Value {
        let (language, has_debugger) = (&self.language, self.debugger.is_some());
        let has = [
            ("debugger", has_debugger),
            ("kernel subshells", self.subshells.is_supported()),
        ];
        let features: Vec<&str> = has
            .iter()
            .filter(|(_, has)| *has)
            .map(|(name, _)| *name)
            .collect();
        json!({
            "status": "ok",
            "protocol_version": PROTOCOL_VERSION,
            "implementation": "alephlab",
            "implementation_version": env!("CARGO_PKG_VERSION"),
            "language_info": {
                "name": language.name,
                "version": language.version,
                "mimetype": language.mimetype,
                "file_extension": language.file_extension,
                "pygments_lexer": language.name,
                // A plain string: a client once failed on the object form.
                "codemirror_mode": language.name,
                "nbconvert_exporter": "script",
            },
            "banner": format!("Alephlab {} · {} {}", env!("CARGO_PKG_VERSION"), language.name, language.version),
            "help_links": [
                { "text": "The Rust Book", "url": "https://doc.rust-lang.org/book/" },
                { "text": "Rust standard library", "url": "https://doc.rust-lang.org/std/" },
                { "text": "candle", "url": "https://docs.rs/candle-core" },
            ],
            "supported_features": features,
            // What clients looked at before there were features.
            "debugger": has_debugger,
        })
    }

    fn comm_info(&self, content: &Value) -> Value {
        let asked: request::CommInfo = serde_json::from_value(content.clone()).unwrap_or_default();
        // Clients send an empty name for "all".
        let target = asked.target_name.as_deref().filter(|name| !name.is_empty());
        json!({ "status": "ok", "comms": self.comms.list(target) })
    }

    /// `starting`, once, to whoever listens first. Nothing on shell is answered before: a client that connects
    /// all channels at once would otherwise miss the first busy and idle, and wait for them for ever.
    pub(crate) async fn announce(&self) {
        let announced = self.announced.get_or_init(|| async {
            self.publisher.wait_for_subscriber(SUBSCRIBER_WAIT).await;
            self.status("starting", &Parent::none());
        });
        announced.await;
    }

    fn shutdown_content(&self, request: &Request) -> Value {
        let asked: request::Shutdown = serde_json::from_value(request.content.clone()).unwrap_or_default();
        let content = json!({ "status": "ok", "restart": asked.restart });
        // Other clients hear of it here.
        self.publisher
            .publish("shutdown_reply", &request.parent, &content);
        content
    }

    fn status(&self, state: &str, parent: &Parent) {
        self.publisher
            .publish("status", parent, &json!({ "execution_state": state }));
    }
}

fn is_complete(content: &Value) -> Value {
    let code = serde_json::from_value::<request::IsComplete>(content.clone()).map(|asked| asked.code);
    match completeness(&code.unwrap_or_default()) {
        Completeness::Complete => json!({ "status": "complete" }),
        Completeness::Incomplete { indent } => {
            json!({ "status": "incomplete", "indent": " ".repeat(indent) })
        }
        Completeness::Invalid => json!({ "status": "invalid" }),
    }
}

/// What the debugger says by itself: that a breakpoint was reached, for example.
async fn publish_debug_events(mut events: mpsc::UnboundedReceiver<Value>, publisher: Arc<Publisher>) {
    while let Some(event) = events.recv().await {
        publisher.publish("debug_event", &Parent::none(), &event);
    }
}
