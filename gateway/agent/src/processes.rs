//! A broker and a kernel as processes: started, watched and ended together, each in its own group.
//!
//! Dropping a [`Processes`] kills both groups, so a start that is given up leaves nothing in them. A kernel's sandbox ends with
//! its first process, and everything in it. Without one, what a kernel puts in a process group of its own, as the child that
//! runs cells, is reached through its control group only: where there is none, it must end with its kernel.

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::agent::BrokerReady;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{AgentError, Result};
use crate::folder::PrivateFolder;
use crate::isolation::Group;
use crate::launch::{self, Endpoints, Host, Launch, Spec};

/// The broker starts in milliseconds; this is for a machine that swaps.
const BROKER_PATIENCE: Duration = Duration::from_secs(20);
/// How much of a kernel's last words is kept for the reason of its end.
const LAST_WORDS: usize = 2048;
/// How long they are waited for after the end; a child of the kernel may hold its standard error open for longer.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(200);

/// The processes of one kernel and their folder.
pub(crate) struct Processes {
    kernel: Child,
    broker: Option<Child>,
    groups: Vec<Pid>,
    last_words: Arc<Mutex<VecDeque<u8>>>,
    listener: Option<JoinHandle<()>>,
    sandboxed: bool,
    group: Option<Group>,
    // Last, so that it goes after the processes that use it.
    _folder: PrivateFolder,
}

impl Processes {
    /// Starts broker, then kernel.
    pub(crate) async fn start(host: &Host, spec: &Spec, number: u64) -> Result<(Self, Endpoints)> {
        host.enclosure.check()?;
        // Once, for both: the broker's bounds are what the kernel sees.
        let place = launch::kernels_folder(host, spec)?;
        let folder = PrivateFolder::make(host.folder.join(format!("{}-{number}", short(spec))))?;
        let ends = Endpoints::new(folder.path());
        let mut groups = Vec::with_capacity(2);
        let mut beside = BrokerReady::default();
        let broker = match launch::broker_of(host, spec)? {
            Some(program) => {
                let mut command = launch::broker(host, program, (spec, &place), &folder)?;
                let mut child = spawn(&mut command, &program.to_string_lossy())?;
                groups.extend(group(&child));
                match ready(&mut child).await {
                    Ok(said) => beside = said,
                    Err(error) => {
                        kill(&groups);
                        return Err(error);
                    }
                }
                Some(child)
            }
            None => None,
        };
        let started = launch::kernel(host, (spec, &place), &folder, &ends, &beside).and_then(|mut launch| {
            let kernel = spawn(&mut launch.command, &host.kernel_program.to_string_lossy())?;
            Ok((kernel, launch))
        });
        let (mut kernel, launch) = match started {
            Ok(started) => started,
            Err(error) => {
                kill(&groups);
                return Err(error);
            }
        };
        groups.extend(group(&kernel));
        let Launch { group, sandboxed, .. } = launch;
        let last_words = Arc::default();
        let stderr = kernel.stderr.take();
        let listener = stderr.map(|stderr| tokio::spawn(listen(stderr, Arc::clone(&last_words))));
        Ok((
            Self {
                kernel,
                broker,
                groups,
                last_words,
                listener,
                sandboxed,
                group,
                _folder: folder,
            },
            ends,
        ))
    }

    /// The kernel's first process; none once it was waited for.
    pub(crate) fn kernel_pid(&self) -> Option<u32> {
        self.kernel.id()
    }

    /// Waits until the kernel's process ends and says how.
    pub(crate) async fn ended(&mut self) -> String {
        let status = self.kernel.wait().await;
        if let Some(listener) = &mut self.listener {
            let _ = timeout(LAST_WORDS_PATIENCE, listener).await;
            self.listener = None;
        }
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = words.as_slices();
        let words = String::from_utf8_lossy(&[front, back].concat()).trim().to_owned();
        let describe = |status| describe(status, self.sandboxed);
        let how = status.map_or_else(|error| error.to_string(), describe);
        // A panic's note on backtraces is not why.
        let why = words
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty() && !line.starts_with("note: "));
        match why {
            Some(why) => format!("{how}: {}", why.strip_prefix("error: ").unwrap_or(why)),
            None => how,
        }
    }

    /// Gives the kernel until `patience` to end by itself; then, and for what it left behind, kills the groups.
    pub(crate) async fn end(mut self, patience: Duration) {
        let _ = timeout(patience, self.kernel.wait()).await;
        if let Some(broker) = &mut self.broker {
            // End of its standard input: it removes what it decrypted.
            drop(broker.stdin.take());
            let _ = timeout(patience, broker.wait()).await;
        }
        kill(&self.groups);
        let _ = self.kernel.wait().await;
        if let Some(mut broker) = self.broker.take() {
            let _ = broker.wait().await;
        }
        if let Some(group) = self.group.take() {
            group.remove().await;
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        kill(&self.groups);
        // They are gone a moment later.
        if let (Some(group), Ok(runtime)) = (self.group.take(), Handle::try_current()) {
            runtime.spawn(group.remove());
        }
    }
}

fn spawn(command: &mut Command, program: &str) -> Result<Child> {
    command.spawn().map_err(|source| AgentError::Spawn {
        program: program.to_owned(),
        source,
    })
}

/// Waits until the broker says so, and what else it says.
async fn ready(broker: &mut Child) -> Result<BrokerReady> {
    let bad = |reason: &str| AgentError::Broker {
        reason: reason.to_owned(),
    };
    let stdout = broker
        .stdout
        .take()
        .ok_or_else(|| bad("it has no standard output"))?;
    let mut line = String::new();
    // More than `ready`, a path and an address is no answer; the limit keeps a babbling program from filling memory.
    let mut reader = BufReader::new(stdout).take(8 << 10);
    match timeout(BROKER_PATIENCE, reader.read_line(&mut line)).await {
        Ok(Ok(0)) => Err(bad("it ended")),
        Ok(Ok(_)) => BrokerReady::of_line(&line).ok_or_else(|| bad("it said something else")),
        Ok(Err(error)) => Err(AgentError::Broker {
            reason: error.to_string(),
        }),
        Err(_) => Err(bad("it said nothing for 20 s")),
    }
}

async fn listen(mut stderr: ChildStderr, words: Arc<Mutex<VecDeque<u8>>>) {
    let mut chunk = [0_u8; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend(&chunk[..count]);
        let excess = words.len().saturating_sub(LAST_WORDS);
        words.drain(..excess);
    }
}

/// In a sandbox a signal is told as a status, as shells do.
fn describe(status: ExitStatus, sandboxed: bool) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let (code, signal) = (status.code(), status.signal());
    let told = code.filter(|code| sandboxed && (129..=192).contains(code));
    match (
        code.filter(|_| told.is_none()),
        told.map(|code| code - 128).or(signal),
    ) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(9)) => "it was killed (signal 9, often for want of memory)".to_owned(),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

fn group(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
}

fn kill(groups: &[Pid]) {
    for group in groups {
        // Fails when nobody is left in it, which is what is wanted.
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

fn short(spec: &Spec) -> String {
    spec.kernel_id.simple().to_string()[..8].to_owned()
}
