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
        let hidden = bench.publish(private(&[("a", "one")])).await.unwrap();
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
