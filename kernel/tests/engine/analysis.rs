//! Completion and inspection by rust-analyzer, about a notebook whose cells really ran.

use serde_json::{Value, json};

use crate::client::DEADLINE;
use crate::dependencies::counter;
use crate::{Session, start};

const PERSON: &str = "/// Somebody.\n#[derive(Debug, Clone)] pub struct Person { pub name: String }\n\
    impl Person { /// Says hello.\n pub fn greet(&self) -> String { format!(\"hello {}\", self.name) } }\n\
    let p = Person { name: \"Ada\".into() };";

/// Asks at the end of the text until rust-analyzer is loaded and answers; most answers come at once.
async fn at_end(session: &mut Session, kind: &str, code: &str) -> Value {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let asked = json!({ "code": code, "cursor_pos": code.chars().count(), "detail_level": 0 });
        let found = session.client.content(kind, asked).await;
        let is_empty = found["matches"].as_array().is_some_and(Vec::is_empty) || found["found"] == false;
        if !is_empty || tokio::time::Instant::now() >= deadline {
            return found;
        }
    }
}

async fn completes(session: &mut Session, code: &str, expected: &[&str]) {
    let found = at_end(session, "complete_request", code).await;
    let matches = found["matches"].as_array().unwrap();
    for one in expected {
        assert!(matches.contains(&json!(one)), "{code}: {one} is not in {found}");
    }
    assert_eq!(found["cursor_end"], json!(code.chars().count()), "{code}");
}

async fn explains(session: &mut Session, code: &str, expected: &[&str]) {
    let found = at_end(session, "inspect_request", code).await;
    let text = found["data"]["text/plain"].as_str().unwrap_or_default();
    for one in expected {
        assert!(text.contains(one), "{code}: {one} is not in {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_fields_and_documentation_of_the_notebook_the_runtime_std_and_crates_are_found() {
    let Some(mut session) = start().await else { return };
    session.ok(PERSON).await;
    session
        .ok("let numbers = vec![1.5f32]; let t = Tensor::new(&[1f32], &Device::Cpu)?;")
        .await;
    completes(&mut session, "p.", &["name", "greet", "clone"]).await;
    completes(&mut session, "p.name.to_upp", &["to_uppercase"]).await;
    completes(&mut session, "let q = numbers.iter().ma", &["map", "max_by"]).await;
    completes(&mut session, "\"😀é\".len(); t.mat", &["matmul"]).await;
    completes(
        &mut session,
        ":time std::collections::Hash",
        &["HashMap", "HashSet"],
    )
    .await;
    completes(&mut session, "fn f(x: &Person) { let local = 1; loc", &["local"]).await;
    explains(
        &mut session,
        "p.greet",
        &["fn greet(&self) -> String", "Says hello"],
    )
    .await;
    explains(&mut session, "Person", &["struct Person", "Somebody"]).await;
    explains(&mut session, "Tensor::zeros", &["fn zeros", "filled with zeros"]).await;
    explains(&mut session, "t.matmul(", &["fn matmul", "matrix"]).await;
    explains(&mut session, "slider", &["fn slider"]).await;
    let folder = session.folder.path().to_owned();
    counter(
        &folder,
        "documented",
        "/// Counts to three.\npub fn three() -> u32 { 3 }\n",
    );
    session.ok(":dep documented = { path = \"documented\" }").await;
    completes(&mut session, "documented::th", &["three"]).await;
    explains(
        &mut session,
        "documented::three",
        &["fn three() -> u32", "Counts to three"],
    )
    .await;
    // A redefinition is another type at once.
    session
        .ok("#[derive(Debug)] pub struct Person { pub years: u32 }\nlet p = Person { years: 3 };")
        .await;
    completes(&mut session, "p.", &["years"]).await;
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_runs_is_in_nobodys_way() {
    let Some(mut session) = start().await else { return };
    session.ok(PERSON).await;
    let code = json!({ "code": "let kept = 1; println!(\"go\"); loop { check_interrupt(); }" });
    let id = session.client.ask("execute_request", code).await;
    session.client.until_type("stream").await;
    completes(&mut session, "p.gre", &["greet"]).await;
    explains(&mut session, "p.greet", &["Says hello"]).await;
    let interrupt = session.client.ask_control("interrupt_request", json!({})).await;
    session.client.control_reply(&interrupt).await;
    assert_eq!(
        session.client.reply(&id).await.content["ename"],
        "KeyboardInterrupt"
    );
    session.end().await;
}
