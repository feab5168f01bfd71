//! Uploads: the table of the reference's section 6 row by row, and reading files back.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{
    Reply, TIME, TestNode, a, address, b, forget_message, hash, sha256, store_message, until,
};

const MIB: usize = 1024 * 1024;
const ADD_FILE: &str = "/api/v0/storage/add_file";

fn file_part(bytes: &[u8]) -> Part {
    Part::bytes(bytes.to_vec())
        .file_name("upload")
        .mime_str("application/octet-stream")
        .unwrap()
}

async fn upload(node: &TestNode, bytes: &[u8], message: &Value, sync: bool) -> Reply {
    let metadata = json!({"message": message, "sync": sync}).to_string();
    node.post_form(
        ADD_FILE,
        Form::new()
            .part("file", file_part(bytes))
            .text("metadata", metadata),
    )
    .await
}

#[tokio::test]
async fn file_without_metadata_up_to_25_mib_is_stored() {
    let node = TestNode::start().await;
    let bytes = vec![3; 25 * MIB];
    let form = node
        .post_form(ADD_FILE, Form::new().part("file", file_part(&bytes)))
        .await;
    assert_eq!(
        (form.status, form.json),
        (200, json!({"status": "success", "hash": sha256(&bytes)}))
    );
    let raw = node.post_bytes(ADD_FILE, b"raw bytes".to_vec()).await;
    assert_eq!(
        (raw.status, &raw.json["hash"]),
        (200, &json!(sha256(b"raw bytes")))
    );
}

#[tokio::test]
async fn file_without_metadata_over_25_mib_is_too_large() {
    let node = TestNode::start().await;
    let bytes = vec![3; 25 * MIB + 1];
    assert_eq!(
        node.post_form(ADD_FILE, Form::new().part("file", file_part(&bytes)))
            .await
            .status,
        413
    );
    assert_eq!(node.post_bytes(ADD_FILE, bytes.clone()).await.status, 413);
    assert_eq!(
        node.get(&format!("/api/v0/storage/metadata/{}", sha256(&bytes)))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn paid_file_is_stored_waiting_or_not_in_either_order_of_parts() {
    let node = TestNode::start().await;
    let bytes = vec![4; 26 * MIB];
    let message = store_message(&a(), &sha256(&bytes), json!({}));
    let reply = upload(&node, &bytes, &message, true).await;
    assert_eq!(
        (reply.status, reply.json),
        (200, json!({"status": "success", "hash": sha256(&bytes)}))
    );
    assert_eq!(node.status(&hash(&message)).await, "processed");
    let later = store_message(&a(), &sha256(b"later"), json!({}));
    let metadata = json!({"message": later, "sync": false}).to_string();
    let form = Form::new()
        .text("metadata", metadata)
        .part("file", file_part(b"later"));
    let reply = node.post_form(ADD_FILE, form).await;
    assert_eq!((reply.status, &reply.json["status"]), (202, &json!("success")));
    until(|| async { node.status(&hash(&later)).await == "processed" }).await;
}

#[tokio::test]
async fn file_over_100_mib_is_too_large_with_metadata_too() {
    let node = TestNode::start().await;
    let bytes = vec![5; 100 * MIB + 1];
    let message = store_message(&a(), &sha256(&bytes), json!({}));
    assert_eq!(upload(&node, &bytes, &message, true).await.status, 413);
    let just = &bytes[..100 * MIB];
    let message = store_message(&a(), &sha256(just), json!({}));
    assert_eq!(upload(&node, just, &message, true).await.status, 200);
}

#[tokio::test]
async fn file_with_another_hash_than_its_message_is_refused() {
    let node = TestNode::start().await;
    let message = store_message(&a(), &sha256(b"expected"), json!({}));
    let reply = upload(&node, b"something else", &message, true).await;
    assert_eq!(reply.status, 422);
    assert!(reply.text.contains(&sha256(b"something else")), "{}", reply.text);
    assert_eq!(
        node.get(&format!("/api/v0/messages/{}", hash(&message)))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn upload_that_cannot_be_paid_needs_payment_however_small() {
    let node = TestNode::start_with(|config| {
        config.credits_of.insert(address(&b()).to_lowercase(), 100);
    })
    .await;
    let poor = store_message(&b(), &sha256(b"s"), json!({}));
    assert_eq!(upload(&node, b"s", &poor, true).await.status, 402);
    // The hold tier's free 25 MiB does not apply here.
    let hold = store_message(&a(), &sha256(b"s"), json!({"payment": {"type": "hold"}}));
    assert_eq!(upload(&node, b"s", &hold, true).await.status, 402);
    assert_eq!(
        node.get(&format!("/api/v0/storage/raw/{}", sha256(b"s")))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn upload_with_a_bad_signature_is_forbidden() {
    let node = TestNode::start().await;
    let mut message = store_message(&a(), &sha256(b"s"), json!({}));
    message["signature"] = store_message(&a(), &sha256(b"t"), json!({}))["signature"].clone();
    assert_eq!(upload(&node, b"s", &message, true).await.status, 403);
}

#[tokio::test]
async fn upload_for_another_owner_is_rejected_without_delegation() {
    let node = TestNode::start().await;
    let message = store_message(&b(), &sha256(b"s"), json!({"address": address(&a())}));
    assert_eq!(upload(&node, b"s", &message, true).await.status, 422);
    assert_eq!(node.message(&hash(&message)).await["error_code"], 2);
}

#[tokio::test]
async fn broken_requests_are_refused_in_words() {
    let node = TestNode::start().await;
    assert_eq!(
        node.post_form(ADD_FILE, Form::new().text("other", "x"))
            .await
            .status,
        400
    );
    let message = store_message(&a(), &sha256(b"s"), json!({}));
    for metadata in [
        json!("no"),
        json!({"message": message}),
        json!({"sync": true}),
        json!({"sync": true, "message": {}}),
    ] {
        let form = Form::new()
            .part("file", file_part(b"s"))
            .text("metadata", metadata.to_string());
        let reply = node.post_form(ADD_FILE, form).await;
        assert_eq!(reply.status, 422, "{metadata}");
        assert!(
            reply.text.starts_with("Could not decode metadata"),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn stored_file_is_read_in_every_form_but_not_in_ranges() {
    let node = TestNode::start().await;
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (file, message) = node.store(&bytes, json!({})).await;
    let path = format!("/api/v0/storage/raw/{file}");
    let head = node.head(&path).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], "300000");
    assert_eq!(head.headers()["accept-ranges"], "none");
    let ranged = reqwest::Client::new()
        .get(node.url(&path))
        .header("range", "bytes=0-9")
        .send()
        .await
        .unwrap();
    assert_eq!(ranged.status(), 200);
    assert_eq!(ranged.bytes().await.unwrap(), bytes);
    let whole = node.get(&format!("/api/v0/storage/{file}")).await.json;
    assert_eq!(
        (&whole["status"], &whole["engine"]),
        (&json!("success"), &json!("storage"))
    );
    let content = whole["content"].as_str().unwrap();
    assert!(content.lines().all(|line| line.len() <= 76));
    assert_eq!(STANDARD.decode(content.replace('\n', "")).unwrap(), bytes);
    let metadata = node.get(&format!("/api/v0/storage/metadata/{file}")).await.json;
    let download_url = format!("/api/v0/storage/raw/{file}");
    assert_eq!(
        metadata,
        json!({"file_hash": file, "type": "file", "size": 300_000, "download_url": download_url})
    );
    let by_message = node
        .get(&format!("/api/v0/storage/by-message-hash/{message}"))
        .await
        .json;
    assert_eq!(
        (&by_message["file_hash"], &by_message["download_url"]),
        (&json!(file), &json!(download_url))
    );
    assert_eq!(node.get(&format!("/api/v0/storage/count/{file}")).await.json, 1);
    for missing in ["raw", "metadata", "by-message-hash", "by-ref"] {
        assert_eq!(
            node.get(&format!("/api/v0/storage/{missing}/{}", "0".repeat(64)))
                .await
                .status,
            404,
            "{missing}"
        );
    }
    for invalid in [
        "/api/v0/storage/raw/x",
        "/api/v0/storage/x",
        "/api/v0/storage/raw/..%2Flocalnet.sqlite",
    ] {
        assert_eq!(node.get(invalid).await.status, 400, "{invalid}");
    }
}

#[tokio::test]
async fn account_lists_its_files() {
    let node = TestNode::start().await;
    let path = format!("/api/v0/addresses/{}/files", address(&a()));
    assert_eq!(node.get(&path).await.status, 404);
    for n in 0..3_u8 {
        node.store(&[n; 10], json!({"time": TIME + f64::from(n)})).await;
    }
    let page = node.get(&format!("{path}?pagination=2&page=1")).await.json;
    assert_eq!(
        (&page["total_size"], &page["pagination_total"]),
        (&json!(30), &json!(3))
    );
    assert_eq!(page["files"][0]["file_hash"], sha256(&[2; 10]));
    assert!(page["files"][0]["created"].is_string());
    let first = node.get(&format!("{path}?pagination=2&cursor=")).await.json;
    assert!(first["files"][0]["created"].is_number());
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = node
        .get(&format!("{path}?pagination=2&cursor={cursor}"))
        .await
        .json;
    assert_eq!(
        (second["files"].as_array().unwrap().len(), &second["next_cursor"]),
        (1, &Value::Null)
    );
}

#[tokio::test]
async fn json_is_stored_in_its_shortest_form() {
    let node = TestNode::start().await;
    let reply = node
        .post_bytes("/api/v0/storage/add_json", br#"{ "b": 1, "a": [1, 2] }"#.to_vec())
        .await;
    assert_eq!(reply.json["hash"], sha256(br#"{"b":1,"a":[1,2]}"#));
    assert_eq!(
        node.post_bytes("/api/v0/storage/add_json", b"nope".to_vec())
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn prices_are_those_of_the_reference() {
    let node = TestNode::start().await;
    let (file, message) = node.store(b"small", json!({})).await;
    let price = node.get(&format!("/api/v0/price/{message}")).await.json;
    // 25 MiB at least, 0.17967 credits for each and hour.
    assert!(
        (price["required_tokens"].as_f64().unwrap() * 3_600.0 - 25.0 * 0.179_67).abs() < 1e-9,
        "{price}"
    );
    assert_eq!(
        (&price["payment_type"], &price["charged_address"]),
        (&json!("credit"), &json!(address(&a())))
    );
    let large = store_message(&a(), &file, json!({"estimated_size_mib": 100}));
    let estimate = node
        .post("/api/v0/price/estimate", &json!({"message": large}))
        .await
        .json;
    assert!(
        (estimate["required_tokens"].as_f64().unwrap() * 3_600.0 - 100.0 * 0.179_67).abs() < 1e-9,
        "{estimate}"
    );
    assert_eq!(estimate["detail"][0]["size_mib"], 100.0);
    assert_eq!(
        node.get(&format!("/api/v0/price/{}", "0".repeat(64)))
            .await
            .status,
        404
    );
    assert_eq!(node.get("/api/v0/price/x").await.status, 400);
}

#[tokio::test]
async fn file_that_no_store_pins_is_removed_after_its_grace() {
    let node = TestNode::start_with(|config| {
        config.grace = Duration::from_millis(200);
        config.sweep_interval = Duration::from_millis(20);
    })
    .await;
    let (pinned, message) = node.store(b"pinned", json!({})).await;
    let orphan = node.post_bytes(ADD_FILE, b"orphan".to_vec()).await.json["hash"]
        .as_str()
        .unwrap()
        .to_owned();
    let is_gone = |hash: String| {
        let node = &node;
        async move { node.get(&format!("/api/v0/storage/raw/{hash}")).await.status == 404 }
    };
    until(|| is_gone(orphan.clone())).await;
    assert!(!is_gone(pinned.clone()).await);
    node.accept(&forget_message(&a(), TIME + 1.0, &[&message])).await;
    assert_eq!(node.get(&format!("/api/v0/storage/count/{pinned}")).await.json, 0);
    until(|| is_gone(pinned.clone())).await;
    assert_eq!(
        std::fs::read_dir(node.folder.path().join("files"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn stored_files_consume_credits_while_the_node_runs() {
    let node = TestNode::start_with(|config| config.credits = 1_000_000_000).await;
    // 100 files of the least price: 0.125 credits a second.
    for n in 0..100_u8 {
        node.store(&[n; 3], json!({"time": TIME + f64::from(n)})).await;
    }
    let path = format!("/api/v0/addresses/{}/balance", address(&a()));
    until(|| async { node.get(&path).await.json["credit_balance"].as_u64().unwrap() < 1_000_000_000 }).await;
}
