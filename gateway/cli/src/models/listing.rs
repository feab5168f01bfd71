//! Models of others: those whose owners have granted something to this account, and what a gateway lists.

use std::collections::BTreeSet;

use alephlab_api::client::GatewayClient;
use alephlab_api::model::{Card, private_uuid};
use alephlab_registry::{Gated, RepoInfo, Search};
use alephlab_vault::{Address, granted_to};
use serde_json::Value;

use super::index::Model;
use super::{Registry, vault};
use crate::error::Result;

/// Models that are taken from a gateway's list at a time.
const LISTED_MAX: usize = 1000;
/// Owners whose models are looked through for those that were granted.
const OWNERS_MAX: usize = 50;

impl Registry {
    /// Models of others that their owners have granted to this account, and that open.
    pub(crate) async fn granted(&self) -> Result<Vec<Model>> {
        let own = self.account.wallet().owner();
        let granted = granted_to(&*self.storage, own).await;
        let granted = granted.map_err(vault("granted models were not found"))?;
        let owners: BTreeSet<Address> = granted.into_iter().map(|(_, owner)| owner).collect();
        let mut found = Vec::new();
        for owner in owners.into_iter().take(OWNERS_MAX) {
            for model in self.of(owner).await?.values() {
                let Some(newest) = model.newest() else { continue };
                // One that cannot be opened is not listed, whatever the reason.
                if let Ok(Some(_)) = self.open(&newest.record).await {
                    found.push(model.clone());
                }
            }
        }
        Ok(found)
    }
}

/// What a gateway lists of what is searched for, by its word.
pub(crate) async fn listed(gateway: &GatewayClient, search: &Search) -> Result<Vec<RepoInfo>> {
    let mut query = vec![("limit", LISTED_MAX.to_string()), ("full", "true".to_owned())];
    query.extend(search.text.clone().map(|text| ("search", text)));
    query.extend(search.author.clone().map(|author| ("author", author)));
    query.extend(search.task.clone().map(|task| ("pipeline_tag", task)));
    query.extend(search.filters.iter().map(|filter| ("filter", filter.clone())));
    let listed = gateway.hub_models(&query).await?;
    // Own private ones this machine knows better: the gateway shows what stands for their names.
    let named = listed
        .iter()
        .filter_map(info)
        .filter(|info| private_uuid(&info.id).is_none());
    Ok(named.collect())
}

/// A model object of the Hub's API.
fn info(model: &Value) -> Option<RepoInfo> {
    let text = |key: &str| model[key].as_str().map(str::to_owned);
    let id = text("id")?;
    let tags = model["tags"].as_array().into_iter().flatten();
    let tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
    let (task, library) = (text("pipeline_tag"), text("library_name"));
    let of = |group: &str| {
        let tagged = tags
            .iter()
            .find_map(|tag| tag.strip_prefix(group)?.strip_prefix(':'));
        tagged.map(str::to_owned)
    };
    let plain = tags.iter().filter(|tag| {
        let tag = Some(**tag);
        !tag.is_some_and(|tag| tag.contains(':')) && tag != task.as_deref() && tag != library.as_deref()
    });
    Some(RepoInfo {
        author: text("author").unwrap_or_else(|| id.split('/').next().unwrap_or_default().to_owned()),
        revision: text("sha").unwrap_or_default(),
        card: Card {
            licence: of("license").unwrap_or_default(),
            dataset: of("dataset"),
            tags: plain.map(|tag| (*tag).to_owned()).collect(),
            task: task.clone(),
            library: library.clone(),
            ..Card::default()
        },
        gated: match model["gated"].as_str() {
            Some("auto") => Gated::Auto,
            Some(_) => Gated::Manual,
            None => Gated::No,
        },
        created: seconds(&model["createdAt"]),
        modified: seconds(&model["lastModified"]),
        downloads: model["downloads"].as_u64().unwrap_or(0),
        likes: model["likes"].as_u64().unwrap_or(0),
        parameters: model["safetensors"]["total"].as_u64(),
        tensor_types: serde_json::from_value(model["safetensors"]["parameters"].clone()).unwrap_or_default(),
        aleph: Some(model["aleph"].clone()).filter(|aleph| !aleph.is_null()),
        id,
        ..RepoInfo::default()
    })
}

/// Seconds since 1970 of a time as the Hub writes it.
fn seconds(time: &Value) -> u64 {
    let parsed = time
        .as_str()
        .and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    parsed.map_or(0, |time| u64::try_from(time.timestamp()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_a_model_object_as_it_is_written() {
        let model = json!({
            "id": "0xAb/digits", "sha": "a".repeat(40), "gated": "manual", "downloads": 7,
            "tags": ["tiny", "candle", "license:mit", "image-classification"], "library_name": "candle",
            "pipeline_tag": "image-classification", "lastModified": "1970-01-01T00:01:40.000Z",
        });
        let info = info(&model).unwrap();
        assert_eq!(
            (info.author.as_str(), info.modified, info.downloads),
            ("0xAb", 100, 7)
        );
        assert_eq!((info.card.licence.as_str(), info.gated), ("mit", Gated::Manual));
        assert_eq!(info.card.tags, ["tiny"]);
        assert!(super::info(&json!({})).is_none());
    }
}
