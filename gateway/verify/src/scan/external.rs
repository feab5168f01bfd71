//! Runs a scanner program that is installed beside us: one run for each file, the answer in the exit code. Which programs
//! are known, and how they are asked, is [`super::programs`]' business.
//!
//! The program is chosen by who runs this, never by a revision; it gets neither names nor our environment. One that passed
//! over a file looked through no revision, and does not count; what it found in others does.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::programs::{self, Version};
use crate::error::Result;
use crate::inspect::TensorData;
use crate::reader::{Parsed, Reader, Stop, shown};
use crate::report::{Finding, Outcome};
use crate::scan::{Scan, Scanner};
use crate::source::{Entry, EntryKind, Source};

/// Bytes of a scanner's output that are read.
const OUTPUT_MAX: u64 = 16 * 1024;
/// Letters of a file's ending that a scanner is told.
const ENDING_MAX: usize = 12;

/// How a program is given a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    /// On its standard input.
    Input,
    /// As the path of a copy, its last argument. Of the file's name only the ending is kept, by which some scanners choose.
    Path,
}

/// A scanner program.
#[derive(Debug, Clone)]
pub struct External {
    /// Its name in reports.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Arguments with which it looks through one file.
    pub arguments: Vec<String>,
    /// How it is given the file.
    pub feeding: Feeding,
    /// How it says which version it is, and with which database.
    pub version: Version,
    /// Exit codes that mean that nothing was found.
    pub clean: BTreeSet<i32>,
    /// Exit codes that mean a hit.
    pub hit: BTreeSet<i32>,
    /// Exit codes that mean that it does not know such files. Any other is an error of the scanner.
    pub unknown: BTreeSet<i32>,
    /// Longest file that it takes. Of longer ones, the bytes of tensors are left out; what is longer even so makes
    /// the scan "not run".
    pub size_max: u64,
    /// Longest time for one file.
    pub limit: Duration,
}

impl External {
    fn not_run(&self, version: String, why: &str) -> Scan {
        Scan {
            version,
            outcome: Outcome::NotRun,
            findings: vec![Finding {
                file: String::new(),
                what: "a scanner".to_owned(),
                why: format!("the scanner `{}` was not run: {why}", shown(&self.name)),
                hint: programs::INSTALL.to_owned(),
            }],
        }
    }

    fn start(&self, program: &Path, arguments: &[String]) -> std::io::Result<Child> {
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .spawn()
    }

    /// Runs a program; its exit code and output, or why there are none.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[String],
        input: Input<'_>,
    ) -> Result<std::result::Result<(i32, String), String>> {
        let mut child = match self.start(program, arguments) {
            Ok(child) => child,
            Err(error) => return Ok(Err(format!("it does not start: {error}"))),
        };
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut output = Vec::new();
            if let Some(mut stdout) = stdout {
                let _ = stdout.by_ref().take(OUTPUT_MAX).read_to_end(&mut output);
                let _ = std::io::copy(&mut stdout, &mut std::io::sink());
            }
            let _ = sender.send(output);
        });
        let deadline = Instant::now() + self.limit;
        let (fed, output, has_ended) = thread::scope(|scope| {
            let feeder = scope.spawn(move || stdin.map_or(Ok(()), |stdin| input.feed(stdin)));
            // Its output ends when it does, unless it closed it before.
            let output = receiver.recv_timeout(self.limit);
            let has_ended = output.is_ok() && ended(&child, deadline);
            if !has_ended {
                kill(&mut child);
            }
            (feeder.join(), output, has_ended)
        });
        let Ok(status) = child.wait() else {
            return Ok(Err("its exit code cannot be had".to_owned()));
        };
        match fed {
            Ok(Err(Stop::Source(error))) => return Err(error),
            Ok(Err(Stop::Fault(fault))) => return Ok(Err(format!("a file {}", fault.why))),
            Ok(Ok(())) | Err(_) => {}
        }
        let Some(output) = output.ok().filter(|_| has_ended) else {
            return Ok(Err(format!(
                "it took longer than {} seconds",
                self.limit.as_secs()
            )));
        };
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok(status
            .code()
            .map(|code| (code, text))
            .ok_or_else(|| "it was killed".to_owned()))
    }
}

/// Whether a program ends in time. It is not reaped here, so that its number stays its own until it is killed.
fn ended(child: &Child, deadline: Instant) -> bool {
    let Some(pid) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
        let _ = sender.send(());
    });
    let left = deadline.saturating_duration_since(Instant::now());
    receiver.recv_timeout(left).is_ok()
}

fn kill(child: &mut Child) {
    if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
}

impl Scanner for External {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scan(&self, source: &dyn Source, tensor_data: &TensorData) -> Result<Scan> {
        let version = match programs::version(self)? {
            Ok(version) => version,
            Err(why) => return Ok(self.not_run(String::new(), &why)),
        };
        let mut findings = Vec::new();
        let (mut files, mut unknown) = (0_usize, 0_usize);
        for (number, entry) in source.entries().iter().enumerate() {
            if entry.kind != EntryKind::File {
                continue;
            }
            files += 1;
            let opaque = tensor_data.get(&number).map_or(&[][..], Vec::as_slice);
            let ranges = if entry.size > self.size_max {
                super::signatures::outside(opaque, entry.size)
            } else {
                std::iter::once(0..entry.size).collect()
            };
            if ranges.iter().map(|range| range.end - range.start).sum::<u64>() > self.size_max {
                let why = format!(
                    "`{}` is longer than the {} bytes that it reads",
                    shown(&entry.path),
                    self.size_max
                );
                return Ok(self.not_run(version, &why));
            }
            match self.ask(entry, Input::Parts(source, number, ranges))? {
                Ok((code, _)) if self.clean.contains(&code) => {}
                Ok((code, _)) if self.unknown.contains(&code) => unknown += 1,
                Ok((code, text)) if self.hit.contains(&code) => findings.push(self.flagged(entry, &text)),
                Ok((code, _)) => return Ok(self.not_run(version, &format!("it ended with exit code {code}"))),
                Err(why) => return Ok(self.not_run(version, &why)),
            }
        }
        if findings.is_empty() && unknown > 0 {
            return Ok(self.not_run(
                version,
                &format!("it does not know {unknown} of the {files} files"),
            ));
        }
        let outcome = if findings.is_empty() {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        Ok(Scan {
            version,
            outcome,
            findings,
        })
    }
}

impl External {
    /// Has one file looked through.
    fn ask(&self, entry: &Entry, input: Input<'_>) -> Result<std::result::Result<(i32, String), String>> {
        if self.feeding == Feeding::Input {
            return self.run(&self.program, &self.arguments, input);
        }
        let uncopied = |error: std::io::Error| format!("a file cannot be copied for it: {error}");
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => return Ok(Err(uncopied(error))),
        };
        let path = folder.path().join(format!("file{}", ending(&entry.path)));
        let fed = match File::create(&path) {
            Ok(file) => input.copy(file),
            Err(error) => return Ok(Err(uncopied(error))),
        };
        match fed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ok(Err(uncopied(error))),
            Err(Stop::Source(error)) => return Err(error),
            Err(Stop::Fault(fault)) => return Ok(Err(format!("a file {}", fault.why))),
        }
        let mut arguments = self.arguments.clone();
        arguments.push(path.to_string_lossy().into_owned());
        let ran = self.run(&self.program, &arguments, Input::Nothing)?;
        // What it says must be the same for everyone who repeats it.
        let place = path.to_string_lossy();
        Ok(ran.map(|(code, text)| (code, text.replace(&*place, "file"))))
    }

    fn flagged(&self, entry: &Entry, text: &str) -> Finding {
        Finding {
            file: entry.path.clone(),
            what: "a hit of a scanner".to_owned(),
            why: format!(
                "`{}` is flagged by {}: {}",
                shown(&entry.path),
                shown(&self.name),
                shown(programs::hit(text))
            ),
            hint: "remove the file; if it is a false alarm, tell the makers of the scanner".to_owned(),
        }
    }
}

/// `.json` of a path, if it is a plain one.
fn ending(path: &str) -> String {
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    let ending = ending.map_or("", |(_, ending)| ending);
    let is_plain = !ending.is_empty()
        && ending.len() <= ENDING_MAX
        && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain {
        format!(".{ending}")
    } else {
        String::new()
    }
}

/// What a program looks through.
pub(super) enum Input<'a> {
    Nothing,
    Parts(&'a dyn Source, usize, Vec<Range<u64>>),
}

impl Input<'_> {
    /// A program that stops reading has decided; that is no error.
    fn feed(self, stdin: impl Write) -> Parsed<()> {
        self.copy(stdin).map(|_| ())
    }

    /// Writes all of it; the inner error is of the writing.
    fn copy(self, mut to: impl Write) -> Parsed<std::io::Result<()>> {
        let Self::Parts(source, entry, ranges) = self else {
            return Ok(Ok(()));
        };
        for range in ranges {
            let mut reader = Reader::new(source, entry).within(&range);
            while reader.left() > 0 {
                if let Err(error) = to.write_all(reader.chunk()?) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(to.flush())
    }
}
