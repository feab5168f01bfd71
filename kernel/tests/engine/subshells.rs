//! Subshells with real cells: in one memory with the main shell's, and beside them.

use serde_json::json;

use crate::client::{Message, only, stream};
use crate::{Session, start};

impl Session {
    /// Starts a cell in a subshell.
    async fn begin_in(&mut self, subshell: &str, code: &str) -> String {
        let content = json!({ "code": code, "allow_stdin": false });
        self.client
            .ask_subshell(subshell, "execute_request", content)
            .await
    }

    /// Runs a cell in a subshell; what iopub said of it. Its reply has the status.
    async fn run_in(&mut self, subshell: &str, code: &str, status: &str) -> Vec<Message> {
        let id = self.begin_in(subshell, code).await;
        let said = self.client.until_all_idle(&[&id]).await.remove(&id).unwrap();
        let reply = self.client.reply(&id).await;
        assert_eq!(reply.text("status"), status, "{code}\n{said:#?}");
        said
    }

    /// Starts a cell of the main shell that runs until the file `go` exists, and has begun. `head` comes before.
    async fn begin_main(&mut self, head: &str) -> String {
        let code = format!(
            "{head} println!(\"on\"); while !std::path::Path::new(\"go\").exists() {{ std::thread::yield_now(); }}"
        );
        let id = self.client.ask("execute_request", json!({ "code": code })).await;
        while stream(&[self.client.iopub().await], "stdout") != "on\n" {}
        id
    }

    /// Has that cell end well.
    async fn end_main(&mut self, id: &str) -> Vec<Message> {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
        let said = self
            .client
            .until_all_idle(&[id])
            .await
            .remove(id)
            .unwrap_or_default();
        assert_eq!(self.client.reply(id).await.text("status"), "ok");
        std::fs::remove_file(self.folder.path().join("go")).unwrap();
        said
    }
}

fn result(said: &[Message]) -> &str {
    only(said, "execute_result").content["data"]["text/plain"]
        .as_str()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subshell_shares_variables_items_and_statics_with_a_cell_that_runs_and_its_text_is_its_own() {
    let Some(mut session) = start().await else { return };
    session
        .ok(
            "use std::sync::atomic::{AtomicU32, Ordering}; static SEEN: AtomicU32 = AtomicU32::new(0); \
             fn twice(x: u32) -> u32 { println!(\"twice\"); x * 2 } let v = vec![1_u32, 2, 3];",
        )
        .await;
    let subshell = session.client.open_subshell().await;
    let main = session.begin_main("SEEN.store(40, Ordering::SeqCst); let t = candle_core::Tensor::new(&[1f32, 2.], &candle_core::Device::Cpu)?;").await;
    let code = "print!(\"a\"); eprintln!(\"e\"); let w: Vec<u32> = v.iter().map(|x| twice(*x)).collect(); SEEN.load(Ordering::SeqCst) + w[2]";
    let said = session.run_in(&subshell, code, "ok").await;
    assert_eq!(stream(&said, "stdout"), "atwice\ntwice\ntwice\n");
    assert_eq!(stream(&said, "stderr"), "e\n");
    assert_eq!(result(&said), "46");
    // What it made is its own at once, and the main shell's from its next cell on.
    assert_eq!(result(&session.run_in(&subshell, "w.len()", "ok").await), "3");
    // Errors are told in the cell's own lines, and cost nothing.
    let said = session
        .run_in(&subshell, "let one = 1;\nw[one + 2]", "error")
        .await;
    let error = only(&said, "error");
    assert!(error.text("evalue").contains("index out of bounds"), "{error:?}");
    assert!(
        error.content["traceback"].to_string().contains("w[one + 2]"),
        "{error:?}"
    );
    let said = session.run_in(&subshell, "w.nothing()", "error").await;
    assert_eq!(only(&said, "error").text("ename"), "CompileError");
    let said = session.end_main(&main).await;
    assert_eq!(stream(&said, "stdout"), "");
    assert_eq!(
        session.value("(w, v, t.elem_count())").await,
        "([2, 4, 6], [1, 2, 3], 2)"
    );
    assert_eq!(
        result(&session.run_in(&subshell, "t.dims().len()", "ok").await),
        "1"
    );
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_beside_waits_for_the_main_shell_and_both_see_one_notebook() {
    let Some(mut session) = start().await else { return };
    session
        .ok("let v = vec![1]; let shared = std::rc::Rc::new(5); let cell = std::sync::Arc::new(std::cell::RefCell::new(7));")
        .await;
    let subshell = session.client.open_subshell().await;
    // `v` is in use, `shared` must not leave its thread, an item changes what all cells see.
    for (code, expected) in [
        ("v.len() + 1", "2"),
        ("*shared + 1", "6"),
        ("*cell.borrow() + 1", "8"),
        ("fn new_one() -> u8 { 9 }\nnew_one()", "9"),
    ] {
        let main = session.begin_main("let _kept = v.len();").await;
        let waits = session.begin_in(&subshell, code).await;
        // It waits: a cell of another subshell comes first.
        let other = session.client.open_subshell().await;
        assert_eq!(result(&session.run_in(&other, "1 + 1", "ok").await), "2");
        std::fs::write(session.folder.path().join("go"), "").unwrap();
        let said = session.client.until_all_idle(&[&main, &waits]).await;
        std::fs::remove_file(session.folder.path().join("go")).unwrap();
        assert_eq!(result(&said[&waits]), expected);
        for _ in 0..2 {
            assert_eq!(session.client.any_reply().await.text("status"), "ok");
        }
    }
    assert_eq!(session.value("new_one() as usize + v.len()").await, "10");
    // The other way round: the main shell's cell waits for what a subshell has.
    let beside = session
        .begin_in(
            &subshell,
            "println!(\"on\"); let _n = v.len(); while !std::path::Path::new(\"go\").exists() {}",
        )
        .await;
    while stream(&[session.client.iopub().await], "stdout") != "on\n" {}
    let main = session
        .client
        .ask("execute_request", json!({ "code": "v.len()" }))
        .await;
    let told = session.client.until_type("stream").await;
    assert!(
        told.text("text").starts_with("`v` is in use by cell ["),
        "{told:?}"
    );
    std::fs::write(session.folder.path().join("go"), "").unwrap();
    let said = session.client.until_all_idle(&[&main, &beside]).await;
    assert_eq!(result(&said[&main]), "1");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_variable_and_one_used_up_in_a_subshell_are_what_the_main_shell_finds() {
    let Some(mut session) = start().await else { return };
    session
        .ok("let x = vec![1]; let gone = String::from(\"a\"); let mut n = 1;")
        .await;
    let subshell = session.client.open_subshell().await;
    let main = session.begin_main("").await;
    session
        .run_in(&subshell, "let x = \"new\"; drop(gone); n += 1;", "ok")
        .await;
    session.end_main(&main).await;
    assert_eq!(session.value("format!(\"{x} {n}\")").await, "\"new 2\"");
    let (reply, _) = session.client.run("gone").await;
    assert_eq!(reply.text("ename"), "CompileError");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_stops_a_subshells_cell_and_what_ends_the_process_is_told_to_both() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = 7;").await;
    let subshell = session.client.open_subshell().await;
    let beside = session
        .begin_in(&subshell, "println!(\"on\"); loop { std::hint::spin_loop(); }")
        .await;
    while stream(&[session.client.iopub().await], "stdout") != "on\n" {}
    // The main shell goes on meanwhile.
    let id = session
        .client
        .ask("execute_request", json!({ "code": "kept" }))
        .await;
    assert_eq!(session.client.reply(&id).await.text("status"), "ok");
    let id = session.client.ask_control("interrupt_request", json!({})).await;
    session.client.control_reply(&id).await;
    let said = session.client.until_all_idle(&[&beside]).await;
    assert_eq!(only(&said[&beside], "error").text("ename"), "KeyboardInterrupt");
    session.client.reply(&beside).await;
    assert_eq!(result(&session.run_in(&subshell, "kept", "ok").await), "7");
    let said = session.run_in(&subshell, "std::process::abort()", "error").await;
    assert_eq!(only(&said, "error").text("ename"), "ChildDied");
    let (reply, _) = session.client.run("1").await;
    assert_eq!(reply.text("ename"), "ChildDied");
    assert_eq!(session.value("2").await, "2");
    assert_eq!(result(&session.run_in(&subshell, "3", "ok").await), "3");
    session.end().await;
}

/// The books of a cell that has long looked at something else first are those of when it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_subshell_makes_while_the_main_shells_cell_does_a_command_is_there_for_the_rest_of_it() {
    let Some(mut session) = start().await else { return };
    session
        .ok("let model = vec![1]; let x = 1; let v = String::from(\"v\");")
        .await;
    let subshell = session.client.open_subshell().await;
    let code = "!echo on; until [ -e go ]; do :; done\nprintln!(\"{model:?} {x}\");";
    let main = session
        .client
        .ask("execute_request", json!({ "code": code }))
        .await;
    while stream(&[session.client.iopub().await], "stdout") != "on\n" {}
    session.run_in(&subshell, "let x = \"s\";", "ok").await;
    let said = session.end_main(&main).await;
    assert_eq!(stream(&said, "stdout"), "[1] s\n");
    assert_eq!(session.value("model.len()").await, "1");
    session.end().await;
}
