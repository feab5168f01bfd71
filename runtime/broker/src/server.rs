//! The Unix socket that cells speak to: who may connect, one request at a time, its events, and stopping what nobody
//! waits for any more.
//!
//! The folder is 0700 and the socket 0600, and the other end's account is checked as well: a socket that was left
//! open by mistake must not hand out plaintext. Called by `main` and by tests.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::broker::{Event, Op, Request};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::report::Report;
use crate::{Answer, Broker, BrokerError, Result};

/// Longest request that is read: a publish with many files.
const REQUEST_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Events that wait for a cell that does not read. More progress is dropped, everything else waits.
const EVENTS_MAX: usize = 64;
/// Connections at a time; a kernel has one cell.
const CONNECTIONS_MAX: usize = 32;

/// The socket, ready to be served. Removed when dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Server {
    /// Opens the socket in a folder that only its owner can enter.
    ///
    /// # Errors
    /// [`BrokerError::Socket`] when the folder is open to others, another broker listens, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self> {
        let refused = |reason: String| BrokerError::Socket {
            path: path.to_owned(),
            reason,
        };
        let failed = |error: std::io::Error| refused(error.to_string());
        let folder = path
            .parent()
            .ok_or_else(|| refused("it has no folder".to_owned()))?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let mode = std::fs::metadata(folder).map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(refused(format!("others may enter its folder (mode {mode:o})")));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(refused("another broker listens there".to_owned()));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = std::fs::metadata(path).map_err(failed)?.uid();
        Ok(Self {
            listener,
            path: path.to_owned(),
            owner,
        })
    }

    /// Serves cells until `stop`, then ends what still runs.
    pub async fn serve(self, broker: Arc<Broker>, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) if self.is_ours(&stream) => {
                        connections.spawn(converse(stream, broker.clone()));
                    }
                    Ok(_) => tracing::warn!("a process of another account was turned away"),
                    Err(error) => tracing::warn!(%error, "a connection failed"),
                },
            }
        }
        connections.shutdown().await;
    }

    fn is_ours(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection: request after request, until the cell goes.
async fn converse(stream: UnixStream, broker: Arc<Broker>) {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let request = match next_request(&mut read).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let _ = send(&mut write, &Event::Failed { id: 0, error }).await;
                return;
            }
        };
        let id = request.id;
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let work = perform(broker.clone(), request.op, peer, Report::new(id, events));
        let Some(result) = watch(work, told, &mut read, &mut write).await else {
            return;
        };
        let last = match result {
            Ok(Answer::Result(result)) => Event::Done { id, result },
            Ok(Answer::Secret(value)) => Event::Secret { id, value },
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "a request failed");
                Event::Failed {
                    id,
                    error: error.to_problem(),
                }
            }
        };
        if send(&mut write, &last).await.is_err() {
            return;
        }
    }
}

/// The work of one request. Boxed: the compiler cannot prove otherwise that it may move between threads.
fn perform(
    broker: Arc<Broker>,
    op: Op,
    peer: Option<i32>,
    report: Report,
) -> BoxFuture<'static, Result<Answer>> {
    Box::pin(async move { broker.perform(op, peer, &report).await })
}

/// Runs the work and passes its events on. None when the cell went away: then the work is dropped half-way, and its
/// folders with it.
async fn watch(
    mut work: BoxFuture<'static, Result<Answer>>,
    mut told: mpsc::Receiver<Event>,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> Option<Result<Answer>> {
    let mut watched = true;
    loop {
        tokio::select! {
            biased;
            Some(event) = told.recv() => send(write, &event).await.ok()?,
            result = &mut work => {
                while let Ok(event) = told.try_recv() {
                    send(write, &event).await.ok()?;
                }
                return Some(result);
            }
            gone = is_gone(read), if watched => {
                if gone {
                    return None;
                }
                // The next request is there; it waits its turn.
                watched = false;
            }
        }
    }
}

/// Waits until the cell closes its end (true) or sends something (false).
async fn is_gone(read: &mut BufReader<OwnedReadHalf>) -> bool {
    read.fill_buf().await.map_or(true, <[u8]>::is_empty)
}

/// The next request; none when the cell closed the connection.
async fn next_request(read: &mut BufReader<OwnedReadHalf>) -> std::result::Result<Option<Request>, Problem> {
    let mut line = Vec::new();
    let bad = |reason: &str| {
        Problem::new(
            "broker_request",
            format!("the request is not understood: {reason}"),
        )
    };
    let mut limited = read.take(REQUEST_BYTES_MAX);
    if limited.read_until(b'\n', &mut line).await.is_err() || line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(bad("it does not end, or is too long"));
    }
    // serde's message could repeat a share's token, so only the place is told.
    let request = serde_json::from_slice(&line)
        .map_err(|error| bad(&format!("line {}, column {}", error.line(), error.column())));
    line.fill(0);
    request.map(Some)
}

async fn send(write: &mut OwnedWriteHalf, event: &Event) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let written = write.write_all(&line).await;
    // The line may hold a secret.
    line.fill(0);
    written
}
