//! What an INSTANCE message asks of its host.

use aleph_types::message::InstanceContent;
use serde_json::Value;
use sqlx::SqliteConnection;

use crate::{
    content::card,
    error::Result,
    permission::{self, Act},
};

/// Memory of a GPU compute unit, which has one processor (reference, section 7).
const UNIT_MEMORY_MIB: u64 = 6 * 1024;

/// An instance as its message describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) hash: String,
    pub(crate) owner: String,
    pub(crate) sender: String,
    pub(crate) chain: String,
    pub(crate) channel: Option<String>,
    /// Hash of the CRN that it must run on.
    pub(crate) node: Option<String>,
    /// PCI ids, one for each card.
    pub(crate) cards: Vec<String>,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) keys: Vec<String>,
    /// Credits per second.
    pub(crate) rate: f64,
    /// Whether it is still charged for.
    pub(crate) is_paid: bool,
}

/// A row that a [`Spec`] is read from.
#[derive(sqlx::FromRow)]
struct Row {
    item_hash: String,
    owner: String,
    sender: String,
    chain: String,
    channel: Option<String>,
    content: String,
    rate: f64,
    active: bool,
}

const ROWS: &str =
    "SELECT messages.item_hash, messages.owner, sender, chain, channel, content, rate, active = 1 AS active
     FROM charges JOIN messages ON messages.item_hash = charges.item_hash
     WHERE messages.type = 'INSTANCE' AND messages.status = 'processed'
     AND NOT EXISTS (SELECT 1 FROM messages newer WHERE newer.content_ref = messages.item_hash
                     AND newer.type = 'INSTANCE' AND newer.status = 'processed')";

/// Every INSTANCE that is processed and not replaced, oldest first.
pub(crate) async fn all(connection: &mut SqliteConnection) -> Result<Vec<Spec>> {
    let query = format!("{ROWS} ORDER BY messages.received, messages.item_hash");
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(Row::read).collect())
}

/// One of them.
pub(crate) async fn one(connection: &mut SqliteConnection, hash: &str) -> Result<Option<Spec>> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{ROWS} AND messages.item_hash = $1")))
        .bind(hash)
        .fetch_optional(connection)
        .await?;
    Ok(row.and_then(Row::read))
}

impl Row {
    /// `None` when the content cannot be read, which the node has checked before.
    fn read(self) -> Option<Spec> {
        let value: Value = serde_json::from_str(&self.content).ok()?;
        let mut spec = Spec::parse(&value)?;
        spec.hash = self.item_hash;
        spec.owner = self.owner;
        spec.sender = self.sender;
        spec.chain = self.chain;
        spec.channel = self.channel;
        spec.rate = self.rate;
        spec.is_paid = self.active;
        Some(spec)
    }
}

impl Spec {
    /// Reads the content of an INSTANCE; what only the message knows stays empty.
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        let content: InstanceContent = serde_json::from_value(value.clone()).ok()?;
        let needed = content.base.requirements;
        let node = needed.as_ref().and_then(|needed| needed.node.as_ref());
        let cards = needed.as_ref().and_then(|needed| needed.gpu.as_ref());
        Some(Self {
            hash: String::new(),
            owner: value.get("address")?.as_str()?.to_owned(),
            sender: String::new(),
            chain: String::new(),
            channel: None,
            node: node.and_then(|node| node.node_hash.clone()),
            cards: cards
                .map(|cards| cards.iter().map(|card| card.device_id.clone()).collect())
                .unwrap_or_default(),
            vcpus: content.base.resources.vcpus,
            memory_mib: u64::from(content.base.resources.memory),
            keys: content.base.authorized_keys.unwrap_or_default(),
            rate: 0.0,
            is_paid: false,
        })
    }

    /// Refuses processors and memory that are not those of the cards' tier.
    pub(crate) fn check_tier(&self) -> std::result::Result<(), String> {
        if self.cards.is_empty() {
            return Ok(());
        }
        let units: u32 = self
            .cards
            .iter()
            .filter_map(|id| card(id))
            .map(|card| card.units)
            .sum();
        let memory_mib = u64::from(units) * UNIT_MEMORY_MIB;
        if self.vcpus == units && self.memory_mib == memory_mib {
            return Ok(());
        }
        Err(format!(
            "the tier of {} has {units} vCPU and {memory_mib} MiB, and {} vCPU and {} MiB were asked for",
            self.cards.join(" and "),
            self.vcpus,
            self.memory_mib
        ))
    }

    /// Whether `address` may do with it what its owner may.
    pub(crate) async fn may(&self, connection: &mut SqliteConnection, address: &str) -> Result<bool> {
        let act = Act {
            kind: "INSTANCE",
            chain: &self.chain,
            channel: self.channel.as_deref(),
            post_type: None,
            aggregate_key: None,
        };
        permission::may(connection, address, &self.owner, act).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(vcpus: u32, memory: u64, cards: &[&str]) -> Spec {
        let gpu = |id: &&str| json!({"vendor": "NVIDIA", "device_name": "GPU", "device_class": "0300", "device_id": id});
        let content = json!({
            "address": "0xA", "time": 1.0, "allow_amend": false,
            "environment": {"internet": true, "aleph_api": true, "hypervisor": "qemu", "trusted_execution": null,
                            "reproducible": false, "shared_cache": false},
            "resources": {"vcpus": vcpus, "memory": memory, "seconds": 30},
            "payment": {"chain": "ETH", "type": "credit"},
            "requirements": {"gpu": cards.iter().map(gpu).collect::<Vec<_>>(), "node": {"node_hash": "n"}},
            "volumes": [],
            "rootfs": {"parent": {"ref": "a".repeat(64), "use_latest": true}, "persistence": "host", "size_mib": 1024},
        });
        Spec::parse(&content).unwrap()
    }

    #[test]
    fn tier_is_that_of_all_cards_and_exact() {
        assert_eq!(spec(6, 36_864, &["10de:2684"]).check_tier(), Ok(()));
        assert_eq!(spec(12, 73_728, &["10de:2684", "10de:2684"]).check_tier(), Ok(()));
        for (vcpus, memory) in [(5, 36_864), (7, 36_864), (6, 36_863), (12, 73_728)] {
            let refused = spec(vcpus, memory, &["10de:2684"]).check_tier().unwrap_err();
            assert!(refused.contains("6 vCPU and 36864 MiB"), "{refused}");
        }
        // Without a card there is no tier.
        assert_eq!(spec(1, 100, &[]).check_tier(), Ok(()));
    }
}
