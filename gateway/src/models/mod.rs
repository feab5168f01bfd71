//! The registry's side of the gateway: which signed messages there are of models, and what follows from them.
//!
//! [`ingest`] looks at one message and verifies it, `store::models` writes it down, [`history`] says what follows, and
//! [`Models`] keeps the index in memory as the database has it. Who may read what is `library`'s business.

mod badge;
mod follow;
mod history;
mod ingest;
pub(crate) mod private;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use alephlab_api::market::{IndexedTerms, ModelTerms, ReleaseWay};
use alephlab_api::model::{IndexedEvidence, IndexedModel, ModelPage, ModelRecord, Visibility};
use alephlab_api::money::{Amount, Asset};
use alephlab_registry::{Gated, RepoInfo};
use alephlab_vault::Address;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::error::Result;
use crate::index::{Badge, Entry, Index};
use crate::recent::Recent;
use crate::store::{History, Store};
use follow::Following;

#[cfg(test)]
pub(crate) use badge::scanned;
pub(crate) use badge::{Standing, report, standing};
pub(crate) use follow::{follow, told};
pub(crate) use ingest::{Said, look, open_public};

/// Records that are read at once when the gateway starts.
const PART: i64 = 2000;
/// Models that are kept as the Hub's routes answer them. One of a few files takes some KiB.
const RECENT: usize = 16_384;
/// Files of all revisions of a model that is kept so; larger ones are read each time.
const RECENT_FILES: usize = 2_000;

/// Models as this gateway knows them.
pub(crate) struct Models {
    index: Arc<Index>,
    store: Store,
    /// Addresses whose evidence counts for a badge.
    verifiers: Vec<String>,
    /// Address of this gateway's receipt key, by which terms name it.
    signer: String,
    /// One change at a time is written and taken into the index, so that the later one is what stays there.
    turn: Mutex<()>,
    recent: Recent<Arc<Listing>>,
    pub(crate) following: Following,
}

/// One model as the Hub's routes answer it.
pub(crate) struct Listing {
    /// Each revision, newest first.
    pub(crate) revisions: Vec<Arc<Listed>>,
    /// All tags, in order, each with its revision.
    pub(crate) tags: Vec<(String, String)>,
}

/// One revision in it.
pub(crate) struct Listed {
    pub(crate) info: RepoInfo,
    pub(crate) visibility: Visibility,
    /// What it costs, where it is sold here.
    pub(crate) price: Option<Amount>,
    /// Its key is deposited here: who pays can be given it at once.
    pub(crate) is_deposited: bool,
    /// The gateway that it is sold at, where that is another.
    pub(crate) elsewhere: Option<String>,
}

impl Models {
    /// Reads all that the database has into the index.
    pub(crate) async fn open(
        store: Store,
        index: Arc<Index>,
        verifiers: &[Address],
        signer: String,
    ) -> Result<Self> {
        let models = Self {
            index,
            store,
            verifiers: verifiers.iter().map(Address::to_string).collect(),
            signer,
            turn: Mutex::default(),
            recent: Recent::new(RECENT),
            following: Following::default(),
        };
        models.load().await?;
        Ok(models)
    }

    /// Takes a verified message in, and the index with it.
    pub(crate) async fn take_in(&self, said: &Said) -> Result<()> {
        let _turn = self.turn.lock().await;
        said.write(&self.store).await?;
        self.refresh(said.name()).await
    }

    /// All that is offered of a model, by its name with the owner's address in any case.
    pub(crate) async fn page(&self, name: &str) -> Result<Option<ModelPage>> {
        let Some(name) = canonical(name) else {
            return Ok(None);
        };
        let history = self.history(&name).await?;
        Ok(page(&history, &self.signer))
    }

    /// The same as the Hub's routes answer it.
    pub(crate) async fn listing(&self, name: &str) -> Result<Option<Arc<Listing>>> {
        let Some(name) = canonical(name) else {
            return Ok(None);
        };
        // Nobody's database is asked for what is not there.
        if self.index.get(&name).is_none() {
            return Ok(None);
        }
        if let Some(listing) = self.recent.get(&name) {
            return Ok(Some(listing));
        }
        let version = self.recent.version();
        let history = self.history(&name).await?;
        let Some(page) = page(&history, &self.signer) else {
            return Ok(None);
        };
        let listing = Arc::new(Listing::of(&page, &history.deposited));
        let files: usize = listing.revisions.iter().map(|one| one.info.files.len()).sum();
        if files <= RECENT_FILES {
            self.recent.put(&name, Arc::clone(&listing), version);
        }
        Ok(Some(listing))
    }

    /// Counts a download of a file, once a day for each `who`.
    pub(crate) async fn downloaded(&self, name: &str, who: &[u8; 32], day: u64) -> Result<()> {
        if self.store.count_download(name, who, day).await? {
            self.index.change(name, |entry| entry.downloads += 1);
            self.recent.forget(name);
        }
        Ok(())
    }

    /// Whether this gateway sells it.
    fn is_here(&self, terms: &ModelTerms) -> bool {
        terms.gateway.eq_ignore_ascii_case(&self.signer)
    }

    async fn history(&self, name: &str) -> Result<History> {
        let mut history = self.store.history(name).await?;
        let owner = name.split('/').next().unwrap_or_default();
        for one in &mut history.evidence {
            one.counts = self.counts(one, owner);
        }
        Ok(history)
    }

    fn counts(&self, evidence: &IndexedEvidence, owner: &str) -> bool {
        let verifier = &evidence.evidence.verifier;
        verifier != owner && self.verifiers.contains(verifier)
    }

    /// Takes note that what is sold of a model has changed without a message of its owner.
    pub(crate) async fn look_again(&self, name: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.refresh(name).await
    }

    /// Puts into the index what the database has under a name.
    async fn refresh(&self, name: &str) -> Result<()> {
        let history = self.history(name).await?;
        self.put(name, &history);
        Ok(())
    }

    fn put(&self, name: &str, history: &History) {
        self.recent.forget(name);
        let offered = history::offered(history);
        let Some(newest) = offered.first() else {
            return self.index.remove(name);
        };
        let record = &newest.record;
        // Nothing of it is to be found by anybody but its owner, who looks elsewhere.
        if record.visibility == Visibility::Private {
            return self.index.remove(name);
        }
        let created = offered
            .iter()
            .map(|one| one.record.created)
            .min()
            .unwrap_or_default();
        let standing = standing(record, &history.evidence);
        self.index.put(Entry {
            downloads: history.downloads,
            badge: standing.badge,
            reproduced: standing.reproduced(),
            price: history::terms(history)
                .filter(|stored| self.is_here(&stored.terms))
                .and_then(|stored| asked(record, &stored.terms, &history.deposited)),
            ..Entry::of(record, created)
        });
    }

    /// In parts, by name: a history is put in when all its records are read.
    async fn load(&self) -> Result<()> {
        let mut rest: HashMap<String, History> = HashMap::new();
        for withdrawal in self.store.withdrawals().await? {
            let of = rest.entry(withdrawal.name.clone()).or_default();
            of.withdrawals.push(withdrawal);
        }
        for stored in self.store.all_terms().await? {
            let name = stored.terms.name.clone();
            rest.entry(name).or_default().terms = Some(stored);
        }
        for (name, revision) in self.store.all_deposited().await? {
            rest.entry(name).or_default().deposited.push(revision);
        }
        for (name, downloads) in self.store.downloads().await? {
            rest.entry(name).or_default().downloads = downloads;
        }
        for verifier in self.verifiers.iter().collect::<BTreeSet<_>>() {
            for mut one in self.store.evidence_of(verifier).await? {
                let name = one.evidence.name.clone();
                one.counts = self.counts(&one, name.split('/').next().unwrap_or_default());
                rest.entry(name).or_default().evidence.push(one);
            }
        }
        let mut records: Vec<IndexedModel> = Vec::new();
        let mut after = (String::new(), String::new());
        loop {
            let part = self.store.records_after((&after.0, &after.1), PART).await?;
            let ended = part.is_empty();
            if let Some(last) = part.last() {
                after = (last.record.name.clone(), last.record.commit.clone());
            }
            for record in part {
                if records
                    .last()
                    .is_some_and(|last| last.record.name != record.record.name)
                {
                    self.put_records(std::mem::take(&mut records), &mut rest);
                }
                records.push(record);
            }
            if ended {
                self.put_records(records, &mut rest);
                return Ok(());
            }
        }
    }

    fn put_records(&self, records: Vec<IndexedModel>, rest: &mut HashMap<String, History>) {
        let Some(name) = records.first().map(|one| one.record.name.clone()) else {
            return;
        };
        let mut history = rest.remove(&name).unwrap_or_default();
        history.records = records;
        self.put(&name, &history);
    }
}

impl Listing {
    fn of(page: &ModelPage, deposited: &[String]) -> Self {
        let created = page.revisions.iter().map(|one| one.record.created).min();
        let of_revision = |one: &IndexedModel| {
            let record = &one.record;
            let named = page
                .tags
                .iter()
                .filter(|(_, revision)| **revision == record.commit);
            let standing = standing(record, &page.evidence);
            let is_public = record.visibility == Visibility::Public;
            let asked = page.terms.as_ref().and_then(|indexed| {
                let price = asked(record, &indexed.terms, deposited)?;
                Some((price, indexed))
            });
            let price = asked.and_then(|(price, indexed)| indexed.here.then_some(price));
            let elsewhere = asked.filter(|(_, indexed)| !indexed.here);
            let info = RepoInfo {
                id: record.name.clone(),
                author: record.owner.clone(),
                revision: record.commit.clone(),
                tags: named.map(|(tag, _)| tag.clone()).collect(),
                files: record.files.clone(),
                card: record.card.clone(),
                created: created.unwrap_or(record.created),
                modified: record.created,
                private: false,
                gated: if is_public { Gated::No } else { Gated::Manual },
                downloads: page.downloads,
                likes: 0,
                parameters: record.parameters_total(),
                tensor_types: record.parameters.clone(),
                aleph: Some(aleph(
                    (record.uuid, record.visibility),
                    price,
                    standing.badge,
                    standing.reproduced(),
                )),
            };
            Arc::new(Listed {
                info,
                visibility: record.visibility,
                price,
                is_deposited: price.is_some()
                    && asked.is_some_and(|(_, indexed)| indexed.terms.release == ReleaseWay::Deposit),
                elsewhere: elsewhere.map(|(_, indexed)| indexed.terms.gateway.clone()),
            })
        };
        Self {
            revisions: page.revisions.iter().map(of_revision).collect(),
            tags: page
                .tags
                .iter()
                .map(|(tag, revision)| (tag.clone(), revision.clone()))
                .collect(),
        }
    }

    /// The newest revision, `main`.
    pub(crate) fn newest(&self) -> Option<&Arc<Listed>> {
        self.revisions.first()
    }

    /// The revision that `main`, a tag or 40 hex digits name.
    pub(crate) fn at(&self, revision: &str) -> Option<&Arc<Listed>> {
        if revision == "main" {
            return self.newest();
        }
        let tagged = self.tags.iter().find(|(tag, _)| tag == revision);
        let commit = tagged.map_or(revision, |(_, commit)| commit);
        self.revisions.iter().find(|one| one.info.revision == commit)
    }
}

/// What the Hub's answers say of a model under a key of our own.
pub(crate) fn aleph(
    (uuid, visibility): (uuid::Uuid, Visibility),
    price: Option<Amount>,
    badge: Badge,
    reproduced: bool,
) -> Value {
    let (word, at) = match badge {
        Badge::Unchecked => ("unchecked", None),
        Badge::Verified(at) => ("verified", Some(at)),
        Badge::Refused(at) => ("refused", Some(at)),
    };
    // A sealed model that nobody sells is not free.
    let price = (price.is_some() || visibility == Visibility::Public).then(|| price_in_words(price));
    json!({
        "uuid": uuid, "visibility": visibility.word(), "price": price, "badge": word, "badgeTime": at,
        "reproduced": reproduced,
    })
}

/// What a revision costs by these terms: public ones nothing, whatever is asked; and one whose key is to be deposited is not sold
/// before it is.
fn asked(record: &ModelRecord, terms: &ModelTerms, deposited: &[String]) -> Option<Amount> {
    let is_sold = record.visibility == Visibility::Sealed
        && record.uuid == terms.uuid
        && (terms.release == ReleaseWay::Keys || deposited.contains(&record.commit));
    terms.price.filter(|_| is_sold)
}

/// As the Hub's answers say it.
pub(crate) fn price_in_words(price: Option<Amount>) -> String {
    price.map_or_else(|| "free".to_owned(), |price| price.of(Asset::Aleph))
}

/// What all of that makes of a model; none where nothing is offered, or what is is private.
fn page(history: &History, signer: &str) -> Option<ModelPage> {
    let mut offered = history::offered(history);
    offered.retain(|one| one.record.visibility != Visibility::Private);
    let tags = history::tags(&offered, history.tags.as_ref());
    let is_there = |one: &&IndexedEvidence| offered.iter().any(|of| of.record.commit == one.evidence.commit);
    let mut evidence: Vec<_> = history.evidence.iter().filter(is_there).cloned().collect();
    evidence.sort_by(|a, b| {
        let newest = b.evidence.created.cmp(&a.evidence.created);
        newest.then_with(|| a.message.cmp(&b.message))
    });
    (!offered.is_empty()).then(|| ModelPage {
        revisions: offered.into_iter().cloned().collect(),
        tags,
        tags_serial: history.tags.as_ref().map_or(0, |tags| tags.serial),
        evidence,
        downloads: history.downloads,
        terms: history::terms(history).map(|stored| IndexedTerms {
            terms: stored.terms.clone(),
            message: stored.message.clone(),
            here: stored.terms.gateway.eq_ignore_ascii_case(signer),
        }),
    })
}

/// A name as records spell it: the owner's address in any case becomes EIP-55.
pub(crate) fn canonical(name: &str) -> Option<String> {
    let (owner, short) = name.split_once('/')?;
    let owner: Address = owner.to_ascii_lowercase().parse().ok()?;
    alephlab_api::model::is_name(short).then(|| format!("{owner}/{short}"))
}
