//! V6: which scanners count, and programs that are run.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alephlab_verify::{Check, External, TensorData};

use super::*;

/// A scanner program made of shell, which answers as clamscan does.
fn program(folder: &tempfile::TempDir, body: &str) -> PathBuf {
    let path = folder.path().join("scanner");
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Scanner 1/2'; exit 0; fi\n{body}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn scans(external: &External, content: &[u8]) -> Check {
    let files = Memory::default().with("a.txt", content);
    let manifest = manifest_of(&files).unwrap();
    let report = verify(&files, &manifest, &[&Signatures, external], &options()).unwrap();
    report.check(CheckId::V6).unwrap().clone()
}

const BODY: &str = "if grep -q MARK; then echo 'stdin: Test.Mark FOUND'; exit 1; fi; exit 0";

#[test]
fn a_scanner_that_is_absent_blocks() {
    let check = scans(&External::clamscan(None), b"a");
    assert_eq!(check.outcome, Outcome::NotRun);
    assert!(
        check
            .findings
            .iter()
            .any(|finding| finding.why.contains("no program is configured"))
    );
    assert_eq!(check.tools.len(), 2);
    let missing = scans(&External::clamscan(Some("/nonexistent/clamscan".into())), b"a");
    assert_eq!(missing.outcome, Outcome::NotRun);
    // One scanner twice is one scanner.
    let files = Memory::default().with("a.txt", "a");
    let report = verify(
        &files,
        &manifest_of(&files).unwrap(),
        &[&Signatures, &Signatures],
        &options(),
    )
    .unwrap();
    assert_eq!(report.check(CheckId::V6).unwrap().outcome, Outcome::NotRun);
}

#[test]
fn a_scanner_answers_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let external = External::clamscan(Some(program(&folder, BODY)));
    let clean = scans(&external, &b"plain\n".repeat(100_000));
    assert_eq!(clean.outcome, Outcome::Passed, "{clean:?}");
    assert_eq!(clean.tools[1].version, "Scanner 1/2");
    let hit = scans(&external, b"a MARK\n");
    assert_eq!(hit.outcome, Outcome::Failed);
    assert_eq!(
        hit.findings[0].why,
        "`a.txt` is flagged by clamav: stdin: Test.Mark FOUND"
    );
    let external = External::clamscan(Some(program(&folder, "exit 2")));
    let broken = scans(&external, &b"plain\n".repeat(100_000));
    assert_eq!(broken.outcome, Outcome::NotRun);
    assert!(
        broken
            .findings
            .iter()
            .any(|finding| finding.why.contains("exit code 2"))
    );
}

#[test]
fn a_scanner_that_hangs_is_ended_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = External::clamscan(Some(program(&folder, "sleep 60 & sleep 60")));
    external.limit = Duration::from_millis(300);
    let start = Instant::now();
    let check = scans(&external, &[b'a'; 1_000_000]);
    assert_eq!(check.outcome, Outcome::NotRun);
    assert!(
        check
            .findings
            .iter()
            .any(|finding| finding.why.contains("took longer")),
        "{check:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_scanner_that_closes_its_output_and_stays_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = External::clamscan(Some(program(&folder, "exec 1>&-; sleep 60")));
    external.limit = Duration::from_millis(300);
    let check = scans(&external, b"a");
    assert_eq!(check.outcome, Outcome::NotRun);
    assert!(
        check
            .findings
            .iter()
            .any(|finding| finding.why.contains("took longer")),
        "{check:?}"
    );
}

#[test]
fn a_daemon_is_given_no_more_than_it_reads() {
    assert_eq!(
        External::clamscan(Some("/usr/bin/clamdscan".into())).size_max,
        25 << 20
    );
}

#[test]
fn long_files_are_scanned_without_their_tensors_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = External::clamscan(Some(program(&folder, BODY)));
    external.size_max = 300;
    let files = Memory::default().with("model.safetensors", testdata("model.safetensors"));
    let data = 288..440;
    let tensors = TensorData::from([(0, vec![data])]);
    assert_eq!(external.scan(&files, &tensors).unwrap().outcome, Outcome::Passed);
    let scan = external.scan(&files, &TensorData::new()).unwrap();
    assert_eq!(scan.outcome, Outcome::NotRun);
    assert!(scan.findings[0].why.contains("is longer than the 300 bytes"));
}
