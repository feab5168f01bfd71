//! Published reports and certificates of real chips, and, for what only a signer can change, a chain that the tests made.

mod contents;
mod forge;
mod forged;
mod published;

use super::{AttestError, Evidence, Examination, Floor, Outcome, Policy, Statement, Tcb};

/// 2026-08-18, when all published certificates and the list are in force.
const NOW: u64 = 1_787_011_200;

/// A report with its chip's certificate.
struct Published {
    report: &'static [u8],
    vcek: &'static [u8],
}

macro_rules! published {
    ($name:literal) => {
        Published {
            report: include_bytes!(concat!("../../../tests/fixtures/attestation/", $name, ".report")),
            vcek: include_bytes!(concat!("../../../tests/fixtures/attestation/", $name, ".vcek")),
        }
    };
}

const MILAN_V2: Published = published!("milan-v2");
const MILAN_V2_DEBUG: Published = published!("milan-v2-debug");
const MILAN_V3: Published = published!("milan-v3");
const GENOA_V5: Published = published!("genoa-v5");
const TURIN_V5: Published = published!("turin-v5");
const MILAN_LIST: &[u8] = include_bytes!("../../../tests/fixtures/attestation/milan.crl");

impl Published {
    fn evidence(&self) -> Evidence {
        self.with_report(self.report)
    }

    fn with_report(&self, report: &[u8]) -> Evidence {
        Evidence {
            statement: Statement::Report(report.to_vec()),
            vcek: self.vcek.to_vec(),
            ask: None,
            ark: None,
            revocation_list: None,
        }
    }

    /// What the report itself says was agreed.
    fn policy(&self) -> Policy {
        let mut guest_policy = [0; 8];
        guest_policy.copy_from_slice(&self.report[8..16]);
        let mut measurement = [0; 48];
        measurement.copy_from_slice(&self.report[0x90..0xC0]);
        Policy {
            measurements: vec![super::Measurement(measurement)],
            guest_policy: Some(u64::from_le_bytes(guest_policy)),
            ..Policy::new(NOW)
        }
    }

    /// The same, for firmware of any age.
    fn policy_of_any_age(&self) -> Policy {
        Policy {
            floor: Floor::Given(Tcb::default()),
            ..self.policy()
        }
    }
}

/// The code of the error that one check found, or nothing when it holds or was not made.
fn failed(examination: &Examination, check: &str) -> Option<&'static str> {
    let finding = examination.findings.iter().find(|finding| finding.check == check);
    match &finding.expect("the check is made").outcome {
        Outcome::Fails(error) => Some(error.code()),
        Outcome::Holds(_) | Outcome::NotChecked(_) => None,
    }
}

/// The codes of all checks that fail, in their order.
fn failures(examination: &Examination) -> Vec<&'static str> {
    let codes = examination
        .findings
        .iter()
        .filter_map(|finding| match &finding.outcome {
            Outcome::Fails(error) => Some(error.code()),
            Outcome::Holds(_) | Outcome::NotChecked(_) => None,
        });
    codes.collect()
}

/// Whether evidence was refused for what it is, not for what was missing.
fn refused<T: std::fmt::Debug>(result: Result<T, AttestError>) -> &'static str {
    let error = result.expect_err("this evidence must be refused");
    assert!(!matches!(error, AttestError::NotChecked { .. }), "{error}");
    error.code()
}
