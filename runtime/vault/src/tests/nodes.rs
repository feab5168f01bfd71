//! Several nodes as one storage: dead ones, spoiled objects, and a node that withholds.

use super::{Fixture, code};
use crate::message::{sign_aggregate, sign_post, sign_store};
use crate::storage::{Fault, FaultyStorage, MemoryStorage, Nodes, PostQuery, Storage, nodes};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

struct World {
    inner: [Arc<MemoryStorage>; 2],
    faulty: [Arc<FaultyStorage>; 2],
    both: Nodes,
}

impl World {
    fn new() -> Self {
        let inner = [0, 1].map(|_| Arc::new(MemoryStorage::new()));
        let faulty = [0, 1].map(|at| Arc::new(FaultyStorage::new(inner[at].clone())));
        let all: Vec<Arc<dyn Storage>> = vec![faulty[0].clone(), faulty[1].clone()];
        let both = Nodes::new(all);
        Self { inner, faulty, both }
    }
}

#[tokio::test]
async fn an_object_that_one_node_lacks_or_spoils_comes_from_another() {
    let (world, fixture) = (World::new(), Fixture::new());
    let bytes = Bytes::from_static(b"ciphertext");
    let name = hex::encode(crate::digest::sha256(&[&bytes]));
    let store = sign_store(&fixture.wallet, &name, bytes.len() as u64).unwrap();
    assert_eq!(code(world.both.get(&name).await), "E_UNAVAILABLE");
    world.inner[1].put(bytes.clone(), &store).await.unwrap();
    assert_eq!(world.both.get(&name).await.unwrap(), bytes);
    world.inner[0].put(bytes.clone(), &store).await.unwrap();
    for at in [0, 1] {
        world.faulty[at].set(Some(Fault::FlipByte(3)));
        assert_eq!(world.both.get(&name).await.unwrap(), bytes);
        world.faulty[1 - at].set(Some(Fault::FlipByte(3)));
        assert_eq!(code(world.both.get(&name).await), "E_HASH");
        world.faulty.iter().for_each(|node| node.set(None));
    }
}

#[tokio::test]
async fn an_object_goes_to_a_node_that_lives_and_that_one_is_asked_first_from_then_on() {
    let (world, fixture) = (World::new(), Fixture::new());
    let stores: Vec<_> = [b"one", b"two", b"six"]
        .map(|bytes| {
            let bytes = Bytes::from_static(bytes);
            let name = hex::encode(crate::digest::sha256(&[&bytes]));
            let store = sign_store(&fixture.wallet, &name, bytes.len() as u64).unwrap();
            (bytes, store)
        })
        .into();
    let put = async |at: usize| world.both.put(stores[at].0.clone(), &stores[at].1).await;
    world.faulty[0].set(Some(Fault::FailTimes(u64::MAX)));
    put(0).await.unwrap();
    let before = world.faulty[0].calls();
    put(1).await.unwrap();
    assert_eq!(world.faulty[0].calls(), before);
    world.faulty[1].set(Some(Fault::FailTimes(u64::MAX)));
    assert_eq!(code(put(2).await), "E_UNAVAILABLE");
    world.faulty[0].set(None);
    put(2).await.unwrap();
}

#[tokio::test]
async fn all_nodes_are_told_a_message_and_one_that_cannot_be_asked_may_have_what_another_lacks() {
    let (world, fixture) = (World::new(), Fixture::new());
    let post = sign_post(&fixture.wallet, "t", json!({}), None).unwrap();
    world.both.publish(&post).await.unwrap();
    for node in &world.inner {
        assert!(node.post(&post.item_hash()).await.unwrap().is_some());
    }
    let (key, content) = ("k", json!({ "a": 1 }).as_object().unwrap().clone());
    let aggregate = sign_aggregate(&fixture.wallet, key, content).unwrap();
    world.faulty[1].set(Some(Fault::FailTimes(u64::MAX)));
    world.both.publish(&aggregate).await.unwrap();
    let address = fixture.wallet.address();
    let found = async || world.both.aggregate(&address, key).await;
    assert_eq!(found().await.unwrap(), Some(json!({ "a": 1 })));
    world.faulty[1].set(None);
    world.faulty[0].set(Some(Fault::FailTimes(u64::MAX)));
    // "None" here would drop a reader.
    assert_eq!(code(found().await), "E_UNAVAILABLE");
    assert_eq!(code(world.both.post(&"0".repeat(64)).await), "E_UNAVAILABLE");
    world.faulty[1].set(Some(Fault::FailTimes(u64::MAX)));
    assert_eq!(code(world.both.publish(&post).await), "E_UNAVAILABLE");
}

#[tokio::test]
async fn a_node_that_withholds_lags_or_hangs_hides_nothing() {
    let (world, fixture) = (World::new(), Fixture::new());
    let posts: Vec<_> = (0..3)
        .map(|n| sign_post(&fixture.wallet, "t", json!({ "n": n }), None).unwrap())
        .collect();
    // Each knows one that the other does not.
    for (at, known) in [(0, [0, 1]), (1, [1, 2])] {
        for post in known {
            world.inner[at].publish(&posts[post]).await.unwrap();
        }
    }
    let list = async || {
        let query = PostQuery {
            types: vec!["t".into()],
            ..PostQuery::default()
        };
        let found = world.both.posts(query).await;
        found.map(|found| found.len())
    };
    assert_eq!(list().await.unwrap(), 3);
    for post in &posts {
        assert!(world.both.post(&post.item_hash()).await.unwrap().is_some());
    }
    assert!(world.both.post(&"0".repeat(64)).await.unwrap().is_none());
    world.faulty[0].set(Some(Fault::Delay(Duration::from_secs(3600))));
    assert_eq!(list().await.unwrap(), 2);
    world.faulty[0].set(Some(Fault::FailTimes(u64::MAX)));
    assert_eq!(list().await.unwrap(), 2);
    world.faulty[1].set(Some(Fault::FailTimes(u64::MAX)));
    assert_eq!(code(list().await), "E_UNAVAILABLE");
}

#[test]
fn urls_are_told_apart_by_commas_and_a_wrong_one_is_named() {
    assert!(nodes("http://127.0.0.1:4024").is_ok());
    assert!(nodes("https://one.example, https://two.example/").is_ok());
    for wrong in [
        "",
        "https://one.example,",
        "https://one.example,ftp://two.example",
        "here",
    ] {
        let error = nodes(wrong).err().unwrap();
        assert_eq!(error.code(), "E_MALFORMED", "{wrong}");
    }
}
