//! Publishing from this machine, over a storage in memory: what is kept, what goes on after a cut, and what stands where.

mod private;

use std::collections::BTreeSet;
use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::model::Visibility;
use alephlab_vault::storage::{Fault, FaultyStorage, MemoryStorage, Storage};
use alephlab_vault::{DatasetId, heads_of, register_reader_key};

use super::*;
use crate::data::DataFolder;
use crate::testing::{Scratch, scratch};

/// An account with a storage that can be made to fail.
struct Bench {
    folder: Scratch,
    storage: Arc<FaultyStorage>,
    registry: Registry,
}

fn bench() -> Bench {
    let folder = scratch();
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let registry = account(&folder, &storage, "owner");
    Bench {
        folder,
        storage,
        registry,
    }
}

fn account(folder: &Scratch, storage: &Arc<FaultyStorage>, name: &str) -> Registry {
    let data = DataFolder::open(folder.path()).unwrap();
    let account = Account::open_or_create(&data, name).unwrap();
    let storage: Arc<dyn Storage> = storage.clone();
    Registry::new(Arc::new(account), storage, None)
}

impl Bench {
    async fn publish(&self, new: New) -> Result<publish::Published> {
        self.registry.publish(new, &|_, _, _| {}).await
    }

    async fn text(&self, path: &str) -> String {
        let found = self.registry.find(None, "tiny", None).await.unwrap();
        let opened = self
            .registry
            .open_or_refuse(&found.revision.record)
            .await
            .unwrap();
        String::from_utf8(opened.reader.read(path).await.unwrap().to_vec()).unwrap()
    }
}

fn tiny(files: &[(&str, &'static str)]) -> New {
    let origin = |(path, text): &(&str, &'static str)| match *text {
        "kept" => ((*path).to_owned(), Origin::Kept((*path).to_owned())),
        text => ((*path).to_owned(), Origin::Bytes(text.into())),
    };
    New {
        name: "tiny".into(),
        files: files.iter().map(origin).collect(),
        ..New::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_follows_the_one_before_and_nothing_is_published_twice() {
    let bench = bench();
    let first = bench.publish(tiny(&[("a", "one"), ("b", "two")])).await.unwrap();
    let again = bench.publish(tiny(&[("a", "one"), ("b", "two")])).await.unwrap();
    assert!(again.unchanged && again.record.commit == first.record.commit);
    let second = bench
        .publish(tiny(&[("a", "kept"), ("b", "three")]))
        .await
        .unwrap();
    assert_eq!(
        second.record.parent.as_deref(),
        Some(first.record.commit.as_str())
    );
    assert_eq!(second.record.uuid, first.record.uuid);
    assert_eq!(
        (bench.text("a").await, bench.text("b").await),
        ("one".into(), "three".into())
    );
    let public = New {
        visibility: Some(Visibility::Public),
        ..tiny(&[("a", "kept"), ("b", "kept")])
    };
    let public = bench.publish(public).await.unwrap();
    assert!(public.record.keys.is_some() && public.record.commit != second.record.commit);
    let books = bench.registry.books.models().unwrap();
    assert_eq!(books["tiny"].revisions.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_of_the_newest_revision_that_stands() {
    let bench = bench();
    bench.publish(tiny(&[("a", "good")])).await.unwrap();
    let bad = bench.publish(tiny(&[("a", "bad")])).await.unwrap();
    bench
        .registry
        .withdraw("tiny", Some(&bad.record.commit))
        .await
        .unwrap();
    bench.publish(tiny(&[("a", "kept"), ("b", "new")])).await.unwrap();
    assert_eq!(bench.text("a").await, "good");
    bench.registry.withdraw("tiny", None).await.unwrap();
    assert!(bench.registry.find(None, "tiny", None).await.is_err());
    let anew = bench.publish(tiny(&[("a", "anew")])).await.unwrap();
    assert_eq!(
        (anew.record.parent.as_deref(), bench.text("a").await),
        (None, "anew".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_cut_anywhere_goes_on_and_makes_one_head() {
    for calls in 0.. {
        let bench = bench();
        bench.publish(tiny(&[("a", "one")])).await.unwrap();
        bench.storage.set(Some(Fault::FailAfter(calls)));
        let cut = bench.publish(tiny(&[("a", "one"), ("b", "two")])).await;
        bench.storage.set(None);
        let whole = bench.publish(tiny(&[("a", "one"), ("b", "two")])).await.unwrap();
        let entry = bench.registry.books.models().unwrap().remove("tiny").unwrap();
        let id: DatasetId = entry.dataset_id.parse().unwrap();
        let owner = bench.registry.account().address();
        let heads = heads_of(&*bench.storage, &owner, &id).await.unwrap();
        let versions: BTreeSet<u64> = heads.iter().map(|(head, _)| head.head.version).collect();
        assert_eq!(
            versions.len(),
            heads.len(),
            "two heads of one version, cut after {calls} calls"
        );
        let found = bench.registry.find(None, "tiny", None).await.unwrap();
        assert_eq!(found.revision.record.commit, whole.record.commit);
        assert_eq!(entry.revisions.last().unwrap().revision, whole.record.commit);
        assert_eq!(found.model.revisions.len(), 2, "cut after {calls} calls");
        if cut.is_ok() {
            assert!(calls > 10, "nothing was cut");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_granted_a_revision_reads_the_next_and_nobody_else_does() {
    let bench = bench();
    let reader = account(&bench.folder, &bench.storage, "reader");
    let stranger = account(&bench.folder, &bench.storage, "stranger");
    for one in [&reader, &stranger] {
        let (wallet, key) = (one.account.wallet(), one.account.reader());
        register_reader_key(&*bench.storage, wallet, key).await.unwrap();
    }
    let first = bench.publish(tiny(&[("a", "one")])).await.unwrap();
    let address = reader.account.wallet().owner();
    let terms = alephlab_vault::GrantTerms::default();
    bench.registry.grant(&first.record, address, terms).await.unwrap();
    let second = bench.publish(tiny(&[("a", "two")])).await.unwrap();
    for published in [&first, &second] {
        let opened = reader.open(&published.record).await.unwrap().unwrap();
        assert_eq!(opened.by, open::Entitled::Granted);
        assert!(stranger.open(&published.record).await.unwrap().is_none());
    }
    let granted = reader.granted().await.unwrap();
    assert_eq!(granted[0].newest().unwrap().record.commit, second.record.commit);
    assert!(stranger.granted().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_move_and_what_is_sealed_anew_takes_nothing_over() {
    let bench = bench();
    let text: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let first = bench.publish(tiny(&[("a", text)])).await.unwrap();
    bench
        .registry
        .tag("tiny", "v1", &first.record.commit)
        .await
        .unwrap();
    assert!(
        bench
            .registry
            .tag("tiny", "v1", &first.record.commit)
            .await
            .unwrap()
            .is_none()
    );
    let kept = bench.publish(tiny(&[("a", "kept"), ("b", "1")])).await.unwrap();
    let anew = New {
        anew: true,
        ..tiny(&[("a", "kept"), ("b", "kept")])
    };
    let anew = bench.publish(anew).await.unwrap();
    assert!(
        kept.uploaded < 100_000 && anew.uploaded > 100_000,
        "{} {}",
        kept.uploaded,
        anew.uploaded
    );
    bench
        .registry
        .tag("tiny", "v1", &anew.record.commit)
        .await
        .unwrap();
    let found = bench.registry.find(None, "tiny", Some("v1")).await.unwrap();
    assert_eq!(found.revision.record.commit, anew.record.commit);
    bench.registry.untag("tiny", "v1").await.unwrap();
    assert!(bench.registry.untag("tiny", "v1").await.is_err());
    assert!(
        bench
            .registry
            .tag("tiny", "old/v1", &anew.record.commit)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_and_keeps_what_is_there() {
    let bench = bench();
    let card = Card {
        title: "Tiny".into(),
        ..Card::default()
    };
    let new = New {
        card: Some(card.clone()),
        ..tiny(&[("a/b", "one"), ("c", ""), ("d", "three")])
    };
    let published = bench.publish(new).await.unwrap();
    assert_eq!(published.record.card, card);
    let opened = bench.registry.open_or_refuse(&published.record).await.unwrap();
    let to = bench.folder.path().join("to");
    let pulled = into_folder(&opened, &to, &|_, _| {}).await.unwrap();
    assert_eq!((pulled.fetched, pulled.kept), (3, 0));
    std::fs::remove_file(to.join("d")).unwrap();
    let pulled = into_folder(&opened, &to, &|_, _| {}).await.unwrap();
    assert_eq!((pulled.fetched, pulled.kept), (1, 2));
    std::fs::write(to.join("d"), "other").unwrap();
    let refused = into_folder(&opened, &to, &|_, _| {}).await.unwrap_err();
    assert!(refused.to_string().contains("d with other content"), "{refused}");
    // A link that leads elsewhere is not followed.
    let elsewhere = scratch();
    let other = bench.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), other.join("a")).unwrap();
    assert!(into_folder(&opened, &other, &|_, _| {}).await.is_err());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}
