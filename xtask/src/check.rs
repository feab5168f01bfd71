//! `cargo xtask check`: format, lints, direction of dependencies, length of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::counts::Counts;
use crate::steps::{Steps, succeed};

/// Longest file that one person still reads in one go.
const LINES_MAX: usize = 600;
/// Which of our crates may use which others; design.md section 3. Tests of a crate may use any.
const ALLOWED: [(&str, &[&str]); 23] = [
    ("alephlab-kernel", &["alephlab-link"]),
    (
        "alephlab",
        &[
            "alephlab-link",
            "alephlab-api",
            "alephlab-cell",
            "alephlab-cuda-stubs",
            "alephlab-derive",
            "alephlab-features",
            "alephlab-ops",
        ],
    ),
    ("alephlab-cell", &[]),
    ("alephlab-cuda-stubs", &[]),
    ("candle-kernels", &["alephlab-cuda-stubs"]),
    ("alephlab-derive", &[]),
    ("alephlab-features", &[]),
    ("alephlab-zygote", &[]),
    (
        "alephlab-broker",
        &[
            "alephlab-vault",
            "alephlab-mount",
            "alephlab-registry",
            "alephlab-api",
        ],
    ),
    ("alephlab-mount", &["alephlab-vault"]),
    (
        "alephlab-gateway",
        &[
            "alephlab-api",
            "alephlab-vault",
            "alephlab-registry",
            "alephlab-settlement",
            "alephlab-verify",
        ],
    ),
    ("alephlab-agent", &["alephlab-api"]),
    ("alephlab-localnet", &[]),
    (
        "alephlab-cli",
        &[
            "alephlab-gateway",
            "alephlab-localnet",
            "alephlab-mount",
            "alephlab-registry",
            "alephlab-vault",
            "alephlab-verify",
            "alephlab-api",
        ],
    ),
    ("alephlab-vault", &["native-tls"]),
    ("alephlab-registry", &["alephlab-api"]),
    ("alephlab-settlement", &["alephlab-api"]),
    ("alephlab-verify", &["alephlab-api"]),
    ("alephlab-api", &[]),
    ("alephlab-link", &[]),
    ("alephlab-ops", &[]),
    ("native-tls", &[]),
    ("xtask", &[]),
];
/// Only makes features of foreign crates equal; every crate may have it.
const HACK: &str = "workspace-hack";

/// Runs all checks, also after one failed; says whether all passed.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let steps = Steps::new(root, false);
    let mut cargo = vec![
        ("format", vec!["fmt", "--all", "--check"]),
        (
            "lints",
            vec![
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        ),
    ];
    let mut ok = true;
    for (name, arguments) in cargo.drain(..) {
        ok &= report(
            name,
            succeed(steps.command("cargo").args(arguments))
                .err()
                .map(|error| vec![error.to_string()]),
        );
    }
    ok &= structure(&steps)?.failed == 0;
    Ok(ok)
}

/// What needs no compiler: direction of dependencies and length of files, each counted as a test.
pub(crate) fn structure(steps: &Steps) -> Result<Counts> {
    let metadata = steps
        .command("cargo")
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()?;
    let metadata: Value =
        serde_json::from_slice(&metadata.stdout).context("cargo metadata cannot be read")?;
    let mut counts = Counts::one(report(
        "direction of dependencies",
        Some(wrong_directions(&metadata)),
    ));
    counts += Counts::one(report("length of files", Some(long_files(steps.root())?)));
    Ok(counts)
}

fn report(name: &str, faults: Option<Vec<String>>) -> bool {
    let faults = faults.unwrap_or_default();
    println!("{name}: {}", if faults.is_empty() { "ok" } else { "FAILED" });
    for fault in &faults {
        println!("  {fault}");
    }
    faults.is_empty()
}

/// Dependencies between our crates that the table does not allow.
fn wrong_directions(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let ours: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if name == HACK {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!("{name} is not in the table of xtask/src/check.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().map_or(&[][..], Vec::as_slice) {
            let to = dependency["name"].as_str().unwrap_or_default();
            let is_of_tests = dependency["kind"] == "dev";
            if ours.contains(&to) && to != HACK && !is_of_tests && !allowed.contains(&to) {
                faults.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    faults
}

fn long_files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    list(root, &mut files)?;
    let mut faults = Vec::new();
    for path in files {
        let lines = fs::read_to_string(&path)
            .with_context(|| path.display().to_string())?
            .lines()
            .count();
        if lines > LINES_MAX {
            faults.push(format!(
                "{} has {lines} lines, more than {LINES_MAX}",
                path.display()
            ));
        }
    }
    Ok(faults)
}

/// Every hand-written source file.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.')
            || matches!(
                name.as_str(),
                "target" | "testdata" | "node_modules" | "__pycache__"
            )
        {
            continue;
        }
        if path.is_dir() {
            list(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "py")
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_allowed_directions_pass() {
        let package = |name: &str, dependencies: Value| json!({"name": name, "dependencies": dependencies});
        let metadata = json!({"packages": [
            package("alephlab-kernel", json!([{"name": "alephlab", "kind": null}, {"name": "serde", "kind": null}])),
            package("alephlab", json!([{"name": "alephlab-link", "kind": null}])),
            package("alephlab-link", json!([{"name": "alephlab", "kind": "dev"}, {"name": HACK, "kind": null}])),
            package(HACK, json!([])),
            package("new", json!([])),
        ]});
        assert_eq!(
            wrong_directions(&metadata),
            [
                "alephlab-kernel must not depend on alephlab",
                "new is not in the table of xtask/src/check.rs"
            ]
        );
    }

    #[test]
    fn this_workspace_keeps_its_own_rules() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let steps = Steps::new(root, false);
        let output = steps
            .command("cargo")
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .unwrap();
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(wrong_directions(&metadata), Vec::<String>::new());
        assert_eq!(long_files(root).unwrap(), Vec::<String>::new());
    }
}
