//! `:dep`, and what survives the end of a compile server.

use std::path::Path;

use crate::client::stream;
use crate::start;

/// A crate with one static, made anew for a test: so it was never built before.
pub fn counter(folder: &Path, name: &str, body: &str) {
    let root = folder.join(name);
    std::fs::create_dir_all(root.join("src")).unwrap();
    let manifest =
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n");
    std::fs::write(root.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(root.join("src/lib.rs"), body).unwrap();
}

const COUNTER: &str = "use std::sync::atomic::{AtomicU32, Ordering};\nstatic COUNT: AtomicU32 = AtomicU32::new(100);\n\
    #[inline(always)] pub fn next() -> u32 { COUNT.fetch_add(1, Ordering::SeqCst) + 1 }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statics_of_a_dependency_exist_once_and_the_runtimes_stay_one() {
    let Some(mut session) = start().await else { return };
    session.ok("let w = Var::new(5f32, &Device::Cpu)?;").await;
    let folder = session.folder.path().to_owned();
    counter(&folder, "first-counter", COUNTER);
    counter(&folder, "second_counter", COUNTER);
    session
        .ok(":dep first-counter = { path = \"first-counter\" }")
        .await;
    assert_eq!(session.value("first_counter::next()").await, "101");
    assert_eq!(session.value("first_counter::next()").await, "102");
    // A second bundle, on top of the first; and a function of the notebook that calls both.
    session
        .ok(":dep second_counter = { path = \"second_counter\" }")
        .await;
    session
        .ok("fn both() -> (u32, u32) { (first_counter::next(), second_counter::next()) }")
        .await;
    assert_eq!(session.value("both()").await, "(103, 101)");
    counter(&folder, "second_counter", &COUNTER.replace("100", "200"));
    let (reply, _) = session
        .client
        .run(":dep second_counter = { path = \"second_counter\" }")
        .await;
    assert!(
        reply.content["evalue"].as_str().unwrap().contains("has changed"),
        "{reply:?}"
    );
    let code = "let x = Var::new(3f32, &Device::Cpu)?; let y = x.mul(&w)?;";
    session.ok(code).await;
    let code = "let g = y.backward()?; (g.get(&x).unwrap().to_scalar::<f32>()?, g.get(&w).unwrap().to_scalar::<f32>()?)";
    assert_eq!(session.value(code).await, "(5.0, 3.0)");
    session.end().await;
}

/// Refused once: crates of the runtime with a feature more, and another version of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crates_that_want_more_of_the_runtimes_crates_fit_and_so_does_another_version_of_one() {
    let Some(mut session) = start().await else { return };
    session.ok(":dep csv = \"1\"").await;
    session
        .ok(":dep half = { version = \"2\", features = [\"serde\"] }")
        .await;
    session.ok(":dep rand = \"0.8\"").await;
    let code =
        "let mut rows = csv::Reader::from_reader(\"a,b\\n1,2\\n\".as_bytes());\nrows.records().count()";
    assert_eq!(session.value(code).await, "1");
    // The runtime's `half` is theirs: a tensor takes their numbers.
    let code =
        "Tensor::new(&[half::f16::from_f32(1.5)], &Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?";
    assert_eq!(session.value(code).await, "[1.5]");
    assert_eq!(session.value("rand::random::<u8>() as u32 <= 255").await, "true");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dependency_that_cannot_be_built_is_an_error_in_cargos_words_and_changes_nothing() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = 7;").await;
    let folder = session.folder.path().to_owned();
    counter(&folder, "broken", "pub fn f() -> u32 { \"text\" }");
    let (reply, _) = session.client.run(":dep broken = { path = \"broken\" }").await;
    assert_eq!(reply.content["ename"], "DependencyError");
    assert!(
        reply.content["traceback"]
            .to_string()
            .contains("mismatched types"),
        "{reply:?}"
    );
    let (reply, _) = session.client.run(":dep missing = { path = \"missing\" }").await;
    assert_eq!(reply.content["ename"], "DependencyError");
    assert_eq!(session.error(":dep a b").await["ename"], "CommandError");
    assert_eq!(session.value("kept").await, "7");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dependency_comes_from_a_git_repository_too() {
    let Some(mut session) = start().await else { return };
    let folder = session.folder.path().to_owned();
    counter(&folder, "from_git", COUNTER);
    let repository = folder.join("from_git");
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "."],
        &["commit", "--quiet", "--message", "first"],
    ] {
        let done = std::process::Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(arguments)
            .current_dir(&repository)
            .status();
        assert!(done.unwrap().success(), "git {arguments:?}");
    }
    session
        .ok(&format!(
            ":dep from_git = {{ git = \"file://{}\" }}",
            repository.display()
        ))
        .await;
    assert_eq!(session.value("from_git::next()").await, "101");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compile_server_that_ends_is_started_again_and_in_the_end_done_without() {
    let Some(mut session) = start().await else { return };
    session.ok("let kept = 7;").await;
    let kernel = session.process.id().unwrap();
    // Cells that no run of this test has had compiled before: those need no server.
    let unique = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let mut notices = String::new();
    for number in 0..4 {
        for server in servers(kernel) {
            std::process::Command::new("kill")
                .args(["-9", &server])
                .status()
                .unwrap();
        }
        let messages = session
            .ok(&format!(
                "let next{number} = kept + {number}; let _ = {unique}u128;"
            ))
            .await;
        notices.push_str(&stream(&messages, "stderr"));
    }
    assert!(notices.contains("was started again"), "{notices}");
    assert!(notices.contains("compiled without it"), "{notices}");
    assert_eq!(session.value("next0 + next3").await, "17");
    session.end().await;
}

/// Compilers that a kernel has started.
fn servers(kernel: u32) -> Vec<String> {
    let output = std::process::Command::new("ps")
        .args(["-o", "pid=,comm=", "--ppid", &kernel.to_string()])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let servers = text.lines().filter(|line| line.trim_end().ends_with("rustc"));
    servers
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}
