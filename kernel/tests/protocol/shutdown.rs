//! The end: the reply arrives, the process goes, signals are understood. With the real program.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};

use crate::client::{Client, ipc, stream};

struct Process {
    child: Child,
    info: jupyter_protocol::ConnectionInfo,
    _folder: tempfile::TempDir,
}

fn start() -> Process {
    let folder = tempfile::tempdir().unwrap();
    let info = ipc(folder.path());
    let file = folder.path().join("connection.json");
    std::fs::write(&file, serde_json::to_string(&info).unwrap()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_alephlab-kernel"))
        .args(["run", "--engine", "scripted", "--connection-file"])
        .arg(&file)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Process {
        child,
        info,
        _folder: folder,
    }
}

impl Process {
    async fn client(&self) -> Client {
        let socket = std::path::PathBuf::from(format!("{}-5", self.info.ip));
        let deadline = tokio::time::Instant::now() + crate::client::DEADLINE;
        while !socket.exists() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the kernel does not start"
            );
            tokio::task::yield_now().await;
        }
        Client::connect(&self.info, "client-1").await
    }

    async fn ends(&mut self) {
        let status = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        assert!(status.expect("the process ends").unwrap().success());
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(
            std::process::Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shutdown_reply_arrives_before_the_process_ends() {
    for restart in [false, true] {
        let mut process = start();
        let mut client = process.client().await;
        let id = client
            .ask_control("shutdown_request", json!({ "restart": restart }))
            .await;
        let reply = client.control_reply(&id).await;
        assert_eq!(reply.content, json!({ "status": "ok", "restart": restart }));
        process.ends().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shell_takes_a_shutdown_too_and_other_clients_hear_of_it() {
    let mut process = start();
    let mut client = process.client().await;
    let mut other = Client::connect(&process.info, "client-2").await;
    let id = client.ask("shutdown_request", json!({ "restart": false })).await;
    client.reply(&id).await;
    while other.iopub().await.msg_type != "shutdown_reply" {}
    process.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_interrupts_the_cell_and_sigterm_ends_the_kernel_in_a_cell() {
    let mut process = start();
    let mut client = process.client().await;
    let id = client
        .ask("execute_request", json!({ "code": "print started\nhang" }))
        .await;
    while stream(&[client.iopub().await], "stdout") != "started\n" {}
    process.signal("-INT");
    assert_eq!(client.reply(&id).await.content["ename"], "KeyboardInterrupt");
    client
        .ask("execute_request", json!({ "code": "print again\nhang" }))
        .await;
    while stream(&[client.iopub().await], "stdout") != "again\n" {}
    process.signal("-TERM");
    process.ends().await;
}
