//! Receipts of every kind, the log of all, and what a third party makes of its proofs.

use std::sync::Arc;

use alephlab_api::receipt::{Receipt, ReceiptHead, ReceiptProof};
use alephlab_vault::Wallet;
use alephlab_vault::storage::{Fault, FaultyStorage, MemoryStorage, PostQuery, Storage};
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
    poster: Wallet,
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
            poster: Wallet::generate().unwrap(),
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
        post_once(&self.store, &*self.network, &self.key, &self.poster).await
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
    for (from, to) in [(3, 515), (2, 3), (515, 2), (0, 2)] {
        assert_eq!(world.store.receipt_consistency(from, to).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_root_that_did_not_arrive_is_posted_later_also_by_the_next_run() {
    let mut world = World::new().await;
    world.write(&sale("order:1", ADA)).await.unwrap();
    world.network.set(Some(Fault::FailTimes(1)));
    world.post().await.unwrap_err();
    assert!(world.store.posted_receipt_head().await.unwrap().is_none());
    world.store.close().await;
    world.store = Store::open(world.folder.path()).await.unwrap();
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
