//! The tests of the crates, and the programs that later steps start.

use anyhow::Result;

use crate::counts::Counts;
use crate::steps::{Steps, lines, succeed};

/// Packages whose programs are used by later steps.
const PROGRAMS: [&str; 4] = ["alephlab-cli", "alephlab-kernel", "alephlab-broker", "alephlab-agent"];

/// `cargo test` over the workspace.
pub(crate) fn test(steps: &Steps, filter: Option<&str>) -> Result<Counts> {
    let mut command = steps.command("cargo");
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    if let Some(word) = filter {
        command.arg(word);
    }
    let mut total = Counts::default();
    let ok = lines(&mut command, |line| {
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

/// Builds the programs, and the local node by itself, which some clients' tests start.
pub(crate) fn build_programs(steps: &Steps) -> Result<Counts> {
    let mut command = steps.command("cargo");
    command.args(["build", "--release", "--quiet"]);
    for name in PROGRAMS {
        command.args(["--package", name]);
    }
    succeed(&mut command)?;
    let mut example = steps.command("cargo");
    example.args(["build", "--release", "--quiet", "--package", "alephlab-localnet", "--example", "localnet"]);
    succeed(&mut example)?;
    Ok(Counts::default())
}
