//! A report's bytes: their form, and what it says of chip, policy and program. What it says counts only once its signature holds.

use sev::Generation;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use super::chain::Product;
use super::error::{AttestError, Result};

/// Length of a report.
const BYTES: usize = 1184;
/// Versions whose layout is known: 2, 3 and 4 (the chip's CPUID), 5 (mitigations).
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;
/// ECDSA on P-384 with SHA-384, the only algorithm there is.
const ECDSA_P384_SHA384: u32 = 1;
/// `SIGNING_KEY`: the chip's own key, not one that a cloud's owner loads into many chips.
const VCEK: u32 = 0;
/// Bytes of each half of the signature that P-384 uses; the rest of its 72 are zero.
const SCALAR_BYTES: usize = 48;

/// Guest policy: reserved, always one.
const ALWAYS_ONE: u64 = 1 << 17;
/// Guest policy: bits that have no meaning yet, always zero.
const ALWAYS_ZERO: u64 = !0 << 26;

/// Reads a report whose every byte has a meaning that is known here.
pub(super) fn read(bytes: &[u8]) -> Result<AttestationReport> {
    if bytes.len() != BYTES {
        return Err(AttestError::ReportLength { bytes: bytes.len() });
    }
    let version = bytes
        .first_chunk()
        .map_or(0, |version| u32::from_le_bytes(*version));
    if !VERSIONS.contains(&version) {
        return Err(AttestError::ReportVersion { version });
    }
    let malformed = |reason: String| AttestError::ReportForm { reason };
    let report = AttestationReport::from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
    // The signature is checked over what `sev` writes, not over what was sent: the two must be the same.
    let written = report.to_bytes().map_err(|error| malformed(error.to_string()))?;
    let halves = [report.signature.r(), report.signature.s()];
    let loose = halves
        .iter()
        .any(|half| half[SCALAR_BYTES..].iter().any(|byte| *byte != 0));
    if written != bytes || loose {
        return Err(malformed("reserved bytes are not zero".to_owned()));
    }
    signed_by_the_chip(&report)?;
    Ok(report)
}

fn signed_by_the_chip(report: &AttestationReport) -> Result<()> {
    let reason = if report.sig_algo != ECDSA_P384_SHA384 {
        format!("its signature algorithm is {}", report.sig_algo)
    } else if report.key_info.mask_chip_key() {
        "the host has signing turned off".to_owned()
    } else if report.key_info.signing_key() != VCEK {
        format!("its signing key is of kind {}", report.key_info.signing_key())
    } else {
        return Ok(());
    };
    Err(AttestError::SigningKey { reason })
}

/// The guest policy as it was signed: `sev`'s own conversion to a number sets bit 17, whether or not the VM has it.
pub(super) fn guest_policy(report: &AttestationReport) -> u64 {
    report.policy.to_bytes().map_or(0, u64::from_le_bytes)
}

/// The guest policy's bits that no agreement can allow.
pub(super) fn check_policy(report: &AttestationReport) -> Result<u64> {
    let policy = guest_policy(report);
    let malformed = |reason| AttestError::PolicyForm { policy, reason };
    if report.policy.debug_allowed() {
        return Err(AttestError::DebugAllowed);
    }
    if report.policy.migrate_ma_allowed() {
        return Err(AttestError::MigrationAllowed);
    }
    if policy & ALWAYS_ONE == 0 {
        return Err(malformed("bit 17 must be one"));
    }
    if policy & ALWAYS_ZERO != 0 {
        return Err(malformed("bits from 26 on must be zero"));
    }
    Ok(policy)
}

/// Whether the report is of a chip of this line, by what it says itself: the layout of its versions depends on that.
pub(super) fn is_of(report: &AttestationReport, product: Product) -> bool {
    match (report.cpuid_fam_id, report.cpuid_mod_id) {
        (Some(family), Some(model)) => matches!(
            (Generation::identify_cpu(family, model), product),
            (Ok(Generation::Milan), Product::Milan)
                | (Ok(Generation::Genoa), Product::Genoa)
                | (Ok(Generation::Turin), Product::Turin)
        ),
        // Before version 3 there is only the length of the chip's name.
        _ => (report.chip_id[Product::TURIN_CHIP_BYTES..] == [0; 56]) == (product == Product::Turin),
    }
}
