//! Every way in which a cell can fail is one error, and says what happened to the variables.

use crate::client::{only, stream, types};
use crate::start;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_whose_type_nobody_knows_is_said_and_not_guessed() {
    let Some(mut session) = start().await else { return };
    for code in [
        "Vec::new()",
        "None",
        "(1, \"2\".parse().unwrap())",
        "Some(\"2\".parse().unwrap())",
    ] {
        let error = session.error(code).await;
        let said = error["evalue"].as_str().unwrap();
        assert!(said.contains("type annotations needed"), "{code}: {error}");
        assert!(!error["traceback"].to_string().contains("Shown"), "{error}");
    }
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compile_errors_panics_and_question_marks_are_errors_and_keep_variables() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = vec![1, 2, 3];").await;
    let compile = session.error("let a = 1;\nlet b: i32 = \"text\";").await;
    assert_eq!(compile["ename"], "CompileError");
    assert_eq!(compile["evalue"], "[E0308] mismatched types");
    let traceback = compile["traceback"][0].as_str().unwrap();
    assert!(
        traceback.contains("cell:2:14") && traceback.contains("let b: i32 = \"text\";"),
        "{traceback}"
    );
    let panic = session.error("let lost = 1; let i = kept.len(); kept[i];").await;
    assert_eq!(panic["ename"], "Panic");
    assert_eq!(
        panic["evalue"],
        "index out of bounds: the len is 3 but the index is 3"
    );
    let (reply, messages) = session.client.run("print!(\"text\"); panic!(\"no {}\", 1)").await;
    assert_eq!(
        (
            reply.content["evalue"].as_str(),
            stream(&messages, "stdout").as_str()
        ),
        (Some("no 1"), "text")
    );
    let question = session.error("let n: i32 = \"x\".parse()?;").await;
    assert_eq!(
        (question["ename"].as_str(), question["evalue"].as_str()),
        (Some("Error"), Some("invalid digit found in string"))
    );
    let (reply, messages) = session
        .client
        .run("eprintln!(\"own\"); std::fs::File::open(\"/nowhere\")?;")
        .await;
    assert!(
        reply.content["evalue"].as_str().unwrap().contains("No such file"),
        "{reply:?}"
    );
    assert_eq!(stream(&messages, "stderr"), "own\n");
    assert_eq!(session.value("kept.len()").await, "3");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_child_is_an_error_that_says_so_and_the_kernel_goes_on() {
    let Some(mut session) = start().await else { return };
    session.ok("let lost = 1;").await;
    let segfault = "print!(\"last words\"); use std::io::Write; std::io::stdout().flush()?; \
        unsafe { std::ptr::write_volatile(8 as *mut u8, 1) };";
    let (reply, messages) = session.client.run(segfault).await;
    assert_eq!(reply.content["ename"], "ChildDied");
    assert!(
        reply.content["evalue"]
            .as_str()
            .unwrap()
            .contains("all variables are gone"),
        "{reply:?}"
    );
    assert_eq!(stream(&messages, "stdout"), "last words");
    only(&messages, "error");
    for (code, word) in [
        ("std::process::exit(3)", "exit status: 3"),
        ("std::process::abort()", "SIGABRT"),
    ] {
        let error = session.error(code).await;
        assert!(error["evalue"].as_str().unwrap().contains(word), "{error}");
    }
    for (code, words) in [
        (
            "fn deep(n: u64) -> u64 { let a = [n; 1000]; deep(n + 1) + a[3] }\ndeep(0)",
            "used up its stack",
        ),
        (
            "let v: Vec<u8> = Vec::with_capacity(usize::MAX / 2);",
            "more memory than there is",
        ),
    ] {
        let (reply, _) = session.client.run(code).await;
        assert!(
            reply.content["evalue"].as_str().unwrap().contains(words),
            "{reply:?}"
        );
    }
    assert_eq!(session.error("lost").await["ename"], "CompileError");
    assert_eq!(
        session
            .value("Tensor::zeros(2, DType::F32, &Device::Cpu)?.dims1()?")
            .await,
        "2"
    );
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_that_the_cell_catches_or_another_thread_has_is_no_error() {
    let Some(mut session) = start().await else { return };
    let caught = session
        .ok("std::panic::catch_unwind(|| { if true { panic!(\"caught\") } }).is_err()")
        .await;
    assert!(stream(&caught, "stderr").contains("caught"));
    let thread = session
        .ok("std::thread::spawn(|| { if true { panic!(\"elsewhere\") } }).join().is_err()")
        .await;
    assert!(stream(&thread, "stderr").contains("elsewhere"));
    assert_eq!(types(&thread).last(), Some(&"execute_result"));
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_macro_cannot_return_from_a_cell_and_leave_its_variables_out() {
    let Some(mut session) = start().await else { return };
    session
        .ok("macro_rules! stop_if { ($c:expr) => { if $c { return; } } }")
        .await;
    session.ok("let kept = 1;").await;
    let refused = session.error("let kept = 5; stop_if!(kept > 3);").await;
    assert_eq!(refused["ename"], "CompileError");
    assert_eq!(session.value("kept").await, "1");
    session.end().await;
}
