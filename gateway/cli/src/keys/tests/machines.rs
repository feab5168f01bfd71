//! One account on two machines, each with a data folder and a reader key of its own: what one has published the other
//! knows by its name.

use alephlab_api::model::Visibility;
use alephlab_vault::storage::{BoxFuture, Fault, FaultyStorage, PostQuery, StoredPost};
use alephlab_vault::{GrantTerms, Wallet, grant_dataset, register_reader_key};
use bytes::Bytes;

use super::*;
use crate::datasets::{Known, Library};
use crate::models::{New, Origin, Registry};

/// Two machines of one account, beside one node. `is_registered`: the second has run `register-key` before the first puts.
async fn machines(is_registered: bool) -> (Bench, Bench) {
    let first = bench().await;
    let mut second = bench().await;
    let wallet = Wallet::from_secret(&[7; 32]).unwrap();
    second.storage = first.storage.clone();
    let mut first = first;
    for machine in [&mut first, &mut second] {
        let data = DataFolder::open(machine.folder.path()).unwrap();
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        machine.account = Arc::new(Account::create_with(&data, "both", wallet, None).unwrap());
        machine.engine = machine.another();
    }
    if is_registered {
        register_reader_key(&*second.storage, &wallet, second.account.reader())
            .await
            .unwrap();
    }
    (first, second)
}

fn library(bench: &Bench) -> Library {
    Library::new(bench.account.clone(), bench.storage.clone())
}

async fn put(bench: &Bench, name: &str, text: &'static str) -> (String, u64) {
    let files = vec![SourceFile::bytes("a.txt", text.as_bytes())];
    let meta = Meta {
        title: Some(name.to_owned()),
        created: Some(1),
        ..Meta::default()
    };
    let put = library(bench).put(name, files, meta, &|_| ()).await.unwrap();
    (put.dataset_id.to_string(), put.version)
}

#[tokio::test]
async fn a_dataset_of_one_machine_is_opened_and_continued_on_the_other() {
    let (first, second) = machines(true).await;
    let (id, _) = put(&first, "notes", "one").await;
    let (head, reader) = second.open("notes").await.unwrap();
    assert_eq!(
        (
            head.head.dataset_id.to_string(),
            &*reader.read("a.txt").await.unwrap()
        ),
        (id.clone(), b"one".as_slice())
    );
    assert_eq!(library(&second).has("notes").await.unwrap(), Known::Yes);
    assert_eq!(put(&second, "notes", "two").await, (id.clone(), 2));
    assert_eq!(put(&first, "notes", "three").await, (id.clone(), 3));
    let owner = second.account.address();
    for reference in [format!("{owner}/notes"), id, "notes@2".to_owned()] {
        second.open(&reference).await.unwrap();
    }
    let listed = library(&second).all().await.unwrap();
    assert_eq!(
        listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
        ["notes"]
    );
}

#[tokio::test]
async fn a_kernel_continues_the_dataset_whichever_machine_answers() {
    let (first, second) = machines(true).await;
    let (id, _) = put(&first, "notes", "one").await;
    let ask = Ask::PrepareUpload {
        dataset: "notes".into(),
        files: 1,
        bytes: 3,
        large: Vec::new(),
    };
    let KeyReply::Prepared {
        dataset_id, version, ..
    } = second.ask(ask).await.unwrap()
    else {
        panic!("another reply");
    };
    assert_eq!((dataset_id, version), (id, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_one_machine_is_opened_on_the_other_also_by_what_stands_for_its_name() {
    for is_registered in [true, false] {
        let (first, second) = machines(is_registered).await;
        let registry = Registry::new(first.account.clone(), first.storage.clone(), None);
        let new = New {
            name: "digits".to_owned(),
            files: vec![("a.txt".to_owned(), Origin::Bytes("one".into()))],
            visibility: Some(Visibility::Private),
            ..New::default()
        };
        let made = registry.publish(new, &|_, _, _| {}).await.unwrap().record;
        for name in ["digits".to_owned(), made.uuid.to_string()] {
            let reference = format!("{}/{name}@{}", made.owner, made.commit);
            let opened = second.open(&reference).await;
            match (is_registered, opened) {
                (true, opened) => {
                    let (_, reader) = opened.unwrap();
                    assert_eq!(&*reader.read("a.txt").await.unwrap(), b"one");
                }
                (false, opened) => {
                    let unknown = opened.err().unwrap();
                    assert_eq!(unknown.code(), "unknown_name", "another machine gets its turn");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_of_this_machine_is_meant_before_a_model_of_another() {
    let (first, second) = machines(true).await;
    super::private::published(&first, &seal(&first, "notes", "weights").await).await;
    let (id, _) = put(&second, "notes", "rows").await;
    let reference = format!("{}/notes", second.account.address());
    let (head, _) = second.open(&reference).await.unwrap();
    assert_eq!(head.head.dataset_id.to_string(), id);
}

#[tokio::test]
async fn what_a_machine_has_no_key_for_is_counted_until_it_is_granted() {
    let (first, mut second) = machines(false).await;
    put(&first, "notes", "one").await;
    assert_eq!(
        library(&second).has("notes").await.unwrap(),
        Known::No { closed: 1 }
    );
    let unknown = second.open("notes").await.err().unwrap();
    assert_eq!(unknown.code(), "unknown_name", "another machine gets its turn");
    register_reader_key(&*second.storage, second.account.wallet(), second.account.reader())
        .await
        .unwrap();
    let found = library(&first).find("notes").await.unwrap();
    let (wallet, reader) = (first.account.wallet(), first.account.reader());
    grant_dataset(
        &*first.storage,
        wallet,
        reader,
        &found.head,
        wallet.owner(),
        GrantTerms::default(),
    )
    .await
    .unwrap();
    // As after a restart: what was found a moment ago is not looked for again at once.
    second.engine = second.another();
    second.open("notes").await.unwrap();
}

#[tokio::test]
async fn two_datasets_of_one_title_are_told_apart_and_nothing_is_renamed() {
    let (first, second) = machines(true).await;
    register_reader_key(&*first.storage, first.account.wallet(), first.account.reader())
        .await
        .unwrap();
    let (older, _) = put(&first, "notes", "one").await;
    // The second began its own before it could hear of the first's.
    let books = Books::of(&second.account);
    books
        .set_dataset(
            "notes",
            DatasetEntry {
                dataset_id: "00".repeat(32),
            },
        )
        .unwrap();
    let listed = library(&second).all().await.unwrap();
    assert_eq!(
        listed.iter().map(|one| one.name.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&older)
    );
    second.open(&older).await.unwrap();
    assert_eq!(books.datasets().unwrap()["notes"].dataset_id, "00".repeat(32));
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_not_taken_for_one_that_knows_nothing() {
    use alephlab_vault::storage::{Fault, FaultyStorage};
    let (first, mut second) = machines(true).await;
    put(&first, "notes", "one").await;
    let faulty = Arc::new(FaultyStorage::new(second.storage.clone()));
    second.storage = faulty.clone();
    // Whichever of its calls fails, and then none.
    for served in 0..20 {
        faulty.set(Some(Fault::FailAfter(served)));
        match library(&second).has("notes").await {
            Ok(known) => {
                assert_eq!(known, Known::Yes);
                assert!(served > 2, "heads, records and the grant were asked for");
                return;
            }
            Err(error) => assert_eq!(error.code(), "E_UNAVAILABLE"),
        }
    }
    panic!("it was never found");
}

/// Posts of one storage, without those of a type, and objects of another.
struct Half {
    posts: Arc<dyn Storage>,
    objects: Arc<dyn Storage>,
    hidden: &'static str,
}

impl Storage for Half {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.objects.put(bytes, store)
    }
    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        self.objects.get(item_hash)
    }
    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.objects.stores(owner, objects)
    }
    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.posts.publish(message)
    }
    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.posts.post(item_hash)
    }
    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move {
            let mut posts = self.posts.posts(query).await?;
            posts.retain(|post| post.post_type != self.hidden);
            Ok(posts)
        })
    }
    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<serde_json::Value>> {
        self.posts.aggregate(address, key)
    }
}

#[tokio::test]
async fn a_model_is_no_dataset_with_and_without_its_record() {
    let (first, mut second) = machines(true).await;
    let sealing = seal(&first, "digits", "one").await;
    store(&first, &sealing).await;
    first.ask(sign(&sealing)).await.unwrap();
    for machine in [&first, &second] {
        assert_eq!(library(machine).discover().await.unwrap().named, []);
    }
    // A node that keeps the record to itself.
    second.storage = Arc::new(Half {
        posts: first.storage.clone(),
        objects: first.storage.clone(),
        hidden: alephlab_api::model::MODEL_RECORD_TYPE,
    });
    let discovered = library(&second).discover().await.unwrap();
    assert_eq!(discovered.named, []);
}

#[tokio::test]
async fn a_dataset_that_is_not_whole_any_more_stops_nothing_and_is_counted() {
    let (first, mut second) = machines(true).await;
    put(&first, "lost", "one").await;
    second.storage = Arc::new(Half {
        posts: first.storage.clone(),
        objects: Arc::new(MemoryStorage::new()),
        hidden: "",
    });
    assert_eq!(
        library(&second).has("anything").await.unwrap(),
        Known::No { closed: 1 }
    );
    assert_eq!(library(&second).all().await.unwrap().len(), 0);
}

#[tokio::test]
async fn asking_for_what_another_machine_has_writes_nothing_until_it_is_opened() {
    let (first, second) = machines(true).await;
    put(&first, "notes", "one").await;
    put(&first, "other", "two").await;
    let open = Ask::Open {
        reference: "notes".into(),
    };
    let lines = second.engine.describe(&second.call(open.clone()).request).await;
    assert!(lines[0].contains("version  1"), "{lines:?}");
    let named = || {
        Books::of(&second.account)
            .datasets()
            .unwrap()
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(named(), Vec::<String>::new());
    second.ask(open).await.unwrap();
    assert_eq!(named(), ["notes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_made_private_no_other_signs_in_the_clear() {
    let (first, second) = machines(true).await;
    let shown = seal(&first, "digits", "one").await;
    super::private::published(&first, &shown).await;
    // The second goes on with the same model, and has been asked for its next revision when the first hides it.
    let begun = seal(&second, "digits", "two").await;
    assert_eq!((begun.head.version, begun.record.uuid), (2, shown.record.uuid));
    let mut hidden = seal(&first, "digits", "two").await;
    super::private::cover(&first, &mut hidden);
    super::private::published(&first, &hidden).await;
    store(&second, &begun).await;
    assert!(second.ask(sign(&begun)).await.is_err());
    let prepare = Ask::Prepare {
        model: "digits".into(),
    };
    let KeyReply::Prepared { private, version, .. } = second.ask(prepare.clone()).await.unwrap() else {
        panic!("another reply")
    };
    assert!(private && version == 3);
    let clear = seal(&second, "digits", "three").await;
    store(&second, &clear).await;
    assert_eq!(
        second.ask(sign(&clear)).await.unwrap_err().code(),
        "model_private"
    );
    // Where it does not open, it may be any.
    let (first, second) = machines(false).await;
    let mut hidden = seal(&first, "digits", "one").await;
    super::private::cover(&first, &mut hidden);
    super::private::published(&first, &hidden).await;
    assert_eq!(second.ask(prepare).await.unwrap_err().code(), "private_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_signed_in_the_clear_and_another_made_private_is_not_posted() {
    let mut forgotten = 0;
    for calls in 0.. {
        let (first, mut second) = machines(true).await;
        super::private::published(&first, &seal(&first, "digits", "one").await).await;
        let node = Arc::new(FaultyStorage::new(second.storage.clone()));
        let gateway = second.engine.gateway().clone();
        second.engine = Engine::new(second.account.clone(), node.clone(), gateway);
        let clear = seal(&second, "digits", "two").await;
        store(&second, &clear).await;
        node.set(Some(Fault::FailAfter(calls)));
        let is_cut = second.ask(sign(&clear)).await.is_err();
        node.set(None);
        if !is_cut {
            assert!(forgotten > 0, "nothing was signed and not posted");
            return;
        }
        let pending = Books::of(&second.account).models().unwrap().remove("digits");
        let signed = pending.and_then(|entry| entry.pending?.signed);
        let Some(signed) = signed else { continue };
        let record = signed.revision.record;
        if second.storage.post(&record).await.unwrap().is_some() {
            continue;
        }
        let mut hidden = seal(&first, "digits", "two").await;
        super::private::cover(&first, &mut hidden);
        super::private::published(&first, &hidden).await;
        let prepare = Ask::Prepare {
            model: "digits".into(),
        };
        for ask in [sign(&clear), prepare] {
            let answer = second.ask(ask).await;
            assert_eq!(second.storage.post(&record).await.unwrap(), None);
            match answer {
                Ok(KeyReply::Prepared { private, .. }) => {
                    assert!(private);
                    forgotten += 1;
                }
                Ok(_) => panic!("another reply"),
                Err(error) => assert!(["not_signed", "publish_begun"].contains(&error.code()), "{error}"),
            }
        }
    }
}
