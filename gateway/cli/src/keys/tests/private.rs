//! Private models that a kernel publishes: what goes through the gateway and onto the network says nothing of them.

use alephlab_api::Card;
use alephlab_api::model::{MODEL_WITHDRAWAL_TYPE, Visibility, private_name};
use alephlab_vault::storage::{Fault, FaultyStorage, PostQuery};
use alephlab_vault::{GrantTerms, grant_dataset, open_epoch_secret, register_reader_key, seal_beside};

use super::*;
use crate::models::{New, Origin, Registry};

/// As a broker does it for a card that asks for it, or for a model that is private already.
pub(super) fn cover(bench: &Bench, sealing: &mut Sealing) {
    let record = ModelRecord {
        visibility: Visibility::Private,
        card: Card {
            title: "Zebras".into(),
            ..Card::default()
        },
        ..sealing.record.clone()
    };
    let sealed = serde_json::from_value(sealing.secret.clone()).unwrap();
    let at = (&sealing.head.dataset_id, sealing.head.epoch);
    let secret = open_epoch_secret(bench.account.reader(), at.0, at.1, &sealed).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    sealing.record = record.covered(seal_beside(&secret, at, &record.about(), &text).unwrap());
}

pub(super) async fn published(bench: &Bench, sealing: &Sealing) -> String {
    store(bench, sealing).await;
    let KeyReply::Published { record, .. } = bench.ask(sign(sealing)).await.unwrap() else {
        panic!("another reply")
    };
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernels_private_revision_is_signed_sealed_and_shown_to_its_owner() {
    let bench = bench().await;
    let mut shown = seal(&bench, "digits", "one").await;
    // By a host whose clock is ahead.
    shown.record.created = alephlab_api::time::unix_now() + 3600;
    published(&bench, &shown).await;
    let reader = {
        let data = DataFolder::open(bench.folder.path()).unwrap();
        Arc::new(Account::create(&data, "reader", None).unwrap())
    };
    register_reader_key(&*bench.storage, reader.wallet(), reader.reader())
        .await
        .unwrap();
    let books = Books::of(&bench.account).models().unwrap();
    let head = bench.storage.post(&books["digits"].revisions[0].head);
    let head = SignedHead::from_post(&head.await.unwrap().unwrap().content).unwrap();
    let (wallet, key) = (bench.account.wallet(), bench.account.reader());
    let granted = grant_dataset(
        &*bench.storage,
        wallet,
        key,
        &head,
        reader.wallet().owner(),
        GrantTerms::default(),
    );
    granted.await.unwrap();

    let mut hidden = seal(&bench, "digits", "two").await;
    cover(&bench, &mut hidden);
    assert!(!serde_json::to_string(&sign(&hidden)).unwrap().contains("Zebras"));
    let described = bench
        .engine
        .describe(&bench.call(sign(&hidden)).request)
        .await
        .join("\n");
    assert!(
        described.contains("/digits with 1 files") && described.contains("private "),
        "{described}"
    );
    let granted = format!("grants   it to 1 accounts: {}", reader.address());
    assert!(described.contains(&granted), "{described}");
    let message = published(&bench, &hidden).await;
    let post = bench.storage.post(&message).await.unwrap().unwrap();
    let uuid = private_name(&bench.account.address(), hidden.record.uuid);
    assert_eq!(
        (post.content["name"].as_str(), &post.content["files"]),
        (Some(&*uuid), &serde_json::json!([]))
    );
    assert!(!post.content.to_string().contains("Zebras"));
    let withdrawn = PostQuery {
        types: vec![MODEL_WITHDRAWAL_TYPE.into()],
        ..PostQuery::default()
    };
    let withdrawn = bench.storage.posts(withdrawn).await.unwrap();
    assert_eq!(
        withdrawn[0].content["name"],
        format!("{}/digits", bench.account.address())
    );

    // Who was granted the revision before is granted this one, and reads its record.
    let theirs = Registry::new(reader, bench.storage.clone(), None);
    let found = theirs.find(Some(wallet.owner()), "digits", None).await.unwrap();
    assert_eq!(found.revision.record.card.title, "Zebras");
    let opened = theirs.open_or_refuse(&found.revision.record).await;
    // The record of this test names a file that was not sealed; that it is read and compared is what is asked here.
    assert_eq!(opened.err().unwrap().code(), "record_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_never_signed_in_the_clear_by_a_kernel() {
    let bench = bench().await;
    let mut first = seal(&bench, "digits", "one").await;
    cover(&bench, &mut first);
    published(&bench, &first).await;
    let second = bench.call(Ask::Prepare {
        model: "digits".into(),
    });
    let KeyReply::Prepared { private, .. } = bench.engine.answer(&second).await.unwrap() else {
        panic!("another reply")
    };
    assert!(private);
    let clear = seal(&bench, "digits", "two").await;
    store(&bench, &clear).await;
    assert_eq!(bench.ask(sign(&clear)).await.unwrap_err().code(), "model_private");
    // Nor one that was sealed for another revision.
    let mut other = seal(&bench, "digits", "two").await;
    let sealed = first.record.sealed.clone();
    cover(&bench, &mut other);
    other.record.sealed = sealed;
    store(&bench, &other).await;
    assert_eq!(bench.ask(sign(&other)).await.unwrap_err().code(), "E_GRANT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_kernel_signed_and_did_not_post_is_forgotten_where_the_model_becomes_private() {
    let mut bench = bench().await;
    let node = Arc::new(FaultyStorage::new(bench.storage.clone()));
    let gateway = bench.engine.gateway().clone();
    bench.engine = Engine::new(bench.account.clone(), node.clone(), gateway.clone());
    let books = Books::of(&bench.account);
    let (mut forgotten, mut held) = (0, 0);
    for calls in 0.. {
        let name = format!("zebra-{calls}");
        let clear = seal(&bench, &name, "one").await;
        store(&bench, &clear).await;
        node.set(Some(Fault::FailAfter(calls)));
        let is_cut = bench.ask(sign(&clear)).await.is_err();
        node.set(None);
        let pending = books.models().unwrap()[&name].pending.clone();
        let is_signed = pending.is_some_and(|pending| pending.signed.is_some());
        let was_said = said(&bench).await.contains(&name);
        let registry = Registry::new(
            bench.account.clone(),
            bench.storage.clone(),
            Some(gateway.clone()),
        );
        let new = New {
            name: name.clone(),
            files: vec![("a".to_owned(), Origin::Bytes("one".into()))],
            visibility: Some(Visibility::Private),
            ..New::default()
        };
        let published = registry.publish(new.clone(), &|_, _, _| {}).await;
        assert_eq!(
            said(&bench).await.contains(&name),
            was_said,
            "cut after {calls} calls"
        );
        match published {
            Ok(_) => forgotten += usize::from(is_signed && !was_said),
            Err(error) => {
                assert!(error.code() == "publish_begun" && !was_said, "{error}");
                // Neither a cell nor a publish without a word posts the rest; who says that it may be shown does.
                let prepare = Ask::Prepare { model: name.clone() };
                assert_eq!(bench.ask(prepare).await.unwrap_err().code(), "publish_begun");
                let mut new = New {
                    visibility: None,
                    ..new
                };
                let refused = registry.publish(new.clone(), &|_, _, _| {}).await;
                assert_eq!(refused.err().unwrap().code(), "publish_begun");
                assert!(!said(&bench).await.contains(&name));
                new.visibility = Some(Visibility::Sealed);
                registry.publish(new, &|_, _, _| {}).await.unwrap();
                assert!(said(&bench).await.contains(&name));
                held += 1;
            }
        }
        if !is_cut {
            assert!(forgotten > 0 && held > 0, "nothing was signed and not posted");
            return;
        }
    }
}

/// All that the network has, as text.
async fn said(bench: &Bench) -> String {
    let posts = bench.storage.posts(PostQuery::default()).await.unwrap();
    posts.iter().map(|post| post.content.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_another_owner_is_opened_for_a_kernel_by_its_name() {
    let bench = bench().await;
    let mut hidden = seal(&bench, "digits", "one").await;
    cover(&bench, &mut hidden);
    published(&bench, &hidden).await;
    let data = DataFolder::open(bench.folder.path()).unwrap();
    let accounts = ["granted", "stranger"].map(|name| Arc::new(Account::create(&data, name, None).unwrap()));
    for account in &accounts {
        register_reader_key(&*bench.storage, account.wallet(), account.reader())
            .await
            .unwrap();
    }
    let head = hidden.head.clone().sign(bench.account.wallet()).unwrap();
    let (wallet, key) = (bench.account.wallet(), bench.account.reader());
    let to = accounts[0].wallet().owner();
    grant_dataset(&*bench.storage, wallet, key, &head, to, GrantTerms::default())
        .await
        .unwrap();
    let reference = format!("{}/digits", bench.account.address());
    let call = bench.call(Ask::Open {
        reference: reference.clone(),
    });
    for (account, opens) in accounts.iter().zip([true, false]) {
        let engine = Engine::new(
            account.clone(),
            bench.storage.clone(),
            bench.engine.gateway().clone(),
        );
        match engine.answer(&call).await {
            Ok(KeyReply::Opened { name, .. }) => assert!(opens && name == reference),
            Ok(_) => panic!("another reply"),
            Err(error) => {
                let said = error.to_string();
                assert!(
                    !opens && said.contains("granted no dataset called \"digits\""),
                    "{said}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn further_private_revisions_take_the_tags_along_and_do_not_say_the_name_again() {
    let bench = bench().await;
    let shown = seal(&bench, "digits", "one").await;
    published(&bench, &shown).await;
    for text in ["two", "three", "four"] {
        let mut hidden = seal(&bench, "digits", text).await;
        cover(&bench, &mut hidden);
        published(&bench, &hidden).await;
        let registry = Registry::new(bench.account.clone(), bench.storage.clone(), None);
        let found = registry.model(bench.account.wallet().owner(), "digits").await;
        let model = found.unwrap().unwrap();
        assert!(!model.has(false));
        match text {
            "two" => {
                let tagged = registry.tag("digits", "v1", &hidden.record.commit).await;
                tagged.unwrap();
            }
            _ => assert_eq!(model.tags_at.as_ref(), Some(&hidden.record.commit)),
        }
    }
    let withdrawn = PostQuery {
        types: vec![MODEL_WITHDRAWAL_TYPE.into()],
        ..PostQuery::default()
    };
    assert_eq!(bench.storage.posts(withdrawn).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_dataset_is_opened_also_where_its_owner_has_a_model_of_that_name() {
    let bench = bench().await;
    let sealing = seal(&bench, "digits", "weights").await;
    published(&bench, &sealing).await;
    let (wallet, key) = (bench.account.wallet(), bench.account.reader());
    let files = vec![SourceFile::bytes("a.txt", b"rows".as_slice())];
    let meta = Meta {
        title: Some("digits".into()),
        created: Some(1),
        ..Meta::default()
    };
    let put = put_dataset(bench.storage.clone(), wallet, key, files, meta, None, &|_| ());
    let id = put.await.unwrap().dataset_id;
    let owner = bench.account.address();
    let dataset = alephlab_vault::find_head(&*bench.storage, &owner, &id).await;
    let dataset = dataset.unwrap().unwrap().0;
    let model = sealing.head.clone().sign(wallet).unwrap();
    let data = DataFolder::open(bench.folder.path()).unwrap();
    for (name, heads, opened) in [
        ("of-dataset", vec![&dataset], id),
        ("of-both", vec![&dataset, &model], model.head.dataset_id),
    ] {
        let reader = Arc::new(Account::create(&data, name, None).unwrap());
        register_reader_key(&*bench.storage, reader.wallet(), reader.reader())
            .await
            .unwrap();
        for head in heads {
            let to = reader.wallet().owner();
            let granted = grant_dataset(&*bench.storage, wallet, key, head, to, GrantTerms::default());
            granted.await.unwrap();
        }
        let gateway = bench.engine.gateway().clone();
        let engine = Engine::new(reader, bench.storage.clone(), gateway);
        for (reference, wanted) in [
            (format!("{owner}/digits"), opened),
            (format!("{owner}/digits@1"), id),
            (format!("{owner}/digits"), opened),
        ] {
            let head = engine.open_here(&reference).await.unwrap().head;
            assert_eq!(head.head.dataset_id, wanted, "{reference} {name}");
        }
    }
}
