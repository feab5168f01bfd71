//! Subshells (JEP 91): opened and closed over control, and their cells run beside the main shell's.

use serde_json::{Value, json};

use crate::client::{Client, types};
use crate::{Served, serve};

async fn control(client: &mut Client, msg_type: &str, content: Value) -> Value {
    let id = client.ask_control(msg_type, content).await;
    client.control_reply(&id).await.content
}

/// A cell of the main shell that runs until a file exists, and has begun.
async fn running(served: &Served, client: &mut Client) -> (String, std::path::PathBuf) {
    let file = served.file("go on");
    let code = json!({ "code": format!("print begun\nuntil {}", file.display()) });
    let id = client.ask("execute_request", code).await;
    client.until_type("stream").await;
    (id, file)
}

/// Sends a cell to a subshell.
async fn begin(client: &mut Client, subshell: &str, text: &str) -> String {
    client.ask_subshell(subshell, "execute_request", code(text)).await
}

fn code(code: &str) -> Value {
    json!({ "code": code, "allow_stdin": true })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_announced_opened_listed_and_closed() {
    let served = serve().await;
    let mut client = served.client().await;
    let info = client.content("kernel_info_request", json!({})).await;
    assert_eq!(info["supported_features"], json!(["kernel subshells"]));
    let (a, b) = (client.open_subshell().await, client.open_subshell().await);
    let listed = control(&mut client, "list_subshell_request", json!({})).await;
    let mut expected = vec![a.clone(), b.clone()];
    expected.sort();
    assert_eq!(
        (&listed["status"], &listed["subshell_id"]),
        (&json!("ok"), &json!(expected))
    );
    let closed = control(
        &mut client,
        "delete_subshell_request",
        json!({ "subshell_id": a }),
    )
    .await;
    assert_eq!(closed["status"], "ok");
    let again = control(
        &mut client,
        "delete_subshell_request",
        json!({ "subshell_id": a }),
    )
    .await;
    assert_eq!(
        (&again["status"], &again["ename"]),
        (&json!("error"), &json!("NoSuchSubshell"))
    );
    let listed = control(&mut client, "list_subshell_request", json!({})).await;
    assert_eq!(listed["subshell_id"], json!([b]));
    // And the kernel lives when they all are closed, or one is that never was.
    control(
        &mut client,
        "delete_subshell_request",
        json!({ "subshell_id": b }),
    )
    .await;
    let nonsense = control(
        &mut client,
        "delete_subshell_request",
        json!({ "subshell_id": 7 }),
    )
    .await;
    assert_eq!(nonsense["status"], "error");
    assert_eq!(client.run("result 1").await.0.content["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_of_one_runs_while_the_main_shells_does() {
    let served = serve().await;
    let mut client = served.client().await;
    let subshell = client.open_subshell().await;
    let (main, file) = running(&served, &mut client).await;
    let beside = begin(&mut client, &subshell, "print beside\nresult 7").await;
    let said = client.until_all_idle(&[&beside]).await;
    let of_it = &said[&beside];
    assert_eq!(
        types(of_it),
        ["status", "execute_input", "stream", "execute_result", "status"],
        "{of_it:?}"
    );
    assert_eq!(of_it[2].text("text"), "beside\n");
    assert!(
        of_it
            .iter()
            .all(|message| message.parent_header["subshell_id"] == json!(subshell))
    );
    let reply = client.reply(&beside).await;
    assert_eq!(
        (&reply.content["status"], &reply.content["execution_count"]),
        (&json!("ok"), &json!(2))
    );
    // The last status is that of the kernel: the main shell's cell still runs.
    let last = client.iopub().await;
    assert_eq!(last.content["execution_state"], "busy");
    assert_eq!(last.parent.as_ref(), Some(&main));
    std::fs::write(file, "").unwrap();
    assert_eq!(client.reply(&main).await.content["status"], "ok");
    let said = client.until_idle(&main).await;
    assert_eq!(types(&said), Vec::<&str>::new());
    // Both are remembered, and counted together.
    let history = json!({ "hist_access_type": "tail", "n": 2, "raw": true, "output": false });
    let history = client.content("history_request", history).await;
    assert_eq!(history["history"].as_array().map(Vec::len), Some(2), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_of_one_subshell_keep_their_order_and_an_error_aborts_only_its_own() {
    let served = serve().await;
    let mut client = served.client().await;
    let (a, b) = (client.open_subshell().await, client.open_subshell().await);
    let (main, file) = running(&served, &mut client).await;
    let waits = client.ask("execute_request", code("result main")).await;
    let mut asked = Vec::new();
    for (subshell, text) in [
        (&a, "error E no"),
        (&a, "result aborted"),
        (&b, "set x 1"),
        (&b, "get x"),
    ] {
        asked.push(begin(&mut client, subshell, text).await);
    }
    std::fs::write(file, "").unwrap();
    asked.extend([main, waits]);
    let ids: Vec<&str> = asked.iter().map(String::as_str).collect();
    client.until_all_idle(&ids).await;
    let mut statuses = std::collections::BTreeMap::new();
    for _ in &asked {
        let message = client.any_reply().await;
        statuses.insert(message.parent.clone().unwrap(), message.text("status").to_owned());
    }
    let in_order: Vec<&str> = ids.iter().map(|id| statuses[*id].as_str()).collect();
    assert_eq!(in_order, ["error", "aborted", "ok", "ok", "ok", "ok"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_stops_all_of_them() {
    let served = serve().await;
    let mut client = served.client().await;
    let subshell = client.open_subshell().await;
    let (main, _) = running(&served, &mut client).await;
    let beside = begin(&mut client, &subshell, "print begun\nhang").await;
    client.until_type("stream").await;
    control(&mut client, "interrupt_request", json!({})).await;
    client.until_all_idle(&[&main, &beside]).await;
    for _ in 0..2 {
        assert_eq!(client.any_reply().await.text("ename"), "KeyboardInterrupt");
    }
    let after = begin(&mut client, &subshell, "result 1").await;
    assert_eq!(client.reply(&after).await.text("status"), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_of_two_shells_are_both_answered() {
    let served = serve().await;
    let mut client = served.client().await;
    let subshell = client.open_subshell().await;
    let main = client.ask("execute_request", code("input main")).await;
    let first = client.question().await;
    let beside = begin(&mut client, &subshell, "input beside").await;
    let second = client.question().await;
    assert_eq!((first.text("prompt"), second.text("prompt")), ("main", "beside"));
    for (question, value) in [(&first, "1"), (&second, "2")] {
        client.answer_to(question, value).await;
    }
    let said = client.until_all_idle(&[&main, &beside]).await;
    let text = |id: &str| crate::client::stream(&said[id], "stdout");
    assert_eq!(
        (text(&main), text(&beside)),
        ("got 1\n".to_owned(), "got 2\n".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_the_main_shells_turn_can_be_stopped_and_a_closed_one_aborts_what_waits() {
    let served = serve().await;
    let mut client = served.client().await;
    let subshell = client.open_subshell().await;
    let (main, file) = running(&served, &mut client).await;
    let waits = begin(&mut client, &subshell, "print waits\nturn result 5").await;
    client.until_type("stream").await;
    let queued = begin(&mut client, &subshell, "result never").await;
    // Answered after it was queued.
    let known = client
        .ask_subshell(&subshell, "is_complete_request", code("x"))
        .await;
    client.reply(&known).await;
    let closed = control(
        &mut client,
        "delete_subshell_request",
        json!({ "subshell_id": subshell }),
    )
    .await;
    assert_eq!(closed["status"], "ok");
    std::fs::write(file, "").unwrap();
    let said = client.until_all_idle(&[&main, &waits, &queued]).await;
    assert!(
        said[&waits]
            .iter()
            .any(|message| message.msg_type == "execute_result")
    );
    let mut statuses: Vec<String> = Vec::new();
    for _ in 0..3 {
        statuses.push(client.any_reply().await.text("status").to_owned());
    }
    statuses.sort();
    assert_eq!(statuses, ["aborted", "ok", "ok"]);
    let late = begin(&mut client, &subshell, "result 1").await;
    let said = client.until_idle(&late).await;
    assert_eq!(types(&said), ["status", "error"]);
    assert_eq!(client.reply(&late).await.text("ename"), "NoSuchSubshell");
    // Stopped while it waits.
    let subshell = client.open_subshell().await;
    let file = served.file("second");
    let main = client
        .ask(
            "execute_request",
            code(&format!("print on\nuntil {}", file.display())),
        )
        .await;
    client.until_type("stream").await;
    let waits = begin(&mut client, &subshell, "print waits\nturn result 5").await;
    client.until_type("stream").await;
    control(&mut client, "interrupt_request", json!({})).await;
    client.until_all_idle(&[&main, &waits]).await;
    for _ in 0..2 {
        assert_eq!(client.any_reply().await.text("ename"), "KeyboardInterrupt");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_of_a_closed_subshell_is_interrupted_too_and_the_last_status_is_the_kernels() {
    let served = serve().await;
    let mut client = served.client().await;
    let subshell = client.open_subshell().await;
    let hangs = begin(&mut client, &subshell, "print begun\nhang").await;
    client.until_type("stream").await;
    // Queued behind it, and aborted when the subshell ends: by then another cell runs, and that is the kernel's status.
    let queued = begin(&mut client, &subshell, "result never").await;
    let known = client
        .ask_subshell(&subshell, "is_complete_request", code("x"))
        .await;
    client.reply(&known).await;
    let closed = json!({ "subshell_id": subshell });
    control(&mut client, "delete_subshell_request", closed).await;
    let interrupt = control(&mut client, "interrupt_request", json!({})).await;
    assert_eq!(interrupt["status"], "ok");
    client.until_all_idle(&[&hangs, &queued]).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let reply = client.any_reply().await;
        answers.push((reply.text("status").to_owned(), reply.text("ename").to_owned()));
    }
    let expected = [("error", "KeyboardInterrupt"), ("aborted", "")];
    let expected = expected.map(|(status, name)| (status.to_owned(), name.to_owned()));
    assert_eq!(answers, expected);
    let (main, file) = running(&served, &mut client).await;
    let subshell = client.open_subshell().await;
    let fails = begin(&mut client, &subshell, "error E no").await;
    let aborted = begin(&mut client, &subshell, "result never").await;
    client.until_all_idle(&[&fails, &aborted]).await;
    let last = client.iopub().await;
    assert_eq!(last.content["execution_state"], "busy", "{last:?}");
    assert_eq!(last.parent.as_ref(), Some(&main));
    std::fs::write(file, "").unwrap();
    client.until_all_idle(&[&main]).await;
}
