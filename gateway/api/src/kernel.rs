//! The states of a kernel, one set for agent, gateway and database.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelState {
    /// Being provisioned; no messages pass yet.
    Starting,
    /// Ready for a cell.
    Idle,
    /// Runs a cell.
    Busy,
    /// Its process is being replaced; its id stays.
    Restarting,
    /// Was told to stop.
    Stopping,
    /// Stopped as asked.
    Stopped,
    /// Ended without being asked, or never started.
    Dead,
}

impl KernelState {
    /// Every state, in the order of a kernel's life.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Idle,
        Self::Busy,
        Self::Restarting,
        Self::Stopping,
        Self::Stopped,
        Self::Dead,
    ];

    /// The name in JSON, database and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
        }
    }

    /// What Jupyter's clients know it by (`execution_state`).
    pub fn jupyter(self) -> &'static str {
        match self {
            Self::Stopping | Self::Stopped => "terminating",
            other => other.name(),
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing can follow it but a restart of a dead kernel.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Dead)
    }

    /// Whether `next` may follow. A state may always be reported again.
    pub fn may_become(self, next: Self) -> bool {
        use KernelState::{Busy, Dead, Idle, Restarting, Starting, Stopped, Stopping};
        self == next
            || match self {
                Starting => matches!(next, Idle | Busy | Restarting | Stopping | Dead),
                Idle | Busy => matches!(next, Idle | Busy | Restarting | Stopping | Dead),
                Restarting => matches!(next, Starting | Idle | Busy | Stopping | Dead),
                Stopping => matches!(next, Stopped | Dead),
                Dead => matches!(next, Restarting | Stopping | Stopped),
                Stopped => false,
            }
    }
}

impl fmt::Display for KernelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for state in KernelState::ALL {
            assert_eq!(KernelState::parse(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }

    #[test]
    fn nothing_follows_stopped_and_only_a_restart_follows_dead() {
        for next in KernelState::ALL {
            assert_eq!(
                KernelState::Stopped.may_become(next),
                next == KernelState::Stopped
            );
        }
        assert!(KernelState::Dead.may_become(KernelState::Restarting));
        assert!(!KernelState::Dead.may_become(KernelState::Idle));
    }
}
