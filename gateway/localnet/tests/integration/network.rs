//! A network with hosts for one test, and what tests ask of it.

use std::{collections::HashMap, time::Duration};

use aleph_sdk::{
    client::{AlephClient, AlephMessageClient},
    crn::CrnClient,
    crns_list::{CrnListResponse, fetch_crns_list},
    messages::{ForgetBuilder, InstanceBuilder},
    scheduler::SchedulerClient,
};
use aleph_types::{
    account::EvmAccount,
    item_hash::ItemHash,
    message::execution::{
        base::Payment,
        environment::{GpuDeviceClass, GpuProperties, HostRequirements, NodeRequirements},
    },
    message::pending::PendingMessage,
};
use alephlab_localnet::{ComputeConfig, Config, CrnConfig, Fault, GpuConfig};
use russh::keys::PrivateKey;
use serde_json::json;
use url::Url;

use crate::{
    ssh::{Ssh, line_of, new_key},
    support::{TestNode, a, until},
};

/// An RTX 4090: 6 units.
pub(crate) const CARD: &str = "10de:2684";
pub(crate) const UNITS: u32 = 6;

pub(crate) fn host(name: &str, cards: usize) -> CrnConfig {
    let gpu = GpuConfig {
        device_id: CARD.into(),
        model: "RTX 4090".into(),
    };
    CrnConfig {
        name: name.into(),
        gpus: vec![gpu; cards],
        cpus: 64,
        memory_mib: 512 * 1024,
        listener: None,
    }
}

pub(crate) fn compute(hosts: Vec<CrnConfig>) -> ComputeConfig {
    let mut compute = ComputeConfig::new(hosts, env!("CARGO_BIN_EXE_alephlab-instance"));
    compute.dispatch_pause = Duration::from_millis(10);
    compute.host_file = Some(br#"{"kind":"local"}"#.to_vec());
    compute.env = vec![("RENTED".into(), "yes".into())];
    compute
}

/// Accounts have credits for some instances.
pub(crate) fn rich(config: &mut Config, hosts: Vec<CrnConfig>) {
    config.credits = 100_000_000;
    config.sweep_interval = Duration::from_millis(100);
    config.faults = true;
    config.compute = Some(compute(hosts));
}

pub(crate) async fn network(cards: usize) -> Network {
    Network::of(TestNode::start_with(|config| rich(config, vec![host("one", cards)])).await).await
}

/// A node that is a CRN with a card.
pub(crate) async fn node_with_a_card() -> TestNode {
    TestNode::start_with(|config| rich(config, vec![host("one", 1)])).await
}

/// A network of one CRN with something to boot from.
pub(crate) struct Network {
    pub(crate) node: TestNode,
    pub(crate) rootfs: ItemHash,
    pub(crate) key: PrivateKey,
}

impl Network {
    pub(crate) async fn of(node: TestNode) -> Self {
        let (_, rootfs) = node.store(b"image", json!({})).await;
        Self {
            node,
            rootfs: rootfs.parse().unwrap(),
            key: new_key(),
        }
    }

    pub(crate) fn url(&self) -> Url {
        self.node.handle.url.clone()
    }

    pub(crate) async fn list(&self) -> CrnListResponse {
        let url = self.url().join("crns.json").unwrap();
        fetch_crns_list(&reqwest::Client::new(), &url, true)
            .await
            .unwrap()
    }

    /// How many cards the only CRN has free, by its list entry.
    pub(crate) async fn free_cards(&self) -> usize {
        let list = self.list().await;
        list.crns[0].compatible_available_gpus.as_ref().unwrap().len()
    }

    pub(crate) fn crn(&self, account: &EvmAccount) -> CrnClient {
        CrnClient::new(account, self.url()).unwrap()
    }

    pub(crate) fn scheduler(&self) -> SchedulerClient {
        SchedulerClient::new(self.url())
    }

    pub(crate) async fn instance(&self, account: &EvmAccount, name: &str, vcpus: u32) -> PendingMessage {
        let card = GpuProperties {
            vendor: "NVIDIA".into(),
            device_name: "RTX 4090".into(),
            device_class: GpuDeviceClass::VgaCompatibleController,
            device_id: CARD.into(),
        };
        let node = NodeRequirements {
            owner: None,
            address_regex: None,
            node_hash: Some(self.list().await.crns[0].hash.clone()),
            terms_and_conditions: None,
        };
        let requirements = HostRequirements {
            cpu: None,
            node: Some(node),
            gpu: Some(vec![card]),
        };
        let size = serde_json::from_value(json!(20_480)).unwrap();
        InstanceBuilder::new(account, self.rootfs.clone(), size)
            .vcpus(vcpus)
            .memory(serde_json::from_value(json!(UNITS * 6_144)).unwrap())
            .metadata(HashMap::from([("name".into(), json!(name))]))
            .payment(Payment::credits())
            .requirements(requirements)
            .ssh_keys(vec!["not a key".into(), line_of(&self.key)])
            .build()
            .unwrap()
    }

    pub(crate) async fn post(&self, message: &PendingMessage) -> ItemHash {
        let client = AlephClient::builder(self.url()).build();
        let answer = client.post_message(message, true).await.unwrap();
        assert_eq!(answer.message_status, "processed");
        message.item_hash.clone()
    }

    /// Posts an instance of A that is as the card wants it.
    pub(crate) async fn rent(&self, name: &str) -> ItemHash {
        let message = self.instance(&a(), name, UNITS).await;
        self.post(&message).await
    }

    pub(crate) async fn forget(&self, hash: &ItemHash) {
        let message = ForgetBuilder::new(&a(), vec![hash.clone()]).build().unwrap();
        self.post(&message).await;
    }

    /// The port on this machine that is the instance's port 22.
    pub(crate) async fn port(&self, hash: &ItemHash) -> Option<u16> {
        let list = self.crn(&a()).get_active_vms().await.unwrap().0;
        let networking = list.get(hash)?.networking.as_ref()?;
        assert_eq!(networking.host_ipv4.as_deref(), Some("127.0.0.1"));
        networking.mapped_ports.get(&22).map(|port| port.host)
    }

    pub(crate) async fn reached(&self, hash: &ItemHash) -> u16 {
        until(async || self.port(hash).await.is_some()).await;
        self.port(hash).await.unwrap()
    }

    pub(crate) async fn ssh(&self, hash: &ItemHash) -> Ssh {
        let port = self.reached(hash).await;
        Ssh::open(port, "root", &self.key)
            .await
            .expect("the key was refused")
    }

    pub(crate) async fn is_listed(&self, hash: &ItemHash) -> bool {
        self.crn(&a())
            .get_active_vms()
            .await
            .unwrap()
            .0
            .contains_key(hash)
    }

    pub(crate) async fn status(&self, hash: &ItemHash) -> String {
        self.scheduler().get_vm(hash).await.unwrap().unwrap().status
    }

    pub(crate) async fn consumed(&self, hash: &ItemHash) -> u64 {
        let path = format!("/api/v0/messages/{hash}/consumed_credits");
        self.node.get(&path).await.json["consumed_credits"]
            .as_u64()
            .unwrap()
    }

    pub(crate) fn folder(&self, hash: &ItemHash) -> std::path::PathBuf {
        self.node.folder.path().join("instances").join(hash.to_string())
    }

    pub(crate) fn fault(&self, fault: Fault) {
        assert!(self.node.handle.faults.on(fault, None));
    }
}

/// Processes of this machine that were started with this text as an argument.
pub(crate) fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}
