//! The broker as cells and owners meet it: a real socket, a real HTTP server, real cryptography.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod hub;
mod open;
mod owner;
mod program;
mod publish;
mod secret;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alephlab_api::agent::HubAddress;
use alephlab_api::broker::{Event, Op, Request};
use alephlab_api::client::GatewayClient;
use alephlab_api::{Problem, Secret};
use alephlab_broker::{Broker, PrivateRoot, hub::Endpoint, server::Server};
use alephlab_vault::SourceFile;
use alephlab_vault::storage::Storage;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use owner::Owner;

/// The kernel beside the broker.
const KERNEL: Uuid = Uuid::from_u128(11);
/// Longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that serves in this process, with folders of its own.
struct Stage {
    owner: Arc<Owner>,
    socket: PathBuf,
    private: PathBuf,
    hub: HubAddress,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// With a dataset `digits` of two files.
    async fn new() -> Self {
        let owner = Owner::new();
        owner.put("digits", digits()).await;
        let storage = owner.storage.clone();
        Self::over(owner, storage).await
    }

    /// Mounts where this machine can, as the program does.
    async fn over(owner: Arc<Owner>, storage: Arc<dyn Storage>) -> Self {
        Self::with(owner, storage, |broker| broker).await
    }

    /// As on a machine that cannot mount: files are copied.
    async fn copying(owner: Arc<Owner>, storage: Arc<dyn Storage>) -> Self {
        Self::with(owner, storage, Broker::without_mounts).await
    }

    async fn with(
        owner: Arc<Owner>,
        storage: Arc<dyn Storage>,
        change: impl FnOnce(Broker) -> Broker,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway =
            GatewayClient::new(&owner.serve().await, Some(Secret::new("kernel-token-canary"))).unwrap();
        let private = PrivateRoot::open_in(folder.path(), true, "test").unwrap();
        let place = private.path().to_owned();
        let account = owner.wallet.address();
        let broker = Arc::new(change(Broker::new(gateway, storage, KERNEL, account, private)));
        let socket = folder.path().join("run/broker.sock");
        let stop = CancellationToken::new();
        tokio::spawn(Server::bind(&socket).unwrap().serve(broker.clone(), stop.clone()));
        let endpoint = Endpoint::bind().await.unwrap();
        let hub = endpoint.address();
        tokio::spawn(endpoint.serve(broker.clone(), stop.clone()));
        tokio::spawn(async move { broker.erase_what_expires().await });
        Self {
            owner,
            socket,
            private: place,
            hub,
            stop,
            _folder: folder,
        }
    }

    async fn cell(&self) -> Cell {
        let (read, write) = UnixStream::connect(&self.socket).await.unwrap().into_split();
        Cell {
            read: BufReader::new(read).lines(),
            write,
            next: 0,
        }
    }

    async fn mount(&self, reference: &str) -> Result<serde_json::Value, Problem> {
        self.cell()
            .await
            .ask(Op::Mount {
                reference: reference.into(),
            })
            .await
    }

    async fn pull(&self, reference: &str, token: Option<&str>) -> Result<serde_json::Value, Problem> {
        let token = token.map(Secret::new);
        self.cell()
            .await
            .ask(Op::Pull {
                reference: reference.into(),
                token,
            })
            .await
    }

    /// Folders that are open now.
    fn opened(&self) -> usize {
        std::fs::read_dir(&self.private)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The runtime's side of the socket.
struct Cell {
    read: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: tokio::net::unix::OwnedWriteHalf,
    next: u64,
}

impl Cell {
    async fn send(&mut self, op: Op) {
        self.next += 1;
        let mut line = serde_json::to_vec(&Request { id: self.next, op }).unwrap();
        line.push(b'\n');
        self.write.write_all(&line).await.unwrap();
    }

    async fn event(&mut self) -> Option<Event> {
        let line = tokio::time::timeout(PATIENCE, self.read.next_line())
            .await
            .expect("an event in time")
            .unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// The message that somebody has to act.
    async fn waits(&mut self) -> String {
        loop {
            match self.event().await.unwrap() {
                Event::Waiting { message, .. } => return message,
                Event::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn ask(&mut self, op: Op) -> Result<serde_json::Value, Problem> {
        self.send(op).await;
        loop {
            match self.event().await.expect("an answer") {
                Event::Done { id, result } => {
                    assert_eq!(id, self.next);
                    return Ok(result);
                }
                Event::Failed { error, .. } => return Err(error),
                Event::Secret { .. } => panic!("a secret that was not asked for"),
                Event::Progress { id, .. } | Event::Waiting { id, .. } => assert_eq!(id, self.next),
            }
        }
    }
}

const CSV: &str = "0,0,5,13,9,1,0,0,plaintext-canary\n";

fn digits() -> Vec<SourceFile> {
    vec![
        SourceFile::bytes("digits.csv", CSV.as_bytes()),
        SourceFile::bytes("docs/README.md", b"# Digits".as_slice()),
    ]
}

/// Waits until a condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

fn path_of(answer: &serde_json::Value) -> PathBuf {
    Path::new(answer["path"].as_str().unwrap()).to_owned()
}
