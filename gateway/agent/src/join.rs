//! `alephlab-agent join`: takes a lease on a rented host. The gateway runs it over SSH and gives the lease on its standard
//! input; it leaves an agent behind that outlives the connection. Asked again for the same lease, it says that one is there.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alephlab_api::agent::{AgentBootstrap, HostFile, Join, Joined};
use uuid::Uuid;

use crate::error::{AgentError, Result};
use crate::folder;

/// More than a lease with its certificate takes.
const MAX_JOIN: u64 = 64 << 10;
/// How long the agent may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at it: nobody tells when another process has its lock.
const LOOK: Duration = Duration::from_millis(20);
const LOCK_PREFIX: &str = "agent-";

/// Reads a lease and starts the agent for it.
///
/// # Errors
/// [`AgentError`] when lease or host file cannot be read, this host has another lease, or the agent does not start.
pub fn join(input: impl Read, host_file: &Path, program: &Path) -> Result<Joined> {
    let mut text = Vec::new();
    let bad = |reason: String| AgentError::Lease { reason };
    input
        .take(MAX_JOIN)
        .read_to_end(&mut text)
        .map_err(|error| bad(error.to_string()))?;
    let join: Join = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let host = read_host(host_file)?;
    let run = host.run_dir.clone();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run)
        .map_err(|source| AgentError::File {
            what: "making the agent's folder",
            path: run.clone(),
            source,
        })?;
    match held(&run) {
        Some(lease) if lease == join.lease => return Ok(Joined { already: true }),
        Some(lease) => return Err(bad(format!("this host serves another lease, {lease}"))),
        None => {}
    }
    let (gateway, patience) = (join.gateway.clone(), join.patience);
    let lock = run.join(format!("{LOCK_PREFIX}{}.lock", join.lease));
    let agent = start(program, (&gateway, patience), &run, &bootstrap(&lock, join, host))?;
    wait(agent, &lock, &run)?;
    Ok(Joined { already: false })
}

fn read_host(path: &Path) -> Result<HostFile> {
    let bad = |reason: String| AgentError::Bootstrap {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

/// The lease whose agent runs here.
fn held(run: &Path) -> Option<Uuid> {
    let entries = fs::read_dir(run).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        let lease = name.to_str()?.strip_prefix(LOCK_PREFIX)?.strip_suffix(".lock")?;
        is_locked(&entry.path()).then(|| lease.parse().ok())?
    })
}

fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_err())
}

fn bootstrap(lock: &Path, join: Join, mut host: HostFile) -> AgentBootstrap {
    // The whole host is the allocation's. With a tenth left, a kernel that wants all memory does not take agent and broker along.
    let memory = &mut host.confinement.limits.memory;
    *memory = memory.or_else(|| Some(memory_of_host()? / 10 * 9));
    AgentBootstrap {
        lease: join.lease,
        token: join.token,
        kernel_program: host.kernel_program,
        broker_program: host.broker_program,
        runtime_dir: host.runtime_dir,
        engine: host.engine,
        work_dir: host.work_dir,
        cache: None,
        kernel_argv: host.kernel_argv,
        lock: Some(lock.to_owned()),
        certificate: join.certificate,
        confinement: host.confinement,
    }
}

/// Bytes of memory (`proc_meminfo(5)`).
fn memory_of_host() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Starts the agent apart from this process.
fn start(
    program: &Path,
    (gateway, patience): (&str, u64),
    run: &Path,
    bootstrap: &AgentBootstrap,
) -> Result<Child> {
    let file = run.join("bootstrap.json");
    let _ = fs::remove_file(&file);
    let failed = |path: &Path, source| AgentError::File {
        what: "handing the lease to the agent",
        path: path.to_owned(),
        source,
    };
    let json = serde_json::to_vec(bootstrap).map_err(|error| failed(&file, error.into()))?;
    folder::write_private(&file, &json)?;
    let log = run.join("agent.log");
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .map_err(|source| failed(&log, source))?;
    Command::new(program)
        .args(["--gateway", gateway, "--outlive", "--patience"])
        .arg(patience.to_string())
        .arg("--bootstrap")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|source| AgentError::Spawn {
            program: program.display().to_string(),
            source,
        })
}

/// Waits until the agent has its lock: then its number stands in the file.
fn wait(mut agent: Child, lock: &Path, run: &Path) -> Result<()> {
    let failed = |reason: String| AgentError::Lease {
        reason: format!("the agent did not start: {reason}"),
    };
    let number = format!("{} ", agent.id());
    let has_lock = || fs::read_to_string(lock).is_ok_and(|text| text.starts_with(&number));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime
        .map_err(|error| failed(error.to_string()))?
        .block_on(async {
            let begun = Instant::now();
            while !has_lock() {
                let ended = agent.try_wait().ok().flatten();
                if ended.is_some() || begun.elapsed() > STARTS_WITHIN {
                    let said = fs::read_to_string(run.join("agent.log")).unwrap_or_default();
                    return Err(failed(
                        said.lines().last().unwrap_or("it said nothing").to_owned(),
                    ));
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        })
}

/// Where the host file is when nobody says otherwise.
pub fn default_host_file() -> PathBuf {
    PathBuf::from(alephlab_api::agent::HOST_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(lease: Uuid) -> String {
        format!(
            r#"{{"lease":"{lease}","token":"t","gateway":"https://127.0.0.1:1","certificate":null,"patience":1}}"#
        )
    }

    #[test]
    fn refuses_in_words_what_is_no_lease_or_no_host() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("host.json");
        let refused = |text: &str| join(text.as_bytes(), &host, Path::new("/none")).unwrap_err();
        assert_eq!(refused("{").code(), "agent_lease");
        assert_eq!(refused(&lease(Uuid::nil())).code(), "agent_bootstrap");
    }

    #[test]
    fn a_host_serves_one_lease_and_knows_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let (run, host) = (folder.path().join("run"), folder.path().join("host.json"));
        let text = serde_json::json!({
            "kernel_program": "/none", "runtime_dir": "/none", "work_dir": "/none", "run_dir": run,
        });
        fs::write(&host, text.to_string()).unwrap();
        fs::create_dir(&run).unwrap();
        let held = File::create(run.join(format!("agent-{}.lock", Uuid::nil()))).unwrap();
        held.lock().unwrap();
        let ask = |id: Uuid| join(lease(id).as_bytes(), &host, Path::new("/none"));
        assert_eq!(ask(Uuid::nil()).unwrap(), Joined { already: true });
        assert!(
            ask(Uuid::max())
                .unwrap_err()
                .to_string()
                .contains("another lease")
        );
        drop(held);
        assert_eq!(ask(Uuid::nil()).unwrap_err().code(), "agent_spawn");
    }
}
