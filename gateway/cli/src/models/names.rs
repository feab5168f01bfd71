//! Tags and withdrawals, which the owner signs, and evidence, which a verifier signs: posted, and told to a gateway.

use std::collections::BTreeMap;

use alephlab_api::model::{
    MODEL_EVIDENCE_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelEvidence, ModelRecord, ModelTags,
    ModelWithdrawal, TAGS_MAX, is_tag,
};
use alephlab_api::time::unix_now;
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{PostQuery, StoredPost};
use alephlab_vault::{Address, GrantTerms, grant_dataset};
use alephlab_verify::Report;
use serde::Serialize;

use super::open::Opened;
use super::{Registry, refuse, vault};
use crate::error::{CliError, Result};

const WHAT: &str = "nothing was signed";

/// A message that is on Aleph.
pub(crate) struct Posted {
    /// Its item hash.
    pub(crate) message: String,
    /// Why no gateway was told of it; it stands all the same.
    pub(crate) untold: Option<CliError>,
}

impl Registry {
    /// Makes `tag` stand for a revision of an own model; one that stands for another is moved.
    ///
    /// # Errors
    /// When it cannot be a tag, or there are too many.
    pub(crate) async fn tag(&self, name: &str, tag: &str, commit: &str) -> Result<Option<Posted>> {
        if !is_tag(tag) {
            return Err(CliError::Usage {
                message: format!("{tag:?} cannot be a tag"),
                hint: "use at most 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit; \
                       `main` is the newest revision"
                    .to_owned(),
            });
        }
        self.retag(name, |tags| {
            if tags.len() >= TAGS_MAX && !tags.contains_key(tag) {
                let message = format!("{name} has {TAGS_MAX} tags, which is the most");
                return Err(refuse(
                    "too_many_tags",
                    message,
                    "remove one: alephlab model untag",
                ));
            }
            tags.insert(tag.to_owned(), commit.to_owned());
            Ok(())
        })
        .await
    }

    /// Removes a tag of an own model.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn untag(&self, name: &str, tag: &str) -> Result<Option<Posted>> {
        self.retag(name, |tags| match tags.remove(tag) {
            Some(_) => Ok(()),
            None => Err(refuse(
                "unknown_tag",
                format!("{name} has no tag {tag:?}"),
                "`alephlab model show NAME` lists them",
            )),
        })
        .await
    }

    /// Signs the tags anew; none when nothing changes.
    async fn retag(
        &self,
        name: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<()>,
    ) -> Result<Option<Posted>> {
        // One after the other, by all processes of this account: of two with one serial only one would count.
        let _lock = self.books.lock_publish().await?;
        let owner = self.account.address();
        let models = self.index.fresh(&owner).await?;
        let model = models.get(name).cloned().unwrap_or_default();
        let mut tags = model.tags.clone();
        change(&mut tags)?;
        if tags == model.tags {
            return Ok(None);
        }
        let content = ModelTags {
            name: format!("{owner}/{name}"),
            owner,
            tags,
            serial: model.serial.saturating_add(1),
            created: unix_now(),
        };
        content.check().map_err(|problem| CliError::Refused { problem })?;
        self.post(MODEL_TAGS_TYPE, &content).await.map(Some)
    }

    /// Says that a revision of an own model, or all of it, is not offered any more.
    pub(crate) async fn withdraw(&self, name: &str, commit: Option<&str>) -> Result<Posted> {
        let _lock = self.books.lock_publish().await?;
        let owner = self.account.address();
        let models = self.index.fresh(&owner).await?;
        // What was made by a clock that is ahead is meant, too.
        let made = models.get(name).into_iter().flat_map(|model| &model.revisions);
        let newest = made.map(|revision| revision.record.created).max().unwrap_or(0);
        let content = ModelWithdrawal {
            name: format!("{owner}/{name}"),
            owner,
            commit: commit.map(str::to_owned),
            created: unix_now().max(newest),
        };
        content.check().map_err(|problem| CliError::Refused { problem })?;
        self.post(MODEL_WITHDRAWAL_TYPE, &content).await
    }

    /// Lets another account read a revision of an own model. Those who hold a grant of a revision get the next one's.
    pub(crate) async fn grant(&self, record: &ModelRecord, reader: Address, terms: GrantTerms) -> Result<()> {
        let head = self.head(record).await?;
        let (wallet, key) = (self.account.wallet(), self.account.reader());
        let granted = grant_dataset(&*self.storage, wallet, key, &head, reader, terms).await;
        granted.map_err(vault("nothing was granted"))
    }

    /// Signs a report on a revision as this account, whoever has published it.
    pub(crate) async fn attest(&self, opened: &Opened, report: &Report) -> Result<Posted> {
        let json = |error: serde_json::Error| refuse("keys_json", error.to_string(), "report this");
        let content = ModelEvidence {
            verifier: self.account.address(),
            name: opened.model.clone(),
            commit: opened.revision.clone(),
            report: serde_json::to_value(report).map_err(json)?,
            created: unix_now(),
        };
        content.check().map_err(|problem| CliError::Refused { problem })?;
        self.post(MODEL_EVIDENCE_TYPE, &content).await
    }

    /// What this account said last of the same files of a revision.
    pub(crate) async fn attested(&self, opened: &Opened, manifest: &str) -> Result<Option<Report>> {
        let query = PostQuery {
            addresses: vec![self.account.address()],
            types: vec![MODEL_EVIDENCE_TYPE.to_owned()],
            ..PostQuery::default()
        };
        let posts = self.storage.posts(query).await;
        let posts = posts.map_err(vault("earlier evidence cannot be read"))?;
        let report = |post: StoredPost| -> Option<Report> {
            let evidence: ModelEvidence = serde_json::from_value(post.content).ok()?;
            let is_same = evidence.name == opened.model && evidence.commit == opened.revision;
            let report: Report = serde_json::from_value(evidence.report).ok()?;
            (is_same && report.is_consistent() && report.manifest == manifest).then_some(report)
        };
        // They come oldest first.
        Ok(posts.into_iter().filter_map(report).next_back())
    }

    /// Signs and posts a message, of which no gateway needs to know.
    pub(super) async fn post_untold(&self, kind: &str, content: &impl Serialize) -> Result<String> {
        let content = serde_json::to_value(content)
            .map_err(|error| refuse("keys_json", error.to_string(), "report this"))?;
        let message = sign_post(self.account.wallet(), kind, content, None).map_err(vault(WHAT))?;
        self.storage.publish(&message).await.map_err(vault(WHAT))?;
        Ok(message.item_hash())
    }

    /// Signs and posts a message, and tells the gateway of it.
    async fn post(&self, kind: &str, content: &impl Serialize) -> Result<Posted> {
        let message = self.post_untold(kind, content).await?;
        self.index.forget(&self.account.address());
        let untold = match self.gateway() {
            Ok(gateway) => gateway
                .add_model_message(&message)
                .await
                .err()
                .map(CliError::from),
            Err(error) => Some(error),
        };
        Ok(Posted { message, untold })
    }
}
