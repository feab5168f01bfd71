//! Interrupts: at the right moment, too late, before the evaluator is there.

use serde_json::json;

use crate::client::stream;
use crate::{serve, serve_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_cell_with_the_name_that_clients_know_and_aborts_the_queue() {
    let served = serve().await;
    let mut client = served.client().await;
    let first = client
        .ask("execute_request", json!({ "code": "print started\nhang" }))
        .await;
    let second = client.ask("execute_request", json!({ "code": "print no" })).await;
    while stream(&[client.iopub().await], "stdout") != "started\n" {}
    let interrupt = client.ask_control("interrupt_request", json!({})).await;
    assert_eq!(
        client.control_reply(&interrupt).await.content,
        json!({ "status": "ok" })
    );
    let reply = client.reply(&first).await;
    assert_eq!(reply.content["ename"], "KeyboardInterrupt");
    assert_eq!(client.reply(&second).await.content["status"], "aborted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_while_idle_is_harmless_for_the_next_cell() {
    let served = serve().await;
    let mut client = served.client().await;
    client.run("set x 1").await;
    for _ in 0..3 {
        let interrupt = client.ask_control("interrupt_request", json!({})).await;
        client.control_reply(&interrupt).await;
    }
    served.kernel.interrupt();
    let (reply, _) = client.run("get x").await;
    assert_eq!(reply.content["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_waits_for_the_evaluator_is_interrupted_at_once_and_never_runs() {
    let served = serve_with(alephlab_kernel::Limits::default(), true).await;
    let mut client = served.client().await;
    let id = client.ask("execute_request", json!({ "code": "set x 1" })).await;
    while client.iopub().await.msg_type != "execute_input" {}
    let interrupt = client.ask_control("interrupt_request", json!({})).await;
    client.control_reply(&interrupt).await;
    assert_eq!(client.reply(&id).await.content["ename"], "KeyboardInterrupt");
    client.until_idle(&id).await;
    std::fs::write(served.file("ready"), "").unwrap();
    let (reply, _) = client.run("get x").await;
    assert_eq!(reply.content["ename"], "NameError");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_info_is_answered_before_the_evaluator_has_started() {
    let served = serve_with(alephlab_kernel::Limits::default(), true).await;
    let mut client = served.client().await;
    let cell = client.ask("execute_request", json!({ "code": "print a" })).await;
    let info = client.ask("kernel_info_request", json!({})).await;
    assert_eq!(client.reply(&info).await.content["status"], "ok");
    std::fs::write(served.file("ready"), "").unwrap();
    assert_eq!(client.reply(&cell).await.content["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_answers_while_a_cell_runs() {
    let served = serve().await;
    let mut client = served.client().await;
    let gate = served.file("gate");
    let cell = client
        .ask(
            "execute_request",
            json!({ "code": format!("until {}", gate.display()) }),
        )
        .await;
    let info = client.ask_control("kernel_info_request", json!({})).await;
    assert_eq!(client.control_reply(&info).await.msg_type, "kernel_info_reply");
    let completion = client
        .ask("complete_request", json!({ "code": "pri", "cursor_pos": 3 }))
        .await;
    assert_eq!(
        client.reply(&completion).await.content["matches"],
        json!(["print"])
    );
    std::fs::write(&gate, "").unwrap();
    assert_eq!(client.reply(&cell).await.content["status"], "ok");
}
