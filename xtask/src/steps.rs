//! Runs the steps of a test run, shows how long each took, and starts their programs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::counts::Counts;

const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// What the steps share.
pub(crate) struct Steps {
    root: PathBuf,
    long: bool,
    lines: Vec<String>,
}

impl Steps {
    /// Nothing has run yet.
    pub(crate) fn new(root: &Path, long: bool) -> Self {
        Self {
            root: root.to_path_buf(),
            long,
            lines: Vec::new(),
        }
    }

    /// The workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the long forms of tests are run.
    pub(crate) fn is_long(&self) -> bool {
        self.long
    }

    /// Where everything is built.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The runtime that the tests' kernels use, apart from the user's own.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.target().join("runtime")
    }

    /// One of our programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// Runs a step; one that cannot be done counts as a failed test.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce(&Self) -> Result<Counts>) -> Counts {
        println!("\n=== {name}");
        let started = Instant::now();
        let (counts, note) = match work(self) {
            Ok(counts) => (counts, String::new()),
            Err(error) => (Counts::one(false), format!(": {error:#}")),
        };
        let line = format!(
            "{:>6.1} s  {name}: {counts}{note}",
            started.elapsed().as_secs_f64()
        );
        println!("--- {}", line.trim_start());
        self.lines.push(line);
        counts
    }

    /// All steps with their times.
    pub(crate) fn summary(&self) {
        println!("\n=== summary");
        for line in &self.lines {
            println!("{line}");
        }
    }

    /// A command in the workspace, without the library path that `cargo run` sets for this program.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(&self.root).stdin(Stdio::null());
        if let Some(path) = std::env::var_os(LIBRARIES) {
            let target = self.target();
            let kept = std::env::split_paths(&path).filter(|folder| !folder.starts_with(&target));
            match std::env::join_paths(kept) {
                Ok(kept) if !kept.is_empty() => command.env(LIBRARIES, kept),
                _ => command.env_remove(LIBRARIES),
            };
        }
        if self.long {
            command.env("ALEPHLAB_TEST_LONG", "1");
        }
        command
    }
}

/// Runs a command to its end and fails when it does.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("{name} cannot be started"))?;
    if status.success() {
        Ok(())
    } else {
        bail!("{name} ended with {status}")
    }
}

/// Runs a command, shows its standard output as it comes and gives each line; says whether it ended well.
pub(crate) fn lines(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    quiet_lines(command, |text| {
        println!("{text}");
        line(text);
    })
}

/// As [`lines`], without showing them.
pub(crate) fn quiet_lines(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    let stdout = child.stdout.take().context("a piped child has no output")?;
    for text in BufReader::new(stdout).split(b'\n') {
        line(&String::from_utf8_lossy(&text?));
    }
    Ok(child.wait()?.success())
}
