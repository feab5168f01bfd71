//! The step between the agent and what it starts: this program run again, as its hidden `hold` command.
//!
//! It asks the system to kill it when the agent dies, steps into its control groups, takes its limits, then becomes the
//! program (`exec` keeps all of that). So a killed agent leaves no broker and no kernel, without any unsafe code before
//! `exec`. For a terminal it makes a session of its own first and takes the terminal for it. Run once more inside a sandbox,
//! it takes what can only be limited there.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use clap::Args;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, ioctl_tiocsctty, set_parent_process_death_signal,
    setrlimit, setsid,
};

use crate::error::AgentError;

/// What is done before the program.
#[derive(Debug, Default, Args)]
pub struct Hold {
    /// Process id of the agent, to die with it.
    #[arg(long)]
    parent: Option<u32>,
    /// Lead a session whose terminal is standard input.
    #[arg(long)]
    terminal: bool,
    /// Files of control groups to step into.
    #[arg(long)]
    group: Vec<PathBuf>,
    /// Open files of one process; no core files then either.
    #[arg(long)]
    open_files: Option<u64>,
    /// Bytes of memory of one process.
    #[arg(long)]
    memory: Option<u64>,
    /// Processes of this user in this user namespace.
    #[arg(long)]
    processes: Option<u64>,
    /// The program and its arguments.
    #[arg(last = true)]
    argv: Vec<OsString>,
}

impl Hold {
    /// For what the agent itself starts.
    pub(crate) fn of_agent() -> Self {
        Self {
            parent: Some(std::process::id()),
            ..Self::default()
        }
    }

    pub(crate) fn in_terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    pub(crate) fn in_groups(mut self, doors: Vec<PathBuf>) -> Self {
        self.group = doors;
        self
    }

    pub(crate) fn with_open_files(mut self, most: Option<u64>) -> Self {
        self.open_files = most;
        self
    }

    pub(crate) fn with_memory(mut self, most: Option<u64>) -> Self {
        self.memory = most;
        self
    }

    pub(crate) fn with_processes(mut self, most: Option<u64>) -> Self {
        self.processes = most;
        self
    }

    /// The arguments of this program that do it.
    pub(crate) fn arguments(self, argv: Vec<OsString>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["hold".into()];
        let mut add = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                arguments.extend([name.into(), value]);
            }
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string().into());
        add("--parent", number(self.parent.map(u64::from)));
        for door in self.group {
            add("--group", Some(door.into()));
        }
        add("--open-files", number(self.open_files));
        add("--memory", number(self.memory));
        add("--processes", number(self.processes));
        if self.terminal {
            arguments.push("--terminal".into());
        }
        arguments.push("--".into());
        arguments.extend(argv);
        arguments
    }
}

/// Becomes the program. Returns only when that failed.
///
/// Called by the program's hidden `hold` command.
///
/// # Errors
/// [`AgentError::Spawn`], always.
pub fn hold(hold: &Hold) -> AgentError {
    let [program, arguments @ ..] = hold.argv.as_slice() else {
        let source = std::io::Error::other("no program is named");
        return AgentError::Spawn {
            program: "hold".to_owned(),
            source,
        };
    };
    let program = program.to_string_lossy().into_owned();
    if let Err(source) = prepare(hold) {
        return AgentError::Spawn { program, source };
    }
    let source = std::process::Command::new(&program).args(arguments).exec();
    AgentError::Spawn { program, source }
}

fn prepare(hold: &Hold) -> std::io::Result<()> {
    if hold.terminal {
        setsid()?;
        ioctl_tiocsctty(std::io::stdin())?;
    }
    if let Some(parent) = hold.parent {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The agent may have died before the wish was made.
        let parent = i32::try_from(parent).ok().and_then(Pid::from_raw);
        if parent.is_none() || getppid() != parent {
            return Err(std::io::Error::other("the agent is gone"));
        }
    }
    for door in &hold.group {
        OpenOptions::new().write(true).open(door)?.write_all(b"0")?;
    }
    if let Some(most) = hold.open_files {
        limit(Resource::Nofile, most)?;
        limit(Resource::Core, 0)?;
    }
    if let Some(most) = hold.memory {
        limit(Resource::Data, most)?;
    }
    if let Some(most) = hold.processes {
        limit(Resource::Nproc, most)?;
    }
    Ok(())
}

/// For good, and never more than this process may have.
fn limit(resource: Resource, most: u64) -> std::io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |may| may.min(most));
    let both = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(resource, both).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_refuses_a_parent_that_is_gone_or_a_missing_program() {
        assert_eq!(hold(&Hold::default()).code(), "agent_spawn");
        let gone = Hold {
            parent: Some(u32::MAX),
            argv: vec!["true".into()],
            ..Hold::default()
        };
        let error = hold(&gone);
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn says_by_its_arguments_what_is_to_be_done() {
        let hold = Hold::default()
            .in_terminal()
            .in_groups(vec!["/a".into(), "/b".into()])
            .with_processes(Some(7));
        let words = hold.arguments(vec!["sh".into()]);
        assert_eq!(
            words,
            [
                "hold",
                "--group",
                "/a",
                "--group",
                "/b",
                "--processes",
                "7",
                "--terminal",
                "--",
                "sh"
            ]
        );
    }
}
