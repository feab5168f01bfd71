//! `alephlab kernel start`: what Jupyter runs. Asks the running `up` for a session, starts the broker beside the kernel
//! and then becomes the kernel, so that signals, exit status and process id are the kernel's own.
//!
//! Without a running `up` the kernel starts all the same: only `mount`, `publish` and `pull` then say what to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::account::KernelSession;
use alephlab_api::agent::{BrokerBootstrap, BrokerReady, ObjectCache};
use alephlab_api::client::GatewayClient;
use serde_json::json;

use crate::account::Account;
use crate::build::cache::InUse;
use crate::build::{programs, source, template};
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::run_file::{self, RunFile};
use crate::settings::Settings;

/// The broker only opens a socket and locks its memory before it is ready.
const BROKER_DEADLINE: Duration = Duration::from_secs(20);
/// Start of a private folder's name; the process id follows.
const FOLDER_PREFIX: &str = "alephlab-kernel-";

/// Becomes the kernel; returns only when that fails.
pub(crate) async fn start(settings: &Settings, connection_file: &Path) -> CliError {
    match prepare(settings, connection_file).await {
        Ok(mut command) => {
            let error = command.exec();
            CliError::Program {
                program: "alephlab-kernel",
                reason: format!("it cannot be started: {error}"),
            }
        }
        Err(error) => error,
    }
}

async fn prepare(settings: &Settings, connection_file: &Path) -> Result<Command> {
    let data = DataFolder::at(&settings.data.dir);
    let programs = programs::find()?;
    let running = run_file::find(&data)?;
    let runtime = runtime(settings, running.as_ref())?;
    let folder = private_folder()?;
    let work = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let beside = match &running {
        Some(run) => {
            let cache = settings.aleph.cache(&data);
            session(&data, run, &programs.broker, &folder, &work, cache).await
        }
        None => None,
    };
    let handover = folder.join("handover.json");
    write_new(
        &handover,
        &json!({
            "broker": beside.as_ref().map(|beside| &beside.socket),
            "kernel_id": beside.as_ref().map_or_else(uuid::Uuid::new_v4, |beside| beside.kernel_id),
            "account": beside.as_ref().map_or("", |beside| &beside.account),
            "gateway": running.as_ref().map_or("", |run| &run.gateway_url),
            "work_dir": work,
        }),
    )?;
    let mut command = Command::new(&programs.kernel);
    command.arg("run").arg("--connection-file").arg(connection_file);
    command
        .arg("--runtime")
        .arg(runtime)
        .arg("--handover")
        .arg(handover)
        .args(["--engine", settings.kernel.engine.name()]);
    if settings.kernel.history {
        command.arg("--history").arg(data.history());
    }
    if let Some(beside) = &beside {
        command.envs(beside.said.variables(|name| std::env::var(name).ok()));
    }
    // The kernel reads no standard input. In its place it holds the pipe whose end tells the broker that the kernel
    // has ended, however it ended.
    command.stdin(beside.map_or_else(Stdio::null, |beside| Stdio::from(beside.pipe)));
    Ok(command)
}

struct Beside {
    socket: PathBuf,
    kernel_id: uuid::Uuid,
    account: String,
    pipe: ChildStdin,
    said: BrokerReady,
}

/// A session and a broker; a failure is told and leaves a kernel without them.
async fn session(
    data: &DataFolder,
    run: &RunFile,
    broker: &Path,
    folder: &Path,
    work: &Path,
    cache: Option<ObjectCache>,
) -> Option<Beside> {
    let attempt = async {
        let gateway = GatewayClient::new(&run.gateway_url, Some(Secret::new(run.token.clone())))?;
        let session = gateway.new_kernel_session().await?;
        let account = Account::open(data, &run.account)?.address();
        start_broker(session, run, broker, folder, work, account, cache)
    };
    match attempt.await {
        Ok(beside) => Some(beside),
        Err(error) => {
            // Jupyter shows a kernel's standard error in its own log.
            let text = format!("alephlab: this kernel cannot open datasets: {error}\n");
            drop(std::io::stderr().write_all(text.as_bytes()));
            None
        }
    }
}

fn start_broker(
    session: KernelSession,
    run: &RunFile,
    broker: &Path,
    folder: &Path,
    work: &Path,
    account: String,
    cache: Option<ObjectCache>,
) -> Result<Beside> {
    let fail = |reason: String| CliError::Program {
        program: "alephlab-broker",
        reason,
    };
    let socket = folder.join("broker.sock");
    let bootstrap = BrokerBootstrap {
        socket: socket.clone(),
        gateway: run.gateway_url.clone(),
        kernel_id: session.kernel_id,
        kernel_token: session.token,
        aleph_url: run.aleph_url.clone(),
        account: account.clone(),
        work_dir: work.to_path_buf(),
        cache,
        certificate: None,
        confined: None,
        hidden: Vec::new(),
        // On the disk: what Hub clients fetch may be more than memory holds.
        hub_home: private_folder_in(&std::env::temp_dir())
            .map(|folder| folder.join("hub"))
            .ok(),
    };
    let path = folder.join("broker.json");
    write_new(&path, &bootstrap)?;
    let mut child = Command::new(broker)
        .arg("--bootstrap")
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Jupyter's signals to the kernel's group are not for the broker: it ends with its pipe.
        .process_group(0)
        .spawn()
        .map_err(|error| fail(format!("it cannot be started: {error}")))?;
    let (Some(pipe), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(fail("it has no pipes".to_owned()));
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // The receiver is gone only when the deadline has passed.
        let _ = sender.send(read.ok().and_then(|_| BrokerReady::of_line(&line)));
    });
    match receiver.recv_timeout(BROKER_DEADLINE) {
        Ok(Some(said)) => Ok(Beside {
            socket,
            kernel_id: session.kernel_id,
            account,
            pipe,
            said,
        }),
        Ok(None) => Err(fail("it ended before it was ready".to_owned())),
        Err(_) => Err(fail(format!(
            "it was not ready within {} s",
            BROKER_DEADLINE.as_secs()
        ))),
    }
}

fn runtime(settings: &Settings, running: Option<&RunFile>) -> Result<PathBuf> {
    let folder = match running {
        Some(run) => run.runtime_dir.clone(),
        None => template::folder(settings, source::find(settings)?.as_deref())?,
    };
    if template::is_built(&folder) {
        // From here on the kernel's own copy says that the template is in use.
        drop(InUse::of(&folder));
        return Ok(folder);
    }
    Err(CliError::Usage {
        message: format!(
            "the runtime that cells use is not built yet: {} is missing",
            folder.display()
        ),
        hint: "run `alephlab up` or `alephlab quickstart` once".to_owned(),
    })
}

/// A folder for socket and handover, with a short path: a socket's may have 107 bytes. Folders of ended kernels go.
fn private_folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    private_folder_in(&base.unwrap_or_else(std::env::temp_dir))
}

fn private_folder_in(base: &Path) -> Result<PathBuf> {
    sweep(base);
    let name = format!(
        "{FOLDER_PREFIX}{}-{:08x}",
        std::process::id(),
        rand::random::<u32>()
    );
    let folder = base.join(name);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|source| CliError::file("make the folder", &folder, source))?;
    Ok(folder)
}

fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: u32| !run_file::is_alive(pid)) {
            // Another user's folder refuses, and is theirs to remove.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn write_new(path: &Path, content: &impl serde::Serialize) -> Result<()> {
    let fail = |source| CliError::file("write", path, source);
    let bytes = serde_json::to_vec(content).map_err(|error| fail(error.into()))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(fail)?;
    file.write_all(&bytes).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn folders_of_ended_kernels_are_removed_and_others_stay() {
        let base = scratch();
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = base.path().join(format!("{FOLDER_PREFIX}{}-1", child.id()));
        let alive = base
            .path()
            .join(format!("{FOLDER_PREFIX}{}-2", std::process::id()));
        let other = base.path().join("alephlab-kernel-x");
        for folder in [&dead, &alive, &other] {
            std::fs::create_dir(folder).unwrap();
        }
        sweep(base.path());
        assert_eq!(
            (dead.exists(), alive.exists(), other.exists()),
            (false, true, true)
        );
    }
}
