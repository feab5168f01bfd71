//! The same messages in any order make the same registry, and only messages that hold count.

use std::sync::Arc;

use alephlab_api::model::{ModelEvidence, ModelPage, ModelRecord, ModelTags, ModelWithdrawal, RecordFile};
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{MemoryStorage, Storage};
use alephlab_vault::{HEAD_POST_TYPE, RootRef, UnsignedHead, Wallet, dataset_id, new_id_random};
use alephlab_verify::{Check, CheckId, Outcome, Report, manifest_hash};
use serde::Serialize;

use super::ingest::TYPES;
use super::*;
use crate::index::Query;

const RECORD: &str = TYPES[0];
const TAGS: &str = TYPES[1];
const WITHDRAWAL: &str = TYPES[2];
const EVIDENCE: &str = TYPES[3];

/// An owner, and what the network has of theirs.
struct Owner {
    wallet: Wallet,
    storage: Arc<dyn Storage>,
}

impl Owner {
    fn new(storage: &Arc<dyn Storage>) -> Self {
        Self {
            wallet: Wallet::generate().unwrap(),
            storage: Arc::clone(storage),
        }
    }

    fn name(&self) -> String {
        format!("{}/digits", self.wallet.address())
    }

    async fn post(&self, post_type: &str, content: impl Serialize) -> String {
        let content = serde_json::to_value(content).unwrap();
        let message = sign_post(&self.wallet, post_type, content, None).unwrap();
        self.storage.publish(&message).await.unwrap();
        message.item_hash()
    }

    /// A sealed revision that nobody needs to open.
    async fn record(&self, parent: Option<&ModelRecord>, created: u64) -> ModelRecord {
        let (owner, id_random) = (self.wallet.address().parse().unwrap(), new_id_random().unwrap());
        let head = UnsignedHead {
            dataset_id: dataset_id(&owner, &id_random),
            owner,
            version: 1,
            prev: [0; 32],
            epoch: 1,
            epoch_commitment: [1; 32],
            root: RootRef {
                item_hash: "a".repeat(64),
                length: 1,
                sha256: [2; 32],
            },
            writers: Vec::new(),
            created,
            not_after: None,
            id_random,
        };
        let head = head.sign(&self.wallet).unwrap();
        ModelRecord {
            owner: self.wallet.address(),
            name: self.name(),
            commit: head.revision(),
            parent: parent.map(|parent| parent.commit.clone()),
            tags: vec![format!("at-{created}")],
            price: "free".into(),
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: created,
                sha256: "0".repeat(64),
            }],
            head: self.post(HEAD_POST_TYPE, head.post_content().unwrap()).await,
            created,
            ..ModelRecord::default()
        }
    }

    async fn tags(&self, record: &ModelRecord, serial: u64, tag: &str) -> String {
        let tags = ModelTags {
            owner: self.wallet.address(),
            name: self.name(),
            tags: [(tag.to_owned(), record.commit.clone())].into(),
            sealed: None,
            serial,
            created: 4,
        };
        self.post(TAGS, tags).await
    }

    async fn withdraw(&self, commit: Option<&ModelRecord>, created: u64) -> String {
        let withdrawal = ModelWithdrawal {
            owner: self.wallet.address(),
            name: self.name(),
            commit: commit.map(|record| record.commit.clone()),
            created,
        };
        self.post(WITHDRAWAL, withdrawal).await
    }

    /// What this one found of another's revision.
    async fn evidence(&self, of: &ModelRecord, outcome: Outcome, created: u64) -> String {
        let check = |id| {
            super::badge::scanned(Check::new(
                id,
                outcome,
                Vec::new(),
                "a verifier".into(),
                "2026-11-30T00:00:00Z".into(),
            ))
        };
        let report = Report::new(manifest_hash(&of.files), CheckId::ALL.map(check).to_vec());
        let evidence = ModelEvidence {
            verifier: self.wallet.address(),
            name: of.name.clone(),
            commit: of.commit.clone(),
            report: serde_json::to_value(report).unwrap(),
            created,
        };
        self.post(EVIDENCE, evidence).await
    }
}

/// A gateway's part that is tested, with a database of its own.
async fn models(verifiers: &[&Owner]) -> (tempfile::TempDir, Models) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let verifiers: Vec<_> = verifiers
        .iter()
        .map(|one| one.wallet.address().parse().unwrap())
        .collect();
    let models = Models::open(store, Arc::default(), &verifiers, String::new())
        .await
        .unwrap();
    (folder, models)
}

fn listed(index: &Index) -> String {
    let found = index.search(&Query {
        limit: 1000,
        ..Query::default()
    });
    format!("{:?} {:?}", found.entries, found.facets)
}

/// Another order for each number.
fn shuffled(messages: &[String], mut seed: u64) -> Vec<String> {
    let mut messages = messages.to_vec();
    for place in (1..messages.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        messages.swap(place, usize::try_from(seed >> 33).unwrap() % (place + 1));
    }
    messages
}

#[tokio::test]
async fn the_same_messages_in_any_order_make_the_same_registry() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (owner, gone, verifier) = (Owner::new(&storage), Owner::new(&storage), Owner::new(&storage));
    let stranger = Owner::new(&storage);
    let first = owner.record(None, 1).await;
    let second = owner.record(Some(&first), 2).await;
    let third = owner.record(Some(&second), 5).await;
    let fork = owner.record(Some(&first), 5).await;
    let over = gone.record(None, 3).await;
    let mut messages = Vec::new();
    for record in [&first, &second, &third, &fork] {
        messages.push(owner.post(RECORD, record).await);
    }
    // Another record of a revision that is there, later and earlier.
    for (created, title) in [(6, "later"), (4, "earlier")] {
        let mut again = third.clone();
        (again.created, again.card.title) = (created, title.to_owned());
        messages.push(owner.post(RECORD, again).await);
    }
    for (serial, tag) in [(1, "one"), (3, "three"), (3, "other"), (2, "two")] {
        messages.push(owner.tags(&first, serial, tag).await);
    }
    messages.push(owner.withdraw(Some(&second), 3).await);
    messages.push(gone.post(RECORD, &over).await);
    messages.push(gone.withdraw(None, 3).await);
    messages.push(gone.withdraw(None, 2).await);
    for (created, outcome) in [(7, Outcome::Passed), (6, Outcome::Failed)] {
        messages.push(verifier.evidence(&fork, outcome, created).await);
        messages.push(stranger.evidence(&first, outcome, created).await);
    }
    let mut seen: Option<(ModelPage, String)> = None;
    for seed in 0..12 {
        let (_folder, models) = models(&[&verifier]).await;
        for message in shuffled(&messages, seed) {
            let said = look(&storage, &message).await.unwrap();
            models.take_in(&said).await.unwrap();
        }
        let page = models.page(&owner.name()).await.unwrap().unwrap();
        assert!(models.page(&gone.name()).await.unwrap().is_none());
        let found = (page, listed(&models.index));
        // What is read from the database when a gateway starts is what was kept up.
        let address = [verifier.wallet.address().parse().unwrap()];
        let again = Models::open(models.store.clone(), Arc::default(), &address, String::new())
            .await
            .unwrap();
        assert_eq!(listed(&again.index), found.1);
        match &seen {
            Some(seen) => assert!(*seen == found, "order {seed}:\n{seen:?}\n{found:?}"),
            None => seen = Some(found),
        }
    }
    let (page, list) = seen.unwrap();
    let order: Vec<_> = page
        .revisions
        .iter()
        .map(|one| one.record.commit.as_str())
        .collect();
    assert_eq!(order, [&fork.commit, &third.commit, &first.commit]);
    assert_eq!(page.revisions[1].record.card.title, "earlier");
    assert_eq!((page.tags_serial, page.tags.len()), (3, 2), "{:?}", page.tags);
    assert_eq!(
        page.evidence
            .iter()
            .map(|one| one.counts)
            .collect::<Vec<_>>()
            .len(),
        2
    );
    assert!(list.contains("Verified(7)"), "{list}");
}

#[tokio::test]
async fn what_does_not_hold_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (owner, other) = (Owner::new(&storage), Owner::new(&storage));
    let record = owner.record(None, 1).await;
    let mut faults = Vec::new();
    // Signed by somebody else than it names.
    faults.push(other.post(RECORD, &record).await);
    for fault in [
        |record: &mut ModelRecord| record.commit = "a".repeat(40),
        |record: &mut ModelRecord| record.created = u64::MAX,
        |record: &mut ModelRecord| {
            record.owner = record.owner.to_ascii_lowercase();
            record.name = format!("{}/digits", record.owner);
        },
        // The keys of nothing.
        |record: &mut ModelRecord| {
            record.visibility = Visibility::Public;
            record.keys = Some("AAAA".to_owned());
        },
    ] {
        let mut bad = record.clone();
        fault(&mut bad);
        faults.push(owner.post(RECORD, bad).await);
    }
    let tags = |owner: &str| ModelTags {
        owner: owner.to_owned(),
        name: format!("{owner}/digits"),
        tags: [("v1".to_owned(), record.commit.clone())].into(),
        sealed: None,
        serial: u64::MAX,
        created: 1,
    };
    faults.push(other.post(TAGS, tags(&owner.wallet.address())).await);
    faults.push(owner.post(TAGS, tags(&owner.wallet.address())).await);
    faults.push(owner.post("alephlab-other", &record).await);
    for (number, message) in faults.iter().enumerate() {
        let error = look(&storage, message).await.unwrap_err();
        assert!(
            matches!(error.code(), "record_refused" | "E_CBOR" | "E_MALFORMED"),
            "fault {number}: {error}"
        );
    }
    let missing = look(&storage, &"0".repeat(64)).await.unwrap_err();
    assert_eq!(missing.code(), "record_missing");
}

#[test]
fn an_address_is_known_in_any_case() {
    let name = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e/digits";
    let known = canonical(name).unwrap();
    assert_eq!(canonical(&name.to_ascii_lowercase()).as_ref(), Some(&known));
    assert_eq!(
        canonical(&known.to_ascii_uppercase().replace("/DIGITS", "/digits")).as_ref(),
        Some(&known)
    );
    for wrong in ["digits", "ada/digits", "0x7A3f/digits", &format!("{known}/x")] {
        assert!(canonical(wrong).is_none(), "{wrong}");
    }
}
