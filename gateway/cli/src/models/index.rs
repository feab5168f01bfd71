//! What the owner of models has signed about them, read from Aleph: revisions, tags and withdrawals. No gateway is asked or
//! trusted; what is malformed or signed by somebody else is as if it was not there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::model::{
    MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelRecord, ModelTags, ModelWithdrawal,
};
use alephlab_vault::storage::{PostQuery, Storage, StoredPost};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::vault;
use crate::error::Result;

/// Owners whose models are kept in memory.
const OWNERS_MAX: usize = 256;
const WHAT: &str = "the models were not found";

/// One revision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Revision {
    /// What its owner signed.
    pub(crate) record: Arc<ModelRecord>,
    /// Item hash of the record's message.
    pub(crate) message: String,
    /// Signed time of that message, unix seconds.
    time: f64,
}

/// One model, as its owner's messages say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    /// Revisions that are not withdrawn, oldest first.
    pub(crate) revisions: Vec<Revision>,
    /// Those that are.
    pub(crate) withdrawn: Vec<Revision>,
    /// Tag to revision; none names one that is not there.
    pub(crate) tags: BTreeMap<String, String>,
    /// Serial of those tags, zero for none.
    pub(crate) serial: u64,
    /// Until when what was made is withdrawn, unix seconds; zero for never.
    pub(crate) withdrawn_until: u64,
}

impl Model {
    /// The revision that `main` stands for.
    pub(crate) fn newest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// Every revision that was ever made, withdrawn ones first.
    pub(crate) fn ever(&self) -> impl Iterator<Item = &Revision> {
        self.withdrawn.iter().chain(&self.revisions)
    }

    /// The revision of a branch, tag or commit.
    pub(crate) fn find(&self, name: &str) -> Option<&Revision> {
        let tagged = |tag: &str| self.commit(self.tags.get(tag)?);
        match name {
            "main" | "refs/heads/main" => self.newest(),
            _ => match name.strip_prefix("refs/tags/") {
                Some(tag) => tagged(tag),
                None => tagged(name).or_else(|| self.commit(name)),
            },
        }
    }

    fn commit(&self, commit: &str) -> Option<&Revision> {
        self.revisions
            .iter()
            .find(|revision| revision.record.commit == commit)
    }

    /// Its identity across revisions.
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        self.ever().last().map(|revision| revision.record.uuid)
    }
}

/// Models of one owner by plain name. Those of which everything is withdrawn are among them.
pub(crate) type Models = BTreeMap<String, Model>;

/// Reads and remembers what owners have signed.
pub(crate) struct Index {
    storage: Arc<dyn Storage>,
    known: Mutex<HashMap<String, (Instant, Arc<Models>)>>,
}

impl Index {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            known: Mutex::default(),
        }
    }

    /// All models of an owner, by the newest messages.
    pub(crate) async fn fresh(&self, owner: &str) -> Result<Arc<Models>> {
        let query = PostQuery {
            addresses: vec![owner.to_owned()],
            types: [MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE]
                .map(str::to_owned)
                .to_vec(),
            ..PostQuery::default()
        };
        let posts = self.storage.posts(query).await.map_err(vault(WHAT))?;
        let models = Arc::new(read(owner, posts));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= OWNERS_MAX {
            known.clear();
        }
        known.insert(owner.to_owned(), (Instant::now(), Arc::clone(&models)));
        Ok(models)
    }

    /// The same, as it was read at most so long ago.
    pub(crate) async fn recent(&self, owner: &str, age: Duration) -> Result<Arc<Models>> {
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let found = known.get(owner).filter(|(read, _)| read.elapsed() < age);
            found.map(|(_, models)| Arc::clone(models))
        };
        match known {
            Some(models) => Ok(models),
            None => self.fresh(owner).await,
        }
    }

    /// Reads an owner's messages anew when they are asked for next.
    pub(crate) fn forget(&self, owner: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(owner);
    }
}

/// What the posts of one owner say.
fn read(owner: &str, mut posts: Vec<StoredPost>) -> Models {
    posts.retain(|post| post.sender.eq_ignore_ascii_case(owner) && post.address.eq_ignore_ascii_case(owner));
    posts.sort_by(|one, two| one.time.total_cmp(&two.time));
    let mut models = Models::new();
    let mut withdrawals = Vec::new();
    let mut tags: BTreeMap<String, (ModelTags, String)> = BTreeMap::new();
    for post in posts {
        match post.post_type.as_str() {
            MODEL_RECORD_TYPE => {
                let Some(record) = parsed::<ModelRecord>(&post, |record| record.check().is_ok()) else {
                    continue;
                };
                let Some(name) = own_name(owner, &record.owner, &record.name) else {
                    continue;
                };
                let model = models.entry(name).or_default();
                // The first record of a revision stays: revisions do not change.
                if !model
                    .revisions
                    .iter()
                    .any(|known| known.record.commit == record.commit)
                {
                    model.revisions.push(Revision {
                        record: Arc::new(record),
                        message: post.item_hash,
                        time: post.time,
                    });
                }
            }
            MODEL_TAGS_TYPE => {
                let Some(new) = parsed::<ModelTags>(&post, |tags| tags.check().is_ok()) else {
                    continue;
                };
                let Some(name) = own_name(owner, &new.owner, &new.name) else {
                    continue;
                };
                let counts = tags.get(&name).is_none_or(|(known, message)| {
                    new.serial > known.serial || (new.serial == known.serial && post.item_hash < *message)
                });
                if counts {
                    tags.insert(name, (new, post.item_hash));
                }
            }
            _ => withdrawals.extend(parsed::<ModelWithdrawal>(&post, |one| one.check().is_ok())),
        }
    }
    for withdrawal in withdrawals {
        if let Some(name) = own_name(owner, &withdrawal.owner, &withdrawal.name)
            && let Some(model) = models.get_mut(&name)
        {
            withdraw(model, &withdrawal);
        }
    }
    for (name, (found, _)) in tags {
        if let Some(model) = models.get_mut(&name) {
            model.serial = found.serial;
            let is_there = |commit: &String| model.revisions.iter().any(|one| one.record.commit == *commit);
            model.tags = found
                .tags
                .into_iter()
                .filter(|(_, commit)| is_there(commit))
                .collect();
        }
    }
    models
}

fn withdraw(model: &mut Model, withdrawal: &ModelWithdrawal) {
    let is_meant = |revision: &Revision| match &withdrawal.commit {
        Some(commit) => revision.record.commit == *commit,
        None => revision.record.created <= withdrawal.created,
    };
    if withdrawal.commit.is_none() {
        model.withdrawn_until = model.withdrawn_until.max(withdrawal.created);
    }
    let all = std::mem::take(&mut model.revisions).into_iter();
    let (gone, stay): (Vec<_>, Vec<_>) = all.partition(is_meant);
    model.revisions = stay;
    model.withdrawn.extend(gone);
    model.withdrawn.sort_by(|one, two| one.time.total_cmp(&two.time));
}

fn parsed<T: DeserializeOwned>(post: &StoredPost, is_well_formed: impl Fn(&T) -> bool) -> Option<T> {
    let parsed = serde_json::from_value(post.content.clone()).ok();
    parsed.filter(is_well_formed)
}

/// The plain name, if it is the owner's own model that is spoken of.
fn own_name(owner: &str, signed: &str, name: &str) -> Option<String> {
    let (of, plain) = name.split_once('/')?;
    (signed.eq_ignore_ascii_case(owner) && of.eq_ignore_ascii_case(owner)).then(|| plain.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OWNER: &str = "0x1111111111111111111111111111111111111111";

    fn post(kind: &str, time: f64, content: serde_json::Value) -> StoredPost {
        StoredPost {
            item_hash: format!("{time:064}"),
            sender: OWNER.into(),
            address: OWNER.into(),
            post_type: kind.into(),
            content,
            time,
            reference: None,
        }
    }

    fn record(letter: &str, created: u64) -> StoredPost {
        let record = ModelRecord {
            owner: OWNER.into(),
            name: format!("{OWNER}/digits"),
            commit: letter.repeat(40),
            price: "free".into(),
            head: "b".repeat(64),
            created,
            ..ModelRecord::default()
        };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let time = created as f64;
        post(MODEL_RECORD_TYPE, time, json!(record))
    }

    fn tags(serial: u64, commit: &str) -> StoredPost {
        let tags = ModelTags {
            owner: OWNER.into(),
            name: format!("{OWNER}/digits"),
            tags: BTreeMap::from([("v1".to_owned(), commit.repeat(40))]),
            serial,
            created: 1,
        };
        post(MODEL_TAGS_TYPE, 9.0, json!(tags))
    }

    fn withdrawal(commit: Option<&str>, created: u64) -> StoredPost {
        let withdrawal = ModelWithdrawal {
            owner: OWNER.into(),
            name: format!("{OWNER}/digits"),
            commit: commit.map(|letter| letter.repeat(40)),
            created,
        };
        post(MODEL_WITHDRAWAL_TYPE, 10.0, json!(withdrawal))
    }

    #[test]
    fn the_newest_message_of_each_kind_counts_and_foreign_ones_do_not() {
        let mut foreign = record("f", 8);
        foreign.sender = "0x2222222222222222222222222222222222222222".into();
        let posts = vec![
            record("b", 2),
            record("a", 1),
            tags(2, "b"),
            tags(1, "a"),
            foreign,
        ];
        let models = read(OWNER, posts);
        let model = &models["digits"];
        let commits: Vec<_> = model
            .revisions
            .iter()
            .map(|one| &one.record.commit[..1])
            .collect();
        assert_eq!(commits, ["a", "b"]);
        assert_eq!(model.find("v1").unwrap().record.commit, "b".repeat(40));
        assert_eq!(model.find("main"), model.newest());
        assert_eq!(model.find(&"a".repeat(40)).unwrap().record.created, 1);
        assert!(model.find("v2").is_none());
    }

    #[test]
    fn what_is_withdrawn_is_gone_and_may_begin_anew() {
        let all = || vec![record("a", 1), record("b", 2), tags(1, "a")];
        let one = read(OWNER, [all(), vec![withdrawal(Some("a"), 5)]].concat());
        assert_eq!(one["digits"].revisions.len(), 1);
        assert!(one["digits"].tags.is_empty(), "a tag of what is gone");
        let whole = [all(), vec![withdrawal(None, 2)]].concat();
        assert!(read(OWNER, whole.clone())["digits"].newest().is_none());
        let anew = read(OWNER, [whole, vec![record("c", 3)]].concat());
        assert_eq!(anew["digits"].revisions.len(), 1);
        assert_eq!(anew["digits"].ever().count(), 3);
    }
}
