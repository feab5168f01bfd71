//! What the owner of models has signed about them, read from Aleph: revisions, tags and withdrawals. No gateway is asked or
//! trusted; what is malformed or signed by somebody else is as if it was not there, and so is what is sealed for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::market::{MODEL_TERMS_TYPE, ModelTerms};
use alephlab_api::model::{
    MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelRecord, ModelTags, ModelWithdrawal,
    Visibility, private_uuid,
};
use alephlab_vault::Address;
use alephlab_vault::storage::{PostQuery, Storage, StoredPost};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::private::{Secret, Unsealed, Unsealer};
use super::{refuse, vault};
use crate::account::Account;
use crate::error::Result;

/// Owners whose models are kept in memory.
const OWNERS_MAX: usize = 256;
const WHAT: &str = "the models were not found";

/// One revision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Revision {
    /// What its owner signed; of a private one what was sealed in it.
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
    /// Serial of those of them that are sealed.
    pub(crate) private_serial: u64,
    /// The private revision beside which those are sealed.
    pub(crate) tags_at: Option<String>,
    /// Until when what was made is withdrawn, unix seconds; zero for never.
    pub(crate) withdrawn_until: u64,
    /// Item hash of the message by which all that was in the clear was withdrawn last.
    pub(crate) withdrawal: Option<String>,
    /// What its owner asked for it, the one that counts last.
    pub(crate) terms: Vec<ModelTerms>,
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

    /// A sealed revision that was withdrawn: it is still read by who has bought it.
    pub(crate) fn withdrawn_at(&self, commit: &str) -> Option<&Revision> {
        let mut all = self.withdrawn.iter();
        all.find(|one| one.record.commit == commit && one.record.visibility == Visibility::Sealed)
    }

    /// Whether this is a private revision of it.
    pub(crate) fn hides(&self, commit: &str) -> bool {
        self.ever()
            .any(|one| one.record.commit == commit && one.record.visibility == Visibility::Private)
    }

    /// Whether a revision of it stands whose record is in the clear, or sealed.
    pub(crate) fn has(&self, private: bool) -> bool {
        self.revisions
            .iter()
            .any(|one| (one.record.visibility == Visibility::Private) == private)
    }

    /// Whether there ever was a private revision of it.
    pub(crate) fn was_private(&self) -> bool {
        self.ever()
            .any(|one| one.record.visibility == Visibility::Private)
    }

    /// Whether the next revision is private unless its owner says otherwise: the last one was, or the last that stands.
    pub(crate) fn stays_private(&self) -> bool {
        let last = self.ever().max_by(|one, two| one.time.total_cmp(&two.time));
        let mut both = [last, self.newest()].into_iter().flatten();
        both.any(|one| one.record.visibility == Visibility::Private)
    }

    /// What its owner asks for its sealed revisions now.
    pub(crate) fn asks(&self) -> Option<&ModelTerms> {
        self.asked_at(u64::MAX)
    }

    /// What its owner asked at that time, unix seconds. Who withdraws a whole model asks nothing any more.
    pub(crate) fn asked_at(&self, time: u64) -> Option<&ModelTerms> {
        let made = |terms: &&ModelTerms| terms.created <= time && terms.created > self.withdrawn_until;
        self.terms.iter().rev().find(made)
    }

    /// Its identity across revisions.
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        self.ever().last().map(|revision| revision.record.uuid)
    }
}

/// Models of one owner by plain name. Those of which everything is withdrawn are among them.
pub(crate) type Models = BTreeMap<String, Model>;

/// The model of this plain name, or the private one that this UUID stands for, and its name.
pub(crate) fn named<'a>(models: &'a Models, name: &str) -> Option<(&'a str, &'a Model)> {
    let found = match private_uuid(name) {
        None => models.get_key_value(name),
        Some(uuid) => models.iter().find(|(_, model)| {
            let is = |one: &Revision| one.record.visibility == Visibility::Private && one.record.uuid == uuid;
            model.ever().any(is)
        }),
    };
    found.map(|(name, model)| (name.as_str(), model))
}

/// Reads and remembers what owners have signed.
pub(crate) struct Index {
    storage: Arc<dyn Storage>,
    unsealer: Unsealer,
    known: Mutex<HashMap<String, (Instant, Arc<Models>)>>,
    own: String,
    /// Own private models of which a revision did not open when they were read last.
    closed: Mutex<BTreeSet<Uuid>>,
}

impl Index {
    /// As `account` sees them.
    pub(crate) fn new(account: Arc<Account>, storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            own: account.address(),
            unsealer: Unsealer::new(account),
            known: Mutex::default(),
            closed: Mutex::default(),
        }
    }

    /// All models of an owner, by the newest messages.
    pub(crate) async fn fresh(&self, owner: &str) -> Result<Arc<Models>> {
        let query = PostQuery {
            addresses: vec![owner.to_owned()],
            types: [
                MODEL_RECORD_TYPE,
                MODEL_TAGS_TYPE,
                MODEL_WITHDRAWAL_TYPE,
                MODEL_TERMS_TYPE,
            ]
            .map(str::to_owned)
            .to_vec(),
            ..PostQuery::default()
        };
        let posts = self.storage.posts(query).await.map_err(vault(WHAT))?;
        let unsealed = self.unsealer.unseal(&self.storage, owner, &posts).await?;
        if self.own.eq_ignore_ascii_case(owner) {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            closed.clone_from(&unsealed.closed);
        }
        let models = Arc::new(read(owner, posts, unsealed));
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

    /// Refuses to say something in the clear of an own model that may be one of the private ones which did not open when they
    /// were read last. `known` is its UUID, where it was published before.
    pub(crate) fn check_clear(&self, name: &str, known: Option<Uuid>) -> Result<()> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let may_be = known.map_or(!closed.is_empty(), |uuid| closed.contains(&uuid));
        match may_be {
            false => Ok(()),
            true => Err(refuse(
                "private_closed",
                format!("a private model of this account does not open here, and {name} may be it"),
                "try again in a moment, or on the machine that published it; or publish from a shell and say which it is to \
                 be: --private, --sealed or --public",
            )),
        }
    }

    /// The secret of a private revision that was read.
    pub(super) fn secret(&self, commit: &str) -> Option<Arc<Secret>> {
        self.unsealer.secret(commit)
    }

    /// Reads an owner's messages anew when they are asked for next.
    pub(crate) fn forget(&self, owner: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(owner);
    }
}

/// What the posts of one owner say, with what was sealed in some of them.
fn read(owner: &str, mut posts: Vec<StoredPost>, mut unsealed: Unsealed) -> Models {
    posts.retain(|post| post.sender.eq_ignore_ascii_case(owner) && post.address.eq_ignore_ascii_case(owner));
    posts.sort_by(|one, two| one.time.total_cmp(&two.time));
    let mut reading = Reading {
        owner,
        ..Reading::default()
    };
    let mut withdrawals = Vec::new();
    for post in &posts {
        match post.post_type.as_str() {
            MODEL_RECORD_TYPE => reading.record(post, unsealed.records.remove(&post.item_hash)),
            MODEL_TAGS_TYPE => reading.tags(post, unsealed.tags.remove(&post.item_hash)),
            MODEL_TERMS_TYPE => reading.terms(post),
            _ => {
                let withdrawal = parsed::<ModelWithdrawal>(post, |one| one.check().is_ok());
                withdrawals.extend(withdrawal.map(|one| (one, post)));
            }
        }
    }
    for (withdrawal, post) in withdrawals {
        reading.withdraw(&withdrawal, &post.item_hash);
    }
    reading.finish()
}

/// What has been read of an owner's posts.
#[derive(Default)]
struct Reading<'a> {
    owner: &'a str,
    models: Models,
    /// What private models that open are called.
    names: BTreeMap<Uuid, String>,
    /// By the name in the clear, the ones that count, with the item hash of their message.
    tags: BTreeMap<String, (ModelTags, String)>,
    /// With the item hash of their message.
    terms: Vec<(ModelTerms, String)>,
}

impl Reading<'_> {
    fn record(&mut self, post: &StoredPost, sealed: Option<ModelRecord>) {
        let Some(clear) = parsed::<ModelRecord>(post, |record| record.check().is_ok()) else {
            return;
        };
        let record = match (clear.visibility, sealed) {
            // Not for this account.
            (Visibility::Private, None) => return,
            (Visibility::Private, Some(record)) => record,
            (..) => clear,
        };
        let Some(name) = own_name(self.owner, &record.owner, &record.name) else {
            return;
        };
        if record.visibility == Visibility::Private {
            self.names.entry(record.uuid).or_insert_with(|| name.clone());
        }
        let model = self.models.entry(name).or_default();
        // The first record of a revision stays: revisions do not change.
        if !model.ever().any(|known| known.record.commit == record.commit) {
            model.revisions.push(Revision {
                record: Arc::new(record),
                message: post.item_hash.clone(),
                time: post.time,
            });
        }
    }

    fn tags(&mut self, post: &StoredPost, sealed: Option<BTreeMap<String, String>>) {
        let Some(mut new) = parsed::<ModelTags>(post, |tags| tags.check().is_ok()) else {
            return;
        };
        if !new.owner.eq_ignore_ascii_case(self.owner) {
            return;
        }
        if let Some(sealed) = sealed {
            new.tags = sealed;
        }
        let counts = self.tags.get(&new.name).is_none_or(|(known, message)| {
            new.serial > known.serial || (new.serial == known.serial && post.item_hash < *message)
        });
        if counts {
            self.tags.insert(new.name.clone(), (new, post.item_hash.clone()));
        }
    }

    fn terms(&mut self, post: &StoredPost) {
        // As gateways take them in: an address in another spelling would be somebody else.
        let is_spelled = |text: &str| {
            text.parse::<Address>()
                .is_ok_and(|address| address.to_string() == text)
        };
        let holds = |terms: &ModelTerms| terms.check().is_ok() && terms.addresses().all(is_spelled);
        if let Some(new) = parsed::<ModelTerms>(post, holds) {
            self.terms.push((new, post.item_hash.clone()));
        }
    }

    /// The model that is spoken of in the clear; what is said of a private one does not concern public revisions, and the other
    /// way about.
    fn spoken_of(&mut self, signed: &str, name: &str) -> Option<(&mut Model, bool)> {
        let plain = own_name(self.owner, signed, name)?;
        let (plain, private) = match private_uuid(&plain) {
            Some(uuid) => (self.names.get(&uuid)?.clone(), true),
            None => (plain, false),
        };
        Some((self.models.get_mut(&plain)?, private))
    }

    fn withdraw(&mut self, withdrawal: &ModelWithdrawal, message: &str) {
        if let Some((model, private)) = self.spoken_of(&withdrawal.owner, &withdrawal.name) {
            withdraw(model, withdrawal, private);
            if !private && withdrawal.commit.is_none() {
                model.withdrawal = Some(message.to_owned());
            }
        }
    }

    fn finish(mut self) -> Models {
        let mut terms = std::mem::take(&mut self.terms);
        // As gateways have it: the latest counts, and of equal ones that of the smaller message.
        terms.sort_by(|(one, at), (two, there)| one.created.cmp(&two.created).then_with(|| there.cmp(at)));
        for (new, _) in terms {
            if let Some((model, false)) = self.spoken_of(&new.owner, &new.name) {
                model.terms.push(new);
            }
        }
        for (name, (found, _)) in std::mem::take(&mut self.tags) {
            let Some((model, private)) = self.spoken_of(&found.owner, &name) else {
                continue;
            };
            let serial = match private {
                true => &mut model.private_serial,
                false => &mut model.serial,
            };
            *serial = found.serial;
            if private {
                model.tags_at = found.sealed.as_ref().map(|sealed| sealed.commit.clone());
            }
            let is_there = |commit: &String| {
                let of_kind = |one: &Revision| (one.record.visibility == Visibility::Private) == private;
                let is = |one: &Revision| one.record.commit == *commit && of_kind(one);
                model.revisions.iter().any(is)
            };
            let tags: Vec<_> = found
                .tags
                .into_iter()
                .filter(|(_, commit)| is_there(commit))
                .collect();
            model.tags.extend(tags);
        }
        self.models
    }
}

fn withdraw(model: &mut Model, withdrawal: &ModelWithdrawal, private: bool) {
    let is_meant = |revision: &Revision| {
        let record = &revision.record;
        (record.visibility == Visibility::Private) == private
            && match &withdrawal.commit {
                Some(commit) => record.commit == *commit,
                None => record.created <= withdrawal.created,
            }
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
    use alephlab_api::model::private_name;
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
            sealed: None,
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

    fn clear(posts: Vec<StoredPost>) -> Models {
        read(OWNER, posts, Unsealed::default())
    }

    /// A private revision of the same model, as it is posted and as it opens.
    fn private(letter: &str, created: u64) -> (StoredPost, (String, ModelRecord)) {
        let clear: ModelRecord = serde_json::from_value(record(letter, created).content).unwrap();
        let inner = ModelRecord {
            visibility: Visibility::Private,
            ..clear
        };
        let mut post = record(letter, created);
        post.content = json!(inner.covered("sealed".into()));
        (post.clone(), (post.item_hash, inner))
    }

    #[test]
    fn what_is_sealed_is_there_for_who_opens_it_and_apart_from_what_is_not() {
        let (post, opened) = private("b", 2);
        let posts = || vec![record("a", 1), post.clone(), tags(1, "b")];
        assert_eq!(clear(posts())["digits"].revisions.len(), 1);
        let unsealed = || Unsealed {
            records: [opened.clone()].into(),
            ..Unsealed::default()
        };
        let both = read(OWNER, posts(), unsealed());
        let model = &both["digits"];
        assert_eq!(model.newest().unwrap().record.visibility, Visibility::Private);
        assert!(
            model.tags.is_empty(),
            "tags in the clear name nothing that is sealed"
        );
        let uuid = private_name(OWNER, Uuid::nil());
        let plain = uuid.rsplit('/').next().unwrap();
        assert_eq!(named(&both, plain).unwrap().0, "digits");
        assert!(named(&clear(vec![record("a", 1)]), plain).is_none());
        // A withdrawal is of the one or of the other.
        let shown = read(OWNER, [posts(), vec![withdrawal(None, 9)]].concat(), unsealed());
        assert_eq!(shown["digits"].revisions, both["digits"].revisions[1..]);
        let mut of_private = withdrawal(None, 9);
        of_private.content["name"] = json!(uuid);
        let shown = read(OWNER, [posts(), vec![of_private]].concat(), unsealed());
        assert_eq!(shown["digits"].revisions, both["digits"].revisions[..1]);
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
        let models = clear(posts);
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
        let one = clear([all(), vec![withdrawal(Some("a"), 5)]].concat());
        assert_eq!(one["digits"].revisions.len(), 1);
        assert!(one["digits"].tags.is_empty(), "a tag of what is gone");
        let whole = [all(), vec![withdrawal(None, 2)]].concat();
        assert!(clear(whole.clone())["digits"].newest().is_none());
        let anew = clear([whole, vec![record("c", 3)]].concat());
        assert_eq!(anew["digits"].revisions.len(), 1);
        assert_eq!(anew["digits"].ever().count(), 3);
    }
}
