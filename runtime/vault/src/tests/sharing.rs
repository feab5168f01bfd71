//! Readers come and go: grants, lazy and eager revocation, what each opens afterwards.

use super::{code, noise};
use crate::keys::{Address, EpochSecret};
use crate::message::SignedMessage;
use crate::storage::{BoxFuture, MemoryStorage, PostQuery, Storage, StoredPost};
use crate::{
    GrantTerms, Keys, Meta, PutOutcome, Reader, ReaderKey, Revoke, Revoking, SignedHead, SourceFile, Wallet,
    find_grant, find_head, grant_dataset, granted_to, grants_of, put_dataset, register_reader_key,
    revoke_reader,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An account with a registered key.
pub(super) struct Person {
    pub(super) wallet: Wallet,
    pub(super) key: ReaderKey,
}

impl Person {
    pub(super) async fn new(storage: &dyn Storage) -> Self {
        let person = Self {
            wallet: Wallet::generate().unwrap(),
            key: ReaderKey::generate().unwrap(),
        };
        register_reader_key(storage, &person.wallet, &person.key)
            .await
            .unwrap();
        person
    }

    fn address(&self) -> Address {
        self.wallet.owner()
    }

    /// All files of a version, read through this person's grant.
    pub(super) async fn read(
        &self,
        storage: &Arc<dyn Storage>,
        head: &SignedHead,
    ) -> crate::Result<Vec<bytes::Bytes>> {
        let secret = find_grant(&**storage, head, &self.key).await?;
        read(storage, head, secret).await
    }
}

async fn read(
    storage: &Arc<dyn Storage>,
    head: &SignedHead,
    secret: EpochSecret,
) -> crate::Result<Vec<bytes::Bytes>> {
    let reader = Reader::open(Arc::clone(storage), head, Keys::Epoch(secret)).await?;
    let mut all = Vec::new();
    for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
        all.push(reader.read(&entry.path).await?);
    }
    Ok(all)
}

struct World {
    storage: Arc<dyn Storage>,
    owner: Person,
    put: PutOutcome,
}

fn files() -> Vec<SourceFile> {
    vec![
        SourceFile::bytes("a/small.txt", "small"),
        SourceFile::bytes("b.bin", noise(1, 3_000_000)),
        SourceFile::directory("empty"),
    ]
}

impl World {
    async fn new() -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let owner = Person::new(&*storage).await;
        let meta = Meta {
            title: Some("measurements".into()),
            ..Meta::default()
        };
        let (wallet, key) = (&owner.wallet, &owner.key);
        let put = put_dataset(Arc::clone(&storage), wallet, key, files(), meta, None, &|_| {}).await;
        Self {
            put: put.unwrap(),
            storage,
            owner,
        }
    }

    async fn grant(&self, to: &Person) -> crate::Result<()> {
        let head = self.head().await;
        let (wallet, key) = (&self.owner.wallet, &self.owner.key);
        grant_dataset(
            &*self.storage,
            wallet,
            key,
            &head,
            to.address(),
            GrantTerms::default(),
        )
        .await
    }

    async fn head(&self) -> SignedHead {
        let owner = self.owner.address().to_string();
        let found = find_head(&*self.storage, &owner, &self.put.dataset_id).await;
        found.unwrap().unwrap().0
    }

    async fn revoke(&self, from: &Person, how: Revoke) -> crate::Result<PutOutcome> {
        let (wallet, key) = (&self.owner.wallet, &self.owner.key);
        let revoking = Revoking {
            previous: self.head().await,
            reader: from.address(),
            how,
            journal: None,
        };
        revoke_reader(Arc::clone(&self.storage), wallet, key, revoking, &|_| {}).await
    }

    /// The same files again, with one more.
    async fn put_more(&self) -> PutOutcome {
        let owner = self.owner.address().to_string();
        let previous = find_head(&*self.storage, &owner, &self.put.dataset_id)
            .await
            .unwrap();
        let mut more = files();
        more.push(SourceFile::bytes("more.txt", "more"));
        let (wallet, key) = (&self.owner.wallet, &self.owner.key);
        let storage = Arc::clone(&self.storage);
        let put = put_dataset(storage, wallet, key, more, Meta::default(), previous, &|_| {}).await;
        put.unwrap()
    }
}

#[tokio::test]
async fn a_grant_opens_for_its_reader_only_and_is_found_by_it() {
    let world = World::new().await;
    let (ada, eve) = (
        Person::new(&*world.storage).await,
        Person::new(&*world.storage).await,
    );
    world.grant(&ada).await.unwrap();
    let head = world.head().await;
    assert_eq!(ada.read(&world.storage, &head).await.unwrap()[0], "small");
    assert_eq!(code(eve.read(&world.storage, &head).await), "E_GRANT_OPEN");
    let found = granted_to(&*world.storage, ada.address()).await.unwrap();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [(world.put.dataset_id, world.owner.address())]
    );
    // The owner's own grant makes the dataset no gift.
    assert!(
        granted_to(&*world.storage, world.owner.address())
            .await
            .unwrap()
            .is_empty()
    );
    let stranger = Wallet::generate().unwrap().owner();
    let (wallet, key) = (&world.owner.wallet, &world.owner.key);
    let refused = grant_dataset(
        &*world.storage,
        wallet,
        key,
        &head,
        stranger,
        GrantTerms::default(),
    )
    .await;
    assert_eq!(code(refused), "E_NO_READER_KEY");
    // Who can read cannot grant: the message is not the owner's, and so it counts for nothing.
    let forged = grant_dataset(
        &*world.storage,
        &ada.wallet,
        &ada.key,
        &head,
        eve.address(),
        GrantTerms::default(),
    )
    .await;
    assert!(forged.is_ok());
    assert_eq!(code(eve.read(&world.storage, &head).await), "E_GRANT_OPEN");
    assert_eq!(grants_of(&*world.storage, &head).await.unwrap().len(), 2);
}

#[tokio::test]
async fn lazy_revocation_keeps_the_objects_and_gives_the_new_secret_to_the_others() {
    let world = World::new().await;
    let (ada, eve) = (
        Person::new(&*world.storage).await,
        Person::new(&*world.storage).await,
    );
    world.grant(&ada).await.unwrap();
    world.grant(&eve).await.unwrap();
    let before = world.head().await;
    let old = find_grant(&*world.storage, &before, &eve.key).await.unwrap();
    let put = world.revoke(&eve, Revoke::Lazy).await.unwrap();
    let after = world.head().await;
    assert_eq!((after.head.version, after.head.epoch), (2, 2));
    assert!(
        put.uploaded < 100_000,
        "only the manifest is new: {} bytes",
        put.uploaded
    );
    for person in [&ada, &world.owner] {
        assert_eq!(person.read(&world.storage, &after).await.unwrap().len(), 2);
    }
    for head in [&before, &after] {
        assert_eq!(code(eve.read(&world.storage, head).await), "E_GRANT_OPEN");
    }
    // Not only the rule: the secret that she has kept is not the one that the head commits to.
    assert_eq!(code(read(&world.storage, &after, old).await), "E_EPOCH");
    assert_eq!(code(world.revoke(&eve, Revoke::Lazy).await), "E_NOT_GRANTED");
}

#[tokio::test]
async fn eager_revocation_leaves_no_object_that_the_old_secret_opens() {
    let world = World::new().await;
    let eve = Person::new(&*world.storage).await;
    world.grant(&eve).await.unwrap();
    let rows = async |head: SignedHead| {
        let secret = find_grant(&*world.storage, &head, &world.owner.key)
            .await
            .unwrap();
        let reader = Reader::open(Arc::clone(&world.storage), &head, Keys::Epoch(secret))
            .await
            .unwrap();
        let rows: Vec<(u32, [u8; 16])> = reader
            .rows()
            .iter()
            .map(|row| (row.epoch, row.object_id))
            .collect();
        rows
    };
    let before = rows(world.head().await).await;
    let expected = world
        .owner
        .read(&world.storage, &world.head().await)
        .await
        .unwrap();
    world.revoke(&eve, Revoke::Eager).await.unwrap();
    let after = rows(world.head().await).await;
    assert!(after.iter().all(|(epoch, _)| *epoch == 2));
    assert!(after.iter().all(|row| !before.iter().any(|old| old.1 == row.1)));
    assert_eq!(
        world
            .owner
            .read(&world.storage, &world.head().await)
            .await
            .unwrap(),
        expected
    );
    // And the next version goes on in the new epoch.
    let owner = world.owner.address().to_string();
    let previous = find_head(&*world.storage, &owner, &world.put.dataset_id)
        .await
        .unwrap();
    let mut more = files();
    more.push(SourceFile::bytes("c.txt", "more"));
    let (wallet, key) = (&world.owner.wallet, &world.owner.key);
    let storage = Arc::clone(&world.storage);
    let next = put_dataset(storage, wallet, key, more, Meta::default(), previous, &|_| {})
        .await
        .unwrap();
    assert_eq!((next.version, next.head.head.epoch), (3, 2));
}

#[tokio::test]
async fn a_revocation_that_was_cut_is_finished_by_the_next_one_or_by_the_next_version() {
    for by_put in [false, true] {
        let world = World::new().await;
        let (ada, eve) = (
            Person::new(&*world.storage).await,
            Person::new(&*world.storage).await,
        );
        world.grant(&ada).await.unwrap();
        world.grant(&eve).await.unwrap();
        let before = world.head().await;
        let old = find_grant(&*world.storage, &before, &eve.key).await.unwrap();
        // Cut behind the first message, the end of her grant.
        let grants = grants_of(&*world.storage, &before).await.unwrap();
        let hers = grants
            .iter()
            .find(|one| one.grant.recipient == eve.address())
            .unwrap();
        let ended = serde_json::json!({ "dataset_id": world.put.dataset_id, "epoch": 1, "time": 1, "reason": "",
            "grant_id": hex::encode(hers.grant.grant_id), "tags": [world.put.dataset_id.to_string()] });
        let post =
            crate::message::sign_post(&world.owner.wallet, crate::REVOKE_POST_TYPE, ended, None).unwrap();
        world.storage.publish(&post).await.unwrap();
        if by_put {
            world.put_more().await;
        } else {
            world.revoke(&eve, Revoke::Lazy).await.unwrap();
        }
        let after = world.head().await;
        assert_eq!((after.head.version, after.head.epoch), (2, 2));
        assert!(ada.read(&world.storage, &after).await.is_ok());
        assert_eq!(code(read(&world.storage, &after, old).await), "E_EPOCH");
    }
}

#[tokio::test]
async fn a_reader_whose_key_is_gone_stops_no_revocation_and_is_named() {
    let world = World::new().await;
    let (ada, eve) = (
        Person::new(&*world.storage).await,
        Person::new(&*world.storage).await,
    );
    world.grant(&ada).await.unwrap();
    world.grant(&eve).await.unwrap();
    let ids = ada.key.publics().iter().map(|key| hex::encode(key.id()));
    let gone = ids.map(|id| (id, serde_json::Value::Null)).collect();
    let key = crate::READER_KEYS_AGGREGATE;
    let message = crate::message::sign_aggregate(&ada.wallet, key, gone).unwrap();
    world.storage.publish(&message).await.unwrap();
    let put = world.revoke(&eve, Revoke::Lazy).await.unwrap();
    assert_eq!(put.without_key, [ada.address()]);
}

#[tokio::test]
async fn a_grant_that_has_expired_is_followed_by_a_new_secret() {
    let world = World::new().await;
    let eve = Person::new(&*world.storage).await;
    let (wallet, key) = (&world.owner.wallet, &world.owner.key);
    let head = world.head().await;
    let open = find_grant(&*world.storage, &head, &world.owner.key)
        .await
        .unwrap();
    grant_dataset(
        &*world.storage,
        wallet,
        key,
        &head,
        eve.address(),
        GrantTerms::until(Some(1)),
    )
    .await
    .unwrap();
    assert_eq!(code(eve.read(&world.storage, &head).await), "E_GRANT_EXPIRED");
    // She has what it held.
    assert_eq!(world.put_more().await.head.head.epoch, 2);
    assert_eq!(
        code(read(&world.storage, &world.head().await, open).await),
        "E_EPOCH"
    );
}

#[tokio::test]
async fn what_others_post_about_a_dataset_hides_no_grant() {
    let world = World::new().await;
    let (ada, eve) = (
        Person::new(&*world.storage).await,
        Person::new(&*world.storage).await,
    );
    world.grant(&ada).await.unwrap();
    let head = world.head().await;
    let secret = EpochSecret::generate().unwrap();
    let public = ada.key.public();
    let fake = crate::Grant::seal(
        head.head.dataset_id,
        1,
        &secret,
        ada.address(),
        &public,
        GrantTerms::default(),
    )
    .unwrap();
    let content = fake.post_content().unwrap();
    let post = crate::message::sign_post(&eve.wallet, crate::GRANT_POST_TYPE, content, None).unwrap();
    world.storage.publish(&post).await.unwrap();
    let found = granted_to(&*world.storage, ada.address()).await.unwrap();
    assert!(found.contains(&(world.put.dataset_id, world.owner.address())));
    assert!(ada.read(&world.storage, &head).await.is_ok());
}

#[tokio::test]
async fn a_version_that_somebody_else_has_published_meanwhile_is_not_published_twice() {
    let world = World::new().await;
    let before = (world.head().await, String::new());
    world.put_more().await;
    // A put that began before that one ended, and has asked for the newest version before it.
    let storage: Arc<dyn Storage> = Arc::new(Late(
        Arc::clone(&world.storage),
        before.0.clone(),
        AtomicBool::new(false),
    ));
    let (wallet, key) = (&world.owner.wallet, &world.owner.key);
    let late = put_dataset(
        storage,
        wallet,
        key,
        files(),
        Meta::default(),
        Some(before),
        &|_| {},
    )
    .await;
    assert_eq!(code(late), "E_STOPPED");
    assert_eq!(world.head().await.head.version, 2);
}

/// Answers the first question for heads as it was before the newest was published.
struct Late(Arc<dyn Storage>, SignedHead, AtomicBool);

impl Storage for Late {
    fn put<'a>(&'a self, bytes: bytes::Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.0.put(bytes, store)
    }
    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bytes::Bytes> {
        self.0.get(item_hash)
    }
    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.0.stores(owner, objects)
    }
    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.0.publish(message)
    }
    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.0.post(item_hash)
    }
    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        let is_old = query.types == [crate::HEAD_POST_TYPE] && !self.2.swap(true, Ordering::SeqCst);
        Box::pin(async move {
            let mut posts = self.0.posts(query).await?;
            let known =
                |post: &StoredPost| SignedHead::from_post(&post.content).is_ok_and(|head| head == self.1);
            posts.retain(|post| !is_old || known(post));
            Ok(posts)
        })
    }
    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<serde_json::Value>> {
        self.0.aggregate(address, key)
    }
}

#[tokio::test]
async fn the_newest_grant_decides_also_when_it_opens_less_than_an_older_one() {
    let world = World::new().await;
    let eve = Person::new(&*world.storage).await;
    let (wallet, key) = (&world.owner.wallet, &world.owner.key);
    let head = world.head().await;
    let strict = crate::Policy {
        walls: ["no-swap".to_owned()].into(),
        ..crate::Policy::default()
    };
    let grant = async |terms: GrantTerms| {
        let granted = grant_dataset(&*world.storage, wallet, key, &head, eve.address(), terms);
        granted.await.unwrap();
    };
    let policy = async |head: &SignedHead| {
        let found = crate::find_grant_and_policy(&*world.storage, head, &eve.key).await;
        found.map(|(_, policy)| policy)
    };
    grant(GrantTerms::default()).await;
    grant(GrantTerms {
        policy: Some(strict.clone()),
        ..GrantTerms::default()
    })
    .await;
    assert_eq!(policy(&head).await.unwrap(), Some(strict));
    // One that is over lets no older one, without an end and a condition, come back; nor is the next version for her.
    grant(GrantTerms::until(Some(1))).await;
    assert_eq!(code(policy(&head).await), "E_GRANT_EXPIRED");
    let next = world.put_more().await;
    assert_eq!(next.head.head.epoch, 2);
    assert_eq!(code(policy(&next.head).await), "E_GRANT_OPEN");
}

#[tokio::test]
async fn a_grant_with_conditions_of_a_later_version_is_not_passed_over() {
    let world = World::new().await;
    let eve = Person::new(&*world.storage).await;
    world.grant(&eve).await.unwrap();
    let head = world.head().await;
    eve.read(&world.storage, &head).await.unwrap();
    let posts = world.storage.posts(crate::storage::PostQuery {
        types: vec![crate::GRANT_POST_TYPE.to_owned()],
        tags: vec![eve.address().to_string()],
        ..crate::storage::PostQuery::default()
    });
    let mut content = posts.await.unwrap().pop().unwrap().content;
    content["policy"] = serde_json::json!({ "attested": false, "walls": [], "egress": "none" });
    let post = crate::message::sign_post(&world.owner.wallet, crate::GRANT_POST_TYPE, content, None);
    world.storage.publish(&post.unwrap()).await.unwrap();
    let refused = eve.read(&world.storage, &head).await;
    assert!(
        refused
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("does not know")
    );
    assert_eq!(code(refused), "E_GRANT_OPEN");
}

#[tokio::test]
async fn nothing_is_wrapped_for_a_key_that_was_taken_back() {
    let world = World::new().await;
    let (wallet, storage) = (&world.owner.wallet, &*world.storage);
    let lost = ReaderKey::generate().unwrap();
    register_reader_key(storage, wallet, &lost).await.unwrap();
    let id = hex::encode(lost.public().id());
    assert_eq!(
        code(crate::revoke_reader_key(storage, wallet, "00").await),
        "E_NOT_FOUND"
    );
    crate::revoke_reader_key(storage, wallet, &id).await.unwrap();
    let keys = crate::reader_keys_of(storage, &wallet.address()).await.unwrap();
    assert_eq!(keys, [world.owner.key.public()]);
    // The machine's other key is taken back with it, and the machine does not bring itself back.
    let all = crate::registered_keys(storage, &wallet.address()).await.unwrap();
    assert_eq!(
        all.iter().filter(|key| key.is_revoked()).count(),
        lost.publics().len()
    );
    assert_eq!(
        code(register_reader_key(storage, wallet, &lost).await),
        "E_KEY_REVOKED"
    );
    let put = put_dataset(
        Arc::clone(&world.storage),
        wallet,
        &world.owner.key,
        files(),
        Meta::default(),
        None,
        &|_| {},
    );
    let put = put.await.unwrap();
    assert!(find_grant(storage, &put.head, &world.owner.key).await.is_ok());
    assert_eq!(code(find_grant(storage, &put.head, &lost).await), "E_GRANT_OPEN");
}
