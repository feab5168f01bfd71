//! Section `gateway`: where it listens, where its data is, who may sign in, what kernels cost, how many there are and how
//! long they live, and whether there are terminals.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use alephlab_api::money::Amount;
use alephlab_gateway::DatabaseUrl;
use serde::{Deserialize, Serialize};
use url::Url;

use super::values::{
    a_minute, amount, bytes, count, database, ip, ips, list, minutes, port, web_url, yes_or_no,
};

/// Section `gateway`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    /// TCP port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Where the port is.
    #[serde(deserialize_with = "ip")]
    pub listen: IpAddr,
    /// Its address for others.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "web_url"
    )]
    pub public_url: Option<Url>,
    /// Fronts that say who called.
    #[serde(default, deserialize_with = "ips")]
    pub fronts: Vec<IpAddr>,
    /// Failed proofs of a peer in a minute.
    #[serde(deserialize_with = "a_minute")]
    pub max_failures: u32,
    /// Texts to sign for a peer in a minute.
    #[serde(deserialize_with = "a_minute")]
    pub max_texts: u32,
    /// Wait for another one's end.
    #[serde(deserialize_with = "yes_or_no")]
    pub standby: bool,
    /// The operator's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A PostgreSQL database; not written anywhere, because its password is in it.
    #[serde(default, skip_serializing, deserialize_with = "database")]
    pub database: Option<DatabaseUrl>,
    /// Addresses that may sign in.
    #[serde(default, deserialize_with = "list")]
    pub accounts: Vec<String>,
    /// Credits for an hour of a kernel.
    #[serde(deserialize_with = "amount")]
    pub kernel_price: String,
    /// JupyterLab's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<PathBuf>,
    /// Kernels of one account.
    #[serde(deserialize_with = "count")]
    pub max_kernels: usize,
    /// Bytes of one account's files.
    #[serde(deserialize_with = "bytes")]
    pub max_storage: u64,
    /// How long a kernel may be idle.
    #[serde(deserialize_with = "minutes")]
    pub idle_minutes: u32,
    /// How long kernels go on without the gateway.
    #[serde(deserialize_with = "minutes")]
    pub outlive_minutes: u32,
    /// Also when it is stopped in good order.
    #[serde(deserialize_with = "yes_or_no")]
    pub keep_kernels: bool,
    /// Shells for accounts.
    #[serde(deserialize_with = "yes_or_no")]
    pub terminals: bool,
}

impl Gateway {
    /// What a kernel costs, in credits an hour.
    pub(crate) fn price(&self) -> Amount {
        // It was read as one.
        self.kernel_price.parse().unwrap_or_default()
    }

    /// How much an account's files may take.
    pub(crate) fn storage(&self) -> Option<u64> {
        (self.max_storage > 0).then_some(self.max_storage)
    }

    /// How long kernels outlive the gateway; none when they end with it.
    pub(crate) fn outlive(&self) -> Option<Duration> {
        some_minutes(self.outlive_minutes)
    }

    /// How long a kernel may be idle that nobody is connected to.
    pub(crate) fn idle(&self) -> Option<Duration> {
        some_minutes(self.idle_minutes)
    }

    /// Whether kernels stay when the gateway stops.
    pub(crate) fn keeps_kernels(&self) -> bool {
        self.keep_kernels && self.outlive_minutes > 0
    }
}

fn some_minutes(minutes: u32) -> Option<Duration> {
    (minutes > 0).then(|| Duration::from_secs(60 * u64::from(minutes)))
}
