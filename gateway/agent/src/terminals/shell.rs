//! One terminal's life: a task that owns the pseudoterminal and the shell in it.
//!
//! The shell leads a session of its own. Whatever it started in that session ends with the terminal. What has left it, as a
//! service does, ends with the terminal's sandbox; where there is none, it is not known here.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::time::Duration;

use alephlab_api::agent::WindowSize;
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::Voice;
use super::pty::Pty;
use crate::error::{AgentError, Result};
use crate::launch::{self, Host, Launch, ShellSpec};

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// So much may come in [`BURST_TIME`], more waits: no window shows it, and kernels of this host want the processor.
const BURST: usize = 256 << 10;
const BURST_TIME: Duration = Duration::from_millis(25);
/// More than a pseudoterminal holds by itself.
const LAST: usize = 64 << 10;
/// How long processes get to end after the terminal was hung up.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether they have: nobody is told of the end of a process that is not its child.
const LOOK: Duration = Duration::from_millis(20);

/// What a terminal's task is told; a closed queue means to end.
pub(super) enum Order {
    Input(Bytes),
    Size(WindowSize),
}

enum End {
    /// Its shell ended by itself.
    Shell,
    /// It was told to.
    Closed,
}

/// Runs a terminal until its shell ends or `orders` is closed.
pub(super) async fn run(
    host: &Host,
    spec: ShellSpec,
    size: WindowSize,
    mut orders: mpsc::Receiver<Order>,
    voice: Voice,
) {
    let (pty, mut shell, launch) = match start(host, &spec, size) {
        Ok(started) => started,
        Err(error) => {
            tracing::warn!(terminal = %voice.id(), %error, "a terminal could not be opened");
            return voice.ended(Some(error.line()));
        }
    };
    let session = Session {
        id: session_of(&shell),
        sandboxed: launch.sandboxed,
    };
    let end = serve(&pty, &mut shell, &mut orders, &voice).await;
    if let End::Shell = end {
        drain(&pty, &voice);
        voice.ended(None);
    }
    hang_up(pty, shell, session).await;
    if let Some(group) = launch.group {
        group.remove().await;
    }
}

/// A terminal's session.
#[derive(Clone, Copy)]
struct Session {
    /// Of the process that leads it.
    id: Option<Pid>,
    /// That process is bubblewrap's, and with it everything ends at once.
    sandboxed: bool,
}

fn start(host: &Host, spec: &ShellSpec, size: WindowSize) -> Result<(Pty, Child, Launch)> {
    let failed = |source| AgentError::Terminal { source };
    let (pty, streams) = Pty::open(size).map_err(failed)?;
    let (mut launch, program) = launch::shell(host, spec)?;
    let [input, output, errors] = streams.stdio().map_err(failed)?;
    let command = &mut launch.command;
    command.stdin(input).stdout(output).stderr(errors);
    let shell = command
        .spawn()
        .map_err(|source| AgentError::Spawn { program, source })?;
    Ok((pty, shell, launch))
}

async fn serve(pty: &Pty, shell: &mut Child, orders: &mut mpsc::Receiver<Order>, voice: &Voice) -> End {
    let (mut chunk, mut input) = (vec![0; CHUNK], VecDeque::new());
    let mut pace = Pace::new();
    loop {
        let room = voice.room().min(CHUNK);
        let pause = pace.pause();
        let next = input.as_slices().0;
        tokio::select! {
            read = pty.read(&mut chunk[..room]), if room > 0 && pause.is_none() => match read {
                Ok(count @ 1..) => {
                    pace.read(count);
                    voice.put_out(&chunk[..count]);
                }
                // Nobody has the other end, so nothing runs in it.
                Ok(0) | Err(_) => {
                    let _ = timeout(GRACE, shell.wait()).await;
                    return End::Shell;
                }
            },
            () = voice.has_room(), if room == 0 => {}
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            written = pty.write(next), if !next.is_empty() => {
                // What cannot be written any more is nobody's.
                let count = written.unwrap_or(next.len());
                input.drain(..count);
                voice.took(count);
            }
            order = orders.recv() => match order {
                Some(Order::Input(bytes)) => input.extend(bytes),
                Some(Order::Size(size)) => {
                    if let Err(error) = pty.resize(size) {
                        tracing::debug!(terminal = %voice.id(), %error, "a terminal keeps its size");
                    }
                }
                None => return End::Closed,
            },
            _ = shell.wait() => return End::Shell,
        }
    }
}

/// How fast output is read.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
        }
    }

    fn read(&mut self, bytes: usize) {
        if self.since.elapsed() >= BURST_TIME {
            *self = Self::new();
        }
        self.bytes += bytes;
    }

    /// When to read on, if not now.
    fn pause(&self) -> Option<Instant> {
        let until = self.since + BURST_TIME;
        (self.bytes >= BURST && Instant::now() < until).then_some(until)
    }
}

/// What a shell that is gone has put out.
fn drain(pty: &Pty, voice: &Voice) {
    let (mut chunk, mut drained) = (vec![0; CHUNK], 0);
    // What still runs beside it may write for ever.
    while drained < LAST {
        match pty.read_now(&mut chunk) {
            Ok(count @ 1..) => {
                voice.put_out(&chunk[..count]);
                drained += count;
            }
            Ok(0) | Err(_) => return,
        }
    }
}

/// Ends everything in the session: asks as a terminal does that is hung up, then kills.
async fn hang_up(pty: Pty, mut shell: Child, session: Session) {
    signal(session, Signal::HUP);
    // One that was stopped hears it when it goes on.
    signal(session, Signal::CONT);
    drop(pty);
    let gone = async {
        let _ = shell.wait().await;
        let mut look = interval(LOOK);
        while !members(session.id).is_empty() {
            look.tick().await;
        }
    };
    if timeout(GRACE, gone).await.is_err() {
        signal(session, Signal::KILL);
        // It may not have come to its session yet.
        let _ = shell.start_kill();
        let _ = shell.wait().await;
    }
}

fn session_of(shell: &Child) -> Option<Pid> {
    shell
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
}

fn signal(session: Session, signal: Signal) {
    let is_told =
        |process: &Pid| signal == Signal::KILL || !session.sandboxed || session.id != Some(*process);
    for process in members(session.id).into_iter().filter(is_told) {
        // Fails when it is gone, which is what is wanted.
        let _ = kill_process(process, signal);
    }
}

/// The processes of a session that run.
fn members(session: Option<Pid>) -> Vec<Pid> {
    let Some(session) = session else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_member(*pid, session).unwrap_or(false))
        .filter_map(Pid::from_raw)
        .collect()
}

/// `proc_pid_stat(5)`: after the name in brackets come state, parent, group and session.
fn is_member(pid: i32, session: Pid) -> io::Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let is_zombie = fields.next() == Some("Z");
    Ok(!is_zombie && fields.nth(2) == Some(session.as_raw_nonzero().to_string().as_str()))
}
