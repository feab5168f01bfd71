//! What evidence says of a revision: checked, refused or neither, by those whose word counts here; and on how many hosts its
//! evaluation was repeated.

use std::collections::BTreeSet;

use alephlab_api::model::{IndexedEvidence, ModelRecord};
use alephlab_verify::{CheckId, HOSTS_MIN, Outcome, Report, manifest_hash};

use crate::index::Badge;

/// What is said of a revision by those whose word counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) badge: Badge,
    /// Different hosts on which its evaluation gave what its card claims; none where it did not on another.
    pub(crate) hosts: usize,
}

impl Standing {
    /// Whether the badge Reproduced is shown: one host could be wrong by itself.
    pub(crate) fn reproduced(self) -> bool {
        self.hosts >= HOSTS_MIN
    }
}

/// What is said of a revision. One that refuses outweighs all that do not: a finding is
/// not taken back by somebody who did not see it.
pub(crate) fn standing(record: &ModelRecord, evidence: &[IndexedEvidence]) -> Standing {
    let mut badge = Badge::Unchecked;
    let (mut hosts, mut is_contradicted) = (BTreeSet::new(), false);
    let own = evidence
        .iter()
        .filter(|one| one.counts && one.evidence.commit == record.commit);
    for one in own {
        let Some(report) = report(record, one) else {
            continue;
        };
        hosts.extend(report.reproduced_on().map(str::to_owned));
        is_contradicted |= report
            .check(CheckId::V8)
            .is_some_and(|check| check.outcome == Outcome::Failed);
        let when = one.evidence.created;
        let failed = report
            .checks
            .iter()
            .any(|check| check.blocking && check.outcome == Outcome::Failed);
        badge = match (badge, report.verified, failed) {
            (Badge::Refused(at), _, true) => Badge::Refused(at.max(when)),
            (Badge::Refused(at), ..) => Badge::Refused(at),
            (_, _, true) => Badge::Refused(when),
            (Badge::Verified(at), true, _) => Badge::Verified(at.max(when)),
            (Badge::Unchecked, true, _) => Badge::Verified(when),
            (badge, false, false) => badge,
        };
    }
    let hosts = if is_contradicted { 0 } else { hosts.len() };
    Standing { badge, hosts }
}

/// The report of evidence, if it agrees with itself and is about the files of this record.
pub(crate) fn report(record: &ModelRecord, evidence: &IndexedEvidence) -> Option<Report> {
    let report: Report = serde_json::from_value(evidence.evidence.report.clone()).ok()?;
    (report.is_consistent() && report.manifest == manifest_hash(&record.files)).then_some(report)
}

/// The check as its scanners bear it out, if it is one of scans.
#[cfg(test)]
pub(crate) fn scanned(mut check: alephlab_verify::Check) -> alephlab_verify::Check {
    if check.id == CheckId::V6 {
        let tool = |name: &str| alephlab_verify::Tool {
            name: name.to_owned(),
            version: "1".to_owned(),
            outcome: check.outcome,
            host: None,
        };
        check.tools = vec![tool("one"), tool("another")];
    }
    check
}

#[cfg(test)]
mod tests {
    use alephlab_api::model::{ModelEvidence, RecordFile};
    use alephlab_verify::{Check, Tool};

    use super::*;

    fn record() -> ModelRecord {
        ModelRecord {
            name: "0xAb/digits".into(),
            commit: "a".repeat(40),
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: 3,
                sha256: "0".repeat(64),
            }],
            ..ModelRecord::default()
        }
    }

    /// All blocking checks passed but `failed`, which did not, and `not_run`, which nobody made.
    fn evidence(failed: &[CheckId], not_run: &[CheckId], created: u64) -> IndexedEvidence {
        let checks = CheckId::ALL
            .into_iter()
            .filter(|id| !not_run.contains(id))
            .map(|id| {
                let outcome = if failed.contains(&id) {
                    Outcome::Failed
                } else {
                    Outcome::Passed
                };
                scanned(Check::new(
                    id,
                    outcome,
                    Vec::new(),
                    "a verifier".into(),
                    "2026-11-30T00:00:00Z".into(),
                ))
            });
        let report = Report::new(manifest_hash(&record().files), checks.collect());
        IndexedEvidence {
            evidence: ModelEvidence {
                verifier: "0xCd".into(),
                name: "0xAb/digits".into(),
                commit: record().commit,
                report: serde_json::to_value(report).unwrap(),
                created,
            },
            message: "c".repeat(64),
            counts: true,
        }
    }

    fn badge(record: &ModelRecord, evidence: &[IndexedEvidence]) -> Badge {
        standing(record, evidence).badge
    }

    /// Evidence of runs of the evaluation, each on its host.
    fn runs(outcome: Outcome, hosts: &[&str]) -> IndexedEvidence {
        let version = "a verifier".to_owned();
        let mut check = Check::new(
            CheckId::V8,
            outcome,
            Vec::new(),
            version.clone(),
            "2026-11-30T00:00:00Z".into(),
        );
        check.tools = hosts
            .iter()
            .map(|host| Tool {
                name: "evaluation.ipynb".into(),
                version: version.clone(),
                outcome,
                host: (!host.is_empty()).then(|| (*host).to_owned()),
            })
            .collect();
        let report = Report::new(manifest_hash(&record().files), vec![check]);
        let mut one = evidence(&[], &CheckId::ALL, 5);
        one.evidence.report = serde_json::to_value(report).unwrap();
        one
    }

    #[test]
    fn an_evaluation_is_reproduced_on_two_hosts_and_by_nobody_contradicted() {
        let on = |all: &[IndexedEvidence]| standing(&record(), all);
        let passed = |hosts: &[&str]| runs(Outcome::Passed, hosts);
        assert_eq!(on(&[passed(&["a"])]).hosts, 1);
        assert!(!on(&[passed(&["a"]), passed(&["a"])]).reproduced());
        assert!(on(&[passed(&["a"]), passed(&["b"])]).reproduced());
        assert_eq!(on(&[passed(&["a", "b"]), passed(&["b", ""])]).hosts, 2);
        // An unknown host may be one of the others.
        assert_eq!(on(&[passed(&[""])]).hosts, 0);
        assert_eq!(on(&[passed(&["a", "b"]), runs(Outcome::Failed, &["c"])]).hosts, 0);
        let stranger = IndexedEvidence {
            counts: false,
            ..passed(&["b"])
        };
        assert_eq!(on(&[passed(&["a"]), stranger]).hosts, 1);
    }

    #[test]
    fn a_badge_needs_every_blocking_check_by_somebody_whose_word_counts() {
        let passed = evidence(&[], &[CheckId::V8], 5);
        assert_eq!(
            badge(&record(), std::slice::from_ref(&passed)),
            Badge::Verified(5)
        );
        assert_eq!(
            badge(&record(), &[evidence(&[], &[CheckId::V5], 5)]),
            Badge::Unchecked
        );
        let refused = evidence(&[CheckId::V3], &[CheckId::V5], 3);
        for all in [[passed.clone(), refused.clone()], [refused, passed.clone()]] {
            assert_eq!(badge(&record(), &all), Badge::Refused(3));
        }
        let not_counted = IndexedEvidence {
            counts: false,
            ..passed
        };
        assert_eq!(badge(&record(), &[not_counted]), Badge::Unchecked);
    }

    #[test]
    fn a_report_about_other_files_or_that_contradicts_itself_is_none() {
        let mut other = record();
        other.files[0].sha256 = "1".repeat(64);
        let passed = evidence(&[], &[], 5);
        assert_eq!(badge(&other, std::slice::from_ref(&passed)), Badge::Unchecked);
        let mut forged = evidence(&[CheckId::V3], &[], 5);
        forged.evidence.report["verified"] = true.into();
        assert_eq!(badge(&record(), &[forged]), Badge::Unchecked);
        // Nor one that says Verified of scans that nobody made.
        let mut unscanned: Report = serde_json::from_value(passed.evidence.report.clone()).unwrap();
        unscanned.checks[5].tools.clear();
        let mut by_hand = passed.clone();
        let unscanned = Report::new(unscanned.manifest, unscanned.checks);
        assert!(unscanned.verified);
        by_hand.evidence.report = serde_json::to_value(unscanned).unwrap();
        assert_eq!(badge(&record(), &[by_hand]), Badge::Unchecked);
        let mut later = record();
        later.commit = "d".repeat(40);
        assert_eq!(badge(&later, &[passed]), Badge::Unchecked);
    }
}
