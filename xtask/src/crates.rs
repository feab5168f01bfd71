//! The tests of the crates, and the programs that later steps start.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::counts::Counts;
use crate::steps::{Steps, lines, quiet_lines, succeed};

/// Packages whose programs are used by later steps.
const PROGRAMS: [&str; 5] = [
    "alephlab-cli",
    "alephlab-localnet",
    "alephlab-kernel",
    "alephlab-broker",
    "alephlab-agent",
];

/// Examples that the tests with real clients start.
const EXAMPLES: [(&str, &str); 5] = [
    ("alephlab-gateway", "registry_gateway"),
    ("alephlab-gateway", "rust_client"),
    ("alephlab-localnet", "localnet"),
    ("alephlab-registry", "folder_hub"),
    ("alephlab-vault", "vault_vectors"),
];

/// The largest two crates, whose tests are built without optimisation: it takes most of their minutes, and each is built once
/// more for its tests and once for each program of tests. Programs that people and clients start are as in the manifest.
const QUICKLY_BUILT: [&str; 2] = ["alephlab-gateway", "alephlab-cli"];

/// `cargo test` over the workspace.
fn cargo_test(steps: &Steps) -> Command {
    let mut command = steps.command("cargo");
    command.args(["test", "--release", "--workspace"]);
    for name in QUICKLY_BUILT {
        command.arg("--config");
        command.arg(format!("profile.release.package.{name}.opt-level=0"));
    }
    command
}

/// Runs the tests of all crates. Programs that they build along lie where those of [`build_programs`] were.
pub(crate) fn test(steps: &Steps, filter: Option<&str>) -> Result<Counts> {
    let mut command = cargo_test(steps);
    command.arg("--no-fail-fast");
    if let Some(word) = filter {
        command.arg(word);
    }
    command.env("ALEPHLAB_RUNTIME_TEMPLATE", steps.runtime());
    counted(&mut command)
}

/// Runs one package's test programs, as [`test`] has built them, with another environment.
pub(crate) fn test_again(
    steps: &Steps,
    package: &str,
    (variable, value): (&str, &str),
    filter: Option<&str>,
) -> Result<Counts> {
    // Of the whole workspace, so that nothing is built with other features.
    let mut build = cargo_test(steps);
    build.args(["--no-run", "--quiet", "--message-format=json"]);
    let mut programs = Vec::new();
    let ok = quiet_lines(&mut build, |line| programs.extend(test_program(line, package)))?;
    anyhow::ensure!(ok, "the tests could not be built");
    anyhow::ensure!(!programs.is_empty(), "{package} has no tests");
    let mut total = Counts::default();
    for (program, folder) in programs {
        let mut command = steps.command(program);
        command.current_dir(folder).env(variable, value).args(filter);
        total += counted(&mut command)?;
    }
    Ok(total)
}

/// A test program of the package and the folder that cargo would start it in, from a line of cargo's messages.
fn test_program(line: &str, package: &str) -> Option<(PathBuf, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let is_test = message["profile"]["test"] == true;
    // Such as `path+file:///…/gateway#alephlab-gateway@0.1.0`.
    let id = message["package_id"].as_str()?;
    let is_of_package = id.contains(&format!("#{package}@"));
    let program = message["executable"].as_str()?;
    (is_test && is_of_package).then(|| (program.into(), manifest.parent().unwrap_or(manifest).to_owned()))
}

fn counted(command: &mut Command) -> Result<Counts> {
    let mut total = Counts::default();
    let ok = lines(command, |line| {
        if let Some(counts) = Counts::of_cargo(line) {
            total += counts;
        }
    })?;
    // A test program that does not build or dies counts nothing, but must not pass unseen.
    if !ok && total.failed == 0 {
        total.failed = 1;
    }
    Ok(total)
}

/// Builds the programs, and the examples by themselves, so that the programs get no features of theirs.
pub(crate) fn build_programs(steps: &Steps) -> Result<Counts> {
    let mut command = steps.command("cargo");
    command.args(["build", "--release", "--quiet"]);
    for name in PROGRAMS {
        command.args(["--package", name]);
    }
    succeed(&mut command)?;
    for (package, name) in EXAMPLES {
        let mut example = steps.command("cargo");
        example.args([
            "build",
            "--release",
            "--quiet",
            "--package",
            package,
            "--example",
            name,
        ]);
        succeed(&mut example)?;
    }
    Ok(Counts::default())
}

/// Has the kernel build the runtime that its cells are linked with; done at once when it is up to date.
pub(crate) fn build_runtime(steps: &Steps) -> Result<Counts> {
    let mut command = steps.command(steps.program("alephlab-kernel"));
    command
        .arg("template")
        .arg("--runtime-source")
        .arg(steps.root())
        .arg("--out")
        .arg(steps.runtime());
    let mut shown = 0;
    let ok = quiet_lines(&mut command, |line| {
        let Ok(step) = serde_json::from_str::<serde_json::Value>(line) else {
            return;
        };
        let done = step["done"].as_u64().unwrap_or_default();
        // One line in twenty is enough to see that it goes on.
        if done >= shown + 20 {
            shown = done;
            println!(
                "{} {done} of {}",
                step["phase"].as_str().unwrap_or_default(),
                step["total"]
            );
        }
    })?;
    anyhow::ensure!(ok, "the runtime could not be built");
    Ok(Counts::default())
}
