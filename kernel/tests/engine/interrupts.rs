//! Interrupting real cells: with variables kept where the cell looks, by force where it does not.

use serde_json::json;

use crate::client::{Message, stream};
use crate::{Session, start};

/// Starts a cell, waits for its word `go`, interrupts; the reply.
async fn interrupted(session: &mut Session, code: &str) -> Message {
    let id = session
        .client
        .ask("execute_request", json!({ "code": code }))
        .await;
    while stream(&[session.client.iopub().await], "stdout") != "go\n" {}
    interrupt(session).await;
    let reply = session.client.reply(&id).await;
    session.client.until_idle(&id).await;
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_button_still_works_after_a_cell_was_interrupted() {
    let Some(mut session) = start().await else { return };
    let code = "let b = button(\"go\"); b.on_click(|| { for _ in 0..3 { check_interrupt(); } println!(\"clicked\"); });";
    let messages = session.ok(code).await;
    let opened = messages.iter().filter(|one| one.msg_type == "comm_open");
    let is_button = |one: &&Message| one.content["data"]["state"]["_model_name"] == "ButtonModel";
    let button = opened.into_iter().find(is_button).unwrap().content["comm_id"].clone();
    let reply = interrupted(&mut session, "println!(\"go\"); loop { check_interrupt(); }").await;
    assert_eq!(reply.content["ename"], "KeyboardInterrupt");
    let click = json!({ "comm_id": button, "data": { "method": "custom", "content": { "event": "click" } } });
    session.client.ask("comm_msg", click).await;
    let printed = session.client.until_type("stream").await;
    assert_eq!(stream(&[printed], "stdout"), "clicked\n");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_too_large_to_hand_over_is_said_and_a_smaller_one_still_comes() {
    let Some(mut session) = start().await else { return };
    let code =
        "let notes = file_upload(\"Notes\"); notes.on_change(|files| println!(\"heard {}\", files.len()));";
    let messages = session.ok(code).await;
    let opened = messages.iter().filter(|one| one.msg_type == "comm_open");
    let is_upload = |one: &&Message| one.content["data"]["state"]["_model_name"] == "FileUploadModel";
    let upload = opened.into_iter().find(is_upload).unwrap().content["comm_id"].clone();
    let chosen = |name: &str, padding: usize| {
        let state = json!({ "value": [{ "name": name, "padding": "x".repeat(padding) }] });
        json!({ "comm_id": upload, "data": { "method": "update", "state": state } })
    };
    session
        .client
        .ask("comm_msg", chosen("large.csv", 64 << 20))
        .await;
    let said = stream(&[session.client.until_type("stream").await], "stderr");
    assert!(
        said.contains("64 MiB") && said.contains("alephlab dataset put"),
        "{said}"
    );
    session.client.ask("comm_msg", chosen("small.csv", 1)).await;
    let said = session.client.until_type("stream").await;
    assert_eq!(stream(&[said], "stdout"), "heard 0\n");
    session.end().await;
}

async fn interrupt(session: &mut Session) {
    let id = session.client.ask_control("interrupt_request", json!({})).await;
    session.client.control_reply(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_keeps_variables_and_what_cannot_look_is_ended() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = 7;").await;
    let reply = interrupted(&mut session, "println!(\"go\"); loop { check_interrupt(); }").await;
    assert_eq!(reply.content["ename"], "KeyboardInterrupt");
    assert!(
        reply.content["evalue"].as_str().unwrap().contains("kept"),
        "{reply:?}"
    );
    assert_eq!(session.value("check_interrupt(); kept").await, "7");
    let swallows = "println!(\"go\"); loop { let _ = std::panic::catch_unwind(|| check_interrupt()); check_interrupt(); }";
    assert_eq!(
        interrupted(&mut session, swallows).await.content["ename"],
        "KeyboardInterrupt"
    );
    assert_eq!(session.value("kept").await, "7");
    // Every loop of a cell looks, also where the person wrote no check.
    for code in [
        "loop { std::hint::spin_loop() }",
        "(0u64..).map(|x| x ^ 1).max()",
        "fn f() { loop {} } f()",
    ] {
        let reply = interrupted(&mut session, &format!("println!(\"go\"); {code}")).await;
        assert_eq!(reply.content["ename"], "KeyboardInterrupt");
    }
    assert_eq!(session.value("kept").await, "7");
    let sleeps = "println!(\"go\"); std::thread::sleep(std::time::Duration::from_secs(600));";
    let reply = interrupted(&mut session, sleeps).await;
    assert_eq!(reply.content["ename"], "KeyboardInterrupt");
    assert!(
        reply.content["evalue"].as_str().unwrap().contains("gone"),
        "{reply:?}"
    );
    assert_eq!(session.value("1 + 1").await, "2");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiling_is_stopped_with_variables_kept_and_a_late_interrupt_hurts_nobody() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = 7;").await;
    // Takes the compiler long enough to be caught at it.
    let slow = format!(
        "let _ = ({});",
        (0..3000)
            .map(|n| format!("format!(\"{{}}\", {n})"))
            .collect::<Vec<_>>()
            .join(".len(), ")
            + ".len()"
    );
    let id = session
        .client
        .ask("execute_request", json!({ "code": slow }))
        .await;
    while session.client.iopub().await.msg_type != "execute_input" {}
    interrupt(&mut session).await;
    let reply = session.client.reply(&id).await;
    assert_eq!(reply.content["ename"], "KeyboardInterrupt", "{reply:?}");
    session.client.until_idle(&id).await;
    interrupt(&mut session).await;
    assert_eq!(session.value("kept").await, "7");
    session.end().await;
}
