//! Private models as their owner sees them here: which there are, and since when. What is in them this gateway cannot open.
//!
//! They are in no index and in nothing that is kept for others: each time they are read from the database, for whoever has
//! proven to be their owner. For everybody else they are not looked for, so that no answer differs from that of an unknown one.

use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::model::{IndexedModel, ModelPage, private_uuid};

use super::canonical;
use crate::error::Result;
use crate::index::Entry;
use crate::store::{PrivateOf, Store};

/// Revisions of what `id`, `owner/UUID`, stands for, newest first; none for anybody but their owner.
pub(crate) async fn revisions(store: &Store, id: &str, reader: Option<&str>) -> Result<Vec<IndexedModel>> {
    let name = canonical(id).filter(|name| private_uuid(name).is_some());
    let is_own = |name: &String| {
        let owner = name.split('/').next();
        reader.is_some_and(|reader| owner.is_some_and(|owner| owner.eq_ignore_ascii_case(reader)))
    };
    match name.filter(is_own) {
        Some(name) => store.private_models(PrivateOf::Name(&name)).await,
        None => Ok(Vec::new()),
    }
}

/// All of this owner, as lists show them.
pub(crate) async fn entries(store: &Store, owner: &str) -> Result<Vec<Arc<Entry>>> {
    let mut models: BTreeMap<String, Vec<IndexedModel>> = BTreeMap::new();
    for revision in store.private_models(PrivateOf::Owner(owner)).await? {
        models
            .entry(revision.record.name.clone())
            .or_default()
            .push(revision);
    }
    let entry = |revisions: Vec<IndexedModel>| {
        let created = revisions.iter().map(|one| one.record.created).min()?;
        let newest = revisions.first()?;
        Some(Arc::new(Entry::of(&newest.record, created)))
    };
    Ok(models.into_values().filter_map(entry).collect())
}

/// What the page of a private model shows to its owner; none for anybody else.
pub(crate) async fn page(store: &Store, id: &str, reader: Option<&str>) -> Result<Option<ModelPage>> {
    let revisions = revisions(store, id, reader).await?;
    Ok((!revisions.is_empty()).then(|| ModelPage {
        // Nobody sells what nobody may know of.
        terms: None,
        revisions,
        // They are sealed, too.
        tags: BTreeMap::new(),
        tags_serial: 0,
        evidence: Vec::new(),
        downloads: 0,
    }))
}
