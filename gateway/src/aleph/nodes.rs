//! Compute nodes (CRN): which cards are free, and what a node says of a machine. What nodes answer is taken as hostile: only
//! addresses of the network's list are asked, over https, and answers are bounded in time.

use std::net::IpAddr;

use aleph_sdk::crn::{ActiveVm, fetch_active_vms};
use aleph_sdk::crns_list::{CrnListEntry, Gpu as ListedGpu, fetch_crns_list};
use aleph_types::item_hash::ItemHash;
use alephlab_api::money::Amount;
use alephlab_api::offer::{Gpu, Offer};
use serde_json::json;
use url::{Host, Url};

use super::cards::{Card, UNIT_DISK_GIB, UNIT_MEMORY_GIB, card};
use super::reach::Address;
use super::{NAME, host};
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
    pub(super) vcpus: u32,
    pub(super) memory_gib: u32,
    pub(super) disk_gib: u32,
    card: Option<&'static Card>,
}

impl Place {
    fn new(entry: &CrnListEntry, node: &Url, listed: &ListedGpu, card: &'static Card) -> Self {
        Self {
            node: node.clone(),
            node_hash: entry.hash.clone(),
            node_name: shown(&entry.name),
            card_vendor: listed.vendor.clone(),
            card_name: listed.device_name.clone(),
            card_class: listed.device_class.clone(),
            device_id: listed.device_id.clone(),
            vcpus: card.units,
            memory_gib: card.units * UNIT_MEMORY_GIB,
            disk_gib: card.units * UNIT_DISK_GIB,
            card: Some(card),
        }
    }

    /// A node that has measured VMs, which no image of ours is made for yet.
    fn measured(entry: &CrnListEntry, node: &Url) -> Self {
        Self {
            node: node.clone(),
            node_hash: entry.hash.clone(),
            node_name: shown(&entry.name),
            card_vendor: String::new(),
            card_name: String::new(),
            card_class: String::new(),
            device_id: String::new(),
            vcpus: 24,
            memory_gib: 144,
            disk_gib: 0,
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
        Self::new(&entry, node, &listed, card("10de:2684").unwrap())
    }

    pub(super) fn offer(&self) -> Offer {
        let hardware = self
            .card
            .map_or("H100, measured VM", |card| card.model)
            .to_owned();
        let measured = "no image of ours is measured yet, so nothing could be proven to a dataset's owner";
        Offer {
            id: format!("aleph:{}:{}", self.node_hash, self.device_id),
            provider: NAME.to_owned(),
            kernelspec: kernelspec(&hardware),
            gpu: self.card.map(|card| Gpu {
                model: card.model.to_owned(),
                device_id: self.device_id.clone(),
                count: 1,
                memory_gib: card.memory_gib,
            }),
            vcpus: self.vcpus,
            memory_gib: self.memory_gib,
            disk_gib: self.disk_gib,
            place: self.node_name.clone(),
            price: self
                .card
                .map_or_else(|| Amount::from_whole(MEASURED_UNIT * MEASURED_UNITS), Card::price),
            trust: match self.card {
                Some(_) => HOST_READS_MEMORY.to_owned(),
                None => MEASURED.to_owned(),
            },
            starts: "3 to 15 minutes".to_owned(),
            unavailable: self.card.is_none().then(|| measured.to_owned()),
            hardware,
        }
    }
}

/// All free cards that this gateway knows, and nodes with measured VMs.
pub(super) async fn places(http: &reqwest::Client, list: &Url) -> Result<Vec<Place>> {
    let listed = fetch_crns_list(http, list, true)
        .await
        .map_err(|error| host(&error))?;
    let here = is_local(list);
    let mut places = Vec::new();
    for entry in &listed.crns {
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
            places.extend(card(&gpu.device_id).map(|card| Place::new(entry, &node, gpu, card)));
        }
        if entry.confidential_support {
            places.push(Place::measured(entry, &node));
        }
    }
    Ok(places)
}

/// Tells a node of a machine that it is to run; why it refuses, if it does.
pub(super) async fn notify(http: &reqwest::Client, node: &Url, hash: &ItemHash) -> Result<Option<String>> {
    let mut url = node.clone();
    url.set_path("/control/allocation/notify");
    let answer = http
        .post(url)
        .json(&json!({ "instance": hash.to_string() }))
        .send()
        .await
        .map_err(|error| host(&error))?;
    let status = answer.status().as_u16();
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

/// Whether a node says that it runs a machine.
pub(super) async fn lists(http: &reqwest::Client, node: &Url, hash: &ItemHash) -> Result<bool> {
    let machines = fetch_active_vms(http, node).await.map_err(|error| host(&error))?;
    Ok(machines.0.contains_key(hash))
}

/// Where a machine's SSH server is; none while its node does not say.
pub(super) async fn ssh_address(
    http: &reqwest::Client,
    node: &Url,
    hash: &ItemHash,
) -> Result<Option<Address>> {
    let machines = fetch_active_vms(http, node).await.map_err(|error| host(&error))?;
    Ok(machines
        .0
        .get(hash)
        .and_then(|machine| reached_at(machine, is_local(node))))
}

/// By a port of the node's own IPv4 address, else directly by IPv6.
fn reached_at(machine: &ActiveVm, here: bool) -> Option<Address> {
    let networking = machine.networking.as_ref()?;
    let mapped = networking.mapped_ports.get(&SSH).map(|mapped| mapped.host);
    let address = match (mapped, &networking.host_ipv4, &networking.ipv6_ip) {
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

fn is_local(url: &Url) -> bool {
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
fn shown(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    match name.trim() {
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
