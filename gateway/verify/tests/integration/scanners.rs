//! V6: which scanners count, and programs that are run.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use alephlab_verify::{Check, External, Feeding, TensorData};

use super::*;

/// A scanner program made of shell, which answers as clamdscan does.
fn program(folder: &tempfile::TempDir, body: &str) -> External {
    let path = folder.path().join("clamdscan");
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Scanner 1/2'; exit 0; fi\n{body}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    settings(folder, "AlertExceedsMax = \"yes\"");
    External::of(&path, None).unwrap()
}

/// What the daemon's settings are.
fn settings(folder: &tempfile::TempDir, line: &str) {
    let path = folder.path().join("clamconf");
    let text = format!("#!/bin/sh\necho 'Config file: clamd.conf'\necho '{line}'\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
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
    let absent = External::of(Path::new("/nonexistent/clamscan"), None).unwrap();
    let check = scans(&absent, b"a");
    assert_eq!(check.outcome, Outcome::NotRun);
    let told = |words: &str| check.findings.iter().any(|finding| finding.why.contains(words));
    assert!(
        told("it does not start") && told("1 of the 2 scanners"),
        "{check:?}"
    );
    assert!(
        check
            .findings
            .iter()
            .all(|finding| finding.hint.contains("install ClamAV"))
    );
    assert_eq!(check.tools.len(), 2);
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
    let external = program(&folder, BODY);
    let clean = scans(&external, &b"plain\n".repeat(100_000));
    assert_eq!(clean.outcome, Outcome::Passed, "{clean:?}");
    let version = &clean.tools[1].version;
    let said = ["in bubblewrap without network", "without a sandbox"];
    assert!(
        said.iter().any(|said| *version == format!("Scanner 1/2, {said}")),
        "{version}"
    );
    let hit = scans(&external, b"a MARK\n");
    assert_eq!(hit.outcome, Outcome::Failed);
    assert_eq!(
        hit.findings[0].why,
        "`a.txt` is flagged by clamav: stdin: Test.Mark FOUND"
    );
    let external = program(&folder, "exit 2");
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
fn a_daemon_that_passes_over_long_files_in_silence_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let external = program(&folder, BODY);
    for (line, why) in [
        ("AlertExceedsMax disabled", "beyond its daemon's limits"),
        ("ERROR: Could not open clamd.conf", "does not show the settings"),
    ] {
        settings(&folder, line);
        let check = scans(&external, b"a");
        assert_eq!(check.outcome, Outcome::NotRun, "{line}");
        let told = |words: &str| check.findings.iter().any(|finding| finding.why.contains(words));
        assert!(told(why), "{check:?}");
    }
    std::fs::remove_file(folder.path().join("clamconf")).unwrap();
    assert_eq!(scans(&external, b"a").outcome, Outcome::NotRun);
}

#[test]
fn a_scanner_that_hangs_is_ended_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = program(&folder, "sleep 60 & sleep 60");
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
    let mut external = program(&folder, "exec 1>&-; sleep 60");
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
fn a_scanner_may_want_a_file_and_is_told_its_ending_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = program(
        &folder,
        "case $1 in */file.txt) grep -q MARK $1 && echo \"$1: Mark FOUND\" && exit 1;; *) exit 3;; esac; exit 0",
    );
    external.feeding = Feeding::Path;
    external.arguments.clear();
    external.unknown.insert(3);
    assert_eq!(scans(&external, b"plain").outcome, Outcome::Passed);
    let hit = scans(&external, b"a MARK\n");
    assert_eq!(
        hit.findings[0].why,
        "`a.txt` is flagged by clamav: file: Mark FOUND"
    );
    // What it does not know, it passed over.
    let files = Memory::default().with("a.txt", "a").with("b.json", "{}");
    let scan = external.scan(&files, &TensorData::new()).unwrap();
    assert_eq!(scan.outcome, Outcome::NotRun);
    assert!(
        scan.findings[0].why.contains("does not know 1 of the 2 files"),
        "{scan:?}"
    );
    let both = Memory::default().with("a.txt", "MARK").with("b.json", "{}");
    assert_eq!(
        external.scan(&both, &TensorData::new()).unwrap().outcome,
        Outcome::Failed
    );
}

#[test]
fn a_database_that_is_named_is_counted_and_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clamscan");
    let script = "#!/bin/sh\ncase \"$*\" in *--version*) echo 'ClamAV 1.2';; *--no-summary*) cat >/dev/null; exit 0;; *) echo 'Known viruses: 3';; esac\n";
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let database = folder.path().join("own.ndb");
    std::fs::write(&database, "a signature").unwrap();
    let scan = |database: Option<&Path>| {
        let external = External::of(&path, database).unwrap();
        external
            .scan(&Memory::default().with("a.txt", "a"), &TensorData::new())
            .unwrap()
    };
    let own = scan(Some(&database));
    assert_eq!(own.outcome, Outcome::Passed);
    let says = "ClamAV 1.2, 3 signatures, database e4a2d05de90598a9, ";
    assert!(own.version.starts_with(says), "{own:?}");
    let without = scan(None).version;
    assert!(
        without.starts_with("ClamAV 1.2, 3 signatures, ") && !without.contains("database"),
        "{without}"
    );
    std::fs::write(&path, script.replace('3', "0")).unwrap();
    assert_eq!(scan(None).outcome, Outcome::NotRun);
}

#[test]
fn long_files_are_scanned_without_their_tensors_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = program(&folder, BODY);
    external.size_max = 300;
    let files = Memory::default().with("model.safetensors", testdata("model.safetensors"));
    let data = 288..440;
    let tensors = TensorData::from([(0, vec![data])]);
    assert_eq!(external.scan(&files, &tensors).unwrap().outcome, Outcome::Passed);
    let scan = external.scan(&files, &TensorData::new()).unwrap();
    assert_eq!(scan.outcome, Outcome::NotRun);
    assert!(scan.findings[0].why.contains("is longer than the 300 bytes"));
}

#[test]
fn a_scanner_starts_in_an_empty_folder_with_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let external = program(
        &folder,
        "cat >/dev/null; [ -z \"$(ls -A)\" ] && [ \"$(ulimit -v)\" = 6291456 ] && [ \"$(ulimit -c)\" = 0 ] || exit 2",
    );
    let check = scans(&external, b"a");
    assert_eq!(check.outcome, Outcome::Passed, "{check:?}");
}

#[test]
fn a_hit_stands_whatever_stops_the_scanner_later() {
    let folder = tempfile::tempdir().unwrap();
    let body = format!("read line; case $line in BROKEN*) exit 2;; esac; echo \"$line\" | {{ {BODY}; }}");
    let mut external = program(&folder, &body);
    external.size_max = 300;
    let found = |files: &Memory| external.scan(files, &TensorData::new()).unwrap();
    for stops in ["BROKEN\n".to_owned(), "a".repeat(301)] {
        let files = Memory::default()
            .with("a.txt", stops.clone())
            .with("b.txt", "a MARK\n")
            .with("c.txt", stops);
        let scan = found(&files);
        assert_eq!(scan.outcome, Outcome::Failed, "{scan:?}");
        assert!(
            scan.findings.len() == 1 && scan.findings[0].file == "b.txt",
            "{scan:?}"
        );
    }
    let scan = found(
        &Memory::default()
            .with("a.txt", "BROKEN\n")
            .with("b.txt", "plain\n"),
    );
    assert_eq!(scan.outcome, Outcome::NotRun);
}

#[test]
fn a_scanner_that_reads_a_part_or_takes_too_long_for_all_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut external = program(&folder, "exit 0");
    let check = scans(&external, &b"plain\n".repeat(1_000_000));
    assert_eq!(check.outcome, Outcome::NotRun, "{check:?}");
    external.limit_all = Duration::ZERO;
    let check = scans(&external, b"");
    assert_eq!(check.outcome, Outcome::NotRun);
    assert!(
        check
            .findings
            .iter()
            .any(|finding| finding.why.contains("the whole took longer")),
        "{check:?}"
    );
}
