//! What is verified, what is refused, and that nothing makes the checks panic. Hostile files are made here, from bytes.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and makes files that are small"
)]

mod bypasses;
mod fuzz;
mod hostile;
mod made;
mod reports;
mod scanners;
mod valid;

use std::path::Path;

use alephlab_verify::{
    CheckId, Finding, Memory, Options, Outcome, Report, Scanner, Signatures, manifest_of, verify,
};

/// A file that a Python library wrote.
fn testdata(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/testdata")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn options() -> Options {
    Options {
        date: "2026-11-30T12:00:00.000000Z".into(),
        selling: true,
    }
}

/// The second scanner that V6 wants, which finds nothing.
struct Nothing;

impl Scanner for Nothing {
    fn name(&self) -> String {
        "nothing".into()
    }

    fn scan(
        &self,
        _: &dyn alephlab_verify::Source,
        _: &alephlab_verify::TensorData,
    ) -> alephlab_verify::Result<alephlab_verify::Scan> {
        Ok(alephlab_verify::Scan {
            version: "0".into(),
            outcome: Outcome::Passed,
            findings: vec![],
        })
    }
}

fn report(files: &Memory) -> Report {
    let manifest = manifest_of(files).unwrap();
    verify(files, &manifest, &[&Signatures, &Nothing], &options()).unwrap()
}

fn one(path: &str, content: impl Into<Vec<u8>>) -> Report {
    report(&Memory::default().with(path, content))
}

fn findings(report: &Report, id: CheckId) -> &[Finding] {
    &report.check(id).unwrap().findings
}

/// The reasons of one check of a revision with one file.
fn reasons(path: &str, content: impl Into<Vec<u8>>, id: CheckId) -> Vec<String> {
    findings(&one(path, content), id)
        .iter()
        .map(|finding| finding.why.clone())
        .collect()
}

/// Asserts that a check of a revision with one file failed for a reason with these words.
#[track_caller]
fn fails(path: &str, content: impl Into<Vec<u8>>, id: CheckId, words: &str) {
    let reasons = reasons(path, content, id);
    assert!(
        reasons.iter().any(|why| why.contains(words)),
        "{path}: {reasons:?} have not {words:?}"
    );
}
