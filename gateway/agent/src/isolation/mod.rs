//! What stands between kernels and terminals and the rest of the host: a sandbox of bubblewrap for each, and limits.
//!
//! What can be had is found out once, with a real start, and told to the gateway. Terminals have the same walls: a shell of an
//! account may do no more than its cells. Not here: the broker, which holds keys and mounts datasets, and is outside.

mod environment;
mod groups;
mod sandbox;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::isolation::bubblewrap::{self, Bwrap};
use alephlab_api::isolation::{Confinement, Isolation, LimitedBy, Limits, Walls};
use rustix::process::getuid;
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{AgentError, Result};
use crate::hold::Hold;

pub(crate) use environment::variables;
pub(crate) use groups::Group;
pub(crate) use sandbox::View;

use groups::{Controller, Groups};

/// A sandbox starts in milliseconds; this is for a machine that swaps.
const TRY_FOR: Duration = Duration::from_secs(10);

/// What a sandbox has of its own in these is not to be the host's: devices, processes, sockets of services.
const SYSTEMS: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];
/// Where desktops put the disks of a person, in one of them.
const MEDIA: &str = "/run/media";

/// The walls of this host.
pub(crate) struct Enclosure {
    confinement: Confinement,
    bwrap: Option<Bwrap>,
    groups: Option<Groups>,
    /// This program, for its `hold` step.
    launcher: Option<PathBuf>,
    pub(crate) walls: Walls,
    /// Why nothing may be started.
    refusal: Option<String>,
}

/// One kernel or terminal as it is to be started.
pub(crate) struct Enclosed {
    pub(crate) argv: Vec<OsString>,
    pub(crate) hold: Hold,
    pub(crate) group: Option<Group>,
    /// It has a sandbox, whose first process is not the program.
    pub(crate) sandboxed: bool,
}

impl Enclosure {
    /// Finds out what can be had here.
    pub(crate) async fn find(confinement: Confinement, launcher: Option<PathBuf>) -> Self {
        let mut missing = Vec::new();
        let mut refusal = None;
        let bwrap = match confinement.isolation {
            Isolation::None => {
                missing.push("sandboxes are switched off".to_owned());
                None
            }
            asked => match sandbox_works(&confinement.limits).await {
                Ok(bwrap) => Some(bwrap),
                Err(reason) => {
                    if asked == Isolation::Bubblewrap {
                        refusal = Some(reason.clone());
                    }
                    missing.push(reason);
                    None
                }
            },
        };
        let limits = confinement.limits.clone();
        let groups = match tokio::task::spawn_blocking(move || Groups::find(&limits)).await {
            Ok(Ok(groups)) if launcher.is_some() => Some(groups),
            Ok(Err(reason)) => {
                missing.push(reason);
                None
            }
            _ => None,
        };
        let mut found = Self {
            confinement,
            bwrap,
            groups,
            launcher,
            walls: Walls {
                bubblewrap: false,
                limited_by: LimitedBy::ResourceLimits,
                limits: Vec::new(),
                missing,
            },
            refusal,
        };
        found.walls.bubblewrap = found.bwrap.is_some();
        if let Some(groups) = &found.groups {
            found.walls.limited_by = groups.version;
        }
        found.tell_limits();
        found
    }

    /// Whether cells see less than the broker.
    pub(crate) fn is_sandboxed(&self) -> bool {
        self.bwrap.is_some()
    }

    /// Whether a folder without links in its path is one that nobody is shown: it is in what is hidden, or the system's. The
    /// whole of the host is, too: it would bring all of that back.
    pub(crate) fn hides(&self, folder: &Path) -> bool {
        let is_systems = SYSTEMS.iter().any(|system| folder.starts_with(system));
        folder.parent().is_none()
            || (is_systems && !folder.starts_with(MEDIA))
            || self.hidden().iter().any(|hidden| folder.starts_with(hidden))
    }

    /// Folders that nobody is shown, without links in their paths.
    pub(crate) fn hidden(&self) -> Vec<PathBuf> {
        let hidden = self.confinement.hidden.iter();
        hidden
            .map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.clone()))
            .collect()
    }

    /// Refuses to start anything without a sandbox where one is demanded.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.refusal {
            Some(reason) => Err(AgentError::Isolation {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// How to start a program with this view, under a name of its own.
    pub(crate) fn enclose(&self, name: &str, view: &View, argv: Vec<OsString>) -> Result<Enclosed> {
        self.check()?;
        if view.cut_off && self.bwrap.is_none() {
            let missing = self.walls.missing.join("; ");
            return Err(AgentError::Asked {
                reason: format!("a kernel without network needs a sandbox, and here is none: {missing}"),
            });
        }
        let failed = |what| {
            move |source| AgentError::File {
                what,
                path: view.home.clone(),
                source,
            }
        };
        let mut limits = self.confinement.limits.clone();
        limits.memory = limits.memory.into_iter().chain(view.memory).min();
        let limits = &limits;
        let group = self.groups.as_ref().map(|groups| groups.make(name, limits));
        let group = group.transpose().map_err(failed("making a control group"))?;
        let doors = group.as_ref().map(Group::doors).unwrap_or_default();
        let mut hold = Hold::of_agent()
            .in_groups(doors)
            .with_open_files(limits.open_files)
            .with_memory(limits.memory.filter(|_| !self.is_grouped(Controller::Memory)));
        if view.terminal {
            hold = hold.in_terminal();
        }
        let argv = match &self.bwrap {
            Some(bwrap) => {
                sandbox::prepare(view).map_err(failed("making the folders of a sandbox"))?;
                let mut words = sandbox::command(bwrap, &self.confinement, view);
                words.extend(self.inside(argv));
                words
            }
            None => argv,
        };
        Ok(Enclosed {
            argv,
            hold,
            group,
            sandboxed: self.bwrap.is_some(),
        })
    }

    /// What this program is needed for within a sandbox.
    pub(crate) fn shown(&self) -> Option<PathBuf> {
        self.launcher.clone().filter(|_| self.counts_inside().is_some())
    }

    fn inside(&self, argv: Vec<OsString>) -> Vec<OsString> {
        match (&self.launcher, self.counts_inside()) {
            (Some(launcher), Some(most)) => {
                let hold = Hold::default().with_processes(Some(most));
                let mut words = vec![launcher.clone().into()];
                words.extend(hold.arguments(argv));
                words
            }
            _ => argv,
        }
    }

    /// Processes that the user namespace of a sandbox may have, where no group counts them. The system counts none of root's.
    fn counts_inside(&self) -> Option<u64> {
        let most = self.confinement.limits.processes?;
        let is_root = getuid().is_root();
        (self.bwrap.is_some() && !self.is_grouped(Controller::Pids) && !is_root).then_some(most)
    }

    fn is_grouped(&self, controller: Controller) -> bool {
        self.groups
            .as_ref()
            .is_some_and(|groups| groups.limit(controller))
    }

    /// Which limits are kept, and which are not.
    fn tell_limits(&mut self) {
        let limits = self.confinement.limits.clone();
        let mut tell = |kept: bool, text: String, why: &str| match kept {
            true => self.walls.limits.push(text),
            false => self.walls.missing.push(format!("{text} is not kept: {why}")),
        };
        let grouped = |controller| {
            self.groups
                .as_ref()
                .is_some_and(|groups| groups.limit(controller))
        };
        let held = self.launcher.is_some();
        if let Some(bytes) = limits.memory {
            let each = if grouped(Controller::Memory) {
                ""
            } else {
                " a process"
            };
            tell(
                held,
                format!("memory {} MiB{each}", bytes >> 20),
                "the agent starts kernels itself",
            );
        }
        if let Some(count) = limits.processes {
            let inside = self.bwrap.is_some() && !getuid().is_root() && held;
            let why = "it needs control groups";
            tell(
                grouped(Controller::Pids) || inside,
                format!("{count} processes"),
                why,
            );
        }
        if let Some(percent) = limits.cpu_percent {
            let text = format!("{percent} % of a processor");
            tell(grouped(Controller::Cpu), text, "it needs control groups");
        }
        if let Some(count) = limits.open_files {
            tell(
                held,
                format!("{count} open files"),
                "the agent starts kernels itself",
            );
        }
        if self.bwrap.is_some() {
            tell(true, format!("{} MiB in /tmp", limits.temporary >> 20), "");
        }
    }
}

/// Finds out how sandboxes can be made here.
async fn sandbox_works(limits: &Limits) -> Result<Bwrap, String> {
    let program = found("bwrap").ok_or("bubblewrap is not installed (no `bwrap` in PATH)")?;
    let bwrap = |forbids_namespaces| Bwrap {
        program: program.clone(),
        forbids_namespaces,
    };
    if let Ok(bwrap) = start(bwrap(true), limits).await {
        return Ok(bwrap);
    }
    start(bwrap(false), limits).await
}

/// Starts nothing in a sandbox as kernels have them.
async fn start(bwrap: Bwrap, limits: &Limits) -> Result<Bwrap, String> {
    let mut words = bubblewrap::namespaces(&bwrap);
    words.extend(bubblewrap::system(limits.temporary));
    words.extend(bubblewrap::closed());
    words.extend(["--", "/bin/sh", "-c", ":"].map(OsString::from));
    let mut command = Command::new(&bwrap.program);
    command
        .args(&words[1..])
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(TRY_FOR, command.output()).await {
        Ok(Ok(output)) if output.status.success() => return Ok(bwrap),
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("bubblewrap does not start: {error}")),
        Err(_) => return Err("bubblewrap did not end within 10 s".to_owned()),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it says nothing");
    Err(format!(
        "bubblewrap cannot make a sandbox here: {}",
        said.trim_start_matches("bwrap: ")
    ))
}

/// A program of `PATH`.
pub(crate) fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|program| Path::is_file(program))
}
