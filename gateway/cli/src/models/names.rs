//! Tags and withdrawals, which the owner signs, and evidence, which a verifier signs: posted, and told to a gateway.

use std::collections::BTreeMap;

use alephlab_api::model::{
    MODEL_EVIDENCE_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelEvidence, ModelRecord, ModelTags,
    ModelWithdrawal, SealedTags, TAGS_MAX, is_tag, private_name,
};
use alephlab_api::time::unix_now;
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{PostQuery, StoredPost};
use alephlab_vault::{Address, GrantTerms, grant_dataset};
use alephlab_verify::Report;
use serde::Serialize;

use super::index::Model;
use super::open::Opened;
use super::private::Secret;
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
        if !model.was_private() {
            self.index.check_clear(name, model.uuid())?;
        }
        let mut tags = model.tags.clone();
        change(&mut tags)?;
        let (hidden, shown) = parted(&model, &tags);
        let (hidden_before, shown_before) = parted(&model, &model.tags);
        let mut posted = None;
        if shown != shown_before {
            let content = ModelTags {
                name: format!("{owner}/{name}"),
                owner,
                tags: shown,
                sealed: None,
                serial: model.serial.saturating_add(1),
                created: unix_now(),
            };
            content.check().map_err(|problem| CliError::Refused { problem })?;
            posted = Some(self.post(MODEL_TAGS_TYPE, &content).await?);
        }
        if hidden != hidden_before {
            // For whoever can open the newest private revision.
            let private = model.revisions.iter().rev().map(|one| &one.record);
            let newest = private.into_iter().find(|record| model.hides(&record.commit));
            let secret = newest.and_then(|newest| Some((newest, self.index.secret(&newest.commit)?)));
            let (newest, secret) = secret.ok_or_else(|| {
                let message = format!("{name} has no private revision that opens");
                refuse("unknown_revision", message, "publish it again")
            })?;
            posted = Some(self.post_sealed_tags(&model, newest, &secret, &hidden).await?);
        }
        Ok(posted)
    }

    /// Seals the tags of private revisions beside `record`'s, in place of those that were sealed before.
    async fn post_sealed_tags(
        &self,
        model: &Model,
        record: &ModelRecord,
        secret: &Secret,
        tags: &BTreeMap<String, String>,
    ) -> Result<Posted> {
        let content = sealed_tags(model, record, secret, tags)?;
        self.post(MODEL_TAGS_TYPE, &content).await
    }

    /// Seals the tags beside the new private revision, as they are now.
    pub(super) async fn carry_tags(&self, name: &str, record: &ModelRecord, secret: &Secret) -> Result<()> {
        let _lock = self.books.lock_publish().await?;
        let models = self.index.fresh(&self.account.address()).await?;
        let carried = match models.get(name) {
            Some(model) => carried_tags(model, record, secret)?,
            None => None,
        };
        if let Some(content) = carried {
            self.post(MODEL_TAGS_TYPE, &content).await?;
        }
        Ok(())
    }

    /// Withdraws what stands of a model in the clear, because it is private from now on; why no gateway was told, if so. Where
    /// nothing stands the gateway is told again of what withdrew it: it may not have been.
    pub(super) async fn hide(&self, name: &str) -> Result<Option<CliError>> {
        let _lock = self.books.lock_publish().await?;
        let owner = self.account.address();
        let models = self.index.fresh(&owner).await?;
        let Some(model) = models.get(name) else {
            return Ok(None);
        };
        if model.has(false) {
            let posted = self.withdraw_as(format!("{owner}/{name}"), model, None).await?;
            return Ok(posted.untold);
        }
        match &model.withdrawal {
            Some(message) => Ok(self.tell_message(message).await),
            None => Ok(None),
        }
    }

    /// Says that a revision of an own model, or all of it, is not offered any more.
    pub(crate) async fn withdraw(&self, name: &str, commit: Option<&str>) -> Result<Posted> {
        let _lock = self.books.lock_publish().await?;
        let owner = self.account.address();
        let models = self.index.fresh(&owner).await?;
        let unknown = || {
            refuse(
                "unknown_model",
                format!("there is no model {name}"),
                "check the name",
            )
        };
        let model = models.get(name).cloned().ok_or_else(unknown)?;
        if let Some(commit) = commit
            && !model.ever().any(|one| one.record.commit == commit)
        {
            let message = format!("{name} has no revision {commit}");
            return Err(refuse(
                "unknown_revision",
                message,
                "`alephlab model show NAME` lists them",
            ));
        }
        if !model.was_private() {
            self.index.check_clear(name, model.uuid())?;
        }
        let clear = format!("{owner}/{name}");
        let private = model.uuid().map(|uuid| private_name(&owner, uuid));
        // Of a model that is private, or was so only, nothing is said by its name.
        let (is_private, is_clear) = match commit {
            Some(commit) => (model.hides(commit), !model.hides(commit)),
            None => {
                let is_clear = model.has(false) || !model.was_private();
                (model.has(true) || !is_clear, is_clear)
            }
        };
        let private = private.filter(|_| is_private);
        let mut posted = None;
        for name in private.into_iter().chain(is_clear.then_some(clear)) {
            let new = self.withdraw_as(name, &model, commit).await?;
            posted = Some(match posted {
                None => new,
                Some(Posted { message, untold }) => Posted {
                    message,
                    untold: new.untold.or(untold),
                },
            });
        }
        posted.ok_or_else(unknown)
    }

    async fn withdraw_as(&self, name: String, model: &Model, commit: Option<&str>) -> Result<Posted> {
        let content = withdrawal(self.account.address(), name, model, commit);
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
    ///
    /// # Errors
    /// For a private model: evidence is public, and says what is in the files.
    pub(crate) async fn attest(&self, opened: &Opened, report: &Report) -> Result<Posted> {
        if opened.is_private {
            return Err(refuse(
                "model_private",
                format!("{} is private, and evidence is public", opened.model),
                "check it without --attest; the report stays on this machine",
            ));
        }
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

    /// All that this account said of the same files of a revision, oldest first.
    pub(crate) async fn attested(&self, opened: &Opened, manifest: &str) -> Result<Vec<Report>> {
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
        Ok(posts.into_iter().filter_map(report).collect())
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
    pub(super) async fn post(&self, kind: &str, content: &impl Serialize) -> Result<Posted> {
        let message = self.post_untold(kind, content).await?;
        self.index.forget(&self.account.address());
        let untold = self.tell_message(&message).await;
        Ok(Posted { message, untold })
    }

    /// Tells the gateway of tags, a withdrawal or evidence; what it says against that, if it does.
    async fn tell_message(&self, message: &str) -> Option<CliError> {
        match self.gateway() {
            Ok(gateway) => gateway.add_model_message(message).await.err().map(CliError::from),
            Err(error) => Some(error),
        }
    }
}

/// Says that a revision of a model, or all that stands of it, is not offered any more.
pub(crate) fn withdrawal(
    owner: String,
    name: String,
    model: &Model,
    commit: Option<&str>,
) -> ModelWithdrawal {
    // What was made by a clock that is ahead is meant, too.
    let made = model.revisions.iter().map(|revision| revision.record.created);
    ModelWithdrawal {
        name,
        owner,
        commit: commit.map(str::to_owned),
        created: made.fold(unix_now(), u64::max),
    }
}

/// The tags of private revisions, sealed for whoever can open the new one: not all of them can open the one before. None
/// where there are none, or they are sealed beside it or a newer one already.
pub(crate) fn carried_tags(
    model: &Model,
    record: &ModelRecord,
    secret: &Secret,
) -> Result<Option<ModelTags>> {
    let mut private = model.revisions.iter().map(|one| &one.record.commit);
    let is_old = private
        .rfind(|commit| model.hides(commit))
        .is_some_and(|newest| *newest != record.commit && model.hides(&record.commit));
    let (hidden, _) = parted(model, &model.tags);
    if hidden.is_empty() || is_old || model.tags_at.as_ref() == Some(&record.commit) {
        return Ok(None);
    }
    sealed_tags(model, record, secret, &hidden).map(Some)
}

/// These tags, sealed beside a private revision in place of those that were sealed before.
fn sealed_tags(
    model: &Model,
    record: &ModelRecord,
    secret: &Secret,
    tags: &BTreeMap<String, String>,
) -> Result<ModelTags> {
    let mut content = ModelTags {
        name: private_name(&record.owner, record.uuid),
        owner: record.owner.clone(),
        tags: BTreeMap::new(),
        sealed: None,
        serial: model.private_serial.saturating_add(1),
        created: unix_now(),
    };
    content.sealed = Some(SealedTags {
        commit: record.commit.clone(),
        text: secret.seal(&content.about(), tags)?,
    });
    content.check().map_err(|problem| CliError::Refused { problem })?;
    Ok(content)
}

/// Tags of private revisions, and those of others.
fn parted(
    model: &Model,
    tags: &BTreeMap<String, String>,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    // What is not known of a model that has private revisions is not shown either.
    let has_private = model.ever().any(|one| model.hides(&one.record.commit));
    let is_known = |commit: &str| model.ever().any(|one| one.record.commit == commit);
    let tags = tags.clone().into_iter();
    tags.partition(|(_, commit)| model.hides(commit) || (has_private && !is_known(commit)))
}
