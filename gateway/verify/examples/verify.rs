//! Prints what can be said about the files of a folder: `verify DIR [--json] [--free] [--scanner PROGRAM]...`.
//!
//! The folder is its own manifest here, so V1 says only that it can be read. Ends with 1 when something blocks.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line"
)]

use std::path::Path;
use std::process::ExitCode;

use alephlab_verify::{
    External, Folder, Options, Outcome, Report, Scanner, Signatures, VerifyError, manifest_of, verify,
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut folder, mut json, mut programs) = (None, false, Vec::new());
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--free" => options.selling = false,
            "--scanner" => {
                let path = arguments.next().unwrap_or_default();
                let Some(program) = External::of(Path::new(&path), None) else {
                    eprintln!(
                        "{path:?} is no scanner that is known\n  name the path of one of {}",
                        External::KNOWN.join(", ")
                    );
                    return ExitCode::from(2);
                };
                programs.push(program);
            }
            _ => folder = Some(argument),
        }
    }
    let Some(folder) = folder else {
        eprintln!("usage: verify DIR [--json] [--free] [--scanner PROGRAM]...");
        return ExitCode::from(2);
    };
    let report = match made(Path::new(&folder), &programs, &options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}\n  {}", error.hint());
            return ExitCode::from(2);
        }
    };
    match serde_json::to_string_pretty(&report) {
        Ok(text) if json => println!("{text}"),
        _ => print(&report),
    }
    let blocked = report
        .checks
        .iter()
        .any(|check| check.blocking && check.outcome == Outcome::Failed);
    ExitCode::from(u8::from(blocked))
}

fn made(folder: &Path, programs: &[External], options: &Options) -> Result<Report, VerifyError> {
    let source = Folder::open(folder)?;
    let manifest = manifest_of(&source)?;
    let mut scanners: Vec<&dyn Scanner> = vec![&Signatures];
    scanners.extend(programs.iter().map(|program| program as &dyn Scanner));
    verify(&source, &manifest, &scanners, options)
}

fn print(report: &Report) {
    println!("manifest {}", report.manifest);
    for check in &report.checks {
        let outcome = match check.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::NotRun => "not run",
        };
        println!("{} {:<22} {outcome}", check.id, check.id.title());
        for finding in &check.findings {
            println!("     {}\n       {}", finding.why, finding.hint);
        }
        if check.left_out > 0 {
            println!("     and {} more", check.left_out);
        }
    }
    println!("verified: {}", if report.verified { "yes" } else { "no" });
}
