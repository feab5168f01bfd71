//! Running notebooks against a scripted kernel behind a real WebSocket.

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::execute::{self, Target, Watch};
use super::notebook::Notebook;
use crate::error::{CliError, Result};

/// Plays a kernel on one connection: code says what to do.
async fn kernel() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
        let mut count = 0;
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let request: Value = serde_json::from_str(&text).unwrap();
            for answer in answers(&request, &mut count) {
                socket.send(Message::text(answer.to_string())).await.unwrap();
            }
            if request["content"]["code"] == "die" {
                return;
            }
        }
    });
    url
}

fn answers(request: &Value, count: &mut u64) -> Vec<Value> {
    let message = |channel: &str, msg_type: &str, content: Value| {
        json!({
            "channel": channel, "header": {"msg_type": msg_type}, "parent_header": request["header"],
            "metadata": {}, "content": content,
        })
    };
    if request["header"]["msg_type"] == "kernel_info_request" {
        return vec![message("shell", "kernel_info_reply", json!({"status": "ok"}))];
    }
    *count += 1;
    let code = request["content"]["code"].as_str().unwrap();
    let mut output = match code {
        "print" => vec![message(
            "iopub",
            "stream",
            json!({"name": "stdout", "text": "hi\n"}),
        )],
        "bar" => vec![message(
            "iopub",
            "display_data",
            json!({"data": {"text/plain": "0"}, "metadata": {}, "transient": {"display_id": "d"}}),
        )],
        "update" => vec![message(
            "iopub",
            "update_display_data",
            json!({"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}),
        )],
        "die" => return Vec::new(),
        _ => Vec::new(),
    };
    let error = json!({"status": "error", "execution_count": *count, "ename": "Panic", "evalue": "boom", "traceback": ["\u{1b}[31mboom\u{1b}[0m"]});
    let reply = if code == "fail" {
        error.clone()
    } else {
        json!({"status": "ok", "execution_count": *count})
    };
    if code == "fail" {
        output.push(message("iopub", "error", error));
    }
    // Somebody else's output in between must not be taken for this cell's.
    let mut foreign = message("iopub", "stream", json!({"name": "stdout", "text": "foreign"}));
    foreign["parent_header"] = json!({"msg_id": "other"});
    let mut all = vec![
        message("iopub", "status", json!({"execution_state": "busy"})),
        foreign,
    ];
    all.append(&mut output);
    // The reply may overtake the last output.
    all.insert(all.len() - 1, message("shell", "execute_reply", reply));
    all.push(message("iopub", "status", json!({"execution_state": "idle"})));
    all
}

#[derive(Default)]
struct Seen(Vec<String>);

impl Watch for Seen {
    fn cell(&mut self, number: usize, total: usize, _source: &str) {
        self.0.push(format!("{number}/{total}"));
    }

    fn output(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }

    fn display(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

async fn run(cells: &[(&str, &[&str])]) -> (Result<()>, Notebook, Vec<String>) {
    let cells: Vec<Value> = cells
        .iter()
        .map(|(code, tags)| {
            json!({"cell_type": "code", "metadata": {"tags": tags}, "source": code, "outputs": [], "execution_count": null})
        })
        .collect();
    let text = json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).to_string();
    let mut notebook = Notebook::parse(text.as_bytes()).unwrap();
    let token = Secret::new("t");
    let gateway = GatewayClient::new(&kernel().await, Some(token.clone())).unwrap();
    let target = Target {
        gateway: &gateway,
        token: &token,
        kernel: Uuid::nil(),
    };
    let mut channels = execute::connect(&target).await.unwrap();
    let mut seen = Seen::default();
    let result = execute::run(&target, &mut channels, &mut notebook, &mut seen).await;
    (result, notebook, seen.0)
}

#[tokio::test]
async fn outputs_land_in_their_cells_and_updates_reach_back() {
    let (result, notebook, seen) = run(&[("print", &[]), ("bar", &[]), ("update", &[])]).await;
    result.unwrap();
    assert_eq!(
        notebook.outputs(0),
        [json!({"output_type": "stream", "name": "stdout", "text": ["hi\n"]})]
    );
    assert_eq!(notebook.outputs(1)[0]["data"]["text/plain"], json!(["1"]));
    assert!(notebook.outputs(2).is_empty());
    assert_eq!(
        [0, 1, 2].map(|cell| notebook.execution_count(cell)),
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(seen, ["1/3", "hi\n", "2/3", "0", "3/3", "1"]);
}

#[tokio::test]
async fn a_failing_cell_ends_the_run_and_its_error_is_kept() {
    let (result, notebook, _) = run(&[("print", &[]), ("fail", &[]), ("print", &[])]).await;
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "cell 2 failed: Panic: boom");
    assert!(matches!(error, CliError::Cell { traceback, .. } if traceback == "boom"));
    assert_eq!(notebook.outputs(1)[0]["ename"], "Panic");
    assert!(notebook.outputs(2).is_empty() && notebook.execution_count(2).is_none());
}

#[tokio::test]
async fn a_cell_that_may_fail_does_not_end_the_run() {
    let (result, notebook, _) = run(&[("fail", &["raises-exception"]), ("print", &[])]).await;
    result.unwrap();
    assert_eq!(notebook.outputs(1).len(), 1);
}

#[tokio::test]
async fn a_kernel_that_goes_away_is_an_error_and_earlier_outputs_stay() {
    let (result, notebook, _) = run(&[("print", &[]), ("die", &[])]).await;
    assert!(matches!(result.unwrap_err(), CliError::Kernel { .. }));
    assert_eq!(notebook.outputs(0).len(), 1);
}
