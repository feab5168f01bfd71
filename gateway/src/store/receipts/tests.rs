//! Receipts of every kind, the log of all, and what a third party makes of its proofs.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use alephlab_api::receipt::{Receipt, ReceiptHead, ReceiptProof};
use alephlab_vault::storage::{
    BoxFuture, Fault, FaultyStorage, MemoryStorage, PostQuery, Storage, StoredPost,
};
use alephlab_vault::{SignedMessage, VaultError, Wallet};
use bytes::Bytes;
use sqlx::Connection as _;

use super::super::pools;
use super::super::tests::database_of;
use super::*;
use crate::receipts::{
    ReceiptError, check_chain, check_consistency, check_head, check_proof, hash, post_once,
};

const ADA: &str = "0x00000000000000000000000000000000000000aD";
const BEA: &str = "acct_01890a5d";

struct World {
    folder: tempfile::TempDir,
    store: Store,
    key: ReceiptKey,
    network: Arc<FaultyStorage>,
    poster: Arc<Wallet>,
    /// Whether this run has looked up what is posted.
    is_looked_up: Cell<bool>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        // Of an earlier entry, which receipts name.
        let given = (ADA, ADA);
        let some = Amount::from_whole(1);
        store.credit(given, Asset::Credit, some, "k", "").await.unwrap();
        Self {
            key: ReceiptKey::open(folder.path(), ADA.parse().unwrap()).unwrap(),
            network: Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new()))),
            poster: Arc::new(Wallet::generate().unwrap()),
            is_looked_up: Cell::new(false),
            folder,
            store,
        }
    }

    async fn write(&self, new: &NewReceipt<'_>) -> Option<Uuid> {
        let mut transaction = self.store.begin().await.unwrap();
        let id = write(&mut transaction, new, &self.key).await.unwrap();
        transaction.commit().await.unwrap();
        id
    }

    async fn post(&self) -> Result<()> {
        self.post_on(&*self.network).await
    }

    async fn post_on(&self, network: &dyn Storage) -> Result<()> {
        let mut is_looked_up = self.is_looked_up.get();
        let posted = post_once(&self.store, network, &self.key, &self.poster, &mut is_looked_up).await;
        self.is_looked_up.set(is_looked_up);
        posted
    }

    /// Another database and another run, of the same gateway.
    async fn moved(&self, folder: &tempfile::TempDir) -> Self {
        let store = Store::open(folder.path()).await.unwrap();
        let given = (ADA, ADA);
        let some = Amount::from_whole(1);
        store.credit(given, Asset::Credit, some, "k", "").await.unwrap();
        Self {
            store,
            key: ReceiptKey::open(self.folder.path(), ADA.parse().unwrap()).unwrap(),
            network: Arc::clone(&self.network),
            poster: Arc::clone(&self.poster),
            is_looked_up: Cell::new(false),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// All roots on the network, oldest first.
    async fn heads(&self) -> Vec<(String, ReceiptHead)> {
        let posts = self.network.posts(PostQuery::default()).await.unwrap();
        let mut heads: Vec<_> = posts
            .iter()
            .map(|post| {
                (
                    post.item_hash.clone(),
                    check_head(post, &self.key.address()).unwrap(),
                )
            })
            .collect();
        heads.sort_by_key(|(_, head)| head.size);
        heads
    }

    /// A receipt's proof against the message that it names.
    async fn prove(&self, id: Uuid) -> (SignedReceipt, ReceiptProof, ReceiptHead) {
        let proof = self.store.receipt_proof(id).await.unwrap().unwrap();
        let post = self.network.post(&proof.message).await.unwrap().unwrap();
        let head = check_head(&post, &self.key.address()).unwrap();
        let receipt = self.store.receipt(id).await.unwrap().unwrap();
        check_proof(&receipt, &proof, &head).unwrap();
        (receipt, proof, head)
    }
}

fn sale<'a>(about: &'a str, payer: &'a str) -> NewReceipt<'a> {
    NewReceipt {
        about,
        payer,
        payee: BEA,
        kind: ReceiptKind::Sale,
        subject: "model ada/digits",
        model: Some(Uuid::nil()),
        commit: Some("abababababababababababababababababababab"),
        units: 1,
        unit_price: Amount::from_whole(3),
        amount: Amount::from_whole(3),
        asset: Asset::Aleph,
        entry: None,
    }
}

#[tokio::test]
async fn every_kind_has_one_receipt_for_each_thing_in_its_payers_chain() {
    let world = World::new().await;
    for (number, kind) in [
        ReceiptKind::Compute,
        ReceiptKind::Sale,
        ReceiptKind::Use,
        ReceiptKind::Convert,
        ReceiptKind::Withdraw,
    ]
    .into_iter()
    .enumerate()
    {
        for payer in [ADA, BEA] {
            let about = format!("{}:{payer}{number}", kind.name());
            let new = NewReceipt {
                kind,
                units: kind.unit().parts(),
                ..sale(&about, payer)
            };
            let id = world.write(&new).await;
            assert_eq!(world.write(&new).await, id, "the same is told again");
            let nothing = NewReceipt {
                about: "nothing",
                amount: Amount::ZERO,
                ..new
            };
            assert_eq!(world.write(&nothing).await, None);
        }
    }
    for payer in [ADA, BEA] {
        let chain = world.store.receipts(payer, 0, 100).await.unwrap();
        check_chain(&chain, &world.key.address()).unwrap();
        assert_eq!(chain.len(), 5);
        assert!(
            chain
                .iter()
                .all(|one| one.receipt.entry == 1 && one.receipt.version == 2)
        );
    }
    assert_eq!(world.store.receipt_count().await.unwrap(), 10);
}

#[tokio::test]
async fn anybody_can_check_that_a_receipt_is_under_a_posted_root_and_later_ones_continue_it() {
    let world = World::new().await;
    world.post().await.unwrap();
    assert!(world.heads().await.is_empty(), "nothing is posted of nothing");
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    // Beyond two stored nodes, and with a last one that is alone.
    for size in [1, 2, 7, 255, 256, 257, 515] {
        while ids.len() < size {
            let about = format!("order:{}", ids.len());
            ids.push(
                world
                    .write(&sale(&about, [ADA, BEA][ids.len() % 2]))
                    .await
                    .unwrap(),
            );
        }
        let last = ids[size - 1];
        let before = world.store.receipt_proof(last).await.unwrap();
        assert!(before.is_none(), "a root that is posted is older");
        world.post().await.unwrap();
        world.post().await.unwrap();
        sizes.push(size);
        let heads = world.heads().await;
        assert_eq!(heads.len(), sizes.len(), "once for what is new");
        for place in [0, size / 2, size - 1] {
            let (receipt, proof, head) = world.prove(ids[place]).await;
            assert_eq!(proof.place, place as u64);
            let other = world
                .store
                .receipt(ids[(place + 1) % ids.len()])
                .await
                .unwrap()
                .unwrap();
            if other != receipt {
                assert!(matches!(
                    check_proof(&other, &proof, &head),
                    Err(ReceiptError::Inclusion { .. })
                ));
            }
        }
        let (_, newest) = &heads[heads.len() - 1];
        for (number, (message, head)) in heads.iter().enumerate() {
            let previous = number.checked_sub(1).map(|before| heads[before].0.clone());
            assert_eq!(head.previous, previous, "{message} names the one before");
            let found = world.store.receipt_consistency(head.size, newest.size);
            let found = found.await.unwrap().unwrap();
            check_consistency(head, newest, &found).unwrap();
            let mut changed = head.clone();
            changed.root = "ab".repeat(32);
            assert!(check_consistency(&changed, newest, &found).is_err());
        }
    }
    for (from, to) in [(515, 516), (515, 2), (0, 2)] {
        assert_eq!(world.store.receipt_consistency(from, to).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_root_that_did_not_arrive_is_posted_later_also_by_the_next_run() {
    let mut world = World::new().await;
    world.write(&sale("order:1", ADA)).await.unwrap();
    world.network.set(Some(Fault::FailTimes(1)));
    world.post().await.unwrap_err();
    assert!(
        world.store.newest_receipt_head().await.unwrap().is_none(),
        "nothing is signed before it is looked up what stands there"
    );
    world.network.set(Some(Fault::FailAfter(1)));
    world.post().await.unwrap_err();
    world.network.set(None);
    assert!(world.store.posted_receipt_head().await.unwrap().is_none());
    world.store.close().await;
    world.store = Store::open(world.folder.path()).await.unwrap();
    world.is_looked_up.set(false);
    let id = world.write(&sale("order:2", ADA)).await.unwrap();
    world.post().await.unwrap();
    let heads = world.heads().await;
    let sizes: Vec<_> = heads.iter().map(|(_, head)| head.size).collect();
    assert_eq!(sizes, [1, 2], "what was signed first, then what is new");
    assert_eq!(heads[1].1.previous.as_ref(), Some(&heads[0].0));
    world.prove(id).await;
    // Only what may not have arrived can be taken back.
    world.store.drop_receipt_head(2).await.unwrap();
    assert_eq!(world.store.posted_receipt_head().await.unwrap().unwrap().size, 2);
    for statement in [
        "DELETE FROM receipt_heads",
        "UPDATE receipt_heads SET state = 'signed'",
        "DELETE FROM receipts",
        "UPDATE receipts SET about = 'x'",
    ] {
        assert!(
            sqlx::query(statement).execute(&world.store.write).await.is_err(),
            "{statement}"
        );
    }
}

/// After a power failure or with an older copy of the database, what is on Aleph is more than what is here.
#[tokio::test]
async fn a_database_without_what_was_posted_posts_nothing_that_contradicts_it() {
    let world = World::new().await;
    for about in ["order:1", "order:2", "order:3"] {
        world.write(&sale(about, ADA)).await.unwrap();
    }
    world.post().await.unwrap();
    let posted = world.heads().await;
    let folder = tempfile::tempdir().unwrap();
    let mut older = world.moved(&folder).await;
    // Fewer than were posted; then as many, and more, of which the first are others.
    for (number, said) in [
        (1, "has 0"),
        (2, "has 1"),
        (3, "has 2"),
        (4, "not that of"),
        (5, "not that of"),
    ] {
        older.key = ReceiptKey::open(world.folder.path(), ADA.parse().unwrap()).unwrap();
        older.post().await.unwrap();
        let fault = older.key.fault.get().unwrap();
        assert!(fault.contains(said), "{fault}");
        older.write(&sale(&format!("other:{number}"), ADA)).await.unwrap();
    }
    assert_eq!(world.heads().await, posted);
    assert!(older.store.newest_receipt_head().await.unwrap().is_none());
    // The database that has them goes on.
    world.is_looked_up.set(false);
    world.write(&sale("order:4", ADA)).await.unwrap();
    world.post().await.unwrap();
    assert_eq!((world.heads().await.len(), world.key.fault.get()), (2, None));
}

/// A node that takes no message, and says this.
struct Refusing(Arc<dyn Storage>, Mutex<Option<VaultError>>);

impl Storage for Refusing {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.0.put(bytes, store)
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        self.0.get(item_hash)
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.0.stores(owner, objects)
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        match self.1.lock().unwrap().take() {
            Some(refusal) => Box::pin(std::future::ready(Err(refusal))),
            None => self.0.publish(message),
        }
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.0.post(item_hash)
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        self.0.posts(query)
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<serde_json::Value>> {
        self.0.aggregate(address, key)
    }
}

#[tokio::test]
async fn a_root_that_is_refused_for_good_is_signed_anew_and_so_is_one_of_an_earlier_account() {
    let mut world = World::new().await;
    world.write(&sale("order:1", ADA)).await.unwrap();
    let what = "message".to_owned();
    let reason = String::new();
    for refusal in [
        VaultError::Payment { what: what.clone() },
        VaultError::TooLarge { what: what.clone() },
        VaultError::Forbidden {
            what: what.clone(),
            reason: reason.clone(),
        },
        VaultError::Rejected { what, reason },
    ] {
        let network = Refusing(Arc::clone(&world.network) as _, Mutex::new(Some(refusal)));
        world.post_on(&network).await.unwrap_err();
        assert!(world.store.newest_receipt_head().await.unwrap().is_none());
    }
    // It may be taken later: it stays as it is, as long as the account is the same.
    world.network.set(Some(Fault::FailTimes(1)));
    world.post().await.unwrap_err();
    assert!(world.store.newest_receipt_head().await.unwrap().is_some());
    world.poster = Arc::new(Wallet::generate().unwrap());
    world.post().await.unwrap();
    let posted = world.store.posted_receipt_head().await.unwrap().unwrap();
    assert_eq!(posted.message.sender(), world.poster.address());
}

#[tokio::test]
async fn what_another_payment_is_about_has_no_second_receipt() {
    let world = World::new().await;
    let first = sale("order:1", ADA);
    let id = world.write(&first).await.unwrap();
    let others = [
        sale("order:1", BEA),
        NewReceipt {
            kind: ReceiptKind::Withdraw,
            ..first
        },
        NewReceipt {
            amount: Amount::from_whole(2),
            ..first
        },
        NewReceipt {
            asset: Asset::Credit,
            ..first
        },
    ];
    for other in &others {
        let mut transaction = world.store.begin().await.unwrap();
        let refused = write(&mut transaction, other, &world.key).await.unwrap_err();
        assert_eq!(refused.code(), "key_conflict");
    }
    assert_eq!(world.write(&first).await, Some(id));
}

#[tokio::test]
async fn a_root_of_another_key_or_poster_is_refused() {
    let world = World::new().await;
    world.write(&sale("order:1", ADA)).await.unwrap();
    world.post().await.unwrap();
    let posts = world.network.posts(PostQuery::default()).await.unwrap();
    let (signer, post) = (world.key.address(), &posts[0]);
    check_head(post, &signer).unwrap();
    let refused = |post, signer: &str, said: &str| {
        let error = check_head(&post, signer).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(post.clone(), ADA, "another gateway");
    let mut other = post.clone();
    (other.sender, other.address) = (ADA.into(), ADA.into());
    refused(other, &signer, "for this poster");
    let mut other = post.clone();
    other.content["size"] = 2.into();
    refused(other, &signer, "did not sign this root");
    let mut other = post.clone();
    other.post_type = "alephlab-model".into();
    refused(other, &signer, "another type");
    let mut other = post.clone();
    other.address = ADA.into();
    refused(other, &signer, "another account's name");
}

/// What the first version of receipts wrote, and was signed otherwise.
#[tokio::test]
async fn receipts_of_an_older_gateway_hold_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let key = ReceiptKey::open(folder.path(), ADA.parse().unwrap()).unwrap();
    let database = database_of(folder.path()).await;
    let (kind, options) = pools::place(folder.path(), database.as_ref()).unwrap();
    let mut old = pools::first(kind, &options, database.as_ref()).await.unwrap();
    kind.migrations.run_to(16, &mut old).await.unwrap();
    let nothing = Amount::ZERO.to_bytes();
    let purse = "INSERT INTO ledger_accounts (owner, asset, kind, debits, credits, held)
                 VALUES ($1, 'credit', 'wallet', $2, $2, $2) RETURNING id";
    let account: i64 = sqlx::query_scalar(purse)
        .bind(ADA)
        .bind(&nothing[..])
        .fetch_one(&mut old)
        .await
        .unwrap();
    let mut previous = "00".repeat(32);
    for sequence in 1..=3_u64 {
        let receipt = Receipt {
            version: 1,
            id: Uuid::new_v4(),
            payer: ADA.to_owned(),
            payee: ADA.to_owned(),
            kind: ReceiptKind::Compute,
            subject: "kernel".to_owned(),
            model: None,
            commit: None,
            units: 60,
            unit: alephlab_api::receipt::Unit::Hour,
            unit_price: Amount::from_whole(60),
            amount: Amount::from_whole(1),
            asset: Asset::Credit,
            sequence,
            entry: sequence,
            previous,
            time: 1_795_000_000,
        };
        previous = hex::encode(hash(&receipt).unwrap());
        let (mut signed, own) = key
            .sign(receipt)
            .map(|(one, own)| (serde_json::json!(one), own))
            .unwrap();
        // As it was written then.
        let fields = signed.as_object_mut().unwrap();
        fields.remove("version").unwrap();
        fields.remove("unit").unwrap();
        let hold = Uuid::new_v4().to_string();
        sqlx::query(
            "INSERT INTO holds (id, key, account, amount, price, charged, seconds, memo, state, created, ended)
             VALUES ($1, $1, $2, $3, $3, $3, 0, '', 'ended', 0, 0)",
        )
        .bind(&hold)
        .bind(account)
        .bind(&nothing[..])
        .execute(&mut old)
        .await
        .unwrap();
        sqlx::query("INSERT INTO receipts (payer, sequence, hold, hash, signed) VALUES ($1, $2, $3, $4, $5)")
            .bind(ADA)
            .bind(seconds(sequence))
            .bind(&hold)
            .bind(&own[..])
            .bind(signed.to_string())
            .execute(&mut old)
            .await
            .unwrap();
    }
    old.close().await.unwrap();
    let mut world = World::new().await;
    world.store = Store::open(folder.path()).await.unwrap();
    world.key = key;
    let new = NewReceipt {
        entry: Some(9),
        ..sale("order:1", ADA)
    };
    let id = world.write(&new).await.unwrap();
    let chain = world.store.receipts(ADA, 0, 100).await.unwrap();
    check_chain(&chain, &world.key.address()).unwrap();
    let versions: Vec<_> = chain.iter().map(|one| one.receipt.version).collect();
    assert_eq!(versions, [1, 1, 1, 2]);
    world.post().await.unwrap();
    for (place, id) in chain.iter().map(|one| one.receipt.id).enumerate() {
        assert_eq!(world.prove(id).await.1.place, place as u64);
    }
    world.prove(id).await;
    // What was not signed then cannot be said of them now.
    let mut changed = chain[0].clone();
    changed.receipt.model = Some(Uuid::nil());
    assert!(matches!(
        check_chain(&[changed], &world.key.address()),
        Err(ReceiptError::Malformed { field: "model", .. })
    ));
}
