//! What verifiers found of a revision, check by check: what was looked at, what that does not say, when, by whom.

use std::collections::BTreeSet;

use alephlab_api::model::{IndexedEvidence, ModelRecord};
use alephlab_verify::{Check, CheckId, Outcome, Report, Tool};

use super::browse::capital;
use super::short;
use crate::routes::words::{self, Day, short_hash};

/// Findings of one check that are shown.
const FINDINGS: usize = 5;

/// What one verifier says of one revision.
pub(crate) struct Said {
    pub(super) verifier: String,
    pub(super) verifier_short: String,
    /// Whether this gateway takes its word for a badge.
    pub(super) counts: bool,
    pub(super) message: String,
    pub(super) made: Day,
    pub(super) verdict: Verdict,
    pub(super) checks: Vec<CheckRow>,
    pub(super) passed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Verified,
    /// A blocking check failed.
    Refused,
    /// A blocking check was not run.
    Incomplete,
    /// The report is not about these files, or contradicts itself.
    Unusable,
}

impl Verdict {
    /// Class of its badge, icon and words.
    pub(super) fn badge(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Verified => ("good", "i-shield", "Verified"),
            Self::Refused => ("bad", "i-x", "Refused"),
            Self::Incomplete => ("plain", "i-clock", "Not all checks were made"),
            Self::Unusable => ("bad", "i-x", "Not usable"),
        }
    }
}

/// One check.
pub(super) struct CheckRow {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) found: String,
    pub(super) not: &'static str,
    /// Class and icon of how it ended, and the word for who does not see it.
    pub(super) class: &'static str,
    pub(super) icon: &'static str,
    pub(super) outcome: &'static str,
    pub(super) when: Option<Day>,
    pub(super) version: String,
    pub(super) evidence: String,
    pub(super) evidence_short: String,
    pub(super) findings: Vec<(String, String)>,
    pub(super) left_out: u64,
    pub(super) blocking: bool,
}

/// All that was said of this revision; those whose word counts come first.
pub(super) fn of_revision(evidence: &[IndexedEvidence], record: &ModelRecord) -> Vec<Said> {
    let mut all: Vec<_> = evidence
        .iter()
        .filter(|one| one.evidence.commit == record.commit)
        .map(|one| said(one, record))
        .collect();
    all.sort_by_key(|said| !said.counts);
    all
}

fn said(one: &IndexedEvidence, record: &ModelRecord) -> Said {
    let report = crate::models::report(record, one);
    let checks: Vec<_> = report
        .iter()
        .flat_map(|report| &report.checks)
        .map(|check| row(check, record))
        .collect();
    let failed = |report: &Report| {
        report
            .checks
            .iter()
            .any(|check| check.blocking && check.outcome == Outcome::Failed)
    };
    Said {
        verifier_short: short(&one.evidence.verifier),
        verifier: one.evidence.verifier.clone(),
        counts: one.counts,
        message: one.message.clone(),
        made: Day::at(one.evidence.created),
        verdict: match &report {
            None => Verdict::Unusable,
            Some(report) if report.verified => Verdict::Verified,
            Some(report) if failed(report) => Verdict::Refused,
            Some(_) => Verdict::Incomplete,
        },
        passed: report
            .iter()
            .flat_map(|report| &report.checks)
            .filter(|check| check.outcome == Outcome::Passed)
            .count(),
        checks,
    }
}

fn row(check: &Check, record: &ModelRecord) -> CheckRow {
    let (class, icon, outcome) = match (check.outcome, check.blocking) {
        (Outcome::Passed, _) if check.id == CheckId::V8 => ("info", "i-repeat", "Passed"),
        (Outcome::Passed, _) => ("", "i-check", "Passed"),
        (Outcome::Failed, true) => ("bad", "i-x", "Failed"),
        (Outcome::Failed, false) => ("warn", "i-alert", "Found something"),
        (Outcome::NotRun, _) => ("none", "i-clock", "Not made"),
    };
    let findings = check.findings.iter().take(FINDINGS);
    let hidden = check.findings.len().saturating_sub(FINDINGS) as u64;
    CheckRow {
        id: name(check.id),
        title: title(check.id),
        found: match check.outcome {
            Outcome::Passed => passed(check, record),
            Outcome::Failed => words::counted(
                check.findings.len() as u64 + check.left_out,
                "thing is wrong",
                "things are wrong",
            ),
            Outcome::NotRun => "Nobody looked.".to_owned(),
        },
        not: not_said(check.id),
        class,
        icon,
        outcome,
        when: (check.outcome != Outcome::NotRun).then(|| Day::of(&check.date)),
        version: check.version.clone(),
        evidence_short: short_hash(&check.evidence, 8),
        evidence: check.evidence.clone(),
        findings: findings
            .map(|finding| (sentence(&finding.why), sentence(&finding.hint)))
            .collect(),
        left_out: check.left_out + hidden,
        blocking: check.blocking,
    }
}

/// What a verifier wrote, as a sentence.
fn sentence(text: &str) -> String {
    match text.trim() {
        "" => String::new(),
        text => format!("{}.", capital(text.trim_end_matches('.'))),
    }
}

fn passed(check: &Check, record: &ModelRecord) -> String {
    match check.id {
        CheckId::V1 => {
            let bytes = record
                .files
                .iter()
                .fold(0_u64, |sum, file| sum.saturating_add(file.size));
            let files = words::counted(record.files.len() as u64, "file", "files");
            format!("{files}, {}, every byte read", words::bytes(bytes))
        }
        CheckId::V2 => format!("{} signed this revision", short(&record.owner)),
        CheckId::V3 => "Read by content, not by name".to_owned(),
        CheckId::V4 => "Headers, offsets and shapes agree".to_owned(),
        CheckId::V5 => "One forward pass in a sandbox without network".to_owned(),
        CheckId::V6 => {
            let looked = |outcome| check.tools.iter().filter(move |tool| tool.outcome == outcome);
            let found_nothing: Vec<_> = looked(Outcome::Passed).map(scanner).collect();
            let others: Vec<_> = looked(Outcome::NotRun).map(|tool| tool.name.as_str()).collect();
            let others = match others.is_empty() {
                true => String::new(),
                false => format!("; {} did not look through every file", others.join(", ")),
            };
            format!("{} found nothing{others}", found_nothing.join(", "))
        }
        CheckId::V7 => "What it says can be read and resolved".to_owned(),
        CheckId::V8 => {
            let hosts: BTreeSet<_> = check.tools.iter().filter_map(|run| run.host.as_deref()).collect();
            match hosts.len() {
                0 => "Repeated within its tolerance, on a host that is not named".to_owned(),
                count => format!(
                    "Repeated within its tolerance on {}",
                    words::counted(count as u64, "host", "hosts")
                ),
            }
        }
    }
}

/// A scanner's name and version, of which the version may begin with the name.
fn scanner(tool: &Tool) -> String {
    let names_itself = tool.version.to_lowercase().starts_with(&tool.name.to_lowercase());
    match names_itself {
        true => tool.version.clone(),
        false => format!("{} {}", tool.name, tool.version),
    }
}

/// The checks of a revision that nobody looked at: what they would say.
pub(super) fn unmade() -> Vec<CheckRow> {
    CheckId::ALL
        .into_iter()
        .map(|id| CheckRow {
            id: name(id),
            title: title(id),
            found: String::new(),
            not: not_said(id),
            class: "none",
            icon: "i-clock",
            outcome: "Not made",
            when: None,
            version: String::new(),
            evidence: String::new(),
            evidence_short: String::new(),
            findings: Vec::new(),
            left_out: 0,
            blocking: id.blocking(),
        })
        .collect()
}

fn name(id: CheckId) -> &'static str {
    match id {
        CheckId::V1 => "V1",
        CheckId::V2 => "V2",
        CheckId::V3 => "V3",
        CheckId::V4 => "V4",
        CheckId::V5 => "V5",
        CheckId::V6 => "V6",
        CheckId::V7 => "V7",
        CheckId::V8 => "V8",
    }
}

fn title(id: CheckId) -> &'static str {
    match id {
        CheckId::V1 => "Files are those of the manifest",
        CheckId::V2 => "Signed by the owner",
        CheckId::V3 => "No executable formats",
        CheckId::V4 => "Formats are well formed",
        CheckId::V5 => "Loads and runs",
        CheckId::V6 => "Scanners",
        CheckId::V7 => "Model card",
        CheckId::V8 => "Evaluation repeated",
    }
}

fn not_said(id: CheckId) -> &'static str {
    match id {
        CheckId::V1 => "Says nothing about what the files do.",
        CheckId::V2 => "Not that the account is a particular person.",
        CheckId::V3 => "Not that a program which reads the files has no fault of its own.",
        CheckId::V4 => "Not that the numbers in the files mean anything.",
        CheckId::V5 => "Not that answers are good.",
        CheckId::V6 => "Not that nothing is hidden.",
        CheckId::V7 => "Not legal advice.",
        CheckId::V8 => "Not that it works on your data.",
    }
}

#[cfg(test)]
mod tests {
    use alephlab_api::model::{ModelEvidence, RecordFile};
    use alephlab_verify::{Finding, manifest_hash};

    use super::*;

    fn record() -> ModelRecord {
        ModelRecord {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            commit: "a".repeat(40),
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: 7,
                sha256: "b".repeat(64),
            }],
            ..ModelRecord::default()
        }
    }

    fn evidence(report: &Report, counts: bool) -> IndexedEvidence {
        IndexedEvidence {
            evidence: ModelEvidence {
                verifier: "0xCd".into(),
                name: "0xAb/digits".into(),
                commit: "a".repeat(40),
                report: serde_json::to_value(report).unwrap(),
                created: 2,
            },
            message: "d".repeat(64),
            counts,
        }
    }

    fn report(outcome: impl Fn(CheckId) -> Outcome) -> Report {
        let check = |id| {
            let finding = Finding {
                file: "x".into(),
                what: "a pickle".into(),
                why: "`x` is a pickle".into(),
                hint: "save it as safetensors".into(),
            };
            let findings = if outcome(id) == Outcome::Failed {
                vec![finding]
            } else {
                vec![]
            };
            crate::models::scanned(Check::new(
                id,
                outcome(id),
                findings,
                "verify 1".into(),
                "2026-11-22T18:06:00Z".into(),
            ))
        };
        Report::new(manifest_hash(&record().files), CheckId::ALL.map(check).into())
    }

    #[test]
    fn a_verdict_follows_from_blocking_checks_and_from_these_files() {
        let all = report(|_| Outcome::Passed);
        let refused = report(|id| {
            if id == CheckId::V3 {
                Outcome::Failed
            } else {
                Outcome::Passed
            }
        });
        let open = report(|id| {
            if id == CheckId::V5 {
                Outcome::NotRun
            } else {
                Outcome::Passed
            }
        });
        let mut forged = open.clone();
        forged.verified = true;
        let other = Report::new("e".repeat(64), all.checks.clone());
        let verdict = |report: &Report| of_revision(&[evidence(report, true)], &record())[0].verdict;
        assert_eq!(verdict(&all), Verdict::Verified);
        assert_eq!(verdict(&refused), Verdict::Refused);
        assert_eq!(verdict(&open), Verdict::Incomplete);
        assert_eq!(verdict(&forged), Verdict::Unusable);
        assert_eq!(verdict(&other), Verdict::Unusable);
        let mut elsewhere = evidence(&all, true);
        elsewhere.evidence.commit = "f".repeat(40);
        let said = of_revision(
            &[elsewhere, evidence(&open, false), evidence(&refused, true)],
            &record(),
        );
        assert_eq!(
            said.iter().map(|one| one.counts).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(
            said[0].checks[2].findings[0],
            ("`x` is a pickle.".into(), "Save it as safetensors.".into())
        );
    }
}
