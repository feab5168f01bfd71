//! Compute nodes (CRN): which cards are free, and what a node says of a machine. What nodes answer is taken as hostile: only
//! addresses of the network's list are asked, over https, and answers are bounded (`ask`).

use std::net::IpAddr;

use aleph_sdk::crn::{ActiveVm, ActiveVmList};
use aleph_sdk::crns_list::{CrnListEntry, CrnListResponse, Gpu as ListedGpu};
use aleph_types::item_hash::ItemHash;
use alephlab_api::money::Amount;
use alephlab_api::offer::{Gpu, Offer};
use serde_json::json;
use url::{Host, Url};

use super::ask::{self, LIST, MACHINES, SMALL, ask};
use super::prices::{Card, Size, Table};
use super::reach::Address;
use super::{NAME, shown};
use crate::allocations::{HOST_READS_MEMORY, MEASURED, kernelspec};
use crate::error::Result;

/// Where SSH is in a machine.
const SSH: u16 = 22;
/// Credits for a compute unit and hour of a measured VM, as of July 2026.
const MEASURED_UNIT: u64 = 28_500;
const MEASURED_UNITS: u64 = 24;

/// A free card in a node, with everything that a message needs to name it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) node: Url,
    pub(super) node_hash: String,
    pub(super) node_name: String,
    pub(super) card_vendor: String,
    pub(super) card_name: String,
    pub(super) card_class: String,
    pub(super) device_id: String,
    pub(super) size: Size,
    card: Option<Card>,
}

impl Place {
    fn new(entry: &CrnListEntry, node: &Url, listed: &ListedGpu, card: Card) -> Self {
        Self {
            node: node.clone(),
            node_hash: entry.hash.clone(),
            node_name: named(&entry.name),
            card_vendor: listed.vendor.clone(),
            card_name: listed.device_name.clone(),
            card_class: listed.device_class.clone(),
            device_id: listed.device_id.clone(),
            size: card.size,
            card: Some(card),
        }
    }

    /// A node that has measured VMs, which no image of ours is made for yet.
    fn measured(entry: &CrnListEntry, node: &Url) -> Self {
        Self {
            node: node.clone(),
            node_hash: entry.hash.clone(),
            node_name: named(&entry.name),
            card_vendor: String::new(),
            card_name: String::new(),
            card_class: String::new(),
            device_id: String::new(),
            size: Size {
                vcpus: 24,
                memory_mib: 144 << 10,
                disk_mib: 0,
            },
            card: None,
        }
    }

    #[cfg(test)]
    pub(super) fn for_test(node: &Url) -> Self {
        let text = json!({
            "hash": "n", "name": "a node", "address": node, "gpu_support": true,
            "compatible_available_gpus": [{
                "vendor": "NVIDIA", "model": "RTX 4090", "device_name": "AD102 [GeForce RTX 4090]",
                "device_class": "0300", "pci_host": "01:00.0", "device_id": "10de:2684",
            }],
        });
        let entry: CrnListEntry = serde_json::from_value(text).unwrap();
        let listed = entry.compatible_available_gpus.as_ref().unwrap()[0].clone();
        Self::new(
            &entry,
            node,
            &listed,
            Table::built_in().card("10de:2684").unwrap(),
        )
    }

    /// What the network bills for it, credits an hour.
    pub(super) fn price(&self) -> Amount {
        let measured = || Amount::from_whole(MEASURED_UNIT * MEASURED_UNITS);
        self.card.as_ref().map_or_else(measured, |card| card.price)
    }

    /// Why it cannot be had whoever pays, if it cannot.
    pub(super) fn unavailable(&self) -> Option<&str> {
        match &self.card {
            Some(card) => card.doubt.as_deref(),
            None => Some("no image of ours is measured yet, so nothing could be proven to a dataset's owner"),
        }
    }

    /// Names it among all offers.
    pub(super) fn id(&self) -> String {
        format!("aleph:{}:{}", self.node_hash, self.device_id)
    }

    pub(super) fn offer(&self) -> Offer {
        let card = self.card.as_ref();
        let hardware = card
            .map_or("H100, measured VM", |card| card.model.as_str())
            .to_owned();
        Offer {
            id: self.id(),
            provider: NAME.to_owned(),
            kernelspec: kernelspec(&hardware),
            gpu: card.map(|card| Gpu {
                model: card.model.clone(),
                device_id: self.device_id.clone(),
                count: 1,
                memory_gib: card.memory_gib,
            }),
            vcpus: self.size.vcpus,
            memory_gib: self.size.memory_gib(),
            disk_gib: self.size.disk_gib(),
            place: self.node_name.clone(),
            price: self.price(),
            trust: match card {
                Some(_) => HOST_READS_MEMORY.to_owned(),
                None => MEASURED.to_owned(),
            },
            starts: "3 to 15 minutes".to_owned(),
            unavailable: self.unavailable().map(str::to_owned),
            hardware,
        }
    }
}

/// The nodes of the network's list.
pub(super) async fn listed(http: &reqwest::Client, list: &Url) -> Result<Vec<CrnListEntry>> {
    let mut url = list.clone();
    url.query_pairs_mut().append_pair("filter_inactive", "true");
    let listed: CrnListResponse = ask::json(http.get(url), LIST).await?;
    Ok(listed.crns)
}

/// All free cards of these nodes that anybody knows, and nodes with measured VMs; `here` when the list is on this machine.
pub(super) fn places(nodes: &[CrnListEntry], table: &Table, here: bool) -> Vec<Place> {
    let mut places = Vec::new();
    for entry in nodes {
        let Some(node) = node_address(&entry.address, here) else {
            continue;
        };
        let mut seen: Vec<&str> = Vec::new();
        for gpu in entry.compatible_available_gpus.iter().flatten() {
            // Several of one kind are one offer.
            if seen.contains(&gpu.device_id.as_str()) {
                continue;
            }
            seen.push(&gpu.device_id);
            let card = table.card(&gpu.device_id);
            places.extend(card.map(|card| Place::new(entry, &node, gpu, card)));
        }
        if entry.confidential_support {
            places.push(Place::measured(entry, &node));
        }
    }
    places
}

/// Tells a node of a machine that it is to run; why it refuses, if it does.
pub(super) async fn notify(http: &reqwest::Client, node: &Url, hash: &ItemHash) -> Result<Option<String>> {
    let request = http
        .post(at(node, "/control/allocation/notify"))
        .json(&json!({ "instance": hash.to_string() }));
    let status = ask(request, SMALL).await?.status;
    match status {
        200 | 207 => Ok(None),
        402 => Ok(Some("its node wants more credits for it".to_owned())),
        503 => Ok(Some("its node has no room for it any more".to_owned())),
        // The scheduler may still start it.
        _ => {
            tracing::debug!(status, "a compute node does not want to be told of a machine");
            Ok(None)
        }
    }
}

/// What a node says of a machine that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Where its SSH server is, if the node says so.
    pub(super) ssh: Option<Address>,
    /// Whether the node leads a port of its own address there.
    pub(super) is_mapped: bool,
}

/// What a node says of a machine; none when it does not run it.
pub(super) async fn machine(http: &reqwest::Client, node: &Url, hash: &ItemHash) -> Result<Option<Machine>> {
    let machines: ActiveVmList = ask::json(http.get(at(node, "/v2/about/executions/list")), MACHINES).await?;
    let machine = machines.0.get(hash).map(|machine| Machine {
        ssh: reached_at(machine, is_local(node)),
        is_mapped: mapped(machine).is_some(),
    });
    Ok(machine)
}

/// Asks a node to lead its ports to a machine again, as its owner's settings say; it leads one to SSH without any (ADR 20).
pub(super) async fn map_again(http: &reqwest::Client, node: &Url, hash: &ItemHash) {
    let request = http.post(at(node, &format!("/control/machine/{hash}/update")));
    match ask(request, SMALL).await {
        Ok(answer) => tracing::debug!(status = answer.status, "a node was asked for a port again"),
        Err(error) => tracing::debug!(%error, "a node was not asked for a port again"),
    }
}

fn at(node: &Url, path: &str) -> Url {
    let mut url = node.clone();
    url.set_path(path);
    url
}

/// The node's own port that leads to a machine's SSH server.
fn mapped(machine: &ActiveVm) -> Option<u16> {
    let networking = machine.networking.as_ref()?;
    networking.mapped_ports.get(&SSH).map(|mapped| mapped.host)
}

/// By a port of the node's own IPv4 address, else directly by IPv6.
fn reached_at(machine: &ActiveVm, here: bool) -> Option<Address> {
    let networking = machine.networking.as_ref()?;
    let address = match (mapped(machine), &networking.host_ipv4, &networking.ipv6_ip) {
        (Some(port), Some(host), _) => Address {
            host: host.clone(),
            port,
        },
        (_, _, Some(host)) => Address {
            host: host.clone(),
            port: SSH,
        },
        _ => return None,
    };
    let ip: IpAddr = address.host.parse().ok()?;
    (here || is_public(ip)).then_some(address)
}

/// A node's address as it may be asked: https, or anything on this machine when the list is here, too.
fn node_address(address: &str, here: bool) -> Option<Url> {
    let url: Url = address.parse().ok()?;
    let public = url.scheme() == "https"
        && match url.host()? {
            Host::Domain(name) => name != "localhost",
            Host::Ipv4(ip) => is_public(ip.into()),
            Host::Ipv6(ip) => is_public(ip.into()),
        };
    (public || (here && is_local(&url))).then_some(url)
}

/// Whether a list or a node is on this machine.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Not this machine, its networks, or a cloud's metadata address.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || (a == 100 && (64..128).contains(&b)))
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local())
        }
    }
}

/// A name from outside, for pages.
fn named(name: &str) -> String {
    match shown(name, 60).trim() {
        "" => "a node without a name".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_of_nodes_are_asked() {
        for address in [
            "http://node.example",
            "https://127.0.0.1",
            "https://10.0.0.1",
            "https://169.254.169.254",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://[fe80::1]",
            "https://localhost:1",
            "https://0.0.0.0",
            "https://100.64.0.1",
            "ftp://node.example",
            "node.example",
        ] {
            assert_eq!(node_address(address, false), None, "{address}");
        }
        assert!(node_address("https://node.example", false).is_some());
        assert!(node_address("https://93.184.216.34", false).is_some());
        assert!(node_address("http://127.0.0.1:4000", true).is_some());
        assert_eq!(node_address("http://node.example", true), None);
    }

    #[test]
    fn a_machine_is_reached_by_a_mapped_port_or_by_ipv6() {
        let machine = |networking: serde_json::Value| -> ActiveVm {
            serde_json::from_value(json!({ "networking": networking })).unwrap()
        };
        let mapped = machine(json!({
            "host_ipv4": "93.184.216.34", "ipv6_ip": "2a01::1", "mapped_ports": { "22": { "host": 24001, "tcp": true } },
        }));
        let expected = Address {
            host: "93.184.216.34".to_owned(),
            port: 24_001,
        };
        assert_eq!(reached_at(&mapped, false), Some(expected));
        let direct = machine(json!({ "ipv6_ip": "2a01::1" }));
        assert_eq!(reached_at(&direct, false).unwrap().port, SSH);
        let inside = machine(json!({ "host_ipv4": "10.0.0.1", "mapped_ports": { "22": { "host": 1 } } }));
        assert_eq!(reached_at(&inside, false), None);
        assert_eq!(reached_at(&machine(json!({})), false), None);
    }
}
