//! V1, V7, and reports: their JSON, hashes and what makes one verified.

use std::os::unix::fs::symlink;

use alephlab_verify::{Check, Folder, Tool, manifest_hash};

use super::*;
use crate::valid::whole;

fn outside(id: CheckId, outcome: Outcome) -> Check {
    Check::new(
        id,
        outcome,
        vec![],
        "sandbox 1".into(),
        "2026-11-30T13:00:00.000000Z".into(),
    )
}

type Change = fn(&mut Check);

#[test]
fn verified_takes_what_is_checked_elsewhere_as_well() {
    let report = report(&whole());
    let report = report
        .with_outside(outside(CheckId::V2, Outcome::Passed))
        .unwrap();
    assert!(!report.verified);
    let failed = report
        .clone()
        .with_outside(outside(CheckId::V5, Outcome::Failed))
        .unwrap();
    assert!(!failed.verified && failed.is_consistent());
    let verified = report
        .with_outside(outside(CheckId::V5, Outcome::Passed))
        .unwrap();
    assert!(verified.verified && verified.is_consistent() && verified.reproduced_on().next().is_none());
    let mut runs = outside(CheckId::V8, Outcome::Passed);
    runs.tools = ["a", "b"]
        .map(|host| Tool {
            name: "evaluation.ipynb".to_owned(),
            version: "1".to_owned(),
            outcome: Outcome::Passed,
            host: Some(host.to_owned()),
        })
        .into();
    let reproduced = verified.clone().with_outside(runs).unwrap();
    assert!(reproduced.is_consistent() && reproduced.reproduced_on().eq(["a", "b"]));
    // Neither scans of one scanner, nor a run that failed beside others.
    let forged = |id: CheckId, change: Change| {
        let mut checks = reproduced.checks.clone();
        checks.iter_mut().filter(|check| check.id == id).for_each(change);
        Report::new(reproduced.manifest.clone(), checks)
    };
    assert!(forged(CheckId::V6, |_| ()).is_consistent());
    let changes: [(CheckId, Change); 5] = [
        (CheckId::V6, |check| check.tools.clear()),
        (CheckId::V6, |check| check.tools[1] = check.tools[0].clone()),
        (CheckId::V6, |check| check.tools[1].version.clear()),
        (CheckId::V6, |check| check.tools[1].outcome = Outcome::Failed),
        (CheckId::V8, |check| check.tools[1].outcome = Outcome::Failed),
    ];
    for (n, (id, change)) in changes.into_iter().enumerate() {
        assert!(!forged(id, change).is_consistent(), "{n}");
    }
    let error = verified
        .with_outside(outside(CheckId::V3, Outcome::Passed))
        .unwrap_err();
    assert_eq!(error.code(), "verify_not_from_outside");
}

#[test]
fn reports_are_the_same_bytes_and_cannot_be_polished() {
    let first = report(&whole());
    assert_eq!(first, report(&whole()));
    let json = serde_json::to_string(&first).unwrap();
    let again: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(again.hash(), first.hash());
    assert!(again.is_consistent());
    let polished: [fn(&mut Report); 6] = [
        |report| report.verified = true,
        |report| report.checks[1].outcome = Outcome::Passed,
        |report| report.checks[1].blocking = false,
        |report| report.manifest = "0".repeat(64),
        |report| report.checks.truncate(1),
        |report| report.checks[2].version = "other".into(),
    ];
    for (n, polish) in polished.into_iter().enumerate() {
        let mut report = first.clone();
        polish(&mut report);
        assert!(!report.is_consistent(), "{n}");
    }
    let mut later = options();
    later.date = "2027-01-01T00:00:00.000000Z".into();
    let files = whole();
    let later = verify(
        &files,
        &manifest_of(&files).unwrap(),
        &[&Signatures, &Nothing],
        &later,
    )
    .unwrap();
    assert_eq!(later.checks[0].evidence, first.checks[0].evidence);
    assert_ne!(later.hash(), first.hash());
}

#[test]
fn every_difference_to_the_manifest_is_named() {
    let files = Memory::default()
        .with("a.txt", "a")
        .with("b.txt", "b")
        .with("c.txt", "c")
        .with("d.txt", "d");
    let mut manifest = manifest_of(&files).unwrap();
    let hash = manifest_hash(&manifest);
    manifest[0].sha256 = "0".repeat(64);
    manifest[1].size = 2;
    manifest[2].path = "C.txt".into();
    manifest.push(manifest[3].clone());
    assert_ne!(manifest_hash(&manifest), hash);
    let report = verify(&files, &manifest, &[], &options()).unwrap();
    let found: Vec<_> = findings(&report, CheckId::V1)
        .iter()
        .map(|finding| finding.why.as_str())
        .collect();
    for words in [
        "`a.txt` has the SHA-256",
        "`b.txt` has 1 bytes and not 2",
        "`c.txt` is not in",
        "`C.txt` is missing",
        "`d.txt` is in the manifest twice",
    ] {
        assert!(
            found.iter().any(|why| why.starts_with(words)),
            "{found:?} have not {words:?}"
        );
    }
}

#[test]
fn folders_are_read_and_links_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    std::fs::write(folder.path().join("a/b/config.json"), "{}").unwrap();
    symlink("/etc/passwd", folder.path().join("model.safetensors")).unwrap();
    let source = Folder::open(folder.path()).unwrap();
    let manifest = manifest_of(&source).unwrap();
    let report = verify(&source, &manifest, &[&Signatures], &options()).unwrap();
    assert_eq!(
        findings(&report, CheckId::V3)[0].why,
        "`model.safetensors` is a symbolic link, which leads out of the revision"
    );
    assert_eq!(manifest[0].path, "a/b/config.json");
    assert_eq!(
        Folder::open(&folder.path().join("none")).err().unwrap().code(),
        "verify_folder"
    );
}

fn card(front: &str, selling: bool) -> Vec<String> {
    let files = Memory::default().with("README.md", format!("---\n{front}\n---\n\n# Card\n"));
    let options = Options { selling, ..options() };
    let report = verify(&files, &manifest_of(&files).unwrap(), &[], &options).unwrap();
    findings(&report, CheckId::V7)
        .iter()
        .map(|finding| finding.why.clone())
        .collect()
}

#[test]
fn cards_of_our_own_publishing_pass() {
    let card = alephlab_api::model::Card {
        title: "Digits: a \"model\"".into(),
        licence: "apache-2.0".into(),
        tags: vec!["a: b".into(), "true".into()],
        task: Some("image-classification".into()),
        dataset: Some("digits".into()),
        metrics: [("accuracy".to_owned(), 0.5)].into(),
        library: Some("candle".into()),
        ..Default::default()
    };
    assert_eq!(
        reasons("README.md", card.to_markdown(), CheckId::V7),
        Vec::<String>::new()
    );
}

#[test]
fn cards_say_what_is_wrong_with_each_key() {
    for (front, words) in [
        ("", "front matter is not valid YAML"),
        ("- a", "is no mapping"),
        ("a: [", "not valid YAML"),
        ("license: mit\nlicense: mit", "comes twice"),
        ("a: &x [1]\nb: *x", "has an alias"),
        ("a: !!python/object x", "has a tag"),
        ("tags: [a]", "without a licence"),
        ("license: no-such-licence", "unknown licence `no-such-licence`"),
        ("license: other", "of which name and link are missing"),
        ("license: mit\nbase_model: small", "`base_model` has `small`"),
        (
            "license: mit\nbase_model: [a/b, a/b/c]",
            "`base_model` has `a/b/c`",
        ),
        ("license: mit\nlanguage: no", "`language` is neither"),
        ("license: mit\nlanguage: English", "`language` has `English`"),
        ("license: mit\ntags: {a: b}", "`tags` is neither"),
        (
            "license: mit\npipeline_tag: Image Classification",
            "`pipeline_tag` has",
        ),
        ("license: mit\nmodel-index: {}", "`model-index` is no list"),
        ("license: cc-by-nc-4.0", "does not allow selling"),
        ("license: [mit, cc-by-nc-sa-4.0]", "does not allow selling"),
    ] {
        let reasons = card(front, true);
        assert!(
            reasons.iter().any(|why| why.contains(words)),
            "{front:?}: {reasons:?}"
        );
    }
    assert_eq!(card("license: cc-by-nc-4.0", false), Vec::<String>::new());
    assert_eq!(
        card(
            "license: mit\nbase_model:\n- a/b\nlanguage: [en, zh-Hant, \"no\"]",
            true
        ),
        Vec::<String>::new()
    );
    assert!(reasons("README.md", "# No front matter\n", CheckId::V7)[0].contains("has no front matter"));
    assert!(reasons("a.txt", "a", CheckId::V7)[0].contains("is missing"));
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    assert!(card(&deep, true)[0].contains("not valid YAML"));
}

#[test]
fn findings_are_bounded_and_on_one_line() {
    let files = (0..300).fold(Memory::default(), |files, n| {
        files.with(format!("{n}\n\u{1b}[31m.py"), "x")
    });
    let report = report(&files);
    let check = report.check(CheckId::V3).unwrap();
    assert_eq!((check.findings.len(), check.left_out), (200, 100));
    assert!(
        check
            .findings
            .iter()
            .all(|finding| !finding.why.contains(['\n', '\u{1b}']))
    );
}
