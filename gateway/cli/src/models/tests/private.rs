//! Private models: what is on the network of them, who sees them, and what becomes of what was not private before.

use alephlab_api::model::{RecordFile, private_name};
use alephlab_vault::GrantTerms;
use alephlab_vault::storage::PostQuery;

use super::*;

const TITLE: &str = "Zebra classifier";

fn private(files: &[(&str, &'static str)]) -> New {
    New {
        card: Some(Card {
            title: TITLE.into(),
            ..Card::default()
        }),
        visibility: Some(Visibility::Private),
        ..tiny(files)
    }
}

impl Bench {
    /// All that the network has of the owner's posts, as text.
    async fn said(&self) -> String {
        let query = PostQuery {
            addresses: vec![self.registry.account().address()],
            ..PostQuery::default()
        };
        let posts = self.storage.posts(query).await.unwrap();
        let contents = posts.iter().map(|post| post.content.to_string());
        contents.collect::<Vec<_>>().join("\n")
    }

    async fn granted(&self, name: &str, record: &alephlab_api::model::ModelRecord) -> Registry {
        let reader = account(&self.folder, &self.storage, name);
        let (wallet, key) = (reader.account.wallet(), reader.account.reader());
        register_reader_key(&*self.storage, wallet, key).await.unwrap();
        let granted = self
            .registry
            .grant(record, wallet.owner(), GrantTerms::default())
            .await;
        granted.unwrap();
        reader
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_private_model_is_on_the_network_in_the_clear() {
    let bench = bench();
    let text: &'static str = Box::leak("z".repeat(123_457).into_boxed_str());
    let published = bench
        .publish(private(&[("secret_weights.bin", text)]))
        .await
        .unwrap();
    let RecordFile { path, size, sha256 } = published.record.files[0].clone();
    bench
        .registry
        .tag("tiny", "unannounced", &published.record.commit)
        .await
        .unwrap();
    let said = bench.said().await;
    let sizes = [format!(":{size},"), format!(":{size}}}")];
    let words = [
        "/tiny",
        TITLE,
        "Zebra",
        &path,
        &sha256,
        "unannounced",
        &sizes[0],
        &sizes[1],
    ];
    for word in words {
        assert!(!said.contains(word), "{word} in {said}");
    }
    let uuid = private_name(&bench.registry.account().address(), published.record.uuid);
    assert!(said.contains(&uuid) && said.contains("\"sealed\""));
    assert_eq!(published.record.name, format!("{}/tiny", published.record.owner));
    assert_eq!(published.record.card.title, TITLE);
    let again = bench
        .publish(private(&[("secret_weights.bin", text)]))
        .await
        .unwrap();
    assert!(again.unchanged);
    // Another process of the account reads the same from the network alone.
    let other = account(&bench.folder, &bench.storage, "owner");
    let found = other.find(None, "tiny", Some("unannounced")).await.unwrap();
    assert_eq!(*found.revision.record, *published.record);
    let by_uuid = other
        .find(None, &published.record.uuid.to_string(), None)
        .await
        .unwrap();
    assert_eq!(by_uuid.name, published.record.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_model_is_there_for_who_was_granted_it_and_for_nobody_else() {
    let bench = bench();
    let first = bench.publish(private(&[("a", "one")])).await.unwrap();
    bench
        .registry
        .tag("tiny", "v1", &first.record.commit)
        .await
        .unwrap();
    let owner = bench.registry.account().wallet().owner();
    let stranger = account(&bench.folder, &bench.storage, "stranger");
    let reader = bench.granted("reader", &first.record).await;
    let second = bench.publish(tiny(&[("a", "two")])).await.unwrap();
    assert_eq!(
        second.record.visibility,
        Visibility::Private,
        "it stays what it was"
    );
    let late = bench.granted("late", &second.record).await;
    let found = reader.find(Some(owner), "tiny", None).await.unwrap();
    assert_eq!(found.revision.record.commit, second.record.commit);
    assert_eq!(found.model.revisions.len(), 2);
    let opened = reader.open_or_refuse(&found.revision.record).await.unwrap();
    assert_eq!(&*opened.reader.read("a").await.unwrap(), b"two");
    assert_eq!(reader.granted().await.unwrap().len(), 1);
    // Who was granted the second alone knows of no first, but of its tags what they name there.
    let found = late.find(Some(owner), "tiny", None).await.unwrap();
    assert_eq!(found.model.revisions.len(), 1);
    bench
        .registry
        .tag("tiny", "v2", &second.record.commit)
        .await
        .unwrap();
    late.index.forget(&owner.to_string());
    assert!(late.find(Some(owner), "tiny", Some("v2")).await.is_ok());
    // To a stranger it is as one that never was.
    let said = |name: &'static str| {
        let stranger = &stranger;
        async move {
            stranger
                .find(Some(owner), name, None)
                .await
                .err()
                .unwrap()
                .to_string()
        }
    };
    assert_eq!(said("tiny").await.replace("tiny", "none"), said("none").await);
    assert!(stranger.granted().await.unwrap().is_empty());
    assert!(stranger.open(&first.record).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_private_is_withdrawn_where_it_was_shown_also_after_a_cut() {
    for calls in 0.. {
        let bench = bench();
        let shown = bench.publish(tiny(&[("a", "one")])).await.unwrap();
        bench
            .registry
            .tag("tiny", "old", &shown.record.commit)
            .await
            .unwrap();
        bench.storage.set(Some(Fault::FailAfter(calls)));
        let cut = bench.publish(private(&[("a", "kept")])).await;
        bench.storage.set(None);
        // The same again: where the record was posted and not what follows it, this is all that happens.
        let hidden = bench.publish(private(&[("a", "kept")])).await.unwrap();
        let found = bench.registry.find(None, "tiny", None).await.unwrap();
        assert_eq!(found.revision.record.commit, hidden.record.commit);
        assert!(
            !found.model.has(false) && found.model.tags.is_empty(),
            "cut after {calls} calls"
        );
        assert_eq!(bench.text("a").await, "one");
        let stranger = account(&bench.folder, &bench.storage, "stranger");
        let owner = bench.registry.account().wallet().owner();
        let said = stranger
            .find(Some(owner), "tiny", None)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(said.ends_with("was withdrawn"), "{said}");
        if cut.is_ok() {
            assert!(calls > 10, "nothing was cut");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_in_the_clear_that_was_cut_is_not_posted_by_the_private_one() {
    let mut forgotten = 0;
    for calls in 0.. {
        let bench = bench();
        bench.storage.set(Some(Fault::FailAfter(calls)));
        let is_cut = bench.publish(tiny(&[("zebra.bin", "one")])).await.is_err();
        bench.storage.set(None);
        let was_shown = bench.said().await.contains("zebra.bin");
        let hidden = bench.publish(private(&[("zebra.bin", "one")])).await;
        let is_shown = bench.said().await.contains("zebra.bin");
        assert_eq!(is_shown, was_shown, "cut after {calls} calls");
        match hidden {
            Ok(_) => {
                let found = bench.registry.find(None, "tiny", None).await.unwrap();
                assert!(!found.model.has(false), "cut after {calls} calls");
                assert_eq!(bench.text("zebra.bin").await, "one");
                forgotten += usize::from(is_cut && !was_shown);
            }
            // Its grants are there, and so its record is all that can follow them.
            Err(error) => assert!(error.code() == "publish_begun" && !was_shown, "{error}"),
        }
        if !is_cut {
            assert!(forgotten > 2, "nothing was cut before its record");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_public_shows_itself_and_nothing_from_before() {
    let bench = bench();
    let hidden = bench.publish(private(&[("before.bin", "one")])).await.unwrap();
    bench
        .registry
        .tag("tiny", "unannounced", &hidden.record.commit)
        .await
        .unwrap();
    let public = New {
        visibility: Some(Visibility::Public),
        ..tiny(&[("after.bin", "two")])
    };
    let public = bench.publish(public).await.unwrap();
    bench
        .registry
        .tag("tiny", "v1", &public.record.commit)
        .await
        .unwrap();
    let said = bench.said().await;
    assert!(said.contains("after.bin") && said.contains("\"v1\""));
    assert!(!said.contains("before.bin") && !said.contains("unannounced"));
    let stranger = account(&bench.folder, &bench.storage, "stranger");
    let owner = bench.registry.account().wallet().owner();
    let found = stranger.find(Some(owner), "tiny", Some("v1")).await.unwrap();
    assert_eq!(found.model.revisions.len(), 1);
    assert!(stranger.open(&found.revision.record).await.unwrap().is_some());
    let own = bench.registry.find(None, "tiny", None).await.unwrap();
    assert_eq!((own.model.revisions.len(), own.model.tags.len()), (2, 2));
    // Withdrawing is of all, by what each is called.
    bench.registry.withdraw("tiny", None).await.unwrap();
    assert!(bench.registry.find(None, "tiny", None).await.is_err());
    stranger.index.forget(&owner.to_string());
    assert!(stranger.find(Some(owner), "tiny", None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_private_stays_so_also_where_all_of_it_is_withdrawn() {
    let bench = bench();
    let first = bench.publish(private(&[("a", "one")])).await.unwrap();
    let none = bench.registry.withdraw("tiny", Some(&"f".repeat(40))).await;
    assert_eq!(none.err().unwrap().code(), "unknown_revision");
    for _ in 0..2 {
        bench.registry.withdraw("tiny", None).await.unwrap();
    }
    let anew = bench.publish(tiny(&[("a", "two")])).await.unwrap();
    assert_eq!(anew.record.visibility, Visibility::Private);
    assert_eq!(anew.record.uuid, first.record.uuid);
    let said = bench.said().await;
    assert!(!said.contains("/tiny"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_in_the_clear_of_what_may_be_a_private_model_that_does_not_open() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let folders = [scratch(), scratch()];
    // One account on two machines, of which the second has not registered its reader key.
    let machine = |folder: &Scratch| {
        let data = DataFolder::open(folder.path()).unwrap();
        let wallet = alephlab_vault::Wallet::from_secret(&[7; 32]).unwrap();
        let account = Account::create_with(&data, "both", wallet, None).unwrap();
        let storage: Arc<dyn Storage> = storage.clone();
        Registry::new(Arc::new(account), storage, None)
    };
    let [first, second] = [machine(&folders[0]), machine(&folders[1])];
    let shown = |_: u64, _: u64, _: &str| {};
    let hidden = first.publish(private(&[("a", "one")]), &shown).await.unwrap();
    let refused = second.publish(tiny(&[("a", "two")]), &shown).await;
    assert_eq!(refused.err().unwrap().code(), "private_closed");
    let refused = second.tag("tiny", "v1", &hidden.record.commit).await;
    assert_eq!(refused.err().unwrap().code(), "private_closed");
    // Who says what it is to be is believed.
    let said = New {
        visibility: Some(Visibility::Sealed),
        ..tiny(&[("a", "two")])
    };
    let sealed = second.publish(said, &shown).await.unwrap();
    assert_eq!(sealed.record.visibility, Visibility::Sealed);
}
