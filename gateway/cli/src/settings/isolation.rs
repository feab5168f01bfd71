//! Section `isolation`: how kernels and terminals of this machine are kept apart, and what each may take.

use std::path::{Path, PathBuf};

use alephlab_api::isolation::{self, Confinement, Limits};
use serde::{Deserialize, Serialize};

use super::values::{bytes, count, list};

/// Section `isolation`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Isolation {
    /// Whether there are sandboxes.
    pub sandbox: isolation::Isolation,
    /// Folders that all sandboxes show.
    #[serde(default, deserialize_with = "list")]
    pub visible: Vec<String>,
    /// Bytes of memory; 0 is no limit.
    #[serde(deserialize_with = "bytes")]
    pub memory: u64,
    /// Hundredths of a processor; 0 is no limit.
    #[serde(deserialize_with = "count")]
    pub cpu_percent: usize,
    /// Processes; 0 is no limit.
    #[serde(deserialize_with = "count")]
    pub processes: usize,
    /// Open files of a process; 0 is no limit.
    #[serde(deserialize_with = "count")]
    pub open_files: usize,
    /// Bytes in `/tmp`.
    #[serde(deserialize_with = "bytes")]
    pub tmp: u64,
}

impl Default for Isolation {
    fn default() -> Self {
        let limits = Limits::default();
        let count = |value: Option<u64>| usize::try_from(value.unwrap_or_default()).unwrap_or(usize::MAX);
        Self {
            sandbox: isolation::Isolation::default(),
            visible: Vec::new(),
            memory: 0,
            cpu_percent: 0,
            processes: count(limits.processes),
            open_files: count(limits.open_files),
            tmp: limits.temporary,
        }
    }
}

impl Isolation {
    /// For the agent of this machine, whose gateway has its data in `data`.
    pub(crate) fn confinement(&self, data: &Path) -> Confinement {
        let some = |value: u64| (value > 0).then_some(value);
        Confinement {
            isolation: self.sandbox,
            limits: Limits {
                memory: some(self.memory),
                cpu_percent: u32::try_from(self.cpu_percent)
                    .ok()
                    .filter(|percent| *percent > 0),
                processes: some(self.processes as u64),
                open_files: some(self.open_files as u64),
                temporary: self.tmp.max(1 << 20),
            },
            hidden: vec![data.to_owned()],
            visible: self.visible.iter().map(PathBuf::from).collect(),
        }
    }

    /// For hosts of the local network. They are for one account, so nothing is hidden from it; and sandboxes themselves, in which
    /// another one may not be possible.
    pub(crate) fn of_rented(&self) -> Confinement {
        Confinement {
            isolation: match self.sandbox {
                isolation::Isolation::None => isolation::Isolation::None,
                _ => isolation::Isolation::Auto,
            },
            hidden: Vec::new(),
            ..self.confinement(Path::new(""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_what_agents_take_by_themselves() {
        let confinement = Isolation::default().confinement(Path::new("/data"));
        assert_eq!(confinement.limits, Limits::default());
        assert_eq!(confinement.hidden, [PathBuf::from("/data")]);
        let none = Isolation {
            processes: 0,
            memory: 1 << 30,
            ..Isolation::default()
        };
        let limits = none.confinement(Path::new("/data")).limits;
        assert_eq!((limits.processes, limits.memory), (None, Some(1 << 30)));
    }
}
