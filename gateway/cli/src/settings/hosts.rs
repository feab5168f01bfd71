//! Section `hosts`: renting hosts beyond this machine.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::values::{list, yes_or_no};

/// The network's own list of compute nodes.
const PUBLIC_LIST: &str = "https://crns-list.aleph.sh/crns.json";

/// Section `hosts`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hosts {
    /// Rent on Aleph's network.
    #[serde(deserialize_with = "yes_or_no")]
    pub aleph: bool,
    /// The image that hosts boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where agents of hosts dial in.
    pub listen: SocketAddr,
    /// The same as hosts see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// List of compute nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crns: Option<String>,
    /// Cards that the local network pretends to have.
    #[serde(default, deserialize_with = "list")]
    pub local: Vec<String>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            aleph: false,
            image: None,
            listen: ([127, 0, 0, 1], 0).into(),
            address: None,
            crns: None,
            local: Vec::new(),
        }
    }
}

impl Hosts {
    /// The list of compute nodes: the local network's own where there are some there.
    pub(crate) fn list(&self, aleph_url: &str) -> String {
        match &self.crns {
            Some(list) => list.clone(),
            None if self.local.is_empty() => PUBLIC_LIST.to_owned(),
            None => format!("{aleph_url}/crns.json"),
        }
    }
}
