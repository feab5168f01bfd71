//! The tests with real clients: pytest over `tests/clients`, and in the long run over the clients there that take long
//! to install.

use anyhow::{Context, Result};

use crate::counts::Counts;
use crate::steps::{Steps, lines, succeed};
use crate::{postgres, python};

/// The folder of the tests that only the long run does.
const LONG: &str = "tests/clients/long";

/// Files of tests at a time: each mostly waits for cells that are compiled and pages that are drawn.
const WORKERS: &str = "2";

/// Runs pytest; a test that needs something this machine lacks says so and is counted as skipped.
pub(crate) fn test(steps: &Steps, filter: Option<&str>) -> Result<Counts> {
    let database = postgres::Server::start(steps)?;
    let mut command = steps.command(python::interpreter(steps));
    command.args([
        "-m",
        "pytest",
        "-ra",
        "--color=no",
        "-p",
        "no:cacheprovider",
        // Tests of one file share what they have started.
        "--dist",
        "loadfile",
        "-n",
        WORKERS,
        "tests/clients",
    ]);
    if !steps.is_long() {
        command.args(["--ignore", LONG]);
    }
    if let Some(word) = filter {
        command.args(["-k", word]);
    }
    command
        .env("ALEPHLAB_PROGRAMS", steps.target().join("release"))
        .env("ALEPHLAB__RUNTIME__DIR", steps.runtime())
        .env("ALEPHLAB_ARTIFACTS", steps.target().join("test-artifacts"))
        .env(postgres::VARIABLE, database.url())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut counts = None;
    let ok = lines(&mut command, |line| counts = Counts::of_pytest(line).or(counts))?;
    let mut counts = counts.context("pytest printed no result")?;
    // No test selected by the filter is status 5, and no failure.
    if !ok && counts.failed == 0 && counts != Counts::default() {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Installs the clients of [`LONG`], with the versions that they were published with.
pub(crate) fn install(steps: &Steps) -> Result<Counts> {
    let mut command = steps.command("cargo");
    command
        .args(["install", "aleph-cli@0.22.0", "--locked", "--root"])
        .arg(steps.target().join("test-tools"));
    succeed(&mut command).context("aleph-cli cannot be installed")?;
    Ok(Counts::default())
}
