//! Processes of instances: started by one thread that lives as long as the CRNs, watched by a task each.

use std::{
    io,
    net::TcpListener,
    process::Command,
    sync::{Arc, mpsc},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::Child,
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    console::{Console, Source},
    sandbox::Sandbox,
    spec::Spec,
};
use crate::error::{Error, Result};

/// What an instance says on its console once SSH answers.
pub const INSTANCE_READY: &str = "alephlab-instance: SSH answers";

/// How long an instance may take to be gone after it was killed, before its sandbox is killed too.
const END: Duration = Duration::from_secs(5);

/// How long the last output of an instance that ended is read.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// A running instance's process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Port on this machine that is the instance's port 22.
    pub(crate) port: u16,
    kill: CancellationToken,
    state: watch::Receiver<State>,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Booting,
    /// SSH answers.
    Ready,
    /// Nothing of it is left.
    Ended,
}

impl Process {
    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Kills the instance; what is returned ends when nothing of it is left.
    pub(crate) fn kill(&self) -> impl Future<Output = ()> + use<> {
        self.kill.cancel();
        let mut state = self.state.clone();
        async move {
            // An error means that whoever watched is gone, and the process with it.
            let _ = state.wait_for(|state| *state == State::Ended).await;
        }
    }
}

/// Starts processes. The system ends them when the thread that started them ends, so it is one that does nothing else:
/// threads of the runtime come and go.
#[derive(Debug)]
pub(crate) struct Starter(mpsc::Sender<Request>);

struct Request {
    command: Command,
    started: oneshot::Sender<io::Result<Child>>,
}

impl Starter {
    pub(crate) fn new() -> Result<Self> {
        let (sender, requests) = mpsc::channel::<Request>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("instances".into())
            .spawn(move || {
                let _entered = runtime.enter();
                for request in requests {
                    let child = tokio::process::Command::from(request.command).spawn();
                    // Whoever asked may be gone; the child is then killed.
                    let _ = request.started.send(child);
                }
            })
            .map_err(|cause| Error::Compute {
                cause: format!("no thread for their instances: {cause}"),
            })?;
        Ok(Self(sender))
    }

    /// Boots an instance; `changed` hears when it is ready and when it has ended.
    pub(crate) async fn boot(
        &self,
        sandbox: &Arc<Sandbox>,
        spec: &Spec,
        console: Arc<Console>,
        changed: impl Fn(State) + Send + Sync + 'static,
    ) -> io::Result<Process> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (sandbox, spec) = (Arc::clone(sandbox), spec.clone());
        let command = tokio::task::spawn_blocking(move || {
            sandbox.prepare(&spec).map(|()| sandbox.command(&spec, listener))
        });
        let command = command.await?.map_err(io::Error::other)?;
        let (started, child) = oneshot::channel();
        let gone = || io::Error::other("the thread of the instances is gone");
        self.0.send(Request { command, started }).map_err(|_| gone())?;
        let child = child.await.map_err(|_| gone())??;
        console.write(Source::System, "the instance boots");
        let kill = CancellationToken::new();
        let (sender, state) = watch::channel(State::Booting);
        let tell = move |state| {
            // First, so that whoever waits for the end finds it dealt with.
            changed(state);
            sender.send_replace(state);
        };
        tokio::spawn(follow(child, console, kill.clone(), tell));
        Ok(Process { port, kill, state })
    }
}

/// Reads the console and waits for the end.
async fn follow(
    mut child: Child,
    console: Arc<Console>,
    kill: CancellationToken,
    tell: impl Fn(State) + Send + Sync + 'static,
) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async {
        let out = async {
            if let Some(stdout) = stdout {
                let seen = |line: &str| {
                    if line == INSTANCE_READY {
                        tell(State::Ready);
                    }
                };
                console.copy(Source::Stdout, stdout, seen).await;
            }
        };
        let error = async {
            if let Some(stderr) = stderr {
                console.copy(Source::Stderr, stderr, |_| ()).await;
            }
        };
        tokio::join!(out, error);
    };
    let mut is_read = false;
    tokio::pin!(read);
    let ended = async {
        tokio::select! {
            _ = child.wait() => {}
            () = kill.cancelled() => end(&mut child).await,
        }
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            () = &mut read, if !is_read => is_read = true,
        }
    }
    if !is_read {
        let _ = tokio::time::timeout(LAST_OUTPUT, read).await;
    }
    console.write(Source::System, "the instance has ended");
    tell(State::Ended);
}

/// Kills all processes of an instance and waits until they are gone.
async fn end(child: &mut Child) {
    // The sandbox's init first: when it is dead all within are, and only then the sandbox itself ends.
    if let Some(init) = child.id().and_then(first_child) {
        // It may just have ended.
        let _ = kill(init, Signal::SIGKILL);
        if tokio::time::timeout(END, child.wait()).await.is_ok() {
            return;
        }
    }
    if let Err(error) = child.kill().await {
        tracing::error!(%error, "an instance could not be killed");
    }
}

/// The process that the sandbox has made. Not every kernel lists children, so parents are asked for.
fn first_child(process: u32) -> Option<Pid> {
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = processes.find(|id| parent(*id) == Some(process))?;
    Some(Pid::from_raw(child))
}

/// The parent of a process: the second field after the name, which stands in parentheses and may hold anything.
fn parent(process: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}
