//! The child of a kernel, as the evaluator sees it: a process that is told which library to run.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use alephlab_link::HANDOVER_ENV;

use crate::child::{ENTRY, EXECUTION_COMPLETE, LOAD_FAILED, subshells};
use crate::{Error, Result};

/// How long a child may take to start a thread.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How to start one.
#[derive(Debug, Clone)]
pub(super) struct ChildSpec {
    pub(super) program: PathBuf,
    pub(super) link: PathBuf,
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
    pub(super) libstd: PathBuf,
    pub(super) runtime_lib: PathBuf,
    pub(super) work_dir: PathBuf,
    pub(super) handover: Option<PathBuf>,
}

/// One that runs.
pub(super) struct Running {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Why a cell did not come back.
#[derive(Debug)]
pub(super) enum RunFault {
    /// The child ended, with this status.
    Died(String),
    /// The library could not be loaded; the child goes on.
    NotLoaded(String),
}

impl ChildSpec {
    /// Starts a child. Must be called on the thread that lives as long as the kernel: the child ends with it.
    pub(super) fn start(&self) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command
            .arg("child")
            .arg("--kernel")
            .arg(std::process::id().to_string());
        for (flag, path) in [
            ("--link", &self.link),
            ("--stdout", &self.stdout),
            ("--stderr", &self.stderr),
            ("--libstd", &self.libstd),
            ("--runtime-lib", &self.runtime_lib),
        ] {
            command.arg(flag).arg(path);
        }
        // A group of its own: killed as a whole, and untouched by Ctrl-C in a terminal.
        command.current_dir(&self.work_dir).process_group(0);
        if let Some(handover) = &self.handover {
            command.env(HANDOVER_ENV, handover);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let failed = |message: String| Error::Child { message };
        let mut process = command.spawn().map_err(|error| failed(error.to_string()))?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(commands), Some(answers)) => Ok(Running {
                process,
                commands,
                answers: BufReader::new(answers),
            }),
            _ => Err(failed("it has no pipes".to_owned())),
        }
    }
}

impl Running {
    /// Process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a cell's library to its end.
    pub(super) fn run(&mut self, library: &Path) -> std::result::Result<(), RunFault> {
        match run(library, &mut self.commands, &mut self.answers) {
            Some(done) => done,
            None => Err(self.died()),
        }
    }

    /// Ends it, with what it started.
    pub(super) fn end(mut self) {
        crate::child::kill_group(self.process.id());
        let _ = self.process.wait();
    }

    fn died(&mut self) -> RunFault {
        // Its pipes are closed, so it has ended or is about to.
        RunFault::Died(
            self.process
                .wait()
                .map_or_else(|error| error.to_string(), |status| status.to_string()),
        )
    }
}

/// Has a thread of the child run a library. Nothing when the child has ended.
fn run(
    library: &Path,
    commands: &mut impl Write,
    answers: &mut impl BufRead,
) -> Option<std::result::Result<(), RunFault>> {
    let line = format!("LOAD_AND_RUN {} {ENTRY}\n", library.display());
    commands.write_all(line.as_bytes()).ok()?;
    let mut fault = None;
    loop {
        let mut answer = String::new();
        if answers.read_line(&mut answer).ok()? == 0 {
            return None;
        }
        let answer = answer.trim_end();
        if let Some(reason) = answer.strip_prefix(LOAD_FAILED) {
            fault = Some(RunFault::NotLoaded(reason.to_owned()));
        } else if answer == EXECUTION_COMPLETE {
            return Some(fault.map_or(Ok(()), Err));
        }
    }
}

/// A thread of a child that runs the cells of a subshell. It ends when this is dropped.
pub(super) struct Beside {
    child: u32,
    stream: BufReader<UnixStream>,
}

impl Beside {
    /// Has a child start one. Its link and FIFOs lie in `folder`; `link` is the child's own.
    pub(super) fn start(child: u32, link: &Path, folder: &Path) -> std::io::Result<Self> {
        let mut stream = UnixStream::connect(subshells::socket(link, child))?;
        stream.write_all(format!("{}\n", folder.display()).as_bytes())?;
        stream.set_read_timeout(Some(READY_LIMIT))?;
        let mut stream = BufReader::new(stream);
        let mut said = String::new();
        stream.read_line(&mut said)?;
        if said.trim_end() != subshells::READY {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        stream.get_ref().set_read_timeout(None)?;
        Ok(Self { child, stream })
    }

    /// Process id of the child.
    pub(super) fn child(&self) -> u32 {
        self.child
    }

    /// Runs a cell's library to its end.
    pub(super) fn run(&mut self, library: &Path) -> std::result::Result<(), RunFault> {
        let done = self.stream.get_ref().try_clone().ok();
        let done = done.and_then(|mut commands| run(library, &mut commands, &mut self.stream));
        done.unwrap_or_else(|| Err(RunFault::Died("it is gone".to_owned())))
    }
}
