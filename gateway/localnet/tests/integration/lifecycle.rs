//! Starting, stopping and starting again.

use std::time::Duration;

use alephlab_localnet::{Config, Fault, Localnet, bind};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{
    TIME, TestNode, a, address, aggregate_message, amend_message, hash, post_message, until,
};

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let node = TestNode::start().await;
    let post = node
        .accept(&post_message(&a(), "card", TIME, json!({"v": 1})))
        .await;
    node.accept(&amend_message(&a(), &post, TIME + 1.0, json!({"v": 2})))
        .await;
    node.accept(&aggregate_message(&a(), "k", TIME, json!({"x": 1})))
        .await;
    let (file, store) = node.store(b"kept", json!({"ref": "name"})).await;
    let rejected = amend_message(&a(), &"e".repeat(64), TIME, json!({}));
    node.reject(&rejected, 101).await;
    let before = node.message(&store).await;
    let folder = node.stop().await;
    let node = TestNode::start_in(folder, |_| {}).await;
    assert_eq!(node.message(&store).await, before);
    assert_eq!(
        node.get("/api/v1/posts.json").await.json["posts"][0]["content"]["v"],
        2
    );
    assert_eq!(
        node.get(&format!("/api/v0/aggregates/{}.json", address(&a())))
            .await
            .json["data"]["k"]["x"],
        1
    );
    assert_eq!(
        node.get(&format!("/api/v0/storage/raw/{file}")).await.text,
        "kept"
    );
    assert_eq!(
        node.get(&format!("/api/v0/storage/by-ref/{}/name", address(&a())))
            .await
            .json["file_hash"],
        file
    );
    assert_eq!(node.message(&hash(&rejected)).await["error_code"], 101);
}

#[tokio::test]
async fn pending_message_is_judged_after_a_restart() {
    let node = TestNode::start().await;
    node.handle.faults.on(
        Fault::StayPending {
            message_type: String::new(),
        },
        None,
    );
    let message = post_message(&a(), "n", TIME, json!({}));
    assert_eq!(node.publish_async(&message).await.status, 202);
    let node = TestNode::start_in(node.stop().await, |_| {}).await;
    until(|| async { node.status(&hash(&message)).await == "processed" }).await;
}

#[tokio::test]
async fn stop_ends_waiting_requests_and_websockets() {
    let node = TestNode::start().await;
    node.handle.faults.on(
        Fault::StayPending {
            message_type: String::new(),
        },
        None,
    );
    let message = post_message(&a(), "n", TIME, json!({}));
    let body = json!({"sync": true, "message": message});
    let waiting = tokio::spawn(
        reqwest::Client::new()
            .post(node.url("/api/v0/messages"))
            .json(&body)
            .send(),
    );
    let url = node.url("/api/ws0/messages").replace("http://", "ws://");
    let (_socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    until(|| async { node.status(&hash(&message)).await == "pending" }).await;
    tokio::time::timeout(Duration::from_secs(4), node.stop())
        .await
        .expect("the node did not stop");
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
}

#[tokio::test]
async fn port_in_use_is_said_with_the_address_and_a_hint() {
    let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let error = bind(first.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "localnet_bind");
    assert!(
        error
            .to_string()
            .contains(&first.local_addr().unwrap().to_string()),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("port"));
}

#[tokio::test]
async fn folder_that_cannot_be_written_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "not a folder").unwrap();
    let config = Config::new(bind(([127, 0, 0, 1], 0).into()).await.unwrap(), path.join("data"));
    let error = Localnet::start(config, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "localnet_folder");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a folder");
}

#[tokio::test]
async fn folder_in_use_is_refused() {
    let node = TestNode::start().await;
    let config = Config::new(
        bind(([127, 0, 0, 1], 0).into()).await.unwrap(),
        node.folder.path(),
    );
    let error = Localnet::start(config, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "localnet_in_use");
    assert_eq!(node.get("/api/v0/version").await.status, 200);
}

#[tokio::test]
async fn database_of_another_program_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join("localnet.sqlite"),
        "this is no database, but it is long enough".repeat(40),
    )
    .unwrap();
    let before = std::fs::read(folder.path().join("localnet.sqlite")).unwrap();
    let config = Config::new(bind(([127, 0, 0, 1], 0).into()).await.unwrap(), folder.path());
    let error = Localnet::start(config, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "localnet_open");
    assert_eq!(
        std::fs::read(folder.path().join("localnet.sqlite")).unwrap(),
        before
    );
}
