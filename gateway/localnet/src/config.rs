//! Settings of a local node. Everything has the real node's default, or a shorter one where
//! the real node's is made for a planet (retries) and not for one machine.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::net::TcpListener;

use crate::{
    compute::ComputeConfig,
    error::{Error, Result},
};

/// One mebibyte.
pub(crate) const MIB: u64 = 1024 * 1024;

/// Largest file of the native storage engine, and largest file served as base64 (reference, section 5).
pub(crate) const MAX_FILE_BYTES: u64 = 100 * MIB;

/// Largest file that anybody may upload without a signed STORE.
pub(crate) const MAX_UNAUTHENTICATED_BYTES: u64 = 25 * MIB;

/// 2027-01-01 00:00 UTC: from this message time on a STORE must be paid with credits.
pub(crate) const HOLD_ENDS: f64 = 1_798_761_600.0;

/// 2026-03-11 00:00 UTC: from this message time on a machine must be paid with credits.
pub(crate) const INSTANCES_BY_CREDIT: f64 = 1_773_187_200.0;

/// Settings of [`crate::Localnet::start`].
#[derive(Debug)]
pub struct Config {
    /// Where the node listens; the caller owns the choice of port.
    pub listener: TcpListener,
    /// Folder of the database and the files; made when missing, used by one node at a time.
    pub data: PathBuf,
    /// Credits that every address starts with.
    pub credits: u64,
    /// Credits of single addresses (any letter case) instead of [`Config::credits`].
    pub credits_of: HashMap<String, u64>,
    /// A processed message sent again with `sync` waits [`Config::sync_timeout`] and gets 202,
    /// as on the real node. Off: 200 `processed` at once.
    pub strict_duplicates: bool,
    /// How long a `sync` request waits for a verdict (the real node: 30 s).
    pub sync_timeout: Duration,
    /// Pause between two attempts at a message whose target is missing.
    pub retry_interval: Duration,
    /// Attempts at such a message before it is rejected.
    pub max_attempts: u32,
    /// How long a file stays without a STORE that pins it (the real node: one day).
    pub grace: Duration,
    /// How often files without a pin are looked for and stored files are charged.
    pub sweep_interval: Duration,
    /// Serves `/localnet/v0/faults` to callers on this machine. Off: the route does not exist.
    pub faults: bool,
    /// Hosts that run instances. `None`: machines are charged, and nobody starts them.
    pub compute: Option<ComputeConfig>,
}

impl Config {
    /// Default settings on a listener and a data folder.
    #[must_use]
    pub fn new(listener: TcpListener, data: impl Into<PathBuf>) -> Self {
        Self {
            listener,
            data: data.into(),
            credits: 10_000_000,
            credits_of: HashMap::new(),
            strict_duplicates: false,
            sync_timeout: Duration::from_secs(30),
            retry_interval: Duration::from_millis(500),
            max_attempts: 10,
            grace: Duration::from_secs(24 * 60 * 60),
            sweep_interval: Duration::from_secs(60),
            faults: false,
            compute: None,
        }
    }
}

/// Listens on `address`; port 0 takes a free one.
///
/// # Errors
/// [`Error::Bind`] with the address and the reason, for example a port in use.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|cause| Error::Bind { address, cause })
}

/// The part of [`Config`] that the running node reads.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) credits: u64,
    /// Keys in lower case.
    pub(crate) credits_of: HashMap<String, u64>,
    pub(crate) strict_duplicates: bool,
    pub(crate) sync_timeout: Duration,
    pub(crate) retry_interval: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) grace: Duration,
    pub(crate) sweep_interval: Duration,
}

impl Settings {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            credits: config.credits,
            credits_of: config
                .credits_of
                .iter()
                .map(|(address, amount)| (address.to_lowercase(), *amount))
                .collect(),
            strict_duplicates: config.strict_duplicates,
            sync_timeout: config.sync_timeout,
            // Zero would try a message that waits over and over without a pause.
            retry_interval: config.retry_interval.max(Duration::from_millis(10)),
            max_attempts: config.max_attempts.max(1),
            grace: config.grace,
            sweep_interval: config.sweep_interval,
        }
    }

    /// Credits that `address` starts with.
    pub(crate) fn starting_credits(&self, address: &str) -> u64 {
        self.credits_of
            .get(&address.to_lowercase())
            .copied()
            .unwrap_or(self.credits)
    }
}
