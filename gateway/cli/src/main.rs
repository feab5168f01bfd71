//! The `alephlab` command: starts everything on one machine, runs notebooks, holds its user's keys.
//!
//! This file reads the command line, starts the log and shows the one error. What commands do is in `commands`.
#![forbid(unsafe_code)]

mod account;
mod address;
mod browser;
mod build;
mod commands;
mod data;
mod datasets;
mod error;
mod hosts;
mod hub;
mod jupyter;
mod keys;
mod lab;
mod logs;
mod models;
mod oms;
mod price;
mod progress;
mod renting;
mod restart;
mod run_file;
mod services;
mod settings;
mod shares;
mod stop;
#[cfg(test)]
mod testing;
mod trial;
mod unlock;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::commands::Arguments;
use crate::error::CliError;

/// How long blocking work may take to end after the command is done or was stopped.
const FAREWELL: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    restart::without_cargos_libraries();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let reason = format!("the asynchronous runtime cannot start: {error}");
            return ExitCode::from(show(&CliError::Program {
                program: "alephlab",
                reason,
            }));
        }
    };
    let outcome = runtime.block_on(arguments.run());
    // A thread that waits for an answer at the terminal ends only with the process.
    runtime.shutdown_timeout(FAREWELL);
    match outcome {
        Ok(code) => code,
        Err(error) => ExitCode::from(show(&error)),
    }
}

/// One sentence, the whole traceback of a cell, and what to do; gives the exit status.
fn show(error: &CliError) -> u8 {
    tracing::error!(code = error.code(), "the command ended with an error");
    let mut stderr = std::io::stderr().lock();
    if let CliError::Cell { traceback, .. } = error
        && !traceback.is_empty()
    {
        // Nobody is left to tell when stderr is closed.
        drop(writeln!(stderr, "{traceback}"));
    }
    drop(writeln!(stderr, "error: {error}"));
    if let Some(hint) = error.hint() {
        drop(writeln!(stderr, "hint: {hint}"));
    }
    error.exit_status()
}
