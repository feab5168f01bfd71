//! Who may act for whom: the `security` aggregate of an owner (reference, section 4, delegation).
//!
//! Used when a message is created and, by FORGET, with the forgotten message's own properties.

use serde_json::Value;
use sqlx::SqliteConnection;

use crate::{
    aggregates::{self, Fields},
    error::Result,
};

/// Key of the aggregate that lists delegates.
pub(crate) const SECURITY_KEY: &str = "security";

/// The properties of a message that delegation is limited by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act<'a> {
    pub(crate) kind: &'a str,
    pub(crate) chain: &'a str,
    pub(crate) channel: Option<&'a str>,
    pub(crate) post_type: Option<&'a str>,
    pub(crate) aggregate_key: Option<&'a str>,
}

/// Whether `sender` may create a message with these properties for `owner`.
pub(crate) async fn may(
    connection: &mut SqliteConnection,
    sender: &str,
    owner: &str,
    act: Act<'_>,
) -> Result<bool> {
    if sender.eq_ignore_ascii_case(owner) {
        return Ok(true);
    }
    let security = aggregates::value(connection, owner, SECURITY_KEY).await?;
    Ok(entries(security).iter().any(|entry| allows(entry, sender, act)))
}

/// The entries of a `security` aggregate; none when it is not a list.
pub(crate) fn entries(security: Option<Fields>) -> Vec<Value> {
    let list = security.and_then(|mut security| security.remove("authorizations"));
    list.and_then(|list| serde_json::from_str(list.get()).ok())
        .unwrap_or_default()
}

/// Whether one entry lets `sender` do it: the address matches, and every filter that is set.
fn allows(entry: &Value, sender: &str, act: Act<'_>) -> bool {
    let address = entry.get("address").and_then(Value::as_str);
    address.is_some_and(|address| address.eq_ignore_ascii_case(sender))
        && chain_matches(entry.get("chain"), act.chain)
        && list_matches(entry.get("channels"), act.channel)
        && list_matches(entry.get("types"), Some(act.kind))
        // The two narrow filters bind only the message type that they are about.
        && (act.kind != "POST" || list_matches(entry.get("post_types"), act.post_type))
        && (act.kind != "AGGREGATE" || list_matches(entry.get("aggregate_keys"), act.aggregate_key))
}

fn chain_matches(filter: Option<&Value>, chain: &str) -> bool {
    match filter {
        None | Some(Value::Null) => true,
        Some(Value::String(wanted)) => wanted.is_empty() || wanted == chain,
        Some(_) => false,
    }
}

/// An absent or empty list is no limit; a list that is none allows nothing.
fn list_matches(filter: Option<&Value>, value: Option<&str>) -> bool {
    match filter {
        None | Some(Value::Null) => true,
        Some(Value::Array(wanted)) => {
            wanted.is_empty()
                || wanted
                    .iter()
                    .any(|wanted| wanted.as_str().is_some() && wanted.as_str() == value)
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ACT: Act<'_> = Act {
        kind: "POST",
        chain: "ETH",
        channel: Some("LAB"),
        post_type: Some("model-card"),
        aggregate_key: None,
    };

    #[test]
    fn every_filter_that_is_set_must_match() {
        let entry = json!({"address": "0xB", "chain": "ETH", "types": ["POST"], "channels": ["LAB"], "post_types": ["model-card"], "aggregate_keys": []});
        assert!(allows(&entry, "0xb", ACT));
        assert!(!allows(&entry, "0xC", ACT));
        for (name, other) in [
            ("chain", json!("SOL")),
            ("types", json!(["STORE"])),
            ("channels", json!(["OTHER"])),
            ("post_types", json!(["other"])),
            ("channels", json!("LAB")),
        ] {
            let mut narrowed = entry.clone();
            narrowed[name] = other;
            assert!(!allows(&narrowed, "0xb", ACT), "{name}");
        }
    }

    #[test]
    fn aggregate_keys_bind_only_aggregates() {
        let entry = json!({"address": "0xB", "aggregate_keys": ["profile"]});
        assert!(allows(&entry, "0xB", ACT));
        let aggregate = Act {
            kind: "AGGREGATE",
            post_type: None,
            aggregate_key: Some("other"),
            ..ACT
        };
        assert!(!allows(&entry, "0xB", aggregate));
        assert!(allows(
            &entry,
            "0xB",
            Act {
                aggregate_key: Some("profile"),
                ..aggregate
            }
        ));
    }

    #[test]
    fn message_without_a_channel_does_not_match_a_list_of_channels() {
        let entry = json!({"address": "0xB", "channels": ["LAB"]});
        assert!(!allows(&entry, "0xB", Act { channel: None, ..ACT }));
    }
}
