//! Commands and files that start a broker and a kernel, and the `hold` step between the agent and them.
//!
//! `hold` is this program run again: it asks the system to kill it when the agent dies, then becomes the kernel
//! (`exec` keeps that wish). So a killed agent leaves no broker and no kernel, without any unsafe code before `exec`. A
//! terminal's shell is started so, too; there `hold` first makes a session of its own and takes the terminal for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use alephlab_api::Secret;
use alephlab_api::agent::{BrokerBootstrap, Engine, ObjectCache};
use rustix::process::{Pid, Signal, getppid, ioctl_tiocsctty, set_parent_process_death_signal, setsid};
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use crate::error::{AgentError, Result};
use crate::folder::PrivateFolder;

/// What all kernels of this machine share.
pub(crate) struct Host {
    pub(crate) gateway: String,
    pub(crate) kernel_program: PathBuf,
    pub(crate) broker_program: Option<PathBuf>,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) work_dir: PathBuf,
    pub(crate) cache: Option<ObjectCache>,
    pub(crate) kernel_argv: Option<Vec<String>>,
    pub(crate) launcher: Option<PathBuf>,
    pub(crate) certificate: Option<String>,
    pub(crate) folder: PathBuf,
}

/// What one kernel needs to start.
pub(crate) struct Spec {
    pub(crate) kernel_id: Uuid,
    pub(crate) name: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
    pub(crate) kernel_token: Secret,
    pub(crate) account: String,
    pub(crate) aleph_url: String,
}

/// What one terminal's shell needs to start.
pub(crate) struct ShellSpec {
    pub(crate) cwd: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
}

/// Addresses and key of one kernel process: what stands in its connection file.
pub(crate) struct Endpoints {
    pub(crate) key: String,
    prefix: String,
}

impl Endpoints {
    /// Fresh ones in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            key: Uuid::new_v4().to_string(),
            prefix: folder.join("k").to_string_lossy().into_owned(),
        }
    }

    /// Path of a channel's socket: Jupyter writes ipc endpoints as `{ip}-{port}`.
    pub(crate) fn path(&self, port: u16) -> PathBuf {
        PathBuf::from(format!("{}-{port}", self.prefix))
    }

    pub(crate) fn address(&self, port: u16) -> String {
        format!("ipc://{}-{port}", self.prefix)
    }

    fn connection_file(&self, name: &str) -> String {
        json!({
            "transport": "ipc", "ip": self.prefix, "key": self.key, "signature_scheme": "hmac-sha256",
            "shell_port": SHELL, "iopub_port": IOPUB, "stdin_port": STDIN, "control_port": CONTROL,
            "hb_port": HEARTBEAT, "kernel_name": name,
        })
        .to_string()
    }
}

pub(crate) const SHELL: u16 = 1;
pub(crate) const IOPUB: u16 = 2;
pub(crate) const STDIN: u16 = 3;
pub(crate) const CONTROL: u16 = 4;
const HEARTBEAT: u16 = 5;

/// The command of a kernel, and the files it reads, written.
pub(crate) fn kernel(host: &Host, spec: &Spec, folder: &PrivateFolder, ends: &Endpoints) -> Result<Command> {
    let connection = folder.write("connection.json", ends.connection_file(&spec.name).as_bytes())?;
    let cwd = kernels_folder(host, spec);
    let argv = match &host.kernel_argv {
        Some(argv) => {
            let file = connection.to_string_lossy();
            argv.iter()
                .map(|arg| OsString::from(arg.replace("{connection_file}", &file)))
                .collect()
        }
        None => {
            let handover = json!({
                "broker": host.broker_program.as_ref().map(|_| broker_socket(folder)),
                "kernel_id": spec.kernel_id, "account": spec.account, "gateway": host.gateway, "work_dir": cwd,
            });
            let handover = folder.write("handover.json", handover.to_string().as_bytes())?;
            let engine = Engine::of_kernelspec(&spec.name, host.engine);
            let run: [OsString; 10] = [
                host.kernel_program.clone().into(),
                "run".into(),
                "--connection-file".into(),
                connection.into(),
                "--runtime".into(),
                host.runtime_dir.clone().into(),
                "--handover".into(),
                handover.into(),
                "--engine".into(),
                engine.name().into(),
            ];
            run.to_vec()
        }
    };
    let mut command = held(host, false, argv);
    command
        .envs(&spec.env)
        .env("KERNEL_ID", spec.kernel_id.to_string());
    command
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok(command)
}

/// The command of a broker, and the file it reads, written.
pub(crate) fn broker(host: &Host, program: &Path, spec: &Spec, folder: &PrivateFolder) -> Result<Command> {
    let bootstrap = BrokerBootstrap {
        socket: broker_socket(folder),
        gateway: host.gateway.clone(),
        kernel_id: spec.kernel_id,
        kernel_token: spec.kernel_token.clone(),
        aleph_url: spec.aleph_url.clone(),
        account: spec.account.clone(),
        work_dir: kernels_folder(host, spec),
        cache: host.cache.clone(),
        certificate: host.certificate.clone(),
    };
    let json = serde_json::to_vec(&bootstrap).map_err(|error| AgentError::Broker {
        reason: error.to_string(),
    })?;
    let file = folder.write("broker.json", &json)?;
    let mut command = held(
        host,
        false,
        vec![program.into(), "--bootstrap".into(), file.into()],
    );
    // Its end of file tells the broker to end; the pipe lives in the agent's `Processes`.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    Ok(command)
}

/// What a shell gets of the agent's own environment: the gateway's settings in it may be secret, and so may anything else.
const PASSED: [&str; 16] = [
    "CARGO_HOME",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "PATH",
    "RUSTUP_HOME",
    "TMPDIR",
    "TZ",
    "USER",
];
/// What every terminal of JupyterLab understands.
const TERM: &str = "xterm-256color";

/// The command of a terminal's shell, a login shell as Jupyter starts it, and the name of its program.
pub(crate) fn shell(host: &Host, spec: &ShellSpec) -> (Command, String) {
    let program = shell_program(std::env::var_os("SHELL").map(PathBuf::from));
    let name = program.to_string_lossy().into_owned();
    let mut command = held(host, true, vec![program.clone().into(), "-l".into()]);
    command.env_clear();
    let passed = |name: &str| PASSED.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_");
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passed)));
    command
        .envs(&spec.env)
        .env("TERM", TERM)
        .env("SHELL", program)
        .current_dir(working_folder(host, spec.cwd.as_deref()));
    (command, name)
}

/// The one that is asked for, when it is a shell to work with; else the usual one.
fn shell_program(asked: Option<PathBuf>) -> PathBuf {
    let refuses = |path: &Path| path.ends_with("nologin") || path.ends_with("false");
    let asked = asked.filter(|path| path.is_absolute() && path.is_file() && !refuses(path));
    let usual = || {
        let bash = PathBuf::from("/bin/bash");
        if bash.is_file() { bash } else { "/bin/sh".into() }
    };
    asked.unwrap_or_else(usual)
}

/// Becomes `argv`, to be killed when `parent` dies; with `terminal` as the leader of a session whose terminal is its standard
/// input. Returns only when that failed.
///
/// Called by the program's hidden `hold` command.
///
/// # Errors
/// [`AgentError::Spawn`], always.
pub fn hold(parent: u32, terminal: bool, argv: &[OsString]) -> AgentError {
    let [program, arguments @ ..] = argv else {
        let source = std::io::Error::other("no program is named");
        return AgentError::Spawn {
            program: "hold".to_owned(),
            source,
        };
    };
    let program = program.to_string_lossy().into_owned();
    if terminal && let Err(error) = setsid().and_then(|_| ioctl_tiocsctty(std::io::stdin())) {
        return AgentError::Spawn {
            program,
            source: error.into(),
        };
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return AgentError::Spawn {
            program,
            source: error.into(),
        };
    }
    // The agent may have died before the wish was made.
    let alive = i32::try_from(parent)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| getppid() == Some(pid));
    if !alive {
        return AgentError::Spawn {
            program,
            source: std::io::Error::other("the agent is gone"),
        };
    }
    let source = std::process::Command::new(&program).args(arguments).exec();
    AgentError::Spawn { program, source }
}

/// Where a kernel works.
fn kernels_folder(host: &Host, spec: &Spec) -> PathBuf {
    let asked = spec
        .cwd
        .as_deref()
        .or_else(|| spec.env.get("KERNEL_WORKING_DIR").map(String::as_str));
    working_folder(host, asked)
}

/// The folder asked for when there is one, else the machine's work folder.
fn working_folder(host: &Host, asked: Option<&str>) -> PathBuf {
    // `join` takes an absolute path as it is: on one's own machine that is what JupyterLab sends.
    let folder = asked
        .map(|asked| host.work_dir.join(asked))
        .filter(|folder| folder.is_dir());
    folder.unwrap_or_else(|| host.work_dir.clone())
}

fn broker_socket(folder: &PrivateFolder) -> PathBuf {
    folder.path().join("broker.sock")
}

/// In a process group of its own; what leads a session for a terminal makes that itself.
fn held(host: &Host, terminal: bool, argv: Vec<OsString>) -> Command {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let mut command = match &host.launcher {
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command
                .arg("hold")
                .arg("--parent")
                .arg(std::process::id().to_string());
            if terminal {
                command.arg("--terminal");
            }
            command.arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(argv).kill_on_drop(true);
    if !terminal {
        command.process_group(0);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_refuses_a_parent_that_is_gone_or_a_missing_program() {
        assert_eq!(hold(1, false, &[]).code(), "agent_spawn");
        let error = hold(u32::MAX, false, &["true".into()]);
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn a_shell_is_one_to_work_with() {
        let chosen = |asked: &str| shell_program(Some(asked.into()));
        assert_eq!(chosen("/bin/sh"), Path::new("/bin/sh"));
        let usual = shell_program(None);
        assert!(usual.is_file());
        for bad in ["/usr/sbin/nologin", "/bin/false", "sh", "/nonexistent/sh", ""] {
            assert_eq!(chosen(bad), usual, "{bad}");
        }
    }

    #[test]
    fn connection_file_names_the_sockets() {
        let ends = Endpoints::new(Path::new("/tmp/x"));
        let file: serde_json::Value = serde_json::from_str(&ends.connection_file("alephlab")).unwrap();
        assert_eq!(file["ip"], "/tmp/x/k");
        assert_eq!(ends.address(SHELL), "ipc:///tmp/x/k-1");
        assert_eq!(file["shell_port"], 1);
    }
}
