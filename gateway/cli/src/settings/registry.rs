//! Section `registry`: whose word counts, and how often the network is asked what is new.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{list, minutes};

/// Section `registry`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    /// Addresses of verifiers whose evidence counts.
    #[serde(default, deserialize_with = "list")]
    pub verifiers: Vec<String>,
    /// How often new messages are looked for.
    #[serde(default = "often", deserialize_with = "minutes")]
    pub follow_minutes: u32,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            verifiers: Vec::new(),
            follow_minutes: often(),
        }
    }
}

impl Registry {
    /// Whose evidence counts; none where it is the operator's.
    pub(crate) fn verifiers(&self) -> Option<Vec<String>> {
        (!self.verifiers.is_empty()).then(|| self.verifiers.clone())
    }

    /// How often the network is asked; none for never.
    pub(crate) fn follow(&self) -> Option<Duration> {
        (self.follow_minutes > 0).then(|| Duration::from_secs(60 * u64::from(self.follow_minutes)))
    }
}

fn often() -> u32 {
    5
}
