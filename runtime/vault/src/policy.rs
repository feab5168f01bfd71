//! Policies: what an owner asks of the hosts on which a dataset is opened. Each grant carries its own, bound by the hash
//! in its key 9 and in key 11 of every delegation made from it (container sections 10 and 11).
//!
//! Two keep to it: the reader's machine before it seals keys to a kernel, and the broker before it uses them. Neither is
//! made to by cryptography, which holds only on an attested host.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cbor::Writer;
use crate::digest::sha256;
use crate::{Result, VaultError};

/// Conditions of a grant. A field that this program does not know is a condition that it cannot keep, so such a grant is
/// not opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Only hosts that have proven that their owner cannot look into them.
    #[serde(default)]
    pub attested: bool,
    /// Walls that must stand between cells and keys, by their ids.
    #[serde(default)]
    pub walls: BTreeSet<String>,
    /// Longest term of a delegation, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_term: Option<u64>,
}

/// What a host says of itself.
#[derive(Clone, Copy, Debug)]
pub struct HostReport<'a> {
    /// It was attested, and the report was checked.
    pub attested: bool,
    /// Walls that are missing there, by their ids; others stand.
    pub missing: &'a BTreeSet<String>,
    /// All walls that the host knows of, by their ids: one that it has never heard of does not stand.
    pub known: &'a BTreeSet<String>,
}

impl Policy {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// SHA-256 of the deterministic CBOR under a label, as it stands in grants and delegations.
    pub fn hash(&self) -> [u8; 32] {
        let mut to = Writer::new();
        to.map(3)
            .uint(1)
            .uint(self.attested.into())
            .uint(2)
            .array(self.walls.len());
        for wall in &self.walls {
            to.text(wall);
        }
        to.uint(3).optional_uint(self.max_term);
        sha256(&[b"aleph-dataset/v1/policy\0", &to.finish()])
    }

    /// Whether the host is one that it allows.
    ///
    /// # Errors
    /// `E_ATTEST`, with everything that is missing.
    pub fn check(&self, host: HostReport<'_>) -> Result<()> {
        let mut lacking = Vec::new();
        if self.attested && !host.attested {
            lacking.push("the host is not attested".to_owned());
        }
        for wall in &self.walls {
            if host.missing.contains(wall) || !host.known.contains(wall) {
                lacking.push(format!("the wall {wall} is missing"));
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        Err(VaultError::Attest {
            reason: lacking.join(", "),
        })
    }

    /// In words, as a person who decides reads it.
    pub fn in_words(&self) -> String {
        let mut asked = Vec::new();
        if self.attested {
            asked.push("an attested host".to_owned());
        }
        asked.extend(self.walls.iter().map(|wall| format!("the wall {wall}")));
        if let Some(seconds) = self.max_term {
            asked.push(format!("at most {} at a time", term(seconds)));
        }
        if asked.is_empty() {
            return "nothing".to_owned();
        }
        asked.join(", ")
    }
}

/// In the largest unit that shows it exactly.
fn term(seconds: u64) -> String {
    for (unit, name) in [(3_600, "hour"), (60, "minute")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            let count = seconds / unit;
            let plural = if count == 1 { "" } else { "s" };
            return format!("{count} {name}{plural}");
        }
    }
    format!("{seconds} seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn reason(policy: &Policy, missing: &[&str]) -> Option<String> {
        let (missing, known) = (ids(missing), ids(&["no-swap", "no-power"]));
        let host = HostReport {
            attested: false,
            missing: &missing,
            known: &known,
        };
        policy.check(host).err().map(|error| {
            assert_eq!(error.code(), "E_ATTEST");
            error.to_string()
        })
    }

    #[test]
    fn host_must_have_every_wall_that_is_asked_for() {
        let policy = Policy {
            walls: ids(&["no-swap"]),
            ..Policy::default()
        };
        assert_eq!(reason(&Policy::default(), &["no-swap", "no-power"]), None);
        assert_eq!(reason(&policy, &["no-power"]), None);
        assert!(reason(&policy, &["no-swap"]).unwrap().contains("no-swap"));
        let newer = Policy {
            walls: ids(&["a wall of next year"]),
            ..Policy::default()
        };
        assert!(reason(&newer, &[]).is_some(), "an unknown wall does not stand");
        let attested = Policy {
            attested: true,
            ..Policy::default()
        };
        assert!(reason(&attested, &[]).unwrap().contains("not attested"));
    }

    #[test]
    fn hash_tells_all_policies_apart() {
        let all = [
            Policy::default(),
            Policy {
                attested: true,
                ..Policy::default()
            },
            Policy {
                walls: ids(&["a"]),
                ..Policy::default()
            },
            Policy {
                walls: ids(&["a", "b"]),
                ..Policy::default()
            },
            Policy {
                max_term: Some(0),
                ..Policy::default()
            },
            Policy {
                max_term: Some(60),
                ..Policy::default()
            },
        ];
        let hashes: BTreeSet<[u8; 32]> = all.iter().map(Policy::hash).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn condition_of_a_later_version_is_not_overlooked() {
        assert!(serde_json::from_str::<Policy>(r#"{"egress": "none"}"#).is_err());
    }

    #[test]
    fn says_what_it_asks_for() {
        let policy = Policy {
            attested: true,
            walls: ids(&["no-swap"]),
            max_term: Some(5_400),
        };
        assert_eq!(
            policy.in_words(),
            "an attested host, the wall no-swap, at most 90 minutes at a time"
        );
        assert_eq!(Policy::default().in_words(), "nothing");
        assert_eq!(
            (term(3_600), term(61)),
            ("1 hour".to_owned(), "61 seconds".to_owned())
        );
    }
}
