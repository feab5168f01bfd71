//! Templates: private copies do not disturb each other, a wrong template is named by every cell.

use serde_json::{Value, json};

use crate::client::{DEADLINE, stream, types};
use crate::{Engine, start, start_on, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_another_compiler_or_none_is_one_error_per_cell_that_names_the_command() {
    let Some(real) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut session = start_on(folder.path(), Engine::Zygote, &[]).await;
    let error = session.error("1").await;
    assert_eq!(error["ename"], "RuntimeMissing");
    assert!(
        error["traceback"].to_string().contains("alephlab quickstart"),
        "{error}"
    );
    session.end().await;
    let mut stamp: Value = serde_json::from_slice(&std::fs::read(real.join("stamp.json")).unwrap()).unwrap();
    stamp["rustc"] = "rustc 1.70.0 (old)".into();
    std::fs::write(folder.path().join("stamp.json"), stamp.to_string()).unwrap();
    std::os::unix::fs::symlink(real.join("source"), folder.path().join("source")).unwrap();
    let mut session = start_on(folder.path(), Engine::Zygote, &[]).await;
    for _ in 0..2 {
        let value = session.error("1").await["evalue"].as_str().unwrap().to_owned();
        assert!(
            value.contains("1.70.0") && value.contains("rustc 1.95"),
            "{value}"
        );
    }
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_copy_and_all_processes_are_gone_after_the_end() {
    let Some(template) = template() else { return };
    let mut session = start_on(&template, Engine::Zygote, &[]).await;
    let child: u32 = session.value("std::process::id()").await.parse().unwrap();
    let sleeper = session
        .value("std::process::Command::new(\"sleep\").arg(\"600\").spawn()?.id()")
        .await;
    let copies = || std::fs::read_dir(template.join("kernels")).unwrap().count();
    assert_eq!(copies(), 1);
    let messages = session.ok("std::env::current_dir()?").await;
    assert_eq!(types(&messages).last(), Some(&"execute_result"));
    let folder = std::fs::canonicalize(session.folder.path()).unwrap();
    assert_eq!(
        messages.last().unwrap().content["data"]["text/plain"],
        format!("{folder:?}")
    );
    session.end().await;
    assert_eq!(copies(), 0);
    for pid in [child.to_string(), sleeper] {
        assert!(is_gone(&pid), "{pid}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_kernel_takes_a_busy_child_and_its_programs_with_it() {
    let Some(mut session) = start().await else { return };
    let code = "let sleeper = std::process::Command::new(\"sleep\").arg(\"600\").spawn()?;\n\
        println!(\"{} {}\", std::process::id(), sleeper.id());\nloop { std::hint::spin_loop() }";
    session
        .client
        .ask("execute_request", json!({ "code": code }))
        .await;
    let text = loop {
        let text = stream(&[session.client.iopub().await], "stdout");
        if !text.is_empty() {
            break text;
        }
    };
    let pids: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((pids.len(), pids.iter().any(|pid| is_gone(pid))), (2, false));
    session.process.kill().await.unwrap();
    let all_gone = async {
        while !pids.iter().all(|pid| is_gone(pid)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all_gone)
        .await
        .expect("the processes end");
}

/// Whether a process has ended; whoever inherited it may not have asked for its status yet.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z")
}
