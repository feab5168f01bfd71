//! Runs a scanner program that is installed beside us, such as clamscan or clamdscan: one run for each file, its bytes
//! on standard input, the answer in the exit code.
//!
//! The program is chosen by who runs this, never by a revision; it gets neither names nor our environment. Without a
//! program it says "not run", which blocks unless two other scanners ran.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::Result;
use crate::inspect::TensorData;
use crate::reader::{Parsed, Reader, Stop, shown};
use crate::report::{Finding, Outcome};
use crate::scan::{Scan, Scanner};
use crate::source::{EntryKind, Source};

/// Bytes of a scanner's output that are read.
const OUTPUT_MAX: u64 = 16 * 1024;

/// A scanner program.
#[derive(Debug, Clone)]
pub struct External {
    /// Its name in reports.
    pub name: String,
    /// The program; none when it is not configured.
    pub program: Option<PathBuf>,
    /// Arguments with which it reads standard input.
    pub arguments: Vec<String>,
    /// Arguments with which it prints its version and that of its database.
    pub version_arguments: Vec<String>,
    /// Exit codes that mean that nothing was found.
    pub clean: BTreeSet<i32>,
    /// Exit codes that mean a hit. Any other is an error of the scanner.
    pub hit: BTreeSet<i32>,
    /// Longest input that it takes. Of longer files, the bytes of tensors are left out; what is longer even so makes
    /// the scan "not run".
    pub size_max: u64,
    /// Longest time for one file.
    pub limit: Duration,
}

impl External {
    /// ClamAV's `clamscan`, or `clamdscan`, which does not read its database anew for each file. 0: clean, 1: found,
    /// 2: error; files beyond the limits are told as found, and not passed over in silence (clamscan's manual).
    pub fn clamscan(program: Option<PathBuf>) -> Self {
        let is_daemon = program
            .as_ref()
            .is_some_and(|program| program.ends_with("clamdscan"));
        // The daemon passes over what is longer than its own limits, of which 25 MiB is the least that it comes with.
        let size_max = if is_daemon { 25 << 20 } else { 2_000_000_000 };
        let mut arguments = vec!["--no-summary".to_owned()];
        if !is_daemon {
            arguments.push("--alert-exceeds-max=yes".to_owned());
            arguments.extend(["filesize", "scansize"].map(|what| format!("--max-{what}={size_max}")));
        }
        arguments.push("-".to_owned());
        Self {
            name: "clamav".to_owned(),
            program,
            arguments,
            version_arguments: vec!["--version".to_owned()],
            clean: BTreeSet::from([0]),
            hit: BTreeSet::from([1]),
            size_max,
            limit: Duration::from_secs(600),
        }
    }

    fn not_run(&self, version: String, why: &str) -> Scan {
        Scan {
            version,
            outcome: Outcome::NotRun,
            findings: vec![Finding {
                file: String::new(),
                what: "a scanner".to_owned(),
                why: format!("the scanner `{}` was not run: {why}", shown(&self.name)),
                hint: "install the scanner and its database, and name its program in the settings".to_owned(),
            }],
        }
    }

    fn start(&self, program: &PathBuf, arguments: &[String]) -> std::io::Result<Child> {
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

    /// Runs the program; its exit code and output, or why there are none.
    fn run(
        &self,
        program: &PathBuf,
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
        let Some(program) = &self.program else {
            return Ok(self.not_run(String::new(), "no program is configured"));
        };
        let version = match self.run(program, &self.version_arguments, Input::Nothing)? {
            Ok((0, text)) => shown(text.lines().next().unwrap_or_default()),
            Ok((code, _)) => {
                return Ok(self.not_run(String::new(), &format!("its version has exit code {code}")));
            }
            Err(why) => return Ok(self.not_run(String::new(), &why)),
        };
        let mut findings = Vec::new();
        for (number, entry) in source.entries().iter().enumerate() {
            if entry.kind != EntryKind::File {
                continue;
            }
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
            match self.run(program, &self.arguments, Input::Parts(source, number, ranges))? {
                Ok((code, _)) if self.clean.contains(&code) => {}
                Ok((code, text)) if self.hit.contains(&code) => findings.push(Finding {
                    file: entry.path.clone(),
                    what: "a hit of a scanner".to_owned(),
                    why: format!(
                        "`{}` is flagged by {}: {}",
                        shown(&entry.path),
                        shown(&self.name),
                        shown(text.lines().next().unwrap_or_default())
                    ),
                    hint: "remove the file; if it is a false alarm, tell the makers of the scanner"
                        .to_owned(),
                }),
                Ok((code, _)) => return Ok(self.not_run(version, &format!("it ended with exit code {code}"))),
                Err(why) => return Ok(self.not_run(version, &why)),
            }
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

/// What goes to a program's standard input.
enum Input<'a> {
    Nothing,
    Parts(&'a dyn Source, usize, Vec<Range<u64>>),
}

impl Input<'_> {
    /// A program that stops reading has decided; that is no error.
    fn feed(self, mut stdin: impl Write) -> Parsed<()> {
        let Self::Parts(source, entry, ranges) = self else {
            return Ok(());
        };
        for range in ranges {
            let mut reader = Reader::new(source, entry).within(&range);
            while reader.left() > 0 {
                if stdin.write_all(reader.chunk()?).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
