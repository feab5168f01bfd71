//! V6: scanners. Two are built in: [`Signatures`], which looks for hidden structures, and [`External`], which runs
//! programs that are installed, such as clamscan. Neither proves the absence of malware.

mod answers;
mod external;
mod programs;
mod sandbox;
mod signatures;

use std::collections::BTreeSet;

use crate::error::Result;
use crate::inspect::TensorData;
use crate::report::{Finding, Findings, Outcome, Tool};
use crate::source::Source;

pub use answers::Reading;
pub use external::{External, Feeding};
pub use programs::Version;
pub use signatures::Signatures;

/// Scanners that must have run and found nothing.
pub const SCANNERS_MIN: usize = 2;

/// Looks through the files of a revision.
pub trait Scanner: Sync {
    /// Its name; two with one name count as one.
    fn name(&self) -> String;

    /// Scans all files. What stops a scanner itself is `not_run` with a finding that says why.
    ///
    /// # Errors
    /// When the source cannot be read.
    fn scan(&self, source: &dyn Source, tensor_data: &TensorData) -> Result<Scan>;
}

/// What one scanner said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Of the scanner and its database.
    pub version: String,
    /// Passed only if it looked at every file.
    pub outcome: Outcome,
    /// Hits, or why it did not run.
    pub findings: Vec<Finding>,
}

/// Runs all scanners: failed at one hit, passed when two with different names found nothing.
pub(crate) fn all(
    scanners: &[&dyn Scanner],
    source: &dyn Source,
    tensor_data: &TensorData,
) -> Result<(Outcome, Findings, Vec<Tool>)> {
    let (mut findings, mut tools) = (Findings::default(), Vec::new());
    let mut passed = BTreeSet::new();
    for scanner in scanners {
        let scan = scanner.scan(source, tensor_data)?;
        if scan.outcome == Outcome::Passed {
            passed.insert(scanner.name());
        }
        findings.extend(scan.findings);
        tools.push(Tool {
            name: scanner.name(),
            version: scan.version,
            outcome: scan.outcome,
            host: None,
        });
    }
    let outcome = match () {
        () if tools.iter().any(|tool| tool.outcome == Outcome::Failed) => Outcome::Failed,
        () if passed.len() >= SCANNERS_MIN => Outcome::Passed,
        () => {
            findings.add(Finding {
                file: String::new(),
                what: "the revision".to_owned(),
                why: format!(
                    "{} of the {SCANNERS_MIN} scanners that must look through the revision did",
                    passed.len()
                ),
                hint: programs::INSTALL.to_owned(),
            });
            Outcome::NotRun
        }
    };
    if outcome == Outcome::Passed {
        // A third scanner that did not run does not make a pass any less; which it was is in `tools`.
        findings = Findings::default();
    }
    Ok((outcome, findings, tools))
}
