//! Commands and files that start a broker, a kernel and a terminal's shell, each through the [`crate::hold`] step; and where
//! they work. What is between them and the host is [`crate::isolation`]'s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use alephlab_api::Secret;
use alephlab_api::agent::{BrokerBootstrap, BrokerReady, Engine, ObjectCache};
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use crate::error::{AgentError, Result};
use crate::folder::PrivateFolder;
use crate::hold::Hold;
use crate::isolation::{Enclosed, Enclosure, Group, View, variables};

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
    pub(crate) enclosure: Enclosure,
}

/// What one kernel needs to start.
pub(crate) struct Spec {
    pub(crate) kernel_id: Uuid,
    pub(crate) name: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
    pub(crate) home: Option<String>,
    pub(crate) anywhere: bool,
    pub(crate) kernel_token: Secret,
    pub(crate) account: String,
    pub(crate) aleph_url: String,
}

/// Asks for a kernel without network and without broker, `none`: for files of strangers. It reaches nothing, and nothing of its
/// account can be asked for.
const NETWORK: &str = "KERNEL_NETWORK";
/// Asks for a kernel of at most so many bytes of memory, where the host does not give it less anyway.
const MEMORY: &str = "KERNEL_MEMORY";

impl Spec {
    /// Whether it has neither network nor broker.
    ///
    /// # Errors
    /// For another word than `none`: who asked for less than all must not get all by a typing error.
    pub(crate) fn is_cut_off(&self) -> Result<bool> {
        match self.env.get(NETWORK).map(String::as_str) {
            None => Ok(false),
            Some("none") => Ok(true),
            Some(other) => Err(AgentError::Asked {
                reason: format!("{NETWORK} is `{other}`, and only `none` is known"),
            }),
        }
    }

    fn memory(&self) -> Result<Option<u64>> {
        let Some(text) = self.env.get(MEMORY) else {
            return Ok(None);
        };
        let bytes = text.parse().ok().filter(|bytes| *bytes > 0);
        bytes.map(Some).ok_or_else(|| AgentError::Asked {
            reason: format!("{MEMORY} is `{text}`, and no number of bytes"),
        })
    }
}

/// What one terminal's shell needs to start.
pub(crate) struct ShellSpec {
    pub(crate) cwd: Option<String>,
    pub(crate) home: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
}

/// Addresses of one kernel process: what stands in its connection file.
pub(crate) struct Endpoints {
    prefix: String,
}

impl Endpoints {
    /// Fresh ones in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
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
            "transport": "ipc", "ip": self.prefix, "key": "", "signature_scheme": "hmac-sha256",
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

/// A command, and what goes when its processes are gone.
pub(crate) struct Launch {
    pub(crate) command: Command,
    pub(crate) group: Option<Group>,
    /// Its first process is bubblewrap's, which tells a signal as a status.
    pub(crate) sandboxed: bool,
}

/// The command of a kernel, and the files it reads, written. `beside` is what its broker said, if it has one.
pub(crate) fn kernel(
    host: &Host,
    (spec, place): (&Spec, &Workplace),
    folder: &PrivateFolder,
    ends: &Endpoints,
    beside: &BrokerReady,
) -> Result<Launch> {
    let connection = folder.write("connection.json", ends.connection_file(&spec.name).as_bytes())?;
    let Workplace { home, cwd } = place.clone();
    let argv = match &host.kernel_argv {
        Some(argv) => {
            let file = connection.to_string_lossy();
            argv.iter()
                .map(|arg| OsString::from(arg.replace("{connection_file}", &file)))
                .collect()
        }
        None => kernel_argv(host, spec, (folder, connection), &cwd)?,
    };
    // Of another kernel whatever it names is shown.
    let named = argv.iter().map(PathBuf::from);
    let view = View {
        home,
        cwd,
        private: Some(folder.path().to_owned()),
        opened: beside.opened.clone(),
        shown: named
            .filter(|path| path.is_absolute() && path.is_file())
            .collect(),
        runtime: Some(host.runtime_dir.clone()),
        account: spec.home.clone(),
        anywhere: spec.anywhere,
        terminal: false,
        cut_off: spec.is_cut_off()?,
        memory: spec.memory()?,
    };
    let name = folder.path().file_name().unwrap_or_default();
    let mut launch = enclosed(host, &name.to_string_lossy(), view, argv)?;
    let command = &mut launch.command;
    command.envs(&spec.env);
    // What the kernel has of it: in a sandbox nothing but what it was given, which may be a proxy of this machine.
    let given = |name: &str| {
        let given = command.as_std().get_envs().find(|(known, _)| *known == name);
        given.map(|(_, value)| value?.to_str().map(str::to_owned))
    };
    let set = |name: &str| {
        let inherited = || std::env::var(name).ok().filter(|_| !launch.sandboxed);
        given(name).unwrap_or_else(inherited)
    };
    let found = beside.variables(set);
    command.envs(found).env("KERNEL_ID", spec.kernel_id.to_string());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok(launch)
}

fn kernel_argv(
    host: &Host,
    spec: &Spec,
    (folder, connection): (&PrivateFolder, PathBuf),
    cwd: &Path,
) -> Result<Vec<OsString>> {
    let handover = json!({
        "broker": broker_of(host, spec)?.map(|_| broker_socket(folder)),
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
    Ok(run.to_vec())
}

/// The broker's program, for a kernel that has one.
pub(crate) fn broker_of<'a>(host: &'a Host, spec: &Spec) -> Result<Option<&'a Path>> {
    let cut_off = spec.is_cut_off()?;
    Ok(host.broker_program.as_deref().filter(|_| !cut_off))
}

/// The command of a broker, and the file it reads, written.
pub(crate) fn broker(
    host: &Host,
    program: &Path,
    (spec, place): (&Spec, &Workplace),
    folder: &PrivateFolder,
) -> Result<Command> {
    let Workplace { home, cwd } = place.clone();
    let bootstrap = BrokerBootstrap {
        socket: broker_socket(folder),
        gateway: host.gateway.clone(),
        kernel_id: spec.kernel_id,
        kernel_token: spec.kernel_token.clone(),
        aleph_url: spec.aleph_url.clone(),
        account: spec.account.clone(),
        work_dir: cwd,
        cache: host.cache.clone(),
        certificate: host.certificate.clone(),
        confined: host.enclosure.is_sandboxed().then_some(home),
        hidden: host.enclosure.hidden(),
        hub_home: Some(folder.path().join("hub")),
    };
    let json = serde_json::to_vec(&bootstrap).map_err(|error| AgentError::Broker {
        reason: error.to_string(),
    })?;
    let file = folder.write("broker.json", &json)?;
    let argv = vec![program.into(), "--bootstrap".into(), file.into()];
    let mut command = held(host.launcher.as_deref(), Hold::of_agent(), argv);
    command.process_group(0);
    // Its end of file tells the broker to end; the pipe lives in the agent's `Processes`.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    Ok(command)
}

/// What every terminal of JupyterLab understands.
const TERM: &str = "xterm-256color";

/// The command of a terminal's shell, a login shell as Jupyter starts it, and the name of its program.
pub(crate) fn shell(host: &Host, spec: &ShellSpec) -> Result<(Launch, String)> {
    let program = shell_program(std::env::var_os("SHELL").map(PathBuf::from));
    let name = program.to_string_lossy().into_owned();
    let Workplace { home, cwd } = workplace(host, spec.home.as_deref(), spec.cwd.as_deref(), false)?;
    let view = View {
        home,
        cwd,
        shown: vec![program.clone()],
        terminal: true,
        ..View::default()
    };
    let group = format!("t-{}", Uuid::new_v4().simple());
    let mut launch = enclosed(host, &group, view, vec![program.clone().into(), "-l".into()])?;
    let command = &mut launch.command;
    if !launch.sandboxed {
        command.env_clear().envs(variables(None));
    }
    command.envs(&spec.env).env("TERM", TERM).env("SHELL", program);
    Ok((launch, name))
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

/// Where a kernel or terminal works, and the folder of its account that this is in.
///
/// Looked up once, and without links in their paths from then on: another kernel of the account could put a link in the place
/// of what was looked at.
#[derive(Clone)]
pub(crate) struct Workplace {
    home: PathBuf,
    cwd: PathBuf,
}

/// Where a kernel works, and its broker with it.
pub(crate) fn kernels_folder(host: &Host, spec: &Spec) -> Result<Workplace> {
    let asked = spec
        .cwd
        .as_deref()
        .or_else(|| spec.env.get("KERNEL_WORKING_DIR").map(String::as_str));
    workplace(host, spec.home.as_deref(), asked, spec.anywhere)
}

/// The folder asked for when there is one and it may be seen, else the account's own.
fn workplace(host: &Host, home: Option<&str>, asked: Option<&str>, anywhere: bool) -> Result<Workplace> {
    let home = match home {
        Some(name) => own_folder(&host.work_dir, name)?,
        None => host.work_dir.clone(),
    };
    let home = home.canonicalize().map_err(|source| AgentError::File {
        what: "finding the account's folder",
        path: home,
        source,
    })?;
    // `join` takes an absolute path as it is: on one's own machine that is what JupyterLab sends.
    let asked = asked
        .and_then(|asked| host.work_dir.join(asked).canonicalize().ok())
        .filter(|folder| folder.is_dir());
    let may_be_seen = |folder: &PathBuf| {
        !host.enclosure.is_sandboxed()
            || folder.starts_with(&home)
            || (anywhere && !host.enclosure.hides(folder))
    };
    let cwd = asked.filter(may_be_seen).unwrap_or_else(|| home.clone());
    Ok(Workplace { home, cwd })
}

/// An account's folder in the work folder: one name, and no way out.
fn own_folder(work_dir: &Path, name: &str) -> Result<PathBuf> {
    let folder = work_dir.join(name);
    let mut parts = Path::new(name).components();
    let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    let is_there = folder.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    if is_name && is_there {
        return Ok(folder);
    }
    Err(AgentError::File {
        what: "finding the account's folder",
        path: folder,
        source: std::io::ErrorKind::NotFound.into(),
    })
}

fn broker_socket(folder: &PrivateFolder) -> PathBuf {
    folder.path().join("broker.sock")
}

/// The command of a kernel or shell behind its walls: in a process group of its own, unless it leads a session.
fn enclosed(host: &Host, name: &str, mut view: View, argv: Vec<OsString>) -> Result<Launch> {
    view.shown.extend(host.enclosure.shown());
    let Enclosed {
        argv,
        hold,
        group,
        sandboxed,
    } = host.enclosure.enclose(name, &view, argv)?;
    let mut command = held(host.launcher.as_deref(), hold, argv);
    if sandboxed {
        command.env_clear().envs(variables(Some(&view.home)));
        // bubblewrap goes to where it works by itself.
        command.current_dir("/");
    } else {
        command.current_dir(&view.cwd);
    }
    if !view.terminal {
        command.process_group(0);
    }
    Ok(Launch {
        command,
        group,
        sandboxed,
    })
}

/// Through this program's `hold` step, where the agent knows it.
pub(crate) fn held(launcher: Option<&Path>, hold: Hold, argv: Vec<OsString>) -> Command {
    let mut command = match launcher {
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.args(hold.arguments(argv));
            command
        }
        None => {
            let mut argv = argv.into_iter();
            let mut command = Command::new(argv.next().unwrap_or_default());
            command.args(argv);
            command
        }
    };
    command.kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_account_has_a_folder_of_one_name() {
        let work = tempfile::tempdir().unwrap();
        std::fs::create_dir(work.path().join("0xab")).unwrap();
        std::os::unix::fs::symlink("/", work.path().join("0xcd")).unwrap();
        assert!(own_folder(work.path(), "0xab").is_ok());
        for bad in ["", ".", "..", "/", "/etc", "0xab/..", "../0xab", "0xcd", "0xef"] {
            assert!(own_folder(work.path(), bad).is_err(), "{bad}");
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
