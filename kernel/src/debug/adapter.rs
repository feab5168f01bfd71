//! lldb-dap as a process: requests and their responses, and its events.
//!
//! Debug Adapter Protocol, "Base protocol": a `Content-Length` header, an empty line, JSON.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

/// Longest message that is taken from the adapter.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// How long the adapter may take for one request; reading symbols takes seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Names that Debian and others give the program, newest first.
const NAMES: [&str; 6] = [
    "lldb-dap",
    "lldb-dap-22",
    "lldb-dap-21",
    "lldb-dap-20",
    "lldb-dap-19",
    "lldb-dap-18",
];

/// The program, when it is installed.
pub(super) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let files = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    files.into_iter().find(|file| file.is_file())
}

/// A running adapter. Ends when it is dropped; what it debugged goes on.
pub(super) struct Adapter {
    process: Child,
    input: ChildStdin,
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    /// A request was not answered in time.
    is_hung: bool,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Value>>,
    /// The adapter has ended: nobody is answered any more.
    ended: bool,
}

impl Adapter {
    /// Starts the program; its events go to `events`, whose end is the adapter's.
    pub(super) fn start(program: &Path, events: mpsc::UnboundedSender<Value>) -> std::io::Result<Self> {
        let mut process = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        tokio::spawn(read(output, Arc::clone(&waiting), events));
        Ok(Self {
            process,
            input,
            waiting,
            number: 0,
            is_hung: false,
        })
    }

    /// Process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Whether it has left a request without an answer: it will hardly answer another one.
    pub(super) fn is_hung(&self) -> bool {
        self.is_hung
    }

    /// Sends a request; its response comes later.
    pub(super) async fn send(&mut self, command: &str, arguments: &Value) -> Answer {
        self.number += 1;
        let (answer, answered) = oneshot::channel();
        let mut message = json!({ "seq": self.number, "type": "request", "command": command });
        if !arguments.is_null() {
            message["arguments"] = arguments.clone();
        }
        {
            let mut waiting = lock(&self.waiting);
            if !waiting.ended {
                waiting.answers.insert(self.number, answer);
            }
        }
        let body = message.to_string();
        let text = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        if self.input.write_all(text.as_bytes()).await.is_err() {
            lock(&self.waiting).answers.remove(&self.number);
        }
        Answer(answered)
    }

    /// Sends a request and waits for its response: its body, or what the adapter said against it.
    pub(super) async fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let answer = self.send(command, arguments).await;
        let started = Instant::now();
        let answered = answer.wait().await;
        self.is_hung |= answered.is_err() && started.elapsed() >= PATIENCE;
        answered
    }
}

/// A response that comes later.
pub(super) struct Answer(oneshot::Receiver<Value>);

impl Answer {
    /// The response's body, or what the adapter said against the request.
    pub(super) async fn wait(self) -> Result<Value, String> {
        let response = match tokio::time::timeout(PATIENCE, self.0).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => return Err("the debugger has ended".to_owned()),
            Err(_) => return Err("the debugger does not answer".to_owned()),
        };
        if response["success"] == true {
            return Ok(response.get("body").cloned().unwrap_or_else(|| json!({})));
        }
        let said = response["body"]["error"]["format"].as_str();
        let said = said.or_else(|| response["message"].as_str());
        Err(said.unwrap_or("the debugger refused").to_owned())
    }
}

/// Passes on what the adapter says, until it ends.
async fn read(output: ChildStdout, waiting: Arc<Mutex<Waiting>>, events: mpsc::UnboundedSender<Value>) {
    let mut output = BufReader::new(output);
    while let Some(message) = next(&mut output).await {
        if message["type"] == "event" {
            let _ = events.send(message);
        } else if let Some(number) = message["request_seq"].as_u64() {
            let answer = lock(&waiting).answers.remove(&number);
            if let Some(answer) = answer {
                let _ = answer.send(message);
            }
        }
    }
    let mut waiting = lock(&waiting);
    waiting.ended = true;
    waiting.answers.clear();
}

/// The next message; nothing at the end, and for what is no message.
async fn next(output: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length:") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.filter(|length| *length <= MAX_MESSAGE_BYTES)?;
    let mut body = vec![0; length];
    output.read_exact(&mut body).await.ok()?;
    serde_json::from_slice(&body).ok()
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
