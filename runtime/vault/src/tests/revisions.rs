//! Revisions of models: what is stored anew and what is not, what the key of one opens of another, and what is left when
//! publishing stops between its steps.

use super::{code, noise};
use crate::keys::{EpochSecret, ObjectKey};
use crate::message::{SignedMessage, sign_post};
use crate::object::{self, Expected, Kind};
use crate::ring::{Ring, derive};
use crate::storage::{Fault, FaultyStorage, MemoryStorage, PostQuery, Storage};
use crate::{
    GRANT_POST_TYPE, HEAD_POST_TYPE, Keys, Meta, PutOutcome, PutRevision, Reader, ReaderKey, SealedRevision,
    Sealing, SignedHead, SourceFile, Wallet, dataset_id, find_grant, find_head, finish_revision, narrow,
    new_id_random, seal_revision,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub(super) const RECORD: &str = "test-model-record";

/// A model's owner, and where it is published.
pub(super) struct Model {
    pub(super) storage: Arc<MemoryStorage>,
    pub(super) wallet: Wallet,
    pub(super) key: ReaderKey,
    pub(super) id_random: [u8; 16],
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            storage: Arc::new(MemoryStorage::new()),
            wallet: Wallet::generate().unwrap(),
            key: ReaderKey::generate().unwrap(),
            id_random: new_id_random().unwrap(),
        }
    }

    pub(super) async fn newest(&self) -> Option<(SignedHead, String)> {
        let id = dataset_id(&self.wallet.owner(), &self.id_random);
        find_head(&*self.storage, &self.wallet.address(), &id)
            .await
            .unwrap()
    }

    pub(super) fn record(&self, head_message: &str, revision: &str) -> SignedMessage {
        let content = json!({ "head": head_message, "commit": revision });
        sign_post(&self.wallet, RECORD, content, None).unwrap()
    }

    /// Seals and publishes with objects of at most 1 MiB.
    pub(super) async fn put_through(
        &self,
        storage: Arc<dyn Storage>,
        files: Vec<SourceFile>,
        journal: Option<&Path>,
    ) -> crate::Result<PutOutcome> {
        let put = PutRevision {
            files,
            meta: Meta::default(),
            previous: self.newest().await,
            id_random: self.id_random,
            obj_log2: Some(20),
            carry_grants: false,
            always: false,
            anew: false,
            journal: journal.map(Path::to_owned),
            known: None,
        };
        match seal_revision(storage.clone(), &self.wallet, &self.key, put, &|_| {}).await? {
            Sealing::Unchanged(outcome) => Ok(*outcome),
            Sealing::Sealed(sealed) => {
                let record = self.record(&sealed.head_message(), &sealed.revision());
                let outcome = sealed.publish(&*storage, &[record], &|_| {}).await?;
                sealed.done()?;
                Ok(outcome)
            }
        }
    }

    pub(super) async fn put(&self, files: Vec<SourceFile>) -> PutOutcome {
        self.put_through(self.storage.clone(), files, None).await.unwrap()
    }

    pub(super) async fn open(&self, head: &SignedHead) -> Reader {
        let secret = find_grant(&*self.storage, head, &self.key).await.unwrap();
        Reader::open(self.storage.clone(), head, Keys::Epoch(secret))
            .await
            .unwrap()
    }

    /// Object names of a revision: those that hold files.
    pub(super) async fn objects(&self, head: &SignedHead) -> BTreeSet<String> {
        self.open(head).await.object_names().0
    }
}

/// A safetensors file of tensors of bytes.
pub(super) fn safetensors(tensors: &[(&str, Vec<u8>)], note: &str) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "note": note }));
    let mut at = 0;
    for (name, bytes) in tensors {
        let end = at + bytes.len();
        let said = json!({ "dtype": "U8", "shape": [bytes.len()], "data_offsets": [at, end] });
        header.insert((*name).to_owned(), said);
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    tensors.iter().for_each(|(_, bytes)| file.extend(bytes));
    file
}

/// Four tensors of two objects each.
fn four(changed: u64) -> Vec<(&'static str, Vec<u8>)> {
    let tensor = |seed| noise(seed, 2 << 20);
    vec![
        ("a", tensor(1)),
        ("b", tensor(2)),
        ("c", tensor(100 + changed)),
        ("d", tensor(4)),
    ]
}

fn card(text: &str) -> SourceFile {
    SourceFile::bytes("README.md", text.as_bytes().to_vec())
}

#[tokio::test]
async fn a_tensor_that_changed_is_all_that_is_stored_anew() {
    let model = Model::new();
    let weights = |bytes: Vec<u8>| vec![card("one"), SourceFile::bytes("model.safetensors", bytes)];
    let first = model.put(weights(safetensors(&four(0), ""))).await;
    let stored = |outcome: &PutOutcome| outcome.uploaded;
    assert!(stored(&first) > 8 << 20);
    // One of four changed: its two objects, and the manifest.
    let second = model.put(weights(safetensors(&four(1), ""))).await;
    assert!(stored(&second) < (2 << 20) + 20_000, "{}", stored(&second));
    // A longer header, and another order: the header alone.
    let mut tensors = four(1);
    tensors.reverse();
    let third = model
        .put(weights(safetensors(&tensors, &"longer ".repeat(99))))
        .await;
    assert!(stored(&third) < 20_000, "{}", stored(&third));
    // The same under another name, and twice: the manifest alone.
    let mut files = weights(safetensors(&tensors, &"longer ".repeat(99)));
    files[1].path = "a/other.safetensors".into();
    files.push(SourceFile::kept("model.safetensors"));
    let fourth = model.put(files).await;
    assert!(stored(&fourth) < 10_000, "{}", stored(&fourth));
    // Only the card, by hand: the weights are not even read.
    let files = vec![
        card("two"),
        SourceFile::kept_as("w.safetensors", "model.safetensors"),
    ];
    let fifth = model.put(files).await;
    assert!(stored(&fifth) < 10_000, "{}", stored(&fifth));
    let reader = model.open(&fifth.head).await;
    let read = reader.read("w.safetensors").await.unwrap();
    assert!(read == safetensors(&tensors, &"longer ".repeat(99)));
    assert_eq!(&*reader.read("README.md").await.unwrap(), b"two");
    // Nothing changed: no revision.
    let files = vec![SourceFile::kept("README.md"), SourceFile::kept("w.safetensors")];
    let sixth = model.put(files).await;
    assert!(sixth.unchanged && sixth.head_hash == fifth.head_hash);
}

#[tokio::test]
async fn small_tensors_share_objects() {
    let model = Model::new();
    let names: Vec<String> = (0..2_000).map(|n| format!("layer.{n}")).collect();
    let tensors: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), noise(name.len() as u64, 1_500)))
        .collect();
    let files = vec![SourceFile::bytes("m.safetensors", safetensors(&tensors, ""))];
    let put = model.put(files).await;
    // 3 MB of tensors and the header.
    assert_eq!(model.objects(&put.head).await.len(), 4);
}

#[tokio::test]
async fn a_kept_file_beside_a_changed_one_is_read_and_sealed_anew() {
    let model = Model::new();
    let (kept, gone) = (noise(5, 1_200), noise(6, 9_000));
    let files = vec![
        SourceFile::bytes("gone", gone),
        SourceFile::bytes("kept", kept.clone()),
    ];
    let first = model.put(files).await;
    let second = model.put(vec![SourceFile::kept("kept")]).await;
    let (one, two) = (
        model.objects(&first.head).await,
        model.objects(&second.head).await,
    );
    assert!(one.is_disjoint(&two));
    let reader = model.open(&second.head).await;
    assert!(reader.read("kept").await.unwrap() == kept);
    let put = model
        .put_through(model.storage.clone(), vec![SourceFile::kept("gone")], None)
        .await;
    assert_eq!(code(put), "E_NOT_FOUND");
}

#[tokio::test]
async fn the_record_names_the_head_and_its_revision() {
    let model = Model::new();
    let put = model.put(vec![card("one")]).await;
    let query = |kind: &str| PostQuery {
        addresses: vec![model.wallet.address()],
        types: vec![kind.to_owned()],
        ..PostQuery::default()
    };
    let time = |kind: &'static str| {
        let posts = model.storage.posts(query(kind));
        async move { posts.await.unwrap().len() }
    };
    assert_eq!((time(RECORD).await, time(HEAD_POST_TYPE).await), (1, 1));
    let record = model.storage.posts(query(RECORD)).await.unwrap().remove(0);
    assert_eq!(record.content["head"], json!(put.head_message));
    assert_eq!(record.content["commit"], json!(put.head.revision()));
}

/// Two revisions: one tensor of four stays, a small file stays, the rest is another.
async fn two() -> (Model, [PutOutcome; 2], BTreeSet<String>) {
    let model = Model::new();
    let files = vec![
        card("one"),
        SourceFile::bytes("notes", noise(8, 3_000)),
        SourceFile::bytes("m.safetensors", safetensors(&four(0), "")),
    ];
    let first = model.put(files).await;
    let before: BTreeSet<String> = model.storage.objects().into_iter().collect();
    let mut tensors = four(1);
    tensors.truncate(3);
    tensors[0].1[5] ^= 1;
    let files = vec![
        card("two"),
        SourceFile::kept("notes"),
        SourceFile::bytes("m.safetensors", safetensors(&tensors, "")),
    ];
    let second = model.put(files).await;
    (model, [first, second], before)
}

/// As another account opens a revision that it was granted, and no other.
async fn granted(model: &Model, head: &SignedHead) -> Reader {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let storage = &*model.storage;
    crate::register_reader_key(storage, &wallet, &key).await.unwrap();
    let terms = crate::GrantTerms::default();
    crate::grant_dataset(storage, &model.wallet, &model.key, head, wallet.owner(), terms)
        .await
        .unwrap();
    let secret = find_grant(storage, head, &key).await.unwrap();
    Reader::open(model.storage.clone(), head, Keys::Epoch(secret))
        .await
        .unwrap()
}

#[tokio::test]
async fn the_key_of_one_revision_opens_no_other() {
    let (model, [first, second], before) = two().await;
    let reader = granted(&model, &second.head).await;
    let Ring::Epochs(secrets) = reader.ring() else {
        unreachable!()
    };
    let named: BTreeSet<String> = reader.rows().iter().map(|row| row.item_hash.clone()).collect();
    let taken = before.intersection(&named).count();
    assert_eq!(
        taken, 3,
        "two of the tensor that stayed, one of that of which a byte changed"
    );
    let mut foreign = 0;
    for name in before.difference(&named) {
        foreign += 1;
        for secret in secrets.values() {
            assert_eq!(opens(&model, name, secret).await, 0, "{name}");
        }
    }
    // Five of the tensors, one of small files, leaves, page, root.
    assert_eq!(foreign, 9);
    for secret in secrets.values() {
        let keys = Keys::Epoch(secret.duplicate());
        let opened = Reader::open(model.storage.clone(), &first.head, keys).await;
        assert_eq!(code(opened), "E_EPOCH");
    }
    // Nor does that of the earlier one open anything new of the later.
    let earlier = model.open(&first.head).await;
    let Ring::Epochs(secrets) = earlier.ring() else {
        unreachable!()
    };
    for name in model
        .storage
        .objects()
        .iter()
        .filter(|name| !before.contains(*name))
    {
        for secret in secrets.values() {
            assert_eq!(opens(&model, name, secret).await, 0, "{name}");
        }
    }
    // And a secret opens what it should: this finds out whether the check could fail.
    let own = secrets.get(&first.head.head.epoch).unwrap();
    assert_eq!(opens(&model, &first.head.head.root.item_hash, own).await, 1);
}

#[tokio::test]
async fn scope_2_of_one_revision_opens_no_other() {
    let (model, [first, second], before) = two().await;
    for (own, other) in [(&second, &first), (&first, &second)] {
        let reader = model.open(&own.head).await;
        let (keys, root) = narrow(&reader, &own.head_message).unwrap();
        let named: BTreeSet<String> = reader.rows().iter().map(|row| row.item_hash.clone()).collect();
        let all: Vec<ObjectKey> = keys.keys.values().map(ObjectKey::duplicate).collect();
        let opened = object_of(&model, &root.bytes, root.kind, |_| keys.root.key.duplicate());
        let opened = crate::manifest::Root::decode(&opened.unwrap()).unwrap();
        assert!(opened.older.is_empty());
        let names: Vec<String> = match own.version {
            2 => before.difference(&named).cloned().collect(),
            _ => model
                .storage
                .objects()
                .into_iter()
                .filter(|name| !named.contains(name))
                .collect(),
        };
        assert!(names.len() >= 5);
        for name in names.iter().filter(|name| **name != own.head.head.root.item_hash) {
            let bytes = model.storage.get(name).await.unwrap();
            for key in &all {
                for kind in KINDS {
                    assert!(object_of(&model, &bytes, kind, |_| key.duplicate()).is_none());
                }
            }
        }
        let refused = Reader::open(model.storage.clone(), &other.head, Keys::Objects(keys)).await;
        assert_eq!(code(refused), "E_EPOCH");
    }
}

const KINDS: [Kind; 4] = [Kind::Data, Kind::Page, Kind::Root, Kind::Leaves];

/// As how many kinds of object a secret opens this one, in the epoch that its frame says.
async fn opens(model: &Model, name: &str, secret: &EpochSecret) -> usize {
    let bytes = model.storage.get(name).await.unwrap();
    let id = dataset_id(&model.wallet.owner(), &model.id_random);
    let epoch = u32::from_be_bytes(bytes[12..16].try_into().unwrap());
    let opened = KINDS.iter().filter(|kind| {
        let key = |object_id: &[u8; 16]| derive(secret, &id, **kind, epoch, object_id);
        object_of(model, &bytes, **kind, key).is_some()
    });
    opened.count()
}

fn object_of(
    model: &Model,
    bytes: &[u8],
    kind: Kind,
    key: impl Fn(&[u8; 16]) -> ObjectKey,
) -> Option<Vec<u8>> {
    let id = dataset_id(&model.wallet.owner(), &model.id_random);
    let expected = Expected {
        name: "any",
        ciphertext_len: bytes.len() as u64,
        sha256: crate::digest::sha256(&[bytes]),
        kind,
        epoch: u32::from_be_bytes(bytes[12..16].try_into().unwrap()),
        object_id: None,
    };
    object::open(bytes.to_vec(), &expected, &id, |frame| Ok(key(&frame.object_id))).ok()
}

#[tokio::test]
async fn nothing_in_the_epoch_of_a_head_is_taken_over() {
    // A first revision as a kernel's broker seals it: data in the head's own epoch.
    let mut fixture = super::Fixture::new();
    fixture.wallet = Wallet::from_secret(&[7; 32]).unwrap();
    fixture.dataset = dataset_id(&fixture.wallet.owner(), &fixture.id_random);
    let model = Model {
        id_random: fixture.id_random,
        storage: fixture.storage.clone(),
        wallet: Wallet::from_secret(&[7; 32]).unwrap(),
        key: ReaderKey::generate().unwrap(),
    };
    let weights = noise(3, 3 << 20);
    let files = [card("one"), SourceFile::bytes("w.bin", weights.clone())];
    let version = fixture.seal(&files).await;
    let grant = crate::Grant::seal(
        fixture.dataset,
        1,
        &fixture.secret,
        model.wallet.owner(),
        &model.key.public(),
        crate::GrantTerms::default(),
    )
    .unwrap();
    for (kind, content) in [
        (GRANT_POST_TYPE, grant.post_content().unwrap()),
        (HEAD_POST_TYPE, version.head.post_content().unwrap()),
    ] {
        let post = sign_post(&model.wallet, kind, content, None).unwrap();
        model.storage.publish(&post).await.unwrap();
    }
    let second = model.put(vec![card("two"), SourceFile::kept("w.bin")]).await;
    let reader = model.open(&second.head).await;
    let old: BTreeSet<String> = version
        .objects
        .iter()
        .map(crate::SealedObject::item_hash)
        .collect();
    assert!(reader.rows().iter().all(|row| !old.contains(&row.item_hash)));
    assert!(reader.read("w.bin").await.unwrap() == weights);
    let Ring::Epochs(secrets) = reader.ring() else {
        unreachable!()
    };
    assert!(!secrets.contains_key(&1));
    // From then on it is.
    let third = model.put(vec![card("three"), SourceFile::kept("w.bin")]).await;
    assert!(third.uploaded < 10_000);
}

/// What a model publishes with a journal.
fn journaled(
    model: &Model,
    files: Vec<SourceFile>,
    previous: Option<(SignedHead, String)>,
    journal: &Path,
) -> PutRevision {
    PutRevision {
        files,
        meta: Meta::default(),
        previous,
        id_random: model.id_random,
        obj_log2: Some(20),
        carry_grants: true,
        always: false,
        anew: false,
        journal: Some(journal.to_owned()),
        known: None,
    }
}

async fn sealed(model: &Model, put: PutRevision) -> Box<SealedRevision> {
    match seal_revision(model.storage.clone(), &model.wallet, &model.key, put, &|_| {}).await {
        Ok(Sealing::Sealed(sealed)) => sealed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_sealed_is_sealed_again_the_same_and_what_was_signed_is_posted() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("model.jsonl");
    let put = |text| journaled(&model, vec![card(text)], None, &journal);
    let first = sealed(&model, put("one")).await;
    let (head, message) = (first.head().hash(), first.head_message());
    let busy = seal_revision(
        model.storage.clone(),
        &model.wallet,
        &model.key,
        put("one"),
        &|_| {},
    )
    .await;
    assert_eq!(code(busy), "E_STOPPED");
    drop(first);
    let again = sealed(&model, put("one")).await;
    assert_eq!(
        (again.head().hash(), again.head_message()),
        (head, message.clone())
    );
    drop(again);
    assert!(
        finish_revision(&*model.storage, &journal)
            .await
            .unwrap()
            .is_none()
    );
    // Nobody was told of that head, so that another may take its place.
    let other = sealed(&model, put("two")).await;
    assert_ne!(other.head().hash(), head);
    let faulty = FaultyStorage::new(model.storage.clone());
    // What is asked first, and the grants.
    faulty.set(Some(Fault::FailAfter(3)));
    let record = model.record(&other.head_message(), &other.revision());
    let failed = other
        .publish(&faulty, std::slice::from_ref(&record), &|_| {})
        .await;
    assert_eq!(code(failed), "E_UNAVAILABLE");
    assert!(model.newest().await.is_none());
    let (head, name) = (other.head().clone(), other.head_message());
    drop(other);
    for _ in 0..2 {
        let finished = finish_revision(&*model.storage, &journal).await.unwrap().unwrap();
        assert_eq!(
            (finished.head.hash(), &finished.head_message),
            (head.hash(), &name)
        );
        assert!(finished.messages.contains(&record));
    }
    assert_eq!(model.newest().await.unwrap().1, name);
    // The same call once more finds it done; another one goes on from there.
    let previous = model.newest().await;
    let next = sealed(&model, journaled(&model, vec![card("three")], previous, &journal)).await;
    assert_eq!(next.finished.as_ref().unwrap().head.hash(), head.hash());
    assert_eq!(
        (next.head().head.version, next.head().head.prev),
        (2, head.hash())
    );
    let outcome = next.publish(&*model.storage, &[], &|_| {}).await.unwrap();
    next.done().unwrap();
    assert!(!journal.exists() && outcome.version == 2);
}

#[tokio::test]
async fn grants_are_carried_on_when_asked_for() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("model.jsonl");
    let first = model.put(vec![card("one")]).await;
    granted(&model, &first.head).await;
    for (text, carries, grants) in [("two", true, 2), ("three", false, 1)] {
        let put = PutRevision {
            carry_grants: carries,
            ..journaled(&model, vec![card(text)], model.newest().await, &journal)
        };
        let sealed = sealed(&model, put).await;
        let put = sealed.publish(&*model.storage, &[], &|_| {}).await.unwrap();
        sealed.done().unwrap();
        let given = crate::grants_of(&*model.storage, &put.head).await.unwrap();
        let given: BTreeSet<_> = given
            .iter()
            .filter(|one| one.grant.epoch == put.head.head.epoch)
            .map(|one| one.grant.recipient)
            .collect();
        assert_eq!(given.len(), grants, "{text}");
    }
}

#[tokio::test]
async fn damaged_bytes_of_a_kept_file_are_not_sealed() {
    let model = Model::new();
    let files = ["a", "b"].map(|name| SourceFile::bytes(name, noise(1, 900)));
    model.put(files.to_vec()).await;
    let first = model.newest().await.unwrap();
    let data = model.objects(&first.0).await;
    assert_eq!(data.len(), 1);
    let name = data.first().unwrap();
    let mut bytes = model.storage.get(name).await.unwrap().to_vec();
    bytes[500] ^= 1;
    model.storage.damage(name, bytes);
    let put = vec![SourceFile::kept("a"), SourceFile::bytes("b", noise(2, 900))];
    let put = model.put_through(model.storage.clone(), put, None).await;
    assert_eq!(code(put), "E_HASH");
    assert_eq!(model.newest().await.unwrap().0.hash(), first.0.hash());
}
