//! `alephlab doctor`: what is missing on this machine, and how to fix it. Looks only; changes and starts nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use alephlab_api::isolation::Isolation;
use alephlab_vault::storage::{PostQuery, Storage};
use alephlab_vault::{DEFAULT_OBJ_LOG2, HEAD_POST_TYPE};

use super::DataFlag;
use crate::account::{self, Account};
use crate::build::{programs, source, template, toolchain};
use crate::data::DataFolder;
use crate::error::Result;
use crate::run_file;
use crate::services;
use crate::settings::{self, Settings};

/// Compiled programs, runtime and its per-kernel copies, with room to spare.
const DISK_BYTES_NEEDED: u64 = 4 << 30;
/// Longest that a GPU may take to be opened: the driver compiles kernels the first time.
const GPU_PATIENCE: Duration = Duration::from_secs(60);
/// Longest that a node may take to answer.
const NODE_PATIENCE: Duration = Duration::from_secs(20);

/// Say what is missing on this machine and how to fix it.
///
/// The exit status is 1 when something is missing that quickstart needs.
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    data: DataFlag,
    /// Ask every Aleph node too: whether it answers, and what storing would cost the account.
    #[arg(long)]
    network: bool,
    /// Ask for the GPU too: which one kernels have, or exactly why there is none. Opens it for a moment.
    #[arg(long)]
    gpu: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Serialize)]
struct Finding {
    name: &'static str,
    ok: bool,
    needed: bool,
    found: String,
    fix: Option<String>,
}

impl Finding {
    fn needed(name: &'static str, found: std::result::Result<String, String>, fix: &str) -> Self {
        Self::new(name, true, found, fix)
    }

    fn wished(name: &'static str, found: std::result::Result<String, String>, fix: &str) -> Self {
        Self::new(name, false, found, fix)
    }

    fn new(name: &'static str, needed: bool, found: std::result::Result<String, String>, fix: &str) -> Self {
        let ok = found.is_ok();
        let found = found.unwrap_or_else(|text| text);
        Self {
            name,
            ok,
            needed,
            found,
            fix: (!ok).then(|| fix.to_owned()),
        }
    }
}

impl Doctor {
    /// Looks at everything and prints what it found.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let loaded = settings::load(&self.data.flags())?;
        let mut findings = tools(&loaded.settings).await;
        findings.extend(built(&loaded.settings));
        findings.extend(folder(&loaded.settings)?);
        if self.gpu {
            findings.push(gpu(&loaded.settings).await);
        }
        if self.network {
            findings.extend(network(&loaded).await?);
        }
        let ok = findings.iter().all(|finding| finding.ok || !finding.needed);
        if self.json {
            println!("{}", serde_json::json!({"ok": ok, "findings": findings}));
        } else {
            print!("{}", as_text(&findings, ok));
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn as_text(findings: &[Finding], ok: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match (finding.ok, finding.needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "note   ",
        };
        text.push_str(&format!("{mark} {}: {}\n", finding.name, finding.found));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("        fix: {fix}\n"));
        }
    }
    text.push_str(if ok {
        "this machine has what is needed\n"
    } else {
        "something needed is missing\n"
    });
    text
}

async fn tools(settings: &Settings) -> Vec<Finding> {
    let root = source::find(settings).ok().flatten();
    let rust = toolchain::check(root.as_deref()).await;
    let has_src = rust.as_ref().is_ok_and(|rust| rust.has_rust_src);
    let fix = rust
        .as_ref()
        .err()
        .and_then(crate::error::CliError::hint)
        .unwrap_or_default();
    let rust = rust.map(|rust| format!("rustc {} in {}", rust.version, rust.sysroot.display()));
    let missing = |what: &str| format!("{what} was not found");
    let cc = toolchain::c_compiler().await.ok_or_else(|| missing("cc"));
    let linker = toolchain::first_line("ld", &["--version"])
        .await
        .ok_or_else(|| missing("ld"));
    let python = toolchain::first_line("python3", &["--version"])
        .await
        .ok_or_else(|| missing("python3"));
    let rust_src = if has_src {
        Ok("present".to_owned())
    } else {
        Err(toolchain::WITHOUT_RUST_SRC.to_owned())
    };
    vec![
        Finding::needed("Rust toolchain", rust.map_err(|error| error.to_string()), &fix),
        Finding::wished("rust-src", rust_src, "rustup component add rust-src"),
        Finding::needed("C compiler", cc, "on Debian: apt-get install gcc libc6-dev"),
        Finding::needed("linker", linker, "on Debian: apt-get install binutils"),
        Finding::wished(
            "Python",
            python,
            "needed only for Jupyter clients; on Debian: apt-get install python3-venv",
        ),
        sandboxes(settings).await,
    ]
}

/// Whether kernels can have sandboxes, tried with one; which walls they have in the end, the agent says.
async fn sandboxes(settings: &Settings) -> Finding {
    let within = [
        "--unshare-user",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "bwrap",
        "--version",
    ];
    let installed = toolchain::first_line("bwrap", &["--version"]).await;
    let asked = settings.isolation.sandbox;
    let found = match (installed, toolchain::first_line("bwrap", &within).await) {
        _ if asked == Isolation::None => Ok("switched off (isolation.sandbox)".to_owned()),
        (Some(version), Some(_)) => Ok(format!("{version} makes them")),
        (Some(version), None) => Err(format!(
            "{version} is refused by this system: user namespaces are not allowed"
        )),
        (None, _) => Err("bwrap was not found: kernels have limits only".to_owned()),
    };
    let fix = "on Debian: apt-get install bubblewrap; elsewhere allow user namespaces, or set isolation.sandbox = \"none\"";
    Finding::new("sandboxes", asked == Isolation::Bubblewrap, found, fix)
}

fn built(settings: &Settings) -> Vec<Finding> {
    let quickstart = "`alephlab quickstart` or `alephlab up` builds it";
    let programs = match programs::find() {
        Ok(programs) => Ok(format!(
            "in {}",
            programs.kernel.parent().unwrap_or(Path::new("/")).display()
        )),
        Err(error) => Err(error.to_string()),
    };
    let template = source::find(settings).and_then(|root| template::folder(settings, root.as_deref()));
    let template = match template {
        Ok(folder) if template::is_built(&folder) => Ok(format!("built in {}", folder.display())),
        Ok(folder) => Err(format!("not built yet: {}", folder.display())),
        Err(error) => Err(error.to_string()),
    };
    vec![
        Finding::wished("programs", programs, quickstart),
        Finding::wished("runtime", template, quickstart),
    ]
}

/// What the kernel's program prints.
#[derive(serde::Deserialize)]
struct Gpu {
    usable: bool,
    title: String,
    hint: Option<String>,
    #[serde(default)]
    facts: std::collections::BTreeMap<String, String>,
}

impl Gpu {
    fn finding(self) -> Finding {
        let facts: String = self
            .facts
            .iter()
            .map(|(name, value)| format!("; {name} {value}"))
            .collect();
        let text = format!("{}{facts}", self.title);
        let hint = self.hint.unwrap_or_else(|| "unset ALEPHLAB_DEVICE".to_owned());
        Finding::wished("GPU", if self.usable { Ok(text) } else { Err(text) }, &hint)
    }
}

/// Asks the built runtime, in a process of its own: a driver that crashes ends that one.
async fn gpu(settings: &Settings) -> Finding {
    let quickstart = "`alephlab quickstart` or `alephlab up` builds the runtime, which knows";
    let unknown = |text: String| Finding::wished("GPU", Err(text), quickstart);
    let template = source::find(settings).and_then(|root| template::folder(settings, root.as_deref()));
    let (programs, folder) = match (programs::find(), template) {
        (Ok(programs), Ok(folder)) if template::is_built(&folder) => (programs, folder),
        _ => return unknown("the runtime is not built yet".to_owned()),
    };
    let mut command = tokio::process::Command::new(&programs.kernel);
    command
        .arg("gpu")
        .arg("--runtime")
        .arg(&folder)
        .kill_on_drop(true);
    let output = match tokio::time::timeout(GPU_PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return unknown(format!(
                "{} cannot be started: {error}",
                programs.kernel.display()
            ));
        }
        Err(_) => {
            return unknown(format!(
                "the driver did not answer within {} s",
                GPU_PATIENCE.as_secs()
            ));
        }
    };
    match serde_json::from_slice::<Gpu>(&output.stdout) {
        Ok(gpu) => gpu.finding(),
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or_default().to_owned();
            unknown(format!(
                "the runtime could not be asked ({}): {first}",
                output.status
            ))
        }
    }
}

fn folder(settings: &Settings) -> Result<Vec<Finding>> {
    let dir = &settings.data.dir;
    let data = DataFolder::at(dir);
    let running = run_file::find(&data)?;
    let port = match (&running, settings.gateway.port) {
        (Some(run), _) => Ok(format!("the gateway runs at {}", run.gateway_url)),
        (None, port) => match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => Ok(format!("{port} is free")),
            Err(error) => Err(format!("{port} cannot be used: {error}")),
        },
    };
    let processes = running.map_or_else(
        || "nothing runs on this data folder".to_owned(),
        |run| format!("process {} runs, Aleph node {}", run.pid, run.aleph_url),
    );
    Ok(vec![
        Finding::needed(
            "data folder",
            writable(dir),
            "choose a folder that you own with --data DIR",
        ),
        Finding::needed(
            "permissions",
            private(dir),
            "chmod 700 the folder and 600 the files named here",
        ),
        Finding::needed(
            "disk space",
            space(dir),
            "free some, or choose another disk with --data DIR",
        ),
        Finding::wished("port", port, "choose another one with --port N or gateway.port"),
        Finding::wished("running", Ok(processes), ""),
    ])
}

/// Every node of the settings by itself, or else the one that runs.
async fn network(loaded: &settings::Loaded) -> Result<Vec<Finding>> {
    let data = loaded.data();
    let running = run_file::find(&data)?.map(|run| run.aleph_url);
    let Some(nodes) = loaded.settings.aleph.remote().map(str::to_owned).or(running) else {
        let found = Err("aleph.url is \"local\", and nothing runs on this data folder".to_owned());
        let fix = "start `alephlab up`, or set aleph.url to the address of a node";
        return Ok(vec![Finding::needed("Aleph node", found, fix)]);
    };
    let name = &loaded.settings.account.name;
    let exists = account::names(&data).is_ok_and(|names| names.contains(name));
    // One that a passphrase locks is left alone: looking asks nobody for anything.
    let is_open = exists && account::is_locked(&data, name).is_ok_and(|locked| !locked);
    let account = is_open.then(|| Account::open(&data, name).ok()).flatten();
    let mut findings = Vec::new();
    for node in nodes.split(',').map(str::trim) {
        let storage = services::storage(node)?;
        findings.push(Finding::needed(
            "Aleph node",
            answers(&*storage, node).await,
            "check the address in aleph.url and this machine's connection, or name another node",
        ));
        if let Some(account) = account
            .as_ref()
            .filter(|_| findings.last().is_some_and(|last| last.ok))
        {
            findings.push(Finding::wished(
                "storage credits",
                credits(&*storage, account, node).await,
                "buy credits for the account: https://app.aleph.cloud",
            ));
        }
    }
    Ok(findings)
}

/// A list that a node can only answer from its database, and what it took.
async fn answers(storage: &dyn Storage, node: &str) -> std::result::Result<String, String> {
    let query = PostQuery {
        types: vec![HEAD_POST_TYPE.to_owned()],
        tags: vec!["0".repeat(64)],
        ..PostQuery::default()
    };
    let start = std::time::Instant::now();
    let listed = tokio::time::timeout(NODE_PATIENCE, storage.posts(query)).await;
    let late = |_| format!("{node} did not answer within {} s", NODE_PATIENCE.as_secs());
    match listed.map_err(late)? {
        Ok(_) => Ok(format!("{node} answers in {} ms", start.elapsed().as_millis())),
        Err(error) => Err(format!("{node}: {error}")),
    }
}

async fn credits(
    storage: &dyn Storage,
    account: &Account,
    node: &str,
) -> std::result::Result<String, String> {
    let object = 1 << DEFAULT_OBJ_LOG2;
    let quote = tokio::time::timeout(NODE_PATIENCE, storage.quote(account.wallet(), object)).await;
    let quote = quote.map_err(|_| format!("{node} named no price within {} s", NODE_PATIENCE.as_secs()))?;
    let quote = quote.map_err(|error| format!("{node} names no price: {error}"))?;
    let quote = quote.ok_or_else(|| format!("{node} names no price"))?;
    let text = format!(
        "{} has {} credits; an object of 32 MiB costs {:.2} an hour",
        account.address(),
        quote.balance,
        quote.credits_per_second * 3_600.0
    );
    if quote.balance > 0 { Ok(text) } else { Err(text) }
}

/// A folder is made when it is first used: what counts is the nearest one that exists.
fn writable(dir: &Path) -> std::result::Result<String, String> {
    let existing = dir
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let access = rustix::fs::access(
        existing,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    );
    match access {
        Ok(()) if existing.is_dir() => Ok(dir.display().to_string()),
        Ok(()) => Err(format!("{} is not a folder", existing.display())),
        Err(error) => Err(format!("{} cannot be written: {error}", existing.display())),
    }
}

/// Key files must not be readable by others.
fn private(dir: &Path) -> std::result::Result<String, String> {
    let data = DataFolder::at(dir);
    let mut open = Vec::new();
    let mut check = |path: &Path| {
        if let Ok(meta) = std::fs::metadata(path)
            && meta.permissions().mode() & 0o077 != 0
        {
            open.push(path.display().to_string());
        }
    };
    check(&data.run_file());
    check(&data.accounts());
    for name in crate::account::names(&data).unwrap_or_default() {
        for file in ["wallet.key", "reader.key"] {
            check(&data.accounts().join(&name).join(file));
        }
    }
    if open.is_empty() {
        Ok("only you can read the keys".to_owned())
    } else {
        Err(format!("others can read {}", open.join(", ")))
    }
}

fn space(dir: &Path) -> std::result::Result<String, String> {
    let existing = dir
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(existing).map_err(|error| error.to_string())?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let gigabytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let text = format!("{:.1} GiB free at {}", gigabytes(free), existing.display());
    if free >= DISK_BYTES_NEEDED {
        Ok(text)
    } else {
        Err(format!("{text}, {:.0} GiB needed", gigabytes(DISK_BYTES_NEEDED)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_key_that_others_can_read_is_found() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        crate::account::Account::create(&data, "ada", None).unwrap();
        assert!(private(folder.path()).is_ok());
        let key = data.accounts().join("ada/wallet.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(private(folder.path()).unwrap_err().contains("wallet.key"));
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_a_note_with_what_to_do() {
        let said =
            r#"{"usable":false,"title":"no driver","code":"gpu_no_driver","hint":"install it","facts":{}}"#;
        let finding = serde_json::from_str::<Gpu>(said).unwrap().finding();
        assert!(!finding.ok && !finding.needed && finding.found == "no driver");
        assert_eq!(finding.fix.as_deref(), Some("install it"));
        let said = r#"{"usable":true,"title":"H200","code":null,"hint":null,"facts":{"memory":"140 GiB"}}"#;
        let finding = serde_json::from_str::<Gpu>(said).unwrap().finding();
        assert!(finding.ok && finding.found == "H200; memory 140 GiB");
    }

    #[test]
    fn only_what_is_needed_makes_the_verdict() {
        let findings = [
            Finding::wished("a", Err("x".into()), "do a"),
            Finding::needed("b", Ok("y".into()), "do b"),
        ];
        let text = as_text(&findings, true);
        assert!(
            text.contains("note    a: x\n        fix: do a") && text.contains("ok      b: y\n"),
            "{text}"
        );
    }
}
