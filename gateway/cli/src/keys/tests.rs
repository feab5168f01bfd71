//! The engine against a node in memory: what it opens, what it signs, and what it refuses.

mod judging;
mod machines;
mod policies;
mod private;
mod sales;
mod uploading;

use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::broker::Wall;
use alephlab_api::client::GatewayClient;
use alephlab_api::keys::{Ask, KernelInfo, KeyCall, KeyReply, KeyRequest, StoreAsk};
use alephlab_api::model::{IndexedModel, ModelRecord, RecordFile};
use alephlab_vault::message::SignedMessage;
use alephlab_vault::storage::{MemoryStorage, Storage};
use alephlab_vault::{
    DEFAULT_OBJ_LOG2, Delegation, EpochSecret, Keys, Meta, Reader, ReaderKey, ReaderPublic, SealParams,
    SealedObject, SignedHead, SourceFile, UnsignedHead, put_dataset, seal_epoch_secret, seal_tree,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{Books, DatasetEntry, Engine};
use crate::account::Account;
use crate::data::DataFolder;
use crate::error::Result;
use crate::testing::{Scratch, scratch};

struct Bench {
    folder: Scratch,
    storage: Arc<dyn Storage>,
    account: Arc<Account>,
    engine: Engine,
    kernel: ReaderKey,
    /// What the host says of itself.
    walls: Vec<Wall>,
}

async fn bench() -> Bench {
    let folder = scratch();
    let data = DataFolder::open(folder.path()).unwrap();
    let account = Arc::new(Account::create(&data, "owner", None).unwrap());
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let gateway = GatewayClient::new(&gateway_that_takes_models().await, None).unwrap();
    let engine = Engine::new(account.clone(), storage.clone(), gateway);
    Bench {
        folder,
        storage,
        account,
        engine,
        kernel: ReaderKey::generate().unwrap(),
        walls: Vec::new(),
    }
}

/// Answers every request with 201 and an indexed model: the engine only needs to hear that it was taken.
async fn gateway_that_takes_models() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let record = ModelRecord {
        owner: String::new(),
        name: String::new(),
        commit: String::new(),
        price: String::new(),
        created: 0,
        ..ModelRecord::default()
    };
    let body = serde_json::to_string(&IndexedModel {
        record,
        message: String::new(),
    })
    .unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = socket.read(&mut buffer).await;
            let answer = format!(
                "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

impl Bench {
    fn call(&self, ask: Ask) -> KeyCall {
        KeyCall {
            id: Uuid::new_v4(),
            kernel: KernelInfo {
                id: Uuid::nil(),
                host: "here".into(),
                trust: "this machine".into(),
                started: "now".into(),
            },
            request: KeyRequest {
                kernel_key: self.kernel.public().to_hex(),
                walls: self.walls.clone(),
                ask,
            },
        }
    }

    async fn ask(&self, ask: Ask) -> Result<KeyReply> {
        self.engine.answer(&self.call(ask)).await
    }

    /// Another process with the same account.
    fn another(&self) -> Engine {
        let gateway = self.engine.gateway().clone();
        Engine::new(self.account.clone(), self.storage.clone(), gateway)
    }

    async fn open(&self, reference: &str) -> Result<(SignedHead, Reader)> {
        let (head, keys) = self.delegated(reference).await?;
        let reader = Reader::open(self.storage.clone(), &head, keys).await.unwrap();
        Ok((head, reader))
    }

    /// What a kernel gets.
    async fn delegated(&self, reference: &str) -> Result<(SignedHead, Keys)> {
        let KeyReply::Opened { head, delegation, .. } = self
            .ask(Ask::Open {
                reference: reference.into(),
            })
            .await?
        else {
            panic!("another reply");
        };
        let head: SignedHead = serde_json::from_value(head).unwrap();
        let delegation: Delegation = serde_json::from_value(delegation).unwrap();
        let now = alephlab_api::time::unix_now();
        let keys = delegation
            .open(&self.kernel, &head, &self.account.address(), now)
            .unwrap();
        Ok((head, keys))
    }

    async fn put(&self, text: &'static str) {
        let books = Books::of(&self.account);
        let previous = match books.datasets().unwrap().get("notes") {
            Some(entry) => {
                let id = entry.dataset_id.parse().unwrap();
                alephlab_vault::find_head(&*self.storage, &self.account.address(), &id)
                    .await
                    .unwrap()
            }
            None => None,
        };
        let files = vec![SourceFile::bytes("a.txt", text.as_bytes())];
        let (wallet, reader) = (self.account.wallet(), self.account.reader());
        let put = put_dataset(
            self.storage.clone(),
            wallet,
            reader,
            files,
            Meta::default(),
            previous,
            &|_| (),
        );
        let dataset_id = put.await.unwrap().dataset_id.to_string();
        books.set_dataset("notes", DatasetEntry { dataset_id }).unwrap();
    }
}

#[tokio::test]
async fn a_dataset_is_opened_by_its_local_name_and_id_for_the_kernel_that_asked() {
    let bench = bench().await;
    bench.put("hello").await;
    let (head, reader) = bench.open("notes").await.unwrap();
    assert_eq!(&*reader.read("a.txt").await.unwrap(), b"hello");
    let (same, _) = bench.open(&head.head.dataset_id.to_string()).await.unwrap();
    assert_eq!(same.hash(), head.hash());
    bench.put("hello again").await;
    let (newer, reader) = bench.open("notes").await.unwrap();
    assert_eq!(
        (newer.head.version, &*reader.read("a.txt").await.unwrap()),
        (2, b"hello again".as_slice())
    );
}

#[tokio::test]
async fn a_kernel_gets_keys_of_the_version_that_it_opened_and_of_no_other() {
    let bench = bench().await;
    bench.put("one").await;
    let (first, keys_of_first) = bench.delegated("notes").await.unwrap();
    bench.put("two").await;
    let (second, keys_of_second) = bench.delegated("notes").await.unwrap();
    assert_eq!(first.head.epoch, second.head.epoch, "one secret opens both");
    for (head, keys) in [(&second, keys_of_first), (&first, keys_of_second)] {
        let refused = Reader::open(bench.storage.clone(), head, keys)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), "E_EPOCH");
    }
}

#[tokio::test]
async fn mounting_a_version_again_stores_no_further_root() {
    let bench = bench().await;
    bench.put("one").await;
    let mut roots = Vec::new();
    for _ in 0..2 {
        let (_, Keys::Objects(keys)) = bench.delegated("notes").await.unwrap() else {
            panic!("a secret of an epoch was delegated");
        };
        roots.push(keys.root.at.item_hash);
    }
    assert_eq!(roots[0], roots[1]);
}

#[tokio::test]
async fn describing_a_request_leaves_no_trace() {
    let bench = bench().await;
    bench.put("hello").await;
    let seen = bench.account.folder().join("seen.json");
    let open = Ask::Open {
        reference: "notes".into(),
    };
    let lines = bench.engine.describe(&bench.call(open.clone()).request).await;
    assert!(lines[0].contains("version  1"), "{lines:?}");
    assert!(!seen.exists());
    bench.ask(open).await.unwrap();
    assert!(seen.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_publish_with_one_account_lose_nothing_of_each_other() {
    const MODELS: usize = 20;
    let bench = bench().await;
    let processes = ["a", "b"].map(|process| {
        let engine = bench.another();
        let model = |number: usize| format!("{process}{number}");
        let calls: Vec<KeyCall> = (0..MODELS)
            .map(|number| bench.call(Ask::Prepare { model: model(number) }))
            .collect();
        tokio::spawn(async move {
            for call in &calls {
                engine.answer(call).await.unwrap();
            }
        })
    });
    for process in processes {
        process.await.unwrap();
    }
    assert_eq!(Books::of(&bench.account).models().unwrap().len(), 2 * MODELS);
}

#[tokio::test]
async fn a_call_that_two_processes_answer_is_one_publish() {
    let bench = bench().await;
    let sealing = seal(&bench, "digits", "one").await;
    store(&bench, &sealing).await;
    // The gateway tells all machines of an account; a slower one answers when the others are further.
    let slower = bench.another();
    let KeyReply::Prepared { model_uuid, .. } = slower.answer(&sealing.prepared).await.unwrap() else {
        panic!("another reply")
    };
    assert_eq!(model_uuid, sealing.record.uuid);
    let signing = bench.call(sign(&sealing));
    let (one, two) = tokio::join!(bench.engine.answer(&signing), slower.answer(&signing));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(
        Books::of(&bench.account).models().unwrap()["digits"]
            .revisions
            .len(),
        1
    );
}

#[tokio::test]
async fn names_that_are_not_ours_are_refused_in_words() {
    let bench = bench().await;
    bench.put("hello").await;
    for reference in ["other", "notes@main", "", "0xAbc/notes", &"ab".repeat(32)] {
        let error = bench.open(reference).await.err().unwrap();
        assert_eq!(error.code(), "unknown_name", "{reference}");
        assert!(error.to_string().contains("owner"), "{error}");
    }
}

#[tokio::test]
async fn an_older_version_than_one_seen_is_refused() {
    let bench = bench().await;
    bench.put("one").await;
    bench.put("two").await;
    bench.open("notes").await.unwrap();
    // A node that hides the newer head: another memory with only the first version in it.
    let hiding: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let id = Books::of(&bench.account).datasets().unwrap()["notes"]
        .dataset_id
        .parse()
        .unwrap();
    let heads = alephlab_vault::heads_of(&*bench.storage, &bench.account.address(), &id)
        .await
        .unwrap();
    let content = heads[0].0.post_content().unwrap();
    let post = alephlab_vault::message::sign_post(
        bench.account.wallet(),
        alephlab_vault::HEAD_POST_TYPE,
        content,
        None,
    );
    hiding.publish(&post.unwrap()).await.unwrap();
    let gateway = bench.engine.gateway().clone();
    let engine = Engine::new(bench.account.clone(), hiding, gateway);
    let error = engine
        .answer(&bench.call(Ask::Open {
            reference: "notes".into(),
        }))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "E_ROLLBACK");
}

/// What a broker does between two questions.
struct Sealing {
    model: String,
    head: UnsignedHead,
    secret: serde_json::Value,
    record: ModelRecord,
    objects: Vec<SealedObject>,
    prepared: KeyCall,
}

async fn seal(bench: &Bench, model: &str, text: &'static str) -> Sealing {
    let prepared = bench.call(Ask::Prepare { model: model.into() });
    let reply = bench.engine.answer(&prepared).await.unwrap();
    let KeyReply::Prepared {
        owner,
        dataset_id,
        id_random,
        version,
        prev,
        epoch,
        reader_key,
        model_uuid,
        ..
    } = reply
    else {
        panic!("another reply");
    };
    let dataset_id = dataset_id.parse().unwrap();
    let secret = EpochSecret::generate().unwrap();
    let params = SealParams {
        dataset_id,
        version,
        epoch,
        obj_log2: DEFAULT_OBJ_LOG2,
        meta: Meta::default(),
    };
    let mut objects = Vec::new();
    let files = [SourceFile::bytes("model.safetensors", text.as_bytes())];
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
    let record = record(model, owner, model_uuid, &prev, &head);
    let secret = serde_json::to_value(secret).unwrap();
    Sealing {
        model: model.into(),
        head,
        secret,
        record,
        objects,
        prepared,
    }
}

fn record(model: &str, owner: String, uuid: Uuid, prev: &str, head: &UnsignedHead) -> ModelRecord {
    ModelRecord {
        name: format!("{owner}/{model}"),
        owner,
        uuid,
        commit: hex::encode(&head.hash()[..20]),
        parent: (!prev.is_empty()).then(|| prev[..40].to_owned()),
        price: "free".into(),
        files: vec![RecordFile {
            path: "model.safetensors".into(),
            size: 1,
            sha256: "0".repeat(64),
        }],
        created: 1,
        ..ModelRecord::default()
    }
}

fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

async fn store(bench: &Bench, sealing: &Sealing) {
    let asks = sealing.objects.iter().map(|object| StoreAsk {
        item_hash: object.item_hash(),
        size: object.bytes.len() as u64,
    });
    let ask = Ask::SignStores {
        model: sealing.model.clone(),
        objects: asks.collect(),
    };
    let KeyReply::Stores { messages } = bench.ask(ask).await.unwrap() else {
        panic!("another reply")
    };
    for (object, message) in sealing.objects.iter().zip(messages) {
        let message = SignedMessage::from_value(message).unwrap();
        bench.storage.put(object.bytes.clone(), &message).await.unwrap();
    }
}

fn sign(sealing: &Sealing) -> Ask {
    Ask::SignPublish {
        model: sealing.model.clone(),
        head: serde_json::to_value(&sealing.head).unwrap(),
        secret: sealing.secret.clone(),
        record: sealing.record.clone(),
    }
}

#[tokio::test]
async fn a_model_is_signed_once_and_opened_by_revision() {
    let bench = bench().await;
    let first = seal(&bench, "digits", "one").await;
    store(&bench, &first).await;
    let reply = bench.ask(sign(&first)).await.unwrap();
    assert_eq!(
        bench.ask(sign(&first)).await.unwrap(),
        reply,
        "asking again must change nothing"
    );
    let KeyReply::Published { revision, record, .. } = reply else {
        panic!("another reply")
    };
    let post = bench.storage.post(&record).await.unwrap().unwrap();
    assert_eq!(post.content["commit"], revision);

    let second = seal(&bench, "digits", "two").await;
    assert_eq!(
        (
            second.head.version,
            second.head.epoch,
            second.record.parent.as_ref()
        ),
        (2, 2, Some(&revision))
    );
    store(&bench, &second).await;
    bench.ask(sign(&second)).await.unwrap();

    let owner = bench.account.address();
    for (reference, text) in [
        (format!("digits@{revision}"), "one"),
        (format!("{owner}/digits"), "two"),
        (format!("{owner}/digits@main"), "two"),
    ] {
        let (_, reader) = bench.open(&reference).await.unwrap();
        assert_eq!(
            &*reader.read("model.safetensors").await.unwrap(),
            text.as_bytes(),
            "{reference}"
        );
    }
}

#[tokio::test]
async fn a_head_that_was_not_prepared_is_never_signed() {
    let bench = bench().await;
    let faults: BTreeMap<&str, fn(&mut Sealing)> = BTreeMap::from([
        ("version", (|s| s.head.version = 7) as fn(&mut Sealing)),
        ("epoch", |s| s.head.epoch = 9),
        ("previous version", |s| s.head.prev = [1; 32]),
        ("dataset", |s| s.head.id_random = [1; 16]),
        ("manifest", |s| s.head.root.item_hash = "ab".repeat(32)),
        ("expiry", |s| s.head.not_after = Some(1)),
        ("secret", |s| s.head.epoch_commitment = [1; 32]),
    ]);
    for (what, fault) in faults {
        let mut sealing = seal(&bench, "digits", "one").await;
        store(&bench, &sealing).await;
        fault(&mut sealing);
        let error = bench.ask(sign(&sealing)).await.unwrap_err();
        assert_eq!(error.code(), "head_mismatch", "{what}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let mut sealing = seal(&bench, "digits", "one").await;
    store(&bench, &sealing).await;
    sealing.record.uuid = Uuid::new_v4();
    assert_eq!(
        bench.ask(sign(&sealing)).await.unwrap_err().code(),
        "record_mismatch"
    );
    let error = bench.open("digits").await.err().unwrap();
    assert_eq!(error.code(), "unknown_name", "nothing was published");
}

#[tokio::test]
async fn stores_are_signed_only_for_a_prepared_model() {
    let bench = bench().await;
    let ask = Ask::SignStores {
        model: "digits".into(),
        objects: Vec::new(),
    };
    assert_eq!(bench.ask(ask).await.unwrap_err().code(), "not_prepared");
    let error = bench
        .ask(Ask::Prepare { model: "../x".into() })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model_name");
}
