//! What cells show, and that statics of the runtime exist once.

use serde_json::json;

use crate::client::{only, stream, types};
use crate::start;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gradients_are_right_across_three_cells() {
    let Some(mut session) = start().await else { return };
    // The second Var is made in the second cell: with both in one cell the fault does not show.
    session.ok("let w = Var::new(5f32, &Device::Cpu)?;").await;
    session
        .ok("let x = Var::new(3f32, &Device::Cpu)?; let y = x.mul(&w)?;")
        .await;
    let code = "let grads = y.backward()?;\n\
        let dx = grads.get(&x).unwrap().to_scalar::<f32>()?;\n\
        let dw = grads.get(&w).unwrap().to_scalar::<f32>()?;\n(dx, dw)";
    assert_eq!(session.value(code).await, "(5.0, 3.0)");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_text_and_displays_are_shown() {
    let Some(mut session) = start().await else { return };
    assert_eq!(session.value("1 + 1").await, "2");
    assert_eq!(session.value("\"a\".to_string()").await, "\"a\"");
    let unit = session.ok("println!(\"a\")").await;
    assert_eq!(
        (types(&unit).len(), stream(&unit, "stdout")),
        (2, "a\n".to_owned())
    );
    let text = session.ok("print!(\"10 %\\r20 %\");").await;
    assert_eq!(stream(&text, "stdout"), "10 %\r20 %");
    let both = session
        .ok("eprintln!(\"e\"); eprintln!(\"{}\", 7); let error = 8; eprintln!(\"{}\", error);")
        .await;
    assert_eq!(stream(&both, "stderr"), "e\n7\n8\n");
    let many = session.ok("for i in 0..10000 { println!(\"{i}\"); }").await;
    assert_eq!(stream(&many, "stdout").lines().count(), 10_000);
    let tensor = session
        .ok("Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?")
        .await;
    let data = &only(&tensor, "execute_result").content["data"];
    assert!(
        data["text/plain"].as_str().unwrap().contains("mean 2.5"),
        "{data}"
    );
    assert!(data["text/html"].as_str().unwrap().contains("<table"));
    let code = "println!(\"a\");\ndisplay_html(\"<b>x</b>\");\ndisplay_as(\"id\", &1);\n\
        update_display(\"id\", &2);\nclear_output(true);\nprintln!(\"b\");\ndisplay_png(&[1, 2, 3]);";
    let shown = session.ok(code).await;
    let expected = [
        "execute_input",
        "stream",
        "display_data",
        "display_data",
        "update_display_data",
        "clear_output",
        "stream",
        "display_data",
    ];
    assert_eq!(types(&shown), expected);
    assert_eq!(shown[2].content["data"], json!({ "text/html": "<b>x</b>" }));
    assert_eq!(shown[4].content["transient"]["display_id"], "id");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_without_a_line_feed_is_shown_while_the_cell_runs() {
    let Some(mut session) = start().await else { return };
    let code = "print!(\"10 %\"); while !std::path::Path::new(\"gate\").exists() {}";
    let id = session
        .client
        .ask("execute_request", json!({ "code": code }))
        .await;
    while stream(&[session.client.iopub().await], "stdout") != "10 %" {}
    std::fs::write(session.folder.path().join("gate"), "").unwrap();
    assert_eq!(session.client.reply(&id).await.content["status"], "ok");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_of_a_thread_that_outlives_its_cell_is_shown() {
    let Some(mut session) = start().await else { return };
    let code = "let (go, waits) = std::sync::mpsc::channel::<()>();\n\
                std::thread::spawn(move || { let _ = waits.recv(); println!(\"late\"); });";
    session.ok(code).await;
    session
        .client
        .ask("execute_request", json!({ "code": "go.send(())?;" }))
        .await;
    let printed = session.client.until_type("stream").await;
    assert_eq!(stream(&[printed], "stdout"), "late\n");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drawn_tables_are_shown_as_tables_too() {
    let Some(mut session) = start().await else { return };
    let code = "struct Frame;\nimpl std::fmt::Debug for Frame { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> \
                std::fmt::Result { f.write_str(\"+---+\\n| a |\\n+---+\\n| 1 |\\n+---+\") } }\nFrame";
    let messages = session.ok(code).await;
    let data = &only(&messages, "execute_result").content["data"];
    assert_eq!(data["text/plain"], "+---+\n| a |\n+---+\n| 1 |\n+---+");
    assert!(
        data["text/html"].as_str().unwrap().contains("<th>a</th>"),
        "{data}"
    );
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_of_a_thread_that_outlives_its_cell_is_answered_with_nothing() {
    let Some(mut session) = start().await else { return };
    // The first cell ends while its thread's question waits.
    let code = "let late = std::thread::spawn(|| input(\"first?\").is_err() && input(\"second?\").is_err());\n\
        while !std::path::Path::new(\"gate\").exists() {}";
    let content = json!({ "code": code, "allow_stdin": true });
    let id = session.client.ask("execute_request", content).await;
    assert_eq!(session.client.question().await.content["prompt"], "first?");
    std::fs::write(session.folder.path().join("gate"), "").unwrap();
    assert_eq!(session.client.reply(&id).await.content["status"], "ok");
    session.client.until_idle(&id).await;
    assert_eq!(session.value("late.join().unwrap()").await, "true");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crates_made_for_evcxr_show_their_content() {
    let Some(mut session) = start().await else { return };
    let code = "#[derive(Debug)] struct Plot;\nimpl Plot { fn evcxr_display(&self) {\n\
        println!(\"EVCXR_BEGIN_CONTENT text/html\\n<i>p</i>\\nEVCXR_END_CONTENT\");\n\
        println!(\"EVCXR_BEGIN_CONTENT text/plain\\nplot\\nEVCXR_END_CONTENT\");\n} }\nprint!(\"before\");\nPlot";
    let messages = session.ok(code).await;
    assert_eq!(types(&messages), ["execute_input", "stream", "execute_result"]);
    assert_eq!(
        messages[2].content["data"],
        json!({ "text/html": "<i>p</i>", "text/plain": "plot" })
    );
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_completion_inspection_and_commands_work() {
    let Some(mut session) = start().await else { return };
    let content = json!({ "code": "let name = input(\"name? \")?; name", "allow_stdin": true });
    let id = session.client.ask("execute_request", content).await;
    assert_eq!(session.client.question().await.content["prompt"], "name? ");
    session.client.answer("Ada").await;
    let messages = session.client.until_idle(&id).await;
    session.client.reply(&id).await;
    assert_eq!(
        only(&messages, "execute_result").content["data"]["text/plain"],
        "\"Ada\""
    );
    let (reply, _) = session
        .client
        .run_with(json!({ "code": "input(\"x\")?", "allow_stdin": false }))
        .await;
    assert_eq!(
        (
            &reply.content["ename"],
            reply.content["evalue"].as_str().unwrap().contains("nobody")
        ),
        (&json!("Error"), true)
    );
    let asked = json!({ "code": "let long_name = 1; long_na", "cursor_pos": 26 });
    let found = session.client.content("complete_request", asked).await;
    assert!(
        found["matches"].as_array().unwrap().contains(&json!("long_name")),
        "{found}"
    );
    assert_eq!(
        (&found["cursor_start"], &found["cursor_end"]),
        (&json!(19), &json!(26))
    );
    let found = session
        .client
        .content("inspect_request", json!({ "code": "name", "cursor_pos": 4 }))
        .await;
    assert!(
        found["data"]["text/plain"].as_str().unwrap().contains("String"),
        "{found}"
    );
    assert!(session.value(":vars").await.contains("name: String"));
    let (reply, _) = session.client.run(":help").await;
    assert_eq!(reply.content["payload"][0]["source"], "page");
    assert_eq!(session.error(":quit").await["ename"], "CommandError");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_cell_is_compiled_while_one_runs() {
    let Some(mut session) = start().await else { return };
    let store = crate::template().unwrap().join("compiled");
    let finished = || {
        let all = std::fs::read_dir(&store).unwrap().flatten();
        all.filter(|entry| entry.path().join("facts.json").exists())
            .count()
    };
    // Cells that no run of this test has had compiled before.
    let unique = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    session.ok(&format!("let made = {unique}u128;")).await;
    let before = finished();
    let blocks = format!("let again = {unique}u128 + 1; while !std::path::Path::new(\"gate\").exists() {{}}");
    let blocking = session
        .client
        .ask("execute_request", json!({ "code": blocks }))
        .await;
    let next = format!("again + made + {unique}u128");
    let queued = session
        .client
        .ask("execute_request", json!({ "code": next }))
        .await;
    let deadline = std::time::Instant::now() + crate::client::DEADLINE;
    // The blocking cell's own library, and the next one's, though it has not had its turn.
    while finished() < before + 2 {
        assert!(std::time::Instant::now() < deadline, "the next cell waits");
        tokio::task::yield_now().await;
    }
    std::fs::write(session.folder.path().join("gate"), "").unwrap();
    for id in [blocking, queued] {
        assert_eq!(session.client.reply(&id).await.content["status"], "ok");
    }
    session.end().await;
}
