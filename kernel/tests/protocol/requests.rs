//! The small requests: kernel_info, completion, inspection, is_complete, history, comms, unknown ones.

use alephlab_kernel::Parent;
use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;
use zeromq::{SocketRecv, SocketSend, ZmqMessage};

use crate::client::{Client, DEADLINE, Message, only, parse};
use crate::{Limits, serve, serve_all};

/// The reply to `id`; others that come before are dropped.
async fn reply_among_others(client: &mut Client, id: &str) -> Message {
    loop {
        let message = timeout(DEADLINE, client.shell.recv()).await;
        let message = parse(message.expect("a reply").unwrap());
        if message.parent.as_deref() == Some(id) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_info_has_what_clients_read() {
    let served = serve().await;
    let mut client = served.client().await;
    let info = client.content("kernel_info_request", json!({})).await;
    assert_eq!(info["protocol_version"], "5.5");
    assert_eq!(info["language_info"]["name"], "scripted");
    assert_eq!(info["language_info"]["file_extension"], ".script");
    assert!(info["language_info"]["codemirror_mode"].is_string());
    assert!(info["banner"].as_str().unwrap().contains("Alephlab"));
    assert!(info["help_links"][0]["url"].is_string() && info["supported_features"].is_array());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_counts_in_code_points() {
    let served = serve().await;
    let mut client = served.client().await;
    let answer = client
        .content(
            "complete_request",
            json!({ "code": "😀 é\npri", "cursor_pos": 7 }),
        )
        .await;
    assert_eq!(answer["matches"], json!(["print"]));
    assert_eq!(
        (&answer["cursor_start"], &answer["cursor_end"]),
        (&json!(4), &json!(7))
    );
    let types = &answer["metadata"]["_jupyter_types_experimental"];
    assert_eq!(
        (&types[0]["text"], &types[0]["type"]),
        (&json!("print"), &json!("keyword"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_does_not_wait_for_queued_cells() {
    let served = serve().await;
    let mut client = served.client().await;
    let (first, last) = (served.file("first"), served.file("last"));
    let until = |gate: &std::path::Path| json!({ "code": format!("until {}", gate.display()) });
    client.ask("execute_request", until(&first)).await;
    for _ in 0..100 {
        client.ask("execute_request", json!({ "code": "set x 1" })).await;
    }
    let cell = client.ask("execute_request", until(&last)).await;
    std::fs::write(&first, "").unwrap();
    // Some of these come while one cell has ended and the next has not begun.
    let asked = json!({ "code": "pri", "cursor_pos": 3 });
    for _ in 0..50 {
        let id = client.ask("complete_request", asked.clone()).await;
        let reply = reply_among_others(&mut client, &id).await;
        assert_eq!(reply.content["matches"], json!(["print"]));
    }
    std::fs::write(&last, "").unwrap();
    assert_eq!(
        reply_among_others(&mut client, &cell).await.content["status"],
        "ok"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_answered_beside_a_running_cell_sees_that_it_still_runs() {
    let served = serve().await;
    let mut client = served.client().await;
    let gate = served.file("gate");
    let code = format!("print begun\nuntil {}", gate.display());
    let cell = client.ask("execute_request", json!({ "code": code })).await;
    client.until_type("stream").await;
    let asked = client.ask_control("kernel_info_request", json!({})).await;
    client.control_reply(&asked).await;
    client.until_idle(&asked).await;
    let last = client.iopub().await;
    assert_eq!(
        (last.msg_type.as_str(), last.text("execution_state")),
        ("status", "busy")
    );
    assert_eq!(last.parent.as_deref(), Some(cell.as_str()));
    std::fs::write(&gate, "").unwrap();
    client.reply(&cell).await;
    let messages = client.until_idle(&cell).await;
    assert!(
        messages
            .iter()
            .all(|one| one.parent.as_deref() == Some(cell.as_str()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspection_finds_variables_and_says_when_it_finds_none() {
    let served = serve().await;
    let mut client = served.client().await;
    client.run("set x 5").await;
    let found = client
        .content("inspect_request", json!({ "code": "get x", "cursor_pos": 5 }))
        .await;
    assert_eq!(
        (&found["found"], &found["data"]["text/plain"]),
        (&json!(true), &json!("x = 5"))
    );
    let nothing = client
        .content("inspect_request", json!({ "code": "y", "cursor_pos": 99 }))
        .await;
    assert_eq!(
        (&nothing["found"], &nothing["status"]),
        (&json!(false), &json!("ok"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_complete_has_an_indent_only_when_incomplete() {
    let served = serve().await;
    let mut client = served.client().await;
    let answer = client
        .content("is_complete_request", json!({ "code": "fn f() {" }))
        .await;
    assert_eq!(answer, json!({ "status": "incomplete", "indent": "    " }));
    let answer = client
        .content("is_complete_request", json!({ "code": "1 + 1" }))
        .await;
    assert_eq!(answer, json!({ "status": "complete" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_remembers_stored_cells_only() {
    let served = serve().await;
    let mut client = served.client().await;
    client.run("result 1").await;
    client
        .run_with(json!({ "code": "print hidden", "store_history": false }))
        .await;
    client.run("error E no").await;
    let tail = client
        .content("history_request", json!({ "hist_access_type": "tail", "n": 10 }))
        .await;
    assert_eq!(tail["history"], json!([[1, 1, "result 1"], [1, 2, "error E no"]]));
    let search = json!({ "hist_access_type": "search", "pattern": "res*", "output": true });
    assert_eq!(
        client.content("history_request", search).await["history"],
        json!([[1, 1, ["result 1", "1"]]])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("history.jsonl"));
    let tail = json!({ "hist_access_type": "tail", "n": 10 });
    for (line, code) in ["result 1", "result 2"].iter().enumerate() {
        let served = serve_all(Limits::default(), false, file.clone()).await;
        let mut client = served.client().await;
        let before = client.content("history_request", tail.clone()).await;
        assert_eq!(before["history"].as_array().unwrap().len(), line);
        client.run(code).await;
    }
    let served = serve_all(Limits::default(), false, file).await;
    let found = served.client().await.content("history_request", tail).await;
    assert_eq!(found["history"], json!([[1, 1, "result 1"], [2, 1, "result 2"]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comms_go_both_ways_and_are_listed_until_they_close() {
    let served = serve().await;
    let mut client = served.client().await;
    let (_, messages) = client.run("comm c1").await;
    let opened = messages.iter().find(|one| one.msg_type == "comm_open").unwrap();
    assert_eq!(
        (opened.text("comm_id"), opened.text("target_name")),
        ("c1", "echo")
    );
    let listed = client.content("comm_info_request", json!({})).await;
    assert_eq!(listed["comms"], json!({ "c1": { "target_name": "echo" } }));
    let said = json!({ "comm_id": "c1", "data": { "n": [1, null] } });
    let id = client.ask("comm_msg", said).await;
    // The answer belongs to what was said, and comes before its idle: who waits for that knows that it was heard.
    let messages = client.until_idle(&id).await;
    assert_eq!(
        only(&messages, "comm_msg").content,
        json!({ "comm_id": "c1", "data": { "n": [1, null] } })
    );
    // With its metadata and its binary parts.
    let buffers = vec![
        Bytes::from_static(b"\0\xff"),
        Bytes::new(),
        Bytes::from(vec![7; 1 << 20]),
    ];
    let said = json!({ "comm_id": "c1", "data": {} });
    let parts = client
        .session
        .encode("comm_msg", &Parent::none(), &json!({ "version": "2.1" }), &said);
    let (id, frames) = (
        parts.msg_id.clone(),
        parts.with_buffers(buffers.clone()).frames(&[]),
    );
    client
        .shell
        .send(ZmqMessage::try_from(frames).unwrap())
        .await
        .unwrap();
    let messages = client.until_idle(&id).await;
    let echoed = only(&messages, "comm_msg");
    assert_eq!(
        (&echoed.metadata, &echoed.buffers),
        (&json!({ "version": "2.1" }), &buffers)
    );
    let id = client
        .ask("comm_close", json!({ "comm_id": "c1", "data": {} }))
        .await;
    only(&client.until_idle(&id).await, "comm_close");
    let listed = client.content("comm_info_request", json!({})).await;
    assert_eq!(listed["comms"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comm_for_an_unknown_target_is_closed() {
    let served = serve().await;
    let mut client = served.client().await;
    let open = json!({ "comm_id": "c1", "target_name": "jupyter.widget", "data": {} });
    let id = client.ask("comm_open", open).await;
    let messages = client.until_idle(&id).await;
    assert_eq!(
        (messages[1].msg_type.as_str(), messages[1].text("comm_id")),
        ("comm_close", "c1")
    );
    let comms = client
        .content("comm_info_request", json!({ "target_name": "x" }))
        .await;
    assert_eq!(comms, json!({ "status": "ok", "comms": {} }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_request_gets_busy_and_idle_on_both_channels() {
    let served = serve().await;
    let mut client = served.client().await;
    let on_shell = client.ask("usage_request", json!({})).await;
    assert_eq!(client.until_idle(&on_shell).await.len(), 1);
    let on_control = client.ask_control("debug_request", json!({})).await;
    assert_eq!(client.until_idle(&on_control).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_content_is_wrong_is_answered_with_an_error() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, _) = client.run_with(json!({ "code": 7 })).await;
    assert_eq!(
        (&reply.content["status"], &reply.content["ename"]),
        (&json!("error"), &json!("MalformedRequest"))
    );
    let answer = client.content("complete_request", json!([])).await;
    assert_eq!(answer["status"], "error");
}
