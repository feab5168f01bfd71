//! The program itself: how it starts, what it shows to others, how it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alephlab_api::agent::BrokerReady;

/// Longest that the program may take to start or end.
const PATIENCE: Duration = Duration::from_secs(20);

fn started(folder: &Path) -> Child {
    let bootstrap = folder.join("bootstrap.json");
    let text = serde_json::json!({
        "socket": folder.join("run/broker.sock"),
        "gateway": "http://127.0.0.1:1",
        "kernel_id": "0b3e3c50-6ad4-4d6c-8a7e-6f5b5d7c9a10",
        "kernel_token": "kernel-token-canary",
        "aleph_url": "http://127.0.0.1:1",
        "account": "0x52908400098527886E0F7030069857D2E4169EE7",
        "work_dir": folder,
        "hub_home": folder.join("hub"),
    });
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&bootstrap)
        .unwrap();
    file.write_all(text.to_string().as_bytes()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_alephlab-broker"))
        .arg("--bootstrap")
        .arg(bootstrap)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn private_folders() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("alephlab-broker-0b3e3c50"))
        .collect()
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the broker did not end");
        }
        std::thread::yield_now();
    }
}

#[test]
fn says_ready_keeps_its_secrets_and_ends_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = started(folder.path());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let said = BrokerReady::of_line(&line).unwrap();
    let hub = said.hub.unwrap();
    assert!(hub.url.starts_with("http://127.0.0.1:"), "{}", hub.url);
    assert!(hub.token.expose().starts_with("hf_") && said.opened.is_none());
    assert!(!folder.path().join("bootstrap.json").exists());
    let home = hub.home.unwrap();
    let token = std::fs::read_to_string(home.join("token")).unwrap();
    assert_eq!(token, hub.token.expose());
    assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
    std::fs::create_dir(home.join("hub")).unwrap();
    std::fs::write(home.join("hub/model.safetensors"), "a copy of a client").unwrap();
    let socket = folder.path().join("run/broker.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777,
        0o700
    );
    for file in ["cmdline", "environ"] {
        // A hardened process may not let us read these at all, which is better still.
        let shown = std::fs::read(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&shown).contains("canary"), "{file}");
    }
    drop(child.stdin.take());
    assert!(ended(&mut child).success());
    assert!(!socket.exists() && !home.exists());
    assert_eq!(private_folders(), Vec::<String>::new());
    let log = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert!(!log.contains("canary"), "{log}");
}

#[test]
fn refuses_a_bootstrap_that_others_could_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap.json");
    std::fs::write(&path, "{}").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_alephlab-broker"))
        .arg("--bootstrap")
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("others could read it (mode 644)"), "{said}");
    assert!(!path.exists());
}
