//! How a host keeps kernels and terminals apart from everything else on it: what is asked for, and what was had.

pub mod bubblewrap;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether kernels and terminals run in sandboxes of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In bubblewrap's where that works; with limits only where not, and said.
    #[default]
    Auto,
    /// In bubblewrap's, or not at all.
    Bubblewrap,
    /// With limits only: cells may do all that the agent's user may.
    None,
}

/// Folders of the host that concern sandboxes, beside those that every kernel needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Whether there are sandboxes.
    pub isolation: Isolation,
    /// What the processes of one kernel or terminal may take.
    pub limits: Limits,
    /// Shown to nobody, whatever else is shown: the gateway's own data.
    pub hidden: Vec<PathBuf>,
    /// Shown to everybody, read-only: programs that cells call.
    pub visible: Vec<PathBuf>,
}

/// What the processes of one kernel or terminal may take; nothing is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Hundredths of a processor.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// Bytes in `/tmp`, and as many in `/dev/shm`; both are memory.
    pub temporary: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            cpu_percent: None,
            processes: Some(1_024),
            open_files: Some(65_536),
            temporary: 2 << 30,
        }
    }
}

/// What holds a kernel to its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// Control groups, version 2: all processes together.
    CgroupV2,
    /// Control groups, version 1: all processes together.
    CgroupV1,
    /// Resource limits: each process by itself.
    ResourceLimits,
}

/// What an agent has between its kernels and the rest of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Each kernel and terminal has a sandbox.
    pub bubblewrap: bool,
    /// What holds them to their limits.
    pub limited_by: LimitedBy,
    /// Limits that are kept, such as `memory 8 GiB`.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Why there are no sandboxes, or not all limits.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// One phrase: `bubblewrap, cgroup v2`.
impl fmt::Display for Walls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.bubblewrap, self.limited_by) {
            (true, LimitedBy::CgroupV2) => "bubblewrap, cgroup v2",
            (true, LimitedBy::CgroupV1) => "bubblewrap, cgroup v1",
            (true, LimitedBy::ResourceLimits) => "bubblewrap, resource limits",
            (false, LimitedBy::CgroupV2) => "no sandbox, cgroup v2 only",
            (false, LimitedBy::CgroupV1) => "no sandbox, cgroup v1 only",
            (false, LimitedBy::ResourceLimits) => "resource limits only",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_says_nothing_of_it_gets_the_usual() {
        let usual: Confinement = serde_json::from_str("{}").unwrap();
        assert_eq!(usual, Confinement::default());
        let some: Confinement =
            serde_json::from_str(r#"{"isolation":"bubblewrap","limits":{"memory":1}}"#).unwrap();
        assert_eq!(some.isolation, Isolation::Bubblewrap);
        assert_eq!(
            (some.limits.memory, some.limits.processes),
            (Some(1), Some(1_024))
        );
        assert!(serde_json::from_str::<Confinement>(r#"{"isolation":"docker"}"#).is_err());
    }

    #[test]
    fn walls_are_one_phrase() {
        let walls = |bubblewrap, limited_by| Walls {
            bubblewrap,
            limited_by,
            limits: Vec::new(),
            missing: Vec::new(),
        };
        assert_eq!(
            walls(true, LimitedBy::CgroupV2).to_string(),
            "bubblewrap, cgroup v2"
        );
        assert_eq!(
            walls(false, LimitedBy::ResourceLimits).to_string(),
            "resource limits only"
        );
    }
}
