//! The broker: a process beside a kernel that holds the keys which its cells must not have.
//!
//! It asks the owner's machine (`alephlab keys`) through the gateway, mounts datasets and opens models from the Aleph
//! node in a private folder, seals and uploads what a cell publishes or uploads, hands on secrets that the account stored
//! with the gateway, and erases everything when the kernel stops or a delegation expires. Cells reach it over a Unix socket
//! ([`server`]) and see files, never keys; stock Hub clients in them read models over the loopback ([`hub`]).
//!
//! Not here: the wallet (it never leaves the owner's machine), names and prices (the registry), decisions about who
//! may open what (the owner's machine). Started by the agent and by `alephlab kernel start`.

mod ask;
mod bootstrap;
mod error;
mod hardening;
pub mod hub;
mod mount;
mod opened;
mod private;
mod publish;
mod pull;
mod reach;
mod report;
mod sealing;
mod secret;
pub mod server;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use alephlab_api::Secret;
use alephlab_api::broker::{BrokerStatus, Op, Wall};
use alephlab_api::client::GatewayClient;
use alephlab_vault::storage::Storage;
use alephlab_vault::{Bounds, Meta};
use serde_json::Value;
use uuid::Uuid;

pub use bootstrap::take_bootstrap;
pub use error::{BrokerError, Result};
pub use hardening::harden;
pub use private::PrivateRoot;

use hardening::wall;
use hub::Readers;
use opened::OpenedFolders;
use reach::Reach;
use report::Report;

/// What a cell is answered with.
enum Answer {
    Result(Value),
    Secret(Secret),
}

/// What the broker of one kernel knows and holds.
pub struct Broker {
    gateway: GatewayClient,
    storage: Arc<dyn Storage>,
    /// Id of the kernel, as gateway and owner's machine know it.
    kernel: Uuid,
    /// Address of the account that the kernel belongs to.
    account: String,
    opened: OpenedFolders,
    walls: Vec<Wall>,
    reach: Reach,
    /// What the kernel's hub has open.
    readers: Readers,
    /// The process that asked first over the socket: the kernel's, for what is asked by way of the hub.
    cells: OnceLock<i32>,
}

impl Broker {
    /// A broker for the kernel with this id, which belongs to `account`.
    pub fn new(
        gateway: GatewayClient,
        storage: Arc<dyn Storage>,
        kernel: Uuid,
        account: impl Into<String>,
        private: PrivateRoot,
    ) -> Self {
        Self {
            gateway,
            storage,
            kernel,
            account: account.into(),
            opened: OpenedFolders::new(private, true),
            walls: Vec::new(),
            reach: Reach::default(),
            readers: Readers::default(),
            cells: OnceLock::new(),
        }
    }

    /// Cells are in a sandbox and see of this machine's files only `home`, where they work, and what is opened here; of what
    /// is `hidden` only what of these lies in it. No path has links in it.
    #[must_use]
    pub fn confined_to(mut self, home: &Path, work_dir: &Path, hidden: Vec<PathBuf>) -> Self {
        let shown = [work_dir, home, self.opened.place()];
        self.reach = Reach::within(Bounds {
            shown: Vec::from(shown.map(Path::to_owned)),
            hidden,
        });
        self
    }

    /// Copies files out instead of mounting them, also where it could.
    #[must_use]
    pub fn without_mounts(mut self) -> Self {
        self.opened.mounts = false;
        self
    }

    /// With what was found of the walls around this process, to be told to who asks.
    #[must_use]
    pub fn with_walls(mut self, walls: Vec<Wall>) -> Self {
        self.walls = walls;
        self
    }

    /// Erases each opened folder, and closes what the hub has open, when its time is over. Runs until it is dropped.
    pub async fn erase_what_expires(&self) {
        tokio::join!(
            self.opened.erase_what_expires(),
            self.readers.close_what_expires()
        );
    }

    /// Erases everything that was opened.
    pub fn erase_all(&self) {
        self.readers.close_all();
        self.opened.erase_all();
    }

    /// What stands between these keys and cells that run in the process `peer` or beside it.
    fn walls(&self, peer: Option<i32>) -> Vec<Wall> {
        let mut walls = self.walls.clone();
        walls.push(wall(
            "no-power",
            "cells have no power over the broker",
            hardening::power_of(peer),
        ));
        // Nothing gives cells another one yet; the agent would.
        let same = "they are the same user, so a cell may end the broker and change what is started later";
        walls.push(wall(
            "other-user",
            "cells run as another user than the broker",
            Some(same.to_owned()),
        ));
        walls
    }

    /// Does what a cell asks for; `peer` is its process.
    async fn perform(&self, op: Op, peer: Option<i32>, report: &Report) -> Result<Answer> {
        if let Some(peer) = peer {
            self.cells.get_or_init(|| peer);
        }
        let answer = match op {
            Op::Mount { reference } => serde_json::to_value(self.mount(&reference, peer, report).await?),
            Op::Status => serde_json::to_value(BrokerStatus {
                opened: self.opened.status(),
                walls: self.walls(peer),
            }),
            Op::Publish { name, card, files } => {
                serde_json::to_value(self.publish(&name, card, files, report).await?)
            }
            Op::Upload {
                name,
                path,
                description,
                licence,
            } => {
                let meta = Meta {
                    description,
                    licence,
                    ..Meta::default()
                };
                serde_json::to_value(self.upload(&name, path, meta, report).await?)
            }
            Op::Pull { reference, token } => {
                serde_json::to_value(self.pull(&reference, token, peer, report).await?)
            }
            Op::Secret { name } => return Ok(Answer::Secret(self.secret(&name).await?)),
        };
        answer.map(Answer::Result).map_err(|error| BrokerError::Answer {
            reason: error.to_string(),
        })
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
