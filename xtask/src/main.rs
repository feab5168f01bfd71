//! `cargo xtask test` runs every test; `cargo xtask check` checks what needs no run. `.ci/run` calls the first.
//!
//! It builds, starts and counts; what is tested lies in the crates and in `tests/`.
#![forbid(unsafe_code)]

mod check;
mod clients;
mod counts;
mod crates;
mod postgres;
mod ptx;
mod python;
mod quickstart;
mod steps;
mod stubs;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::counts::Counts;
use crate::steps::Steps;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build helpers of Alephlab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every test; the last line counts them.
    Test {
        /// Run the long forms of tests that have one.
        #[arg(long)]
        long: bool,
        /// Only tests whose name contains this word.
        filter: Option<String>,
    },
    /// Check format, lints, direction of dependencies and length of files.
    Check,
    /// Write the lists of CUDA's functions that cudarc names anew.
    Stubs,
    /// Compile the GPU kernels that the runtime embeds; without them a build is for CPUs only.
    Ptx {
        /// How many files at once.
        #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
        jobs: usize,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let root = root();
    match Arguments::parse().command {
        Command::Test { long, filter } => Ok(test(&root, long, filter.as_deref())),
        Command::Stubs => {
            stubs::write(&Steps::new(&root, false))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Ptx { jobs } => {
            ptx::make(&Steps::new(&root, false), jobs)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => {
            let ok = check::run(&root)?;
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Every step runs even when an earlier one failed, unless it needs what that one makes.
fn test(root: &Path, long: bool, filter: Option<&str>) -> ExitCode {
    let mut steps = Steps::new(root, long);
    let mut total = Counts::default();
    total += steps.run("structure", check::structure);
    let mut built = steps.run("programs", crates::build_programs);
    if built.failed == 0 && filter.is_none_or(|word| "quickstart".contains(word)) {
        total += steps.run("quickstart", quickstart::test);
    }
    if built.failed == 0 {
        built += steps.run("runtime", crates::build_runtime);
    }
    let are_built = built.failed == 0;
    total += built;
    total += steps.run("system programs", system::ensure);
    total += steps.run("tests of the crates", |steps| crates::test(steps, filter));
    total += steps.run("the gateway's tests on PostgreSQL", |steps| {
        postgres::test(steps, filter)
    });
    if are_built {
        // The tests of the crates have put programs of theirs in their place.
        total += steps.run("programs again", crates::build_programs);
        total += steps.run("Python environment", python::ensure);
        if long {
            total += steps.run("clients that take long to install", clients::install);
        }
        total += steps.run("tests with real clients", |steps| clients::test(steps, filter));
    }
    steps.summary();
    println!("{total}");
    if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The workspace: this crate's parent folder.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
