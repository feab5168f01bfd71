//! What evidence says of a revision: checked, refused or neither, by those whose word counts here.

use alephlab_api::model::{IndexedEvidence, ModelRecord};
use alephlab_verify::{Outcome, Report, manifest_hash};

use crate::index::Badge;

/// The badge of a revision, and whether its evaluation was repeated. One that refuses outweighs all that do not: a finding is
/// not taken back by somebody who did not see it.
pub(crate) fn badge(record: &ModelRecord, evidence: &[IndexedEvidence]) -> (Badge, bool) {
    let (mut badge, mut reproduced) = (Badge::Unchecked, false);
    let own = evidence
        .iter()
        .filter(|one| one.counts && one.evidence.commit == record.commit);
    for one in own {
        let Some(report) = report(record, one) else {
            continue;
        };
        reproduced |= report.reproduced();
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
    (badge, reproduced)
}

/// The report of evidence, if it agrees with itself and is about the files of this record.
pub(crate) fn report(record: &ModelRecord, evidence: &IndexedEvidence) -> Option<Report> {
    let report: Report = serde_json::from_value(evidence.evidence.report.clone()).ok()?;
    (report.is_consistent() && report.manifest == manifest_hash(&record.files)).then_some(report)
}

#[cfg(test)]
mod tests {
    use alephlab_api::Card;
    use alephlab_api::model::{ModelEvidence, RecordFile, Visibility};
    use alephlab_verify::{Check, CheckId};
    use uuid::Uuid;

    use super::*;

    fn record() -> ModelRecord {
        ModelRecord {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            uuid: Uuid::nil(),
            commit: "a".repeat(40),
            parent: None,
            tags: Vec::new(),
            card: Card::default(),
            price: "free".into(),
            visibility: Visibility::Sealed,
            keys: None,
            sealed: None,
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: 3,
                sha256: "0".repeat(64),
            }],
            head: "b".repeat(64),
            created: 1,
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
                Check::new(
                    id,
                    outcome,
                    Vec::new(),
                    "a verifier".into(),
                    "2026-11-30T00:00:00Z".into(),
                )
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

    #[test]
    fn a_badge_needs_every_blocking_check_by_somebody_whose_word_counts() {
        let passed = evidence(&[], &[CheckId::V8], 5);
        assert_eq!(
            badge(&record(), std::slice::from_ref(&passed)),
            (Badge::Verified(5), false)
        );
        assert_eq!(
            badge(&record(), &[evidence(&[], &[], 5)]),
            (Badge::Verified(5), true)
        );
        assert_eq!(
            badge(&record(), &[evidence(&[], &[CheckId::V5], 5)]).0,
            Badge::Unchecked
        );
        let refused = evidence(&[CheckId::V3], &[CheckId::V5], 3);
        for all in [[passed.clone(), refused.clone()], [refused, passed.clone()]] {
            assert_eq!(badge(&record(), &all).0, Badge::Refused(3));
        }
        let not_counted = IndexedEvidence {
            counts: false,
            ..passed
        };
        assert_eq!(badge(&record(), &[not_counted]).0, Badge::Unchecked);
    }

    #[test]
    fn a_report_about_other_files_or_that_contradicts_itself_is_none() {
        let mut other = record();
        other.files[0].sha256 = "1".repeat(64);
        let passed = evidence(&[], &[], 5);
        assert_eq!(badge(&other, std::slice::from_ref(&passed)).0, Badge::Unchecked);
        let mut forged = evidence(&[CheckId::V3], &[], 5);
        forged.evidence.report["verified"] = true.into();
        assert_eq!(badge(&record(), &[forged]).0, Badge::Unchecked);
        let mut later = record();
        later.commit = "d".repeat(40);
        assert_eq!(badge(&later, &[passed]).0, Badge::Unchecked);
    }
}
