//! Templates: private copies do not disturb each other, a wrong template is named by every cell.

use serde_json::Value;

use crate::client::types;
use crate::{start_on, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_another_compiler_or_none_is_one_error_per_cell_that_names_the_command() {
    let Some(real) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut session = start_on(folder.path(), &[]).await;
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
    let mut session = start_on(folder.path(), &[]).await;
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
    let mut session = start_on(&template, &[]).await;
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
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    }
}
