//! Fault switches, from Rust and over the operator's route, and the two waits of `sync`.

use std::time::{Duration, Instant};

use alephlab_localnet::Fault;
use serde_json::json;

use crate::support::{TIME, TestNode, a, hash, post_message, store_message, until};

#[tokio::test]
async fn errors_happen_so_often_and_then_not() {
    let node = TestNode::start().await;
    for status in [503, 429] {
        node.handle.faults.on(
            Fault::Status {
                path: "/messages".into(),
                status,
            },
            Some(2),
        );
        let message = post_message(&a(), "n", TIME + f64::from(status), json!({}));
        assert_eq!(node.publish(&message).await.status, status);
        assert_eq!(node.publish(&message).await.status, status);
        assert_eq!(node.get("/api/v0/version").await.status, 200);
        node.accept(&message).await;
    }
}

#[tokio::test]
async fn delayed_request_is_answered_late() {
    let node = TestNode::start().await;
    node.handle.faults.on(
        Fault::Delay {
            path: "/version".into(),
            delay_ms: 200,
        },
        Some(1),
    );
    let begin = Instant::now();
    assert_eq!(node.get("/api/v0/version").await.status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn truncated_download_breaks_and_wrong_bytes_have_the_right_length() {
    let node = TestNode::start().await;
    let bytes = vec![1; 600_000];
    let (file, _) = node.store(&bytes, json!({})).await;
    let path = format!("/api/v0/storage/raw/{file}");
    node.handle
        .faults
        .on(Fault::Truncate { keep_bytes: 1_000 }, Some(1));
    let broken = node.response(&path).await;
    assert_eq!(broken.headers()["content-length"], "600000");
    assert!(broken.bytes().await.is_err());
    node.handle.faults.on(Fault::WrongBytes, Some(1));
    let wrong = node.response(&path).await.bytes().await.unwrap();
    assert_eq!((wrong.len(), wrong[0], &wrong[1..]), (600_000, 0xfe, &bytes[1..]));
    assert_eq!(node.response(&path).await.bytes().await.unwrap(), bytes);
}

#[tokio::test]
async fn message_stays_pending_until_the_switch_is_off() {
    let node = TestNode::start_with(|config| config.sync_timeout = Duration::from_millis(100)).await;
    node.handle.faults.on(
        Fault::StayPending {
            message_type: "POST".into(),
        },
        None,
    );
    let message = post_message(&a(), "n", TIME, json!({}));
    let reply = node.publish(&message).await;
    assert_eq!(
        (reply.status, &reply.json["message_status"]),
        (202, &json!("pending"))
    );
    assert_eq!(node.message(&hash(&message)).await["messages"][0]["type"], "POST");
    node.store(b"other types go on", json!({})).await;
    node.handle.faults.clear();
    until(|| async { node.status(&hash(&message)).await == "processed" }).await;
}

#[tokio::test]
async fn message_is_rejected_with_the_wanted_code() {
    let node = TestNode::start().await;
    node.handle.faults.on(
        Fault::Reject {
            message_type: String::new(),
            code: 6,
        },
        Some(1),
    );
    let message = post_message(&a(), "n", TIME, json!({}));
    node.reject(&message, 6).await;
    node.accept(&message).await;
}

#[tokio::test]
async fn operator_switches_faults_over_http_only_where_it_is_allowed() {
    let node = TestNode::start_with(|config| config.faults = true).await;
    let path = "/localnet/v0/faults";
    let fault = json!({"fault": "status", "path": "/version", "status": 500, "times": 1});
    assert_eq!(node.post(path, &fault).await.status, 201);
    assert_eq!(node.get(path).await.json, json!([fault]));
    assert_eq!(node.get("/api/v0/version").await.status, 500);
    assert_eq!(node.get("/api/v0/version").await.status, 200);
    assert_eq!(
        node.post(path, &json!({"fault": "wrong_bytes"})).await.status,
        201
    );
    assert_eq!(node.post(path, &json!({"fault": "explode"})).await.status, 422);
    assert_eq!(node.delete(path).await.status, 204);
    assert_eq!(node.get(path).await.json, json!([]));
}

#[tokio::test]
async fn duplicate_is_processed_at_once_unless_strict() {
    let node = TestNode::start().await;
    let message = post_message(&a(), "n", TIME, json!({}));
    node.accept(&message).await;
    node.accept(&message).await;
    assert_eq!(node.publish_async(&message).await.status, 200);
    assert_eq!(
        node.get("/api/v0/messages.json").await.json["pagination_total"],
        1
    );
}

#[tokio::test]
async fn strict_duplicate_waits_and_is_said_to_be_pending() {
    let node = TestNode::start_with(|config| {
        config.strict_duplicates = true;
        config.sync_timeout = Duration::from_millis(300);
    })
    .await;
    let (_, message) = node.store(b"file", json!({})).await;
    let again = store_message(&a(), &crate::support::sha256(b"file"), json!({}));
    assert_eq!(hash(&again), message);
    let begin = Instant::now();
    let reply = node.publish(&again).await;
    assert_eq!(
        (reply.status, &reply.json["message_status"]),
        (202, &json!("pending"))
    );
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(node.status(&message).await, "processed");
}
