//! Versions of datasets that kernels upload: who can read them, what is refused, and what a failure in the middle leaves.

use alephlab_api::keys::{stores_text, upload_text};
use alephlab_vault::storage::{Fault, FaultyStorage};
use alephlab_vault::{
    GrantTerms, ReaderKey, Wallet, find_grant, grant_dataset, heads_of, open_epoch_secret,
    register_reader_key,
};

use super::*;
use crate::datasets::Library;

struct Uploading {
    ticket: EpochSecret,
    head: UnsignedHead,
    secret: serde_json::Value,
    objects: Vec<SealedObject>,
}

impl Uploading {
    fn sign(&self) -> Ask {
        Ask::SignUpload {
            dataset: "rain".into(),
            head: serde_json::to_value(&self.head).unwrap(),
            secret: self.secret.clone(),
            proof: self
                .ticket
                .proof(&upload_text("rain", &hex::encode(self.head.hash()))),
        }
    }

    fn stores(&self) -> Ask {
        let asks = self.objects.iter().map(|object| StoreAsk {
            item_hash: object.item_hash(),
            size: object.bytes.len() as u64,
        });
        let objects: Vec<_> = asks.collect();
        Ask::SignUploadStores {
            dataset: "rain".into(),
            proof: self.ticket.proof(&stores_text("rain", &objects)),
            objects,
        }
    }
}

fn prepare() -> Ask {
    Ask::PrepareUpload {
        dataset: "rain".into(),
        files: 1,
        bytes: 3,
        large: Vec::new(),
    }
}

/// What a broker does up to signing.
async fn begin(bench: &Bench, text: &'static str) -> Uploading {
    begin_as(bench, text, named("rain")).await
}

fn named(title: &str) -> Meta {
    Meta {
        title: Some(title.to_owned()),
        created: Some(1),
        ..Meta::default()
    }
}

async fn begin_as(bench: &Bench, text: &'static str, meta: Meta) -> Uploading {
    let call = bench.call(prepare());
    let reply = bench.engine.answer(&call).await.unwrap();
    assert_eq!(
        bench.another().answer(&call).await.unwrap(),
        reply,
        "one call, one answer"
    );
    let KeyReply::Prepared {
        owner,
        dataset_id,
        id_random,
        version,
        prev,
        epoch,
        reader_key,
        ticket,
        ..
    } = reply
    else {
        panic!("another reply");
    };
    let dataset_id = dataset_id.parse().unwrap();
    let ticket = serde_json::from_value(ticket.unwrap()).unwrap();
    let ticket = open_epoch_secret(&bench.kernel, &dataset_id, epoch, &ticket).unwrap();
    let secret = EpochSecret::generate().unwrap();
    let params = SealParams {
        dataset_id,
        version,
        epoch,
        obj_log2: DEFAULT_OBJ_LOG2,
        meta,
    };
    let mut objects = Vec::new();
    let files = [SourceFile::bytes("days.csv", text.as_bytes())];
    let tree = seal_tree(&files, &params, &secret, &mut |object| {
        objects.push(object);
        Ok(())
    });
    let none = "00".repeat(32);
    let head = UnsignedHead {
        dataset_id,
        owner: owner.parse().unwrap(),
        version,
        prev: hex_array(if prev.is_empty() { &none } else { &prev }),
        epoch,
        epoch_commitment: secret.commitment(&dataset_id, epoch),
        root: tree.unwrap().root,
        writers: Vec::new(),
        created: 1,
        not_after: None,
        id_random: hex_array(&id_random),
    };
    let to = ReaderPublic::from_hex(&reader_key).unwrap();
    let secret = seal_epoch_secret(&to, &dataset_id, epoch, &secret).unwrap();
    Uploading {
        ticket,
        head,
        secret: serde_json::to_value(secret).unwrap(),
        objects,
    }
}

async fn upload(bench: &Bench, text: &'static str) -> Uploading {
    let uploading = begin(bench, text).await;
    store_objects(bench, &uploading).await;
    uploading
}

async fn store_objects(bench: &Bench, uploading: &Uploading) {
    let KeyReply::Stores { messages } = bench.ask(uploading.stores()).await.unwrap() else {
        panic!("another reply")
    };
    for (object, message) in uploading.objects.iter().zip(messages) {
        let message = SignedMessage::from_value(message).unwrap();
        bench.storage.put(object.bytes.clone(), &message).await.unwrap();
    }
}

/// Other machines of the account go by the sealed title: a kernel that was let upload one dataset must not name another.
#[tokio::test]
async fn a_manifest_with_another_name_than_was_agreed_to_is_not_signed() {
    let bench = bench().await;
    let nameless = Meta {
        created: Some(1),
        ..Meta::default()
    };
    let model = Meta {
        created: None,
        ..named("rain")
    };
    for meta in [named("payroll"), nameless, model] {
        let uploading = begin_as(&bench, "one", meta).await;
        store_objects(&bench, &uploading).await;
        let refused = bench.ask(uploading.sign()).await.unwrap_err();
        assert_eq!(refused.code(), "head_mismatch");
    }
    let posts = bench
        .storage
        .posts(alephlab_vault::storage::PostQuery::default())
        .await
        .unwrap();
    assert_eq!(posts.len(), 0, "nothing was posted");
    let uploading = upload(&bench, "one").await;
    bench.ask(uploading.sign()).await.unwrap();
}

async fn read(
    bench: &Bench,
    head: &SignedHead,
    key: &ReaderKey,
) -> std::result::Result<String, alephlab_vault::VaultError> {
    let secret = find_grant(&*bench.storage, head, key).await?;
    let reader = Reader::open(bench.storage.clone(), head, Keys::Epoch(secret)).await?;
    Ok(String::from_utf8(reader.read("days.csv").await?.to_vec()).unwrap())
}

async fn newest(bench: &Bench) -> SignedHead {
    let library = Library::new(bench.account.clone(), bench.storage.clone());
    library.newest("rain", false).await.unwrap().unwrap().0
}

fn code(result: Result<KeyReply>) -> String {
    result.map(|_| ()).unwrap_err().code().to_owned()
}

#[tokio::test]
async fn a_version_from_a_kernel_is_read_by_all_who_could_read_the_one_before() {
    let bench = bench().await;
    let first = upload(&bench, "one").await;
    let reply = bench.ask(first.sign()).await.unwrap();
    assert!(
        matches!(&reply, KeyReply::Uploaded { version: 1, .. }),
        "{reply:?}"
    );
    assert_eq!(
        bench.ask(first.sign()).await.unwrap(),
        reply,
        "asking again changes nothing"
    );
    assert_eq!(
        read(&bench, &newest(&bench).await, bench.account.reader())
            .await
            .unwrap(),
        "one"
    );

    // Somebody else is let in for the first version.
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    register_reader_key(&*bench.storage, &wallet, &key).await.unwrap();
    let own = bench.account.reader();
    let before = newest(&bench).await;
    grant_dataset(
        &*bench.storage,
        bench.account.wallet(),
        own,
        &before,
        wallet.owner(),
        GrantTerms::default(),
    )
    .await
    .unwrap();
    let second = upload(&bench, "two").await;
    assert_eq!(
        (second.head.version, second.head.epoch, second.head.prev),
        (2, 2, before.hash())
    );
    bench.ask(second.sign()).await.unwrap();
    let head = newest(&bench).await;
    assert_eq!(read(&bench, &head, &key).await.unwrap(), "two");
    assert_eq!(read(&bench, &before, &key).await.unwrap(), "one");
    assert!(
        read(&bench, &head, &ReaderKey::generate().unwrap())
            .await
            .is_err()
    );

    // And the owner goes on from a terminal.
    let library = Library::new(bench.account.clone(), bench.storage.clone());
    let files = vec![SourceFile::bytes("days.csv", "three")];
    let put = library
        .put("rain", files, Meta::default(), &|_| {})
        .await
        .unwrap();
    assert_eq!(put.version, 3);
    assert_eq!(read(&bench, &newest(&bench).await, &key).await.unwrap(), "three");
}

/// A gateway that keeps a kernel's later steps back and sends its own in their place, and a kernel that wants more than was
/// agreed to.
#[tokio::test]
async fn what_was_agreed_to_is_signed_for_who_was_agreed_to_and_nothing_more() {
    let bench = bench().await;
    let uploading = upload(&bench, "one").await;
    let foreign = Uploading {
        ticket: EpochSecret::generate().unwrap(),
        head: uploading.head.clone(),
        secret: uploading.secret.clone(),
        objects: Vec::new(),
    };
    for ask in [foreign.stores(), foreign.sign()] {
        assert_eq!(code(bench.ask(ask).await), "not_prepared");
    }
    // The proof of one list is none of another.
    let Ask::SignUploadStores { proof, .. } = uploading.stores() else {
        panic!("another ask")
    };
    let ask = Ask::SignUploadStores {
        dataset: "rain".into(),
        objects: vec![StoreAsk {
            item_hash: "ab".repeat(32),
            size: 1,
        }],
        proof,
    };
    assert_eq!(code(bench.ask(ask).await), "not_prepared");
    let objects = vec![StoreAsk {
        item_hash: "ab".repeat(32),
        size: 1 << 30,
    }];
    let ask = Ask::SignUploadStores {
        dataset: "rain".into(),
        proof: uploading.ticket.proof(&stores_text("rain", &objects)),
        objects,
    };
    assert_eq!(code(bench.ask(ask).await), "too_many_objects");
    bench.ask(uploading.sign()).await.unwrap();
}

#[tokio::test]
async fn a_head_that_was_signed_is_not_posted_beside_one_that_took_its_place() {
    let mut bench = bench().await;
    let node = Arc::new(FaultyStorage::new(bench.storage.clone()));
    bench.engine = Engine::new(
        bench.account.clone(),
        node.clone(),
        bench.engine.gateway().clone(),
    );
    bench.ask(upload(&bench, "one").await.sign()).await.unwrap();
    let library = Library::new(bench.account.clone(), bench.storage.clone());
    let mut signed = 0;
    for calls in 0..40 {
        let uploading = upload(&bench, "from a kernel").await;
        let call = bench.call(uploading.sign());
        node.set(Some(Fault::FailAfter(calls)));
        let answer = bench.engine.answer(&call).await;
        node.set(None);
        // The owner's terminal publishes the version meanwhile.
        let text = format!("from a terminal {calls}");
        let files = vec![SourceFile::bytes("days.csv", text.clone().into_bytes())];
        library
            .put("rain", files, Meta::default(), &|_| {})
            .await
            .unwrap();
        let uploads = Books::of(&bench.account).uploads().unwrap();
        let is_signed = uploads.get("rain").is_some_and(|upload| upload.signed.is_some());
        signed += u32::from(is_signed);
        let again = bench.engine.answer(&call).await;
        let head = newest(&bench).await;
        assert_eq!(
            read(&bench, &head, bench.account.reader()).await.unwrap(),
            text,
            "{calls}"
        );
        if answer.is_ok() {
            return assert!(signed > 0, "no head was left signed and not posted");
        }
        assert!(again.is_err(), "{again:?}");
    }
    panic!("it never succeeded");
}

#[tokio::test]
async fn only_the_head_that_was_prepared_is_signed() {
    let bench = bench().await;
    let uploading = begin(&bench, "one").await;
    assert_eq!(
        code(bench.ask(uploading.sign()).await),
        "head_mismatch",
        "nothing of it is stored"
    );
    let uploading = upload(&bench, "one").await;
    let foreign = Wallet::generate().unwrap().owner();
    let changes: [fn(&mut UnsignedHead); 7] = [
        |head| head.version += 1,
        |head| head.epoch += 1,
        |head| head.prev = [1; 32],
        |head| head.id_random = [1; 16],
        |head| head.not_after = Some(1),
        |head| head.root.item_hash = "ab".repeat(32),
        |head| head.root.sha256 = [1; 32],
    ];
    for change in changes {
        let mut changed = Uploading {
            ticket: uploading.ticket.duplicate(),
            head: uploading.head.clone(),
            secret: uploading.secret.clone(),
            objects: Vec::new(),
        };
        change(&mut changed.head);
        assert_eq!(code(bench.ask(changed.sign()).await), "head_mismatch");
    }
    let mut changed = Uploading {
        ticket: uploading.ticket.duplicate(),
        head: uploading.head.clone(),
        secret: uploading.secret.clone(),
        objects: Vec::new(),
    };
    changed.head.owner = foreign;
    assert_eq!(code(bench.ask(changed.sign()).await), "head_mismatch");
    // A secret that the head does not commit to would make a version that nobody can open.
    let other = EpochSecret::generate().unwrap();
    let to = bench.account.reader().public();
    let other = seal_epoch_secret(&to, &uploading.head.dataset_id, uploading.head.epoch, &other).unwrap();
    let ask = Ask::SignUpload {
        dataset: "rain".into(),
        head: serde_json::to_value(&uploading.head).unwrap(),
        secret: serde_json::to_value(other).unwrap(),
        proof: uploading
            .ticket
            .proof(&upload_text("rain", &hex::encode(uploading.head.hash()))),
    };
    assert!(bench.ask(ask).await.is_err());
    bench.ask(uploading.sign()).await.unwrap();
}

#[tokio::test]
async fn a_head_that_was_signed_and_not_posted_is_posted_before_the_next_is_made() {
    let mut bench = bench().await;
    let node = Arc::new(FaultyStorage::new(bench.storage.clone()));
    bench.engine = Engine::new(
        bench.account.clone(),
        node.clone(),
        bench.engine.gateway().clone(),
    );
    for calls in 0..40 {
        let uploading = upload(&bench, "text").await;
        // The node fails after so many more calls, and is back for the next upload.
        let call = bench.call(uploading.sign());
        node.set(Some(Fault::FailAfter(calls)));
        let signed = bench.engine.answer(&call).await;
        node.set(None);
        let id = uploading.head.dataset_id;
        let owner = bench.account.address();
        let next = begin(&bench, "text").await;
        let heads = heads_of(&*bench.storage, &owner, &id).await.unwrap();
        let versions: Vec<u64> = heads.iter().map(|(head, _)| head.head.version).collect();
        let expected: Vec<u64> = (1..next.head.version).collect();
        assert_eq!(
            versions, expected,
            "after {calls} calls: one head for each version"
        );
        if signed.is_ok() {
            assert_eq!(next.head.version, uploading.head.version + 1);
            return;
        }
    }
    panic!("it never succeeded");
}

#[tokio::test]
async fn a_first_upload_that_was_cut_elsewhere_is_not_begun_again_under_another_id() {
    let bench = bench().await;
    let entry = DatasetEntry {
        dataset_id: "ab".repeat(32),
    };
    Books::of(&bench.account)
        .set_dataset("rain", entry.clone())
        .unwrap();
    let error = bench.ask(prepare()).await.unwrap_err();
    assert!(
        error.to_string().contains("does not know the dataset rain"),
        "{error}"
    );
    assert_eq!(Books::of(&bench.account).datasets().unwrap()["rain"], entry);
    let ask = Ask::PrepareUpload {
        dataset: "../rain".into(),
        files: 1,
        bytes: 1,
        large: Vec::new(),
    };
    assert!(
        bench
            .ask(ask)
            .await
            .unwrap_err()
            .to_string()
            .contains("cannot be the name")
    );
}
