//! The evaluators of Rust with a real compiler, over the protocol, with the real program.
//!
//! Needs a runtime template, named by `ALEPHLAB_RUNTIME_TEMPLATE`. Without it these tests fail and say so, unless
//! `ALEPHLAB_NO_TEMPLATE=1` says that this run is to do without.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it could not try"
)]
#![expect(missing_docs, unreachable_pub, reason = "tests")]

mod analysis;
#[path = "../support/client.rs"]
mod client;
mod corpus;
mod dependencies;
mod errors;
mod gpu;
mod interrupts;
mod outputs;
mod subshells;
mod template;

use std::path::PathBuf;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};

use client::{Client, Message, ipc};

/// One kernel at a time: evcxr needs a gigabyte for rust-analyzer.
static ONE: Mutex<()> = Mutex::const_new(());

/// A kernel process and a client.
pub struct Session {
    pub client: Client,
    pub process: Child,
    pub folder: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

/// The template, or `None` when this run does without.
pub fn template() -> Option<PathBuf> {
    if let Some(template) = std::env::var_os("ALEPHLAB_RUNTIME_TEMPLATE") {
        return Some(template.into());
    }
    let skip = std::env::var_os("ALEPHLAB_NO_TEMPLATE").is_some_and(|value| value == "1");
    assert!(
        skip,
        "set ALEPHLAB_RUNTIME_TEMPLATE to a runtime template (`alephlab-kernel template --runtime-source . --out DIR` \
         builds one), or ALEPHLAB_NO_TEMPLATE=1 to do without these tests"
    );
    None
}

/// What compiles cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Zygote,
    Evcxr,
}

/// Starts a kernel on the template; `None` when this run does without.
pub async fn start() -> Option<Session> {
    start_with(Engine::Zygote).await
}

/// Starts a kernel with an engine.
pub async fn start_with(engine: Engine) -> Option<Session> {
    Some(start_on(&template()?, engine, &[]).await)
}

pub async fn start_on(template: &std::path::Path, engine: Engine, env: &[(&str, &str)]) -> Session {
    let one = ONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let info = ipc(folder.path());
    let file = folder.path().join("connection.json");
    std::fs::write(&file, serde_json::to_string(&info).unwrap()).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_alephlab-kernel"))
        .arg("run")
        .arg("--connection-file")
        .arg(&file)
        .arg("--runtime")
        .arg(template)
        .args([
            "--engine",
            if engine == Engine::Zygote {
                "zygote"
            } else {
                "evcxr"
            },
        ])
        .current_dir(folder.path())
        .envs(env.iter().copied())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let socket = folder.path().join("k-5");
    let deadline = tokio::time::Instant::now() + client::DEADLINE;
    while !socket.exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the kernel does not start"
        );
        tokio::task::yield_now().await;
    }
    let client = Client::connect(&info, "client-1").await;
    Session {
        client,
        process,
        folder,
        _one: one,
    }
}

impl Session {
    /// Runs a cell that must succeed; what iopub said.
    pub async fn ok(&mut self, code: &str) -> Vec<Message> {
        let (reply, messages) = self.client.run(code).await;
        assert_eq!(reply.content["status"], "ok", "{code}\n{messages:#?}");
        messages
    }

    /// Runs a cell that must succeed; the plain text of its result.
    pub async fn value(&mut self, code: &str) -> String {
        let messages = self.ok(code).await;
        client::only(&messages, "execute_result").content["data"]["text/plain"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Runs a cell that must fail with exactly one error and no other output; the reply's content.
    pub async fn error(&mut self, code: &str) -> serde_json::Value {
        let (reply, messages) = self.client.run(code).await;
        assert_eq!(
            client::types(&messages),
            ["execute_input", "error"],
            "{messages:#?}"
        );
        assert_eq!(reply.content["status"], "error");
        for field in ["ename", "evalue", "traceback"] {
            assert_eq!(reply.content[field], messages[1].content[field]);
        }
        reply.content
    }

    /// Shuts the kernel down and waits for its end.
    pub async fn end(mut self) {
        let id = self
            .client
            .ask_control("shutdown_request", json!({ "restart": false }))
            .await;
        self.client.control_reply(&id).await;
        let status = tokio::time::timeout(client::DEADLINE, self.process.wait()).await;
        assert!(status.expect("the process ends").unwrap().success());
    }
}
