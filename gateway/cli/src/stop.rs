//! Turns the system's stop signals into one cancellation token, and ends children together with their children.

use std::future::Future;

use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Result};

/// A token that is cancelled by the first Ctrl-C, SIGTERM or SIGHUP. Needs a running Tokio runtime.
pub(crate) fn on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut stream = signal(kind).map_err(|error| CliError::Program {
            program: "alephlab",
            reason: format!("stop signals cannot be caught: {error}"),
        })?;
        let token = token.clone();
        tokio::spawn(async move {
            if stream.recv().await.is_some() {
                token.cancel();
            }
        });
    }
    Ok(token)
}

/// Runs `work` until it is done or the user stops it; a stop drops `work` where it waits.
pub(crate) async fn or_stop<T>(
    stop: &CancellationToken,
    doing: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(CliError::Stopped { doing: doing.to_owned() }),
        result = work => result,
    }
}

/// A child that leads its own process group; dropping it ends the whole group.
pub(crate) struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    /// Takes over a child that was started with `process_group(0)`.
    pub(crate) fn new(child: Child) -> Self {
        Self { child, ended: false }
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the child's end.
    pub(crate) async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let status = self.child.wait().await?;
        self.ended = true;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self
            .child
            .id()
            .filter(|_| !self.ended)
            .and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // A group that is already gone is what was wanted.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use tokio::io::AsyncReadExt;
    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn dropping_a_group_ends_grandchildren() {
        let child = Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut group = Group::new(child);
        let mut stdout = group.child().stdout.take().unwrap();
        drop(group);
        let started = Instant::now();
        // The pipe closes only when the grandchild, which inherited it, is gone as well.
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stdout.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait() {
        let stop = CancellationToken::new();
        stop.cancel();
        let result: Result<()> = or_stop(&stop, "waiting", std::future::pending()).await;
        assert!(matches!(result, Err(CliError::Stopped { .. })));
    }
}
