//! Fault switches for tests: how the node misbehaves on purpose.
//!
//! A test holds [`Faults`] from [`crate::Handle`]; where [`crate::Config::faults`] is set, a local
//! operator can use the route `/localnet/v0/faults` instead. With no switch on, nothing here
//! changes an answer.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Most switches at a time.
const MAX_SWITCHES: usize = 64;

/// One way to misbehave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Requests whose path contains `path` wait first.
    Delay {
        /// Part of the path; empty for all.
        path: String,
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Requests whose path contains `path` get this status and are not handled (429, 500, 503).
    Status {
        /// Part of the path; empty for all.
        path: String,
        /// HTTP status.
        status: u16,
    },
    /// Downloads break off after `keep_bytes`, although the length announced is the whole one.
    Truncate {
        /// Bytes sent before the connection breaks.
        keep_bytes: u64,
    },
    /// Downloads have the right length and one wrong byte (the first).
    WrongBytes,
    /// Messages of this type stay pending.
    StayPending {
        /// `POST`, `STORE`, …; empty for all.
        message_type: String,
    },
    /// Messages of this type are rejected with `code` after their signature was found good.
    Reject {
        /// `POST`, `STORE`, …; empty for all.
        message_type: String,
        /// Error code of the network.
        code: u16,
    },
    /// CRNs say that they have no capacity, whatever they list.
    NoCapacity,
    /// Instances are taken and never boot.
    NeverBoots,
    /// An instance whose SSH answers and whose hash contains `instance` dies.
    InstanceDies {
        /// Part of the hash; empty for any.
        instance: String,
    },
    /// CRNs let instances run whose message is forgotten.
    IgnoreForget,
    /// Requests to the CRN of this name find nobody, as its proxy says with 502; what it runs goes on.
    CrnUnreachable {
        /// Name of the CRN; empty for all.
        node: String,
    },
}

/// A fault and how often it still happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
    /// How often; absent means until [`Faults::clear`].
    #[serde(default)]
    pub times: Option<u32>,
}

/// What one download suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DownloadFault {
    Truncate(u64),
    WrongBytes,
}

/// What one message suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageFault {
    StayPending,
    Reject(u16),
}

/// The switches of one node; clones are the same switches.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Switch>>>);

impl Faults {
    /// Turns a fault on: `times` often, or until [`Faults::clear`]. False when too many are on already.
    pub fn on(&self, fault: Fault, times: Option<u32>) -> bool {
        let mut switches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if switches.len() >= MAX_SWITCHES {
            return false;
        }
        switches.push(Switch { fault, times });
        true
    }

    /// Turns all faults off.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Faults that are on.
    #[must_use]
    pub fn list(&self) -> Vec<Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long a request waits, in milliseconds, and the status it gets instead of an answer.
    pub(crate) fn on_request(&self, request_path: &str) -> (u64, Option<u16>) {
        let delays = self.take(usize::MAX, |fault| match fault {
            Fault::Delay { path, delay_ms } if request_path.contains(path.as_str()) => Some(*delay_ms),
            _ => None,
        });
        let statuses = self.take(1, |fault| match fault {
            Fault::Status { path, status } if request_path.contains(path.as_str()) => Some(*status),
            _ => None,
        });
        (delays.iter().sum(), statuses.first().copied())
    }

    pub(crate) fn on_download(&self) -> Option<DownloadFault> {
        let found = self.take(1, |fault| match fault {
            Fault::Truncate { keep_bytes } => Some(DownloadFault::Truncate(*keep_bytes)),
            Fault::WrongBytes => Some(DownloadFault::WrongBytes),
            _ => None,
        });
        found.first().copied()
    }

    pub(crate) fn on_message(&self, kind: &str) -> Option<MessageFault> {
        let applies = |message_type: &str| message_type.is_empty() || message_type == kind;
        let found = self.take(1, |fault| match fault {
            Fault::StayPending { message_type } if applies(message_type) => Some(MessageFault::StayPending),
            Fault::Reject { message_type, code } if applies(message_type) => {
                Some(MessageFault::Reject(*code))
            }
            _ => None,
        });
        found.first().copied()
    }

    pub(crate) fn no_capacity(&self) -> bool {
        self.happens(|fault| *fault == Fault::NoCapacity)
    }

    pub(crate) fn never_boots(&self) -> bool {
        self.happens(|fault| *fault == Fault::NeverBoots)
    }

    pub(crate) fn instance_dies(&self, hash: &str) -> bool {
        self.happens(
            |fault| matches!(fault, Fault::InstanceDies { instance } if hash.contains(instance.as_str())),
        )
    }

    pub(crate) fn forget_is_ignored(&self) -> bool {
        self.happens(|fault| *fault == Fault::IgnoreForget)
    }

    pub(crate) fn crn_is_unreachable(&self, name: &str) -> bool {
        self.happens(
            |fault| matches!(fault, Fault::CrnUnreachable { node } if node.is_empty() || node == name),
        )
    }

    /// Whether a switch that `is` it is on; uses it once.
    fn happens(&self, is: impl Fn(&Fault) -> bool) -> bool {
        !self.take(1, |fault| is(fault).then_some(())).is_empty()
    }

    /// Uses up to `most` switches that `pick` takes, and removes those that are used up.
    fn take<T>(&self, most: usize, pick: impl Fn(&Fault) -> Option<T>) -> Vec<T> {
        let mut switches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        switches.retain_mut(|switch| {
            if found.len() < most
                && let Some(effect) = pick(&switch.fault)
            {
                found.push(effect);
                if let Some(times) = &mut switch.times {
                    *times = times.saturating_sub(1);
                }
            }
            switch.times != Some(0)
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switch_ends_after_its_times() {
        let faults = Faults::default();
        assert!(faults.on(
            Fault::Status {
                path: "/raw/".into(),
                status: 503
            },
            Some(2)
        ));
        assert_eq!(faults.on_request("/api/v0/version"), (0, None));
        assert_eq!(faults.on_request("/api/v0/storage/raw/x"), (0, Some(503)));
        assert_eq!(faults.on_request("/api/v0/storage/raw/x"), (0, Some(503)));
        assert_eq!(faults.on_request("/api/v0/storage/raw/x"), (0, None));
        assert!(faults.list().is_empty());
    }

    #[test]
    fn switch_without_times_stays_until_cleared() {
        let faults = Faults::default();
        faults.on(
            Fault::Reject {
                message_type: "POST".into(),
                code: 5,
            },
            None,
        );
        assert_eq!(faults.on_message("STORE"), None);
        assert_eq!(faults.on_message("POST"), Some(MessageFault::Reject(5)));
        assert_eq!(faults.on_message("POST"), Some(MessageFault::Reject(5)));
        faults.clear();
        assert_eq!(faults.on_message("POST"), None);
    }

    #[test]
    fn switches_are_bounded() {
        let faults = Faults::default();
        for _ in 0..MAX_SWITCHES {
            assert!(faults.on(Fault::WrongBytes, None));
        }
        assert!(!faults.on(Fault::WrongBytes, None));
    }
}
