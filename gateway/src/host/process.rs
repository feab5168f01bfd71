//! An agent's process on this machine: a child, or one that an earlier run of the gateway started.
//!
//! Signals go through a pidfd (`pidfd_open(2)`), which names a process and not whoever has its number later.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use alephlab_api::agent::BOOT_ID;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;
use tokio::time::timeout;

/// Kernels get three seconds to end by themselves, brokers as many; then the agent kills them.
const GRACE: Duration = Duration::from_secs(10);
/// A lock file holds a number and an address.
const MAX_LOCK: u64 = 1024;

/// One agent; a task of its own waits for the process.
pub(super) struct Agent {
    /// Closing it tells the agent to end; none of one that outlives the gateway.
    input: Option<ChildStdin>,
    process: Option<OwnedFd>,
    pub(super) ended: watch::Receiver<Option<String>>,
}

impl Agent {
    pub(super) fn of_child(mut child: Child) -> Self {
        let input = child.stdin.take();
        let process = child.id().and_then(open);
        let (sender, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = child.wait().await;
            let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
            sender.send_replace(Some(reason(&how)));
        });
        Self {
            input,
            process,
            ended,
        }
    }

    /// The agent that holds the lock on this file, and the gateway's address that it knows.
    pub(super) fn found(lock: &Path) -> Option<(Self, String)> {
        // To be written to, because a network file system locks nothing else.
        let mut file = OpenOptions::new().read(true).write(true).open(lock).ok()?;
        // One that can be locked was left by an agent that is gone.
        if !is_held(&file) {
            return None;
        }
        let mut text = String::new();
        file.by_ref().take(MAX_LOCK).read_to_string(&mut text).ok()?;
        let mut words = text.split(' ');
        let (pid, gateway, boot) = (words.next()?, words.next()?, words.next()?);
        // On a machine that shares the folder its number means another process.
        if boot != std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim() {
            return None;
        }
        let process = open(pid.parse().ok()?)?;
        // It still holds the lock, so the number is its.
        if !is_held(&file) {
            return None;
        }
        let (sender, ended) = watch::channel(None);
        // A thread of its own, which the end of this process need not wait for.
        std::thread::spawn(move || {
            // It is had when the agent is gone.
            let had = file.lock();
            let how = had
                .err()
                .map_or_else(|| "it is gone".to_owned(), |error| error.to_string());
            sender.send_replace(Some(reason(&how)));
        });
        let agent = Self {
            input: None,
            process: Some(process),
            ended,
        };
        Some((agent, gateway.to_owned()))
    }

    /// Ends it with its kernels: asks first.
    pub(super) async fn end(self) {
        let Self {
            input,
            process,
            ended: end,
        } = self;
        let signal = |signal| {
            // Fails when it is gone, which is what is wanted.
            process.as_ref().map(|process| pidfd_send_signal(process, signal))
        };
        match input {
            Some(input) => drop(input),
            None => drop(signal(Signal::TERM)),
        }
        if timeout(GRACE, ended(end.clone())).await.is_err() {
            // Its kernels die by its death signal.
            let _ = signal(Signal::KILL);
            ended(end).await;
        }
    }
}

/// Waits for an agent's end; says how it was.
pub(super) async fn ended(mut ended: watch::Receiver<Option<String>>) -> String {
    match ended.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "its agent is gone".to_owned(),
    }
}

fn is_held(file: &File) -> bool {
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn reason(how: &str) -> String {
    format!("this machine's agent ended ({how}); variables are gone")
}
