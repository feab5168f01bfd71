//! What a verification says: one entry for each check, and whether a revision is Verified.
//!
//! The JSON is stable: it is published, and its hashes are quoted. `reference/marketplace.md` section 3 defines the checks.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, VerifyError};
use crate::scan::SCANNERS_MIN;

/// Findings kept for one check; a hostile revision could have one for each of its bytes.
pub const FINDINGS_MAX: usize = 200;

/// Hosts on which an evaluation must have given what is claimed.
pub const HOSTS_MIN: usize = 2;

/// The checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CheckId {
    /// Every file has the size and SHA-256 of the manifest.
    V1,
    /// The owner signed the manifest. Given from outside.
    V2,
    /// No file is of a format that can carry code.
    V3,
    /// Every file is a well-formed one of its format.
    V4,
    /// It loads and computes in a sandbox. Given from outside.
    V5,
    /// At least two scanners found nothing.
    V6,
    /// The card says what it must.
    V7,
    /// The evaluation was repeated. Given from outside.
    V8,
}

impl CheckId {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
    ];

    /// Whether a revision is Verified only if this passed.
    pub fn blocking(self) -> bool {
        !matches!(self, Self::V7 | Self::V8)
    }

    /// Whether other programs make it.
    pub fn from_outside(self) -> bool {
        matches!(self, Self::V2 | Self::V5 | Self::V8)
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::V1 => "integrity",
            Self::V2 => "publisher",
            Self::V3 => "no executable formats",
            Self::V4 => "format valid",
            Self::V5 => "loads",
            Self::V6 => "scans",
            Self::V7 => "card",
            Self::V8 => "evaluation",
        }
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// How a check or a scanner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was found.
    Passed,
    /// Something was.
    Failed,
    /// Nobody looked. For a blocking check this blocks as much as `failed`.
    NotRun,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Path of the file; empty when it is about the whole revision.
    pub file: String,
    /// What the file is.
    pub what: String,
    /// One sentence that names the file, what it is and what is wrong.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

/// Findings of one check as they are made: the first [`FINDINGS_MAX`] in their order, whichever way they come.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    kept: BTreeSet<Finding>,
    left_out: u64,
}

impl Findings {
    pub(crate) fn add(&mut self, finding: Finding) {
        self.kept.insert(finding);
        if self.kept.len() > FINDINGS_MAX {
            self.kept.pop_last();
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

impl Findings {
    pub(crate) fn forget(&mut self, is: impl Fn(&Finding) -> bool) {
        self.kept.retain(|finding| !is(finding));
    }

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.kept.into_iter().collect()
    }
}

impl Extend<Finding> for Findings {
    fn extend<I: IntoIterator<Item = Finding>>(&mut self, findings: I) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }
}

/// One scanner that was asked, or one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version and that of its database, as it says itself.
    pub version: String,
    /// What it said.
    pub outcome: Outcome,
    /// On which host it ran, where that matters: the same word for the same machine, which says nothing else of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// One check of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub id: CheckId,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it must pass; always what [`CheckId::blocking`] says.
    pub blocking: bool,
    /// Sorted; empty unless it failed or says why it was not run.
    pub findings: Vec<Finding>,
    /// How many findings were left out, because there were more than [`FINDINGS_MAX`].
    #[serde(default)]
    pub left_out: u64,
    /// Scanners in V6; in V5 and V8 each run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Name and version of what checked.
    pub version: String,
    /// When, as RFC 3339 in UTC.
    pub date: String,
    /// SHA-256, in hex, of [`Check::evidence_bytes`]: the same for everyone who repeats the check.
    pub evidence: String,
}

impl Check {
    /// A check with its findings sorted and cut, and its evidence hashed over the manifest `manifest`.
    pub fn new(id: CheckId, outcome: Outcome, findings: Vec<Finding>, version: String, date: String) -> Self {
        let mut kept = Findings::default();
        kept.extend(findings);
        Self::of(id, outcome, kept, version, date)
    }

    /// The same of findings that were cut as they were made.
    pub(crate) fn of(
        id: CheckId,
        outcome: Outcome,
        findings: Findings,
        version: String,
        date: String,
    ) -> Self {
        Self {
            id,
            outcome,
            blocking: id.blocking(),
            left_out: findings.left_out,
            findings: findings.into_vec(),
            tools: Vec::new(),
            version,
            date,
            evidence: String::new(),
        }
    }

    /// What the evidence hash is over: canonical JSON of the check without date and hash, and of the manifest's hash.
    /// The date is not in it, so that a repetition gives the same hash; [`Report::hash`] is over the date too.
    pub fn evidence_bytes(&self, manifest: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Evidence<'a> {
            blocking: bool,
            findings: &'a [Finding],
            id: CheckId,
            left_out: u64,
            manifest: &'a str,
            outcome: Outcome,
            tools: &'a [Tool],
            version: &'a str,
        }
        canonical(&Evidence {
            blocking: self.blocking,
            findings: &self.findings,
            id: self.id,
            left_out: self.left_out,
            manifest,
            outcome: self.outcome,
            tools: &self.tools,
            version: &self.version,
        })
    }

    /// Whether the tools of a check that passed say so: enough scanners, and no run that did not repeat what is claimed.
    fn tools_bear_it(&self) -> bool {
        let has_failed = self.tools.iter().any(|tool| tool.outcome == Outcome::Failed);
        let passed = self
            .tools
            .iter()
            .filter(|tool| tool.outcome == Outcome::Passed && !tool.version.is_empty());
        let names: BTreeSet<_> = passed.map(|tool| &tool.name).collect();
        match self.id {
            CheckId::V6 => !has_failed && names.len() >= SCANNERS_MIN,
            CheckId::V8 => !has_failed,
            _ => true,
        }
    }

    fn sealed(mut self, manifest: &str) -> Self {
        self.blocking = self.id.blocking();
        self.evidence = sha256(&self.evidence_bytes(manifest));
        self
    }

    /// Passed where nothing was found.
    pub(crate) fn judged(id: CheckId, findings: Findings, version: String, date: String) -> Self {
        let outcome = if findings.kept.is_empty() {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        Self::of(id, outcome, findings, version, date)
    }

    fn not_run(id: CheckId) -> Self {
        Self::new(id, Outcome::NotRun, Vec::new(), String::new(), String::new())
    }
}

/// All checks of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this JSON.
    pub format: u32,
    /// SHA-256, in hex, of the canonical manifest ([`crate::manifest_hash`]): what was checked.
    pub manifest: String,
    /// V1 to V8, each once, in order.
    pub checks: Vec<Check>,
    /// Whether every blocking check passed.
    pub verified: bool,
}

impl Report {
    /// A report with these checks; those that are missing were not run. Of two with one id the worse one stays.
    pub fn new(manifest: String, checks: Vec<Check>) -> Self {
        let rank = |outcome| match outcome {
            Outcome::Passed => 0,
            Outcome::NotRun => 1,
            Outcome::Failed => 2,
        };
        let mut of_id = CheckId::ALL.map(|id| (id, None::<Check>));
        for check in checks {
            for (id, place) in &mut of_id {
                let is_worse = place
                    .as_ref()
                    .is_none_or(|held| rank(check.outcome) > rank(held.outcome));
                if *id == check.id && is_worse {
                    *place = Some(check.clone());
                }
            }
        }
        let checks = of_id
            .into_iter()
            .map(|(id, check)| check.unwrap_or_else(|| Check::not_run(id)).sealed(&manifest))
            .collect();
        let mut report = Self {
            format: 1,
            manifest,
            checks,
            verified: false,
        };
        report.verified = report.all_blocking_passed();
        report
    }

    /// The same with a check that was made elsewhere in its place: V2, V5 or V8.
    ///
    /// # Errors
    /// When it is a check of this crate.
    pub fn with_outside(mut self, check: Check) -> Result<Self> {
        if !check.id.from_outside() {
            return Err(VerifyError::NotFromOutside { id: check.id });
        }
        self.checks.retain(|held| held.id != check.id);
        self.checks.push(check);
        Ok(Self::new(self.manifest, self.checks))
    }

    /// The check with this id.
    pub fn check(&self, id: CheckId) -> Option<&Check> {
        self.checks.iter().find(|check| check.id == id)
    }

    /// On which hosts the evaluation gave what is claimed. The badge "Reproduced" needs two ([`HOSTS_MIN`]).
    pub fn reproduced_on(&self) -> impl Iterator<Item = &str> {
        let passed = self
            .check(CheckId::V8)
            .filter(|check| check.outcome == Outcome::Passed);
        let runs = passed.into_iter().flat_map(|check| &check.tools);
        runs.filter(|run| run.outcome == Outcome::Passed)
            .filter_map(|run| run.host.as_deref())
    }

    /// Whether a report that came from elsewhere agrees with itself: every check once, rules and hashes as they must
    /// be, and what passed resting on what its tools said. Says nothing about who made it.
    pub fn is_consistent(&self) -> bool {
        self.format == 1
            && self.checks.iter().map(|check| check.id).eq(CheckId::ALL)
            && self.checks.iter().all(|check| {
                let has_no_fault = check.findings.is_empty() && check.left_out == 0;
                check.blocking == check.id.blocking()
                    && (check.outcome != Outcome::Passed || (has_no_fault && check.tools_bear_it()))
                    && check.evidence == sha256(&check.evidence_bytes(&self.manifest))
            })
            && self.verified == self.all_blocking_passed()
    }

    /// SHA-256, in hex, of the canonical JSON of the whole report.
    pub fn hash(&self) -> String {
        sha256(&canonical(self))
    }

    fn all_blocking_passed(&self) -> bool {
        self.checks
            .iter()
            .all(|check| !check.id.blocking() || check.outcome == Outcome::Passed)
    }
}

/// JSON with keys sorted and no spaces (RFC 8785 for what is in a report: text, small whole numbers, truths).
pub fn canonical(value: &impl Serialize) -> Vec<u8> {
    // These types have string keys only, so neither step can fail; a failure would give a hash of nothing.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    value.sort_all_objects();
    serde_json::to_vec(&value).unwrap_or_default()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
