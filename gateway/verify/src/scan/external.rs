//! Runs a scanner program that is installed beside us: one run for each file. Which programs are known, and how they are asked, is
//! [`super::programs`]' business; what they answer, that of [`super::answers`].
//!
//! The program is chosen by who runs this, never by a revision; it gets neither names nor our environment, and starts in an empty
//! folder: some read settings where they start, and there could lie what is verified. It has a bound of memory, of what it
//! writes and of time, and a sandbox where there is one ([`super::sandbox`]). One that passed over a file looked through no revision, and does not count; what it found in others does.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::answers::{Answer, Reading, answer};
use super::programs::{self, Version};
use super::sandbox::{self, Needs};
use crate::error::Result;
use crate::inspect::TensorData;
use crate::reader::{Parsed, Reader, Stop, shown};
use crate::report::{Finding, Outcome};
use crate::scan::{Scan, Scanner};
use crate::source::{Entry, EntryKind, Source};

/// Bytes of a scanner's output that are kept of its start, and at most twice as many of its end.
const OUTPUT_MAX: usize = 16 * 1024;
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
    /// A file or folder beside its own that it reads.
    pub database: Option<PathBuf>,
    /// Exit codes that mean that nothing was found.
    pub clean: BTreeSet<i32>,
    /// Exit codes that mean a hit.
    pub hit: BTreeSet<i32>,
    /// Exit codes that mean that it does not know such files. Any other is an error of the scanner.
    pub unknown: BTreeSet<i32>,
    /// How its answer is read.
    pub reading: Reading,
    /// Longest file that it takes. Of longer ones, the bytes of tensors are left out; what is longer even so makes
    /// the scan "not run".
    pub size_max: u64,
    /// Longest time for one file.
    pub limit: Duration,
    /// Longest time for all files of a revision.
    pub limit_all: Duration,
}

/// How a program ended.
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) text: String,
    /// Whether it was given all of its input.
    fed: bool,
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

    fn start(
        &self,
        program: &Path,
        arguments: &[String],
        shown: Option<&Path>,
        (folder, temporary): (&Path, &Path),
    ) -> std::io::Result<Child> {
        let shown: Vec<PathBuf> = shown
            .into_iter()
            .chain(self.database.as_deref())
            .map(Path::to_owned)
            .collect();
        // A sandbox starts whatever is in it.
        std::fs::metadata(program)?;
        let needs = Needs {
            scanner: &self.program,
            shown: &shown,
            folder,
            temporary,
            limit: self.limit,
        };
        sandbox::command(program, arguments, &needs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .spawn()
    }

    /// Runs a program in an empty folder; its exit code and output, or why there are none.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[String],
        input: Input<'_>,
        limit: Duration,
    ) -> Result<std::result::Result<Ran, String>> {
        let shown = input.copied();
        let started = tempfile::tempdir().and_then(|folder| {
            let temporary = tempfile::tempdir()?;
            let child = self.start(program, arguments, shown, (folder.path(), temporary.path()))?;
            Ok((child, (folder, temporary)))
        });
        let (mut child, _folders) = match started {
            Ok(started) => started,
            Err(error) => return Ok(Err(format!("it does not start: {error}"))),
        };
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let _ = sender.send(stdout.map(kept).unwrap_or_default());
        });
        let deadline = Instant::now() + limit;
        let (fed, output, has_ended) = thread::scope(|scope| {
            let feeder = scope.spawn(move || stdin.map_or(Ok(Ok(())), |stdin| input.copy(stdin)));
            // Its output ends when it does, unless it closed it before.
            let output = receiver.recv_timeout(limit);
            let has_ended = output.is_ok() && ended(&child, deadline);
            if !has_ended {
                kill(&mut child);
            }
            (feeder.join(), output, has_ended)
        });
        let Ok(status) = child.wait() else {
            return Ok(Err("its exit code cannot be had".to_owned()));
        };
        let fed = match fed {
            Ok(Err(Stop::Source(error))) => return Err(error),
            Ok(Err(Stop::Fault(fault))) => return Ok(Err(format!("a file {}", fault.why))),
            // One that stops reading may have decided; whether it could is seen by what it says.
            Ok(Ok(written)) => written.is_ok(),
            Err(_) => false,
        };
        let Some(output) = output.ok().filter(|_| has_ended) else {
            return Ok(Err(format!("it took longer than {} seconds", limit.as_secs())));
        };
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok(status
            .code()
            .map(|code| Ran { code, text, fed })
            .ok_or_else(|| "it was killed".to_owned()))
    }
}

/// The start and the end of what a program prints: some say the sum last.
fn kept(mut stdout: impl Read) -> Vec<u8> {
    let (mut start, mut end, mut part) = (Vec::new(), Vec::new(), [0; 8192]);
    let _ = stdout.by_ref().take(OUTPUT_MAX as u64).read_to_end(&mut start);
    while let Ok(read @ 1..) = stdout.read(&mut part) {
        end.extend_from_slice(part.get(..read).unwrap_or_default());
        if end.len() > 2 * OUTPUT_MAX {
            end.drain(..end.len() - OUTPUT_MAX);
        }
    }
    start.append(&mut end);
    start
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
            Ok(version) => format!("{version}, {}", sandbox::in_words()),
            Err(why) => return Ok(self.not_run(String::new(), &why)),
        };
        let deadline = Instant::now() + self.limit_all;
        let (mut findings, mut stopped) = (Vec::new(), None);
        let (mut files, mut unknown) = (0_usize, 0_usize);
        for (number, entry) in source.entries().iter().enumerate() {
            if entry.kind != EntryKind::File {
                continue;
            }
            files += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = self.limit_all.as_secs();
                stopped.get_or_insert(format!("the whole took longer than {all} seconds"));
                break;
            }
            let opaque = tensor_data.get(&number).map_or(&[][..], Vec::as_slice);
            match self.look(source, number, entry, opaque, left.min(self.limit))? {
                Answer::Clean => {}
                Answer::Unknown => unknown += 1,
                Answer::Hit(text) => findings.push(self.flagged(entry, &text)),
                // What it finds in others still counts.
                Answer::Stopped(why) => drop(stopped.get_or_insert(why)),
            }
        }
        if !findings.is_empty() {
            return Ok(Scan {
                version,
                outcome: Outcome::Failed,
                findings,
            });
        }
        let unknown = (unknown > 0)
            .then(|| format!("it does not know {unknown} of the {files} files, or cannot read them"));
        match stopped.or(unknown) {
            Some(why) => Ok(self.not_run(version, &why)),
            None => Ok(Scan {
                version,
                outcome: Outcome::Passed,
                findings,
            }),
        }
    }
}

impl External {
    /// Has one file looked through; of a long one, what is not `opaque`.
    fn look(
        &self,
        source: &dyn Source,
        number: usize,
        entry: &Entry,
        opaque: &[Range<u64>],
        limit: Duration,
    ) -> Result<Answer> {
        let ranges = if entry.size > self.size_max {
            super::signatures::outside(opaque, entry.size)
        } else {
            std::iter::once(0..entry.size).collect()
        };
        if ranges.iter().map(|range| range.end - range.start).sum::<u64>() > self.size_max {
            let (path, most) = (shown(&entry.path), self.size_max);
            return Ok(Answer::Stopped(format!(
                "`{path}` is longer than the {most} bytes that it reads"
            )));
        }
        let ran = match self.ask(entry, Input::Parts(source, number, ranges), limit)? {
            Ok(ran) => ran,
            Err(why) => return Ok(Answer::Stopped(why)),
        };
        Ok(match answer(self, ran.code, &ran.text) {
            Answer::Clean if !ran.fed => Answer::Stopped("it did not read a whole file".to_owned()),
            said => said,
        })
    }

    fn ask(
        &self,
        entry: &Entry,
        input: Input<'_>,
        limit: Duration,
    ) -> Result<std::result::Result<Ran, String>> {
        if self.feeding == Feeding::Input {
            return self.run(&self.program, &self.arguments, input, limit);
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
        let ran = self.run(&self.program, &arguments, Input::Copied(&path), limit)?;
        // What it says must be the same for everyone who repeats it.
        let place = path.to_string_lossy();
        Ok(ran.map(|ran| Ran {
            text: ran.text.replace(&*place, "file"),
            ..ran
        }))
    }

    fn flagged(&self, entry: &Entry, text: &str) -> Finding {
        Finding {
            file: entry.path.clone(),
            what: "a hit of a scanner".to_owned(),
            why: format!(
                "`{}` is flagged by {}: {}",
                shown(&entry.path),
                shown(&self.name),
                shown(text)
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
    /// A copy, whose path is one of the arguments.
    Copied(&'a Path),
    Parts(&'a dyn Source, usize, Vec<Range<u64>>),
}

impl<'a> Input<'a> {
    fn copied(&self) -> Option<&'a Path> {
        match self {
            Self::Copied(path) => Some(path),
            Self::Nothing | Self::Parts(..) => None,
        }
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
