//! The chain of the audit log: each line's hash covers the hash before it, so that a line which was changed, taken out or put
//! in is found by whoever reads all of them. That lines are missing at the end is found by who noted a hash before.

use alephlab_api::audit::AuditLine;
use sha2::{Digest as _, Sha256};

/// What the first line names as the hash before it.
const BEGIN: [u8; 32] = [0; 32];

/// Where an audit log does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// Its place is not the one after the line before.
    #[error("line {seq} of the audit log does not follow the one before it: lines were taken out or put in")]
    Gap {
        /// The line.
        seq: u64,
    },
    /// It is not what was written.
    #[error("line {seq} of the audit log, or one before it, was changed after it was written")]
    Changed {
        /// The line.
        seq: u64,
    },
}

/// Checks all lines of a log from its first on; gives the hash of the last, hex.
///
/// # Errors
/// The first [`AuditError`].
pub fn check_audit(lines: &[AuditLine]) -> Result<String, AuditError> {
    let mut before = BEGIN;
    for (line, place) in lines.iter().zip(1_u64..) {
        if line.seq != place {
            return Err(AuditError::Gap { seq: line.seq });
        }
        let hash = chained(&before, line);
        if line.hash != hex::encode(hash) {
            return Err(AuditError::Changed { seq: line.seq });
        }
        before = hash;
    }
    Ok(hex::encode(before))
}

/// The hash of a line after the one with the hash `before`; what the line says of its own hash does not count.
pub(crate) fn chained(before: &[u8; 32], line: &AuditLine) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(b"alephlab/audit/v1");
    digest.update(before);
    digest.update(line.seq.to_be_bytes());
    digest.update(line.time.to_be_bytes());
    for text in [&line.account, &line.action, &line.subject, &line.result] {
        // With its length, so that no two lines are the same bytes.
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text.as_bytes());
    }
    digest.finalize().into()
}
