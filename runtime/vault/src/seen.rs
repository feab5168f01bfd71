//! The reader's memory of heads: refuses older versions and second heads for one version (container section 9).
//! Kept by `alephlab keys` in one small file.

use crate::encoding::hex_array;
use crate::head::SignedHead;
use crate::keys::DatasetId;
use crate::source::io;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Highest version seen of each dataset.
pub struct SeenHeads {
    path: PathBuf,
    marks: BTreeMap<DatasetId, Mark>,
}

/// A high-water mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    version: u64,
    hash: String,
}

/// How a head was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Never seen before: trusted on first use, which the user is shown.
    FirstUse,
    /// Seen already, or in line with what was seen.
    Known,
}

impl SeenHeads {
    /// Reads the file, or starts empty where there is none.
    ///
    /// # Errors
    /// `E_IO`, or `E_MALFORMED` for a damaged file, which is left as it is.
    pub fn load(path: &Path) -> Result<Self> {
        let marks = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| VaultError::Malformed {
                what: "the file of versions seen",
                reason: format!("{}: {error}", path.display()),
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(io("read", path)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            marks,
        })
    }

    /// Checks `head` against what was seen, following `prev` through `history` (see [`crate::heads_of`]), and
    /// remembers it.
    ///
    /// # Errors
    /// `E_ROLLBACK`, `E_FORK`, `E_UNAVAILABLE` when the heads between are not in `history`, `E_IO` when it can
    /// not be remembered. The head's own signature is checked too.
    pub fn accept(&mut self, head: &SignedHead, history: &[SignedHead]) -> Result<Trust> {
        head.verify()?;
        let id = head.head.dataset_id;
        let Some(mark) = self.marks.get(&id).cloned() else {
            self.remember(head)?;
            return Ok(Trust::FirstUse);
        };
        let (version, hash) = (head.head.version, hex::encode(head.hash()));
        if version < mark.version {
            return Err(VaultError::Rollback {
                seen: mark.version,
                offered: version,
            });
        }
        if version == mark.version {
            return if hash == mark.hash {
                Ok(Trust::Known)
            } else {
                Err(fork(version, mark.hash, hash))
            };
        }
        check_line(head, &mark, history)?;
        self.remember(head)?;
        Ok(Trust::Known)
    }

    fn remember(&mut self, head: &SignedHead) -> Result<()> {
        let mark = Mark {
            version: head.head.version,
            hash: hex::encode(head.hash()),
        };
        self.marks.insert(head.head.dataset_id, mark);
        let text = serde_json::to_vec_pretty(&self.marks).map_err(|error| VaultError::Malformed {
            what: "the versions seen",
            reason: error.to_string(),
        })?;
        let partial = self.path.with_extension("partial");
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial);
        let mut file = file.map_err(io("write", &partial))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(io("write", &partial))?;
        std::fs::rename(&partial, &self.path).map_err(io("write", &self.path))
    }
}

/// Walks back from `head` to the marked version.
fn check_line(head: &SignedHead, mark: &Mark, history: &[SignedHead]) -> Result<()> {
    let known: BTreeMap<[u8; 32], &SignedHead> = history.iter().map(|head| (head.hash(), head)).collect();
    let mut at = head;
    while at.head.version > mark.version + 1 {
        let before = known.get(&at.head.prev).filter(|before| {
            before.head.version + 1 == at.head.version
                && before.head.dataset_id == head.head.dataset_id
                && before.verify().is_ok()
        });
        at = before.ok_or_else(|| VaultError::Unavailable {
            what: format!("the head of version {}", at.head.version - 1),
            reason: "no node returned it, so the line of versions can not be checked".into(),
        })?;
    }
    let marked: [u8; 32] = hex_array("a hash on record", &mark.hash)?;
    if at.head.prev == marked {
        return Ok(());
    }
    Err(fork(mark.version, mark.hash.clone(), hex::encode(at.head.prev)))
}

pub(crate) fn fork(version: u64, ours: String, theirs: String) -> VaultError {
    VaultError::Fork {
        version,
        ours,
        theirs,
    }
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
