//! What a sale opens, for whom, and above all what it does not.

use super::{Fixture, code, noise};
use crate::message::sign_post;
use crate::storage::{PostQuery, Storage};
use crate::{
    Keys, ObjectKeys, RELEASE_POST_TYPE, ReaderKey, SourceFile, Wallet, find_release, narrow,
    register_reader_key, release_revision, releases_of,
};

const ORDER: &str = "9d3c8a52-0000-4000-8000-000000000001";

struct Buyer {
    wallet: Wallet,
    key: ReaderKey,
}

async fn buyer(storage: &dyn Storage) -> Buyer {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    register_reader_key(storage, &wallet, &key).await.unwrap();
    Buyer { wallet, key }
}

async fn keys_of(fixture: &Fixture, version: &super::Version) -> ObjectKeys {
    let reader = fixture.open(version).await.unwrap();
    let (keys, root) = narrow(&reader, &"ab".repeat(32)).unwrap();
    fixture.put(&root).await;
    keys
}

#[tokio::test]
async fn a_release_opens_its_revision_for_its_buyer_and_is_posted_once() {
    let fixture = Fixture::new();
    let version = fixture
        .seal(&[SourceFile::bytes("weights", noise(1, 5_000))])
        .await;
    let storage = &*fixture.storage;
    let (bought, other) = (buyer(storage).await, buyer(storage).await);
    let found = async |who: &Buyer, key: &ReaderKey| {
        find_release(storage, &version.head, who.wallet.owner(), key)
            .await
            .unwrap()
    };
    assert!(found(&bought, &bought.key).await.is_none());
    let keys = keys_of(&fixture, &version).await;
    let to = (ORDER, bought.wallet.owner());
    let messages = release_revision(storage, &fixture.wallet, &version.head, &keys, to)
        .await
        .unwrap();
    let again = release_revision(storage, &fixture.wallet, &version.head, &keys, to)
        .await
        .unwrap();
    assert_eq!(messages, again);
    let opened = found(&bought, &bought.key).await.unwrap();
    let reader = fixture.open_with(&version, Keys::Objects(opened)).await.unwrap();
    assert!(reader.read("weights").await.unwrap() == noise(1, 5_000));
    assert!(found(&other, &other.key).await.is_none());
    assert!(
        found(&bought, &other.key).await.is_none(),
        "another machine's key"
    );
    let there = releases_of(storage, &fixture.wallet.address(), ORDER)
        .await
        .unwrap();
    assert_eq!(there.len(), messages.len());
    assert_eq!(there[0].1.revision(), version.head.revision());
    assert!(
        releases_of(storage, &other.wallet.address(), ORDER)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn what_others_post_or_change_opens_nothing() {
    let fixture = Fixture::new();
    let version = fixture
        .seal(&[SourceFile::bytes("weights", noise(1, 5_000))])
        .await;
    let storage = &*fixture.storage;
    let bought = buyer(storage).await;
    let keys = keys_of(&fixture, &version).await;
    let nobody = Wallet::generate().unwrap();
    let to = (ORDER, nobody.owner());
    let refused = release_revision(storage, &fixture.wallet, &version.head, &keys, to).await;
    assert_eq!(code(refused), "E_NO_READER_KEY");
    let to = (ORDER, bought.wallet.owner());
    release_revision(storage, &nobody, &version.head, &keys, to)
        .await
        .unwrap();
    let found = async || find_release(storage, &version.head, bought.wallet.owner(), &bought.key).await;
    assert!(found().await.unwrap().is_none(), "only the owner releases");
    // What the owner posts and does not open is an error, and nothing else.
    let query = PostQuery {
        types: vec![RELEASE_POST_TYPE.to_owned()],
        ..PostQuery::default()
    };
    let mut content = storage.posts(query).await.unwrap().remove(0).content;
    content["order"] = "another".into();
    let post = sign_post(&fixture.wallet, RELEASE_POST_TYPE, content, None).unwrap();
    storage.publish(&post).await.unwrap();
    assert_eq!(code(found().await.map(drop)), "E_GRANT_OPEN");
}
