//! Rules of the message types: amends, aggregates, delegation, FORGET, series of files.

use aleph_types::message::MessageType;
use serde_json::{Value, json};

use crate::support::{
    TIME, TestNode, a, address, aggregate_message, amend_message, b, forget_message, hash, post_message,
    sha256, signed, signed_on, signed_text, store_message, until,
};

/// What a post reads as now.
async fn read(node: &TestNode, hash: &str) -> Value {
    node.get(&format!("/api/v1/posts.json?hashes={hash}")).await.json["posts"][0].clone()
}

#[tokio::test]
async fn newest_amend_by_signed_time_wins() {
    let node = TestNode::start().await;
    let post = node
        .accept(&post_message(&a(), "card", TIME, json!({"v": 1})))
        .await;
    node.accept(&amend_message(&a(), &post, TIME + 20.0, json!({"v": 3})))
        .await;
    node.accept(&amend_message(&a(), &post, TIME + 10.0, json!({"v": 2})))
        .await;
    let read = read(&node, &post).await;
    assert_eq!(
        (&read["content"]["v"], &read["original_type"]),
        (&json!(3), &json!("card"))
    );
    let v0 = node.get(&format!("/api/v0/posts.json?hashes={post}")).await.json["posts"][0].clone();
    assert_eq!(
        (&v0["content"]["v"], &v0["type"], &v0["hash"]),
        (&json!(3), &json!("amend"), &json!(post))
    );
}

#[tokio::test]
async fn amend_of_nothing_of_an_amend_or_of_another_owner_is_rejected() {
    let node = TestNode::start().await;
    node.reject(&amend_message(&a(), &"e".repeat(64), TIME, json!({})), 101)
        .await;
    let post = node.accept(&post_message(&a(), "card", TIME, json!({}))).await;
    let amend = node.accept(&amend_message(&a(), &post, TIME, json!({}))).await;
    node.reject(&amend_message(&a(), &amend, TIME, json!({})), 102)
        .await;
    node.reject(&amend_message(&b(), &post, TIME, json!({})), 2).await;
    let no_target = json!({"address": address(&a()), "time": TIME, "type": "amend", "content": {}});
    node.reject(&signed(&a(), MessageType::Post, &no_target), 100)
        .await;
}

#[tokio::test]
async fn amend_that_comes_before_its_post_waits_for_it() {
    let node = TestNode::start_with(|config| config.max_attempts = 1_000).await;
    let post = post_message(&a(), "card", TIME, json!({"v": 1}));
    let amend = amend_message(&a(), &hash(&post), TIME + 1.0, json!({"v": 2}));
    assert_eq!(node.publish_async(&amend).await.status, 202);
    let pending = node.message(&hash(&amend)).await;
    assert_eq!(pending["status"], "pending");
    assert_eq!(pending["messages"][0]["item_hash"], hash(&amend));
    node.accept(&post).await;
    until(|| async { node.status(&hash(&amend)).await == "processed" }).await;
    assert_eq!(read(&node, &hash(&post)).await["content"]["v"], 2);
}

#[tokio::test]
async fn aggregate_is_merged_by_signed_time() {
    let node = TestNode::start().await;
    let path = format!("/api/v0/aggregates/{}.json", address(&a()));
    assert_eq!(node.get(&path).await.status, 404);
    node.accept(&aggregate_message(
        &a(),
        "k",
        TIME + 10.0,
        json!({"x": "late", "z": {"new": 1}}),
    ))
    .await;
    node.accept(&aggregate_message(
        &a(),
        "k",
        TIME,
        json!({"x": "early", "y": 1, "z": {"old": 1}}),
    ))
    .await;
    node.accept(&aggregate_message(&a(), "other", TIME, json!({"o": 1})))
        .await;
    let merged = json!({"x": "late", "y": 1, "z": {"new": 1}});
    assert_eq!(
        node.get(&path).await.json["data"],
        json!({"k": merged, "other": {"o": 1}})
    );
    assert_eq!(
        node.get(&format!("{path}?keys=k")).await.json["data"],
        json!({"k": merged})
    );
    assert_eq!(
        node.get(&format!("{path}?limit=1")).await.json["data"]
            .as_object()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(node.get(&format!("{path}?keys=none")).await.status, 404);
    node.accept(&aggregate_message(&a(), "k", TIME + 20.0, json!({"y": null})))
        .await;
    assert_eq!(node.get(&path).await.json["data"]["k"]["y"], Value::Null);
    let info = node.get(&format!("{path}?keys=k&with_info=true")).await.json["info"]["k"].clone();
    assert!(
        info["created"].as_str().unwrap() < info["last_updated"].as_str().unwrap(),
        "{info}"
    );
    assert_ne!(info["original_item_hash"], info["last_update_item_hash"]);
}

#[tokio::test]
async fn address_in_another_letter_case_is_the_same_owner() {
    let node = TestNode::start().await;
    node.accept(&aggregate_message(&a(), "k", TIME, json!({"x": 1})))
        .await;
    let lower = address(&a()).to_lowercase();
    assert_eq!(
        node.get(&format!("/api/v0/aggregates/{lower}.json")).await.json["data"]["k"]["x"],
        1
    );
}

#[tokio::test]
async fn delegate_amends_by_the_original_post_and_sees_what_it_received() {
    let node = TestNode::start().await;
    let (owner, delegate) = (address(&a()), address(&b()));
    let card = json!({"address": owner, "time": TIME, "type": "model-card", "content": {"v": 1}});
    let card = node
        .accept(&signed_on(&a(), MessageType::Post, &card, Some("LAB")))
        .await;
    let note = node.accept(&post_message(&a(), "note", TIME, json!({}))).await;
    let entry =
        json!({"address": delegate, "types": ["POST"], "post_types": ["model-card"], "channels": ["LAB"]});
    node.accept(&aggregate_message(
        &a(),
        "security",
        TIME,
        json!({"authorizations": [entry]}),
    ))
    .await;
    let amend = |original: &str| {
        let content = json!({"address": owner, "time": TIME + 1.0, "type": "amend", "ref": original, "content": {"v": 2}});
        // On no channel at all: an amend is judged by the original's.
        signed(&b(), MessageType::Post, &content)
    };
    node.accept(&amend(&card)).await;
    node.reject(&amend(&note), 2).await;
    let received = node
        .get(&format!("/api/v0/authorizations/received/{delegate}.json"))
        .await
        .json;
    assert_eq!(
        received["authorizations"][&owner][0]["post_types"],
        json!(["model-card"])
    );
    let granted = node
        .get(&format!("/api/v0/authorizations/granted/{owner}.json"))
        .await
        .json;
    assert_eq!(
        granted["authorizations"][&delegate][0]["channels"],
        json!(["LAB"])
    );
    // Sending the whole new list takes the right away.
    node.accept(&aggregate_message(
        &a(),
        "security",
        TIME + 5.0,
        json!({"authorizations": []}),
    ))
    .await;
    let content = json!({"address": owner, "time": TIME + 6.0, "type": "amend", "ref": card, "content": {}});
    node.reject(&signed(&b(), MessageType::Post, &content), 2).await;
}

#[tokio::test]
async fn aggregate_keys_limit_a_delegate() {
    let node = TestNode::start().await;
    let entry = json!({"address": address(&b()), "types": ["AGGREGATE"], "aggregate_keys": ["profile"]});
    node.accept(&aggregate_message(
        &a(),
        "security",
        TIME,
        json!({"authorizations": [entry]}),
    ))
    .await;
    let element = |key: &str| {
        let content = json!({"address": address(&a()), "time": TIME, "key": key, "content": {"k": 1}});
        signed(&b(), MessageType::Aggregate, &content)
    };
    node.accept(&element("profile")).await;
    node.reject(&element("security"), 2).await;
}

#[tokio::test]
async fn forget_takes_the_content_and_the_amends() {
    let node = TestNode::start().await;
    let post = node
        .accept(&post_message(&a(), "card", TIME, json!({"secret": 1})))
        .await;
    let amend = node
        .accept(&amend_message(&a(), &post, TIME + 1.0, json!({})))
        .await;
    node.reject(&forget_message(&b(), TIME, &[&post]), 2).await;
    let forget = node.accept(&forget_message(&a(), TIME + 2.0, &[&post])).await;
    for gone in [&post, &amend] {
        let known = node.message(gone).await;
        assert_eq!(
            (&known["status"], &known["forgotten_by"]),
            (&json!("forgotten"), &json!([forget]))
        );
        assert!(known["message"].get("content").is_none() && known["message"].get("item_content").is_none());
    }
    assert_eq!(node.get("/api/v1/posts.json").await.json["posts"], json!([]));
    node.reject_without_trace(&post_message(&a(), "card", TIME, json!({"secret": 1})), &post)
        .await;
    node.reject(&forget_message(&a(), TIME + 3.0, &[&forget]), 502)
        .await;
    node.reject(&forget_message(&a(), TIME + 4.0, &[&"f".repeat(64)]), 501)
        .await;
    let again = node.accept(&forget_message(&a(), TIME + 5.0, &[&post])).await;
    assert_eq!(node.message(&post).await["forgotten_by"], json!([forget, again]));
}

impl TestNode {
    /// A forgotten message that comes again is refused and stays forgotten.
    async fn reject_without_trace(&self, message: &Value, hash: &str) {
        assert_eq!(self.publish(message).await.status, 422);
        assert_eq!(self.status(hash).await, "forgotten");
    }
}

#[tokio::test]
async fn forgetting_the_newest_amend_brings_back_the_one_before() {
    let node = TestNode::start().await;
    let post = node
        .accept(&post_message(&a(), "card", TIME, json!({"v": 1})))
        .await;
    let amend = node
        .accept(&amend_message(&a(), &post, TIME + 1.0, json!({"v": 2})))
        .await;
    node.accept(&forget_message(&a(), TIME + 2.0, &[&amend])).await;
    assert_eq!(read(&node, &post).await["content"]["v"], 1);
}

#[tokio::test]
async fn forgotten_aggregate_element_leaves_the_merge() {
    let node = TestNode::start().await;
    node.accept(&aggregate_message(&a(), "k", TIME, json!({"x": 1})))
        .await;
    let second = node
        .accept(&aggregate_message(&a(), "k", TIME + 1.0, json!({"x": 2})))
        .await;
    let content = json!({"address": address(&a()), "time": TIME + 2.0, "hashes": [second], "aggregates": []});
    node.accept(&signed(&a(), MessageType::Forget, &content)).await;
    let aggregate = node
        .get(&format!("/api/v0/aggregates/{}.json", address(&a())))
        .await
        .json;
    assert_eq!(aggregate["data"]["k"]["x"], 1);
}

#[tokio::test]
async fn series_of_files_is_read_by_name_and_by_first_store() {
    let node = TestNode::start().await;
    let (first_file, first) = node.store(b"one", json!({"ref": "data"})).await;
    let (second_file, _) = node
        .store(b"two", json!({"ref": "data", "time": TIME + 1.0}))
        .await;
    let by_name = node
        .get(&format!("/api/v0/storage/by-ref/{}/data", address(&a())))
        .await
        .json;
    assert_eq!(
        (&by_name["file_hash"], &by_name["ref"]),
        (&json!(second_file), &json!("data"))
    );
    // A STORE that has a ref begins no series.
    node.reject(&store_message(&a(), &first_file, json!({"ref": first})), 201)
        .await;
    let (_, root) = node.store(b"root", json!({})).await;
    let (newest, _) = node
        .store(b"newest", json!({"ref": root, "time": TIME + 2.0}))
        .await;
    let by_first = node.get(&format!("/api/v0/storage/by-ref/{root}")).await.json;
    assert_eq!(
        (&by_first["file_hash"], &by_first["ref"]),
        (&json!(newest), &json!(root))
    );
    node.reject(
        &store_message(&a(), &first_file, json!({"ref": "e".repeat(64)})),
        200,
    )
    .await;
    node.reject(&store_message(&b(), &first_file, json!({"ref": root})), 2)
        .await;
    assert_eq!(
        node.get(&format!("/api/v0/storage/by-ref/{}/none", address(&a())))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn store_waits_for_its_file_and_is_then_rejected() {
    let node = TestNode::start().await;
    node.reject(&store_message(&a(), &sha256(b"never sent"), json!({})), 4)
        .await;
    // Sent after all, the same message is judged again.
    assert_eq!(
        node.post_bytes("/api/v0/storage/add_file", b"never sent".to_vec())
            .await
            .status,
        200
    );
    node.accept(&store_message(&a(), &sha256(b"never sent"), json!({})))
        .await;
}

#[tokio::test]
async fn hold_ends_with_2026() {
    let node = TestNode::start().await;
    let file = node
        .post_bytes("/api/v0/storage/add_file", b"held".to_vec())
        .await
        .json["hash"]
        .clone();
    let store = |time: f64| {
        store_message(
            &a(),
            file.as_str().unwrap(),
            json!({"payment": {"type": "hold"}, "time": time}),
        )
    };
    node.accept(&store(1_798_761_599.0)).await;
    node.reject(&store(1_798_761_600.0), 202).await;
}

#[tokio::test]
async fn credits_must_cover_a_day_of_everything_stored() {
    // A STORE counts as 25 MiB at least: 107.802 credits a day.
    let node = TestNode::start_with(|config| config.credits = 250).await;
    node.store(b"one", json!({})).await;
    node.store(b"two", json!({"time": TIME + 1.0})).await;
    let third = node
        .post_bytes("/api/v0/storage/add_file", b"three".to_vec())
        .await
        .json["hash"]
        .clone();
    let third = store_message(&a(), third.as_str().unwrap(), json!({}));
    node.reject(&third, 6).await;
    let error = node.message(&hash(&third)).await["details"]["errors"][0].clone();
    assert!(
        error["required_credits"].as_str().unwrap().starts_with("323.4"),
        "{error}"
    );
    let balance = node
        .get(&format!("/api/v0/addresses/{}/balance", address(&a())))
        .await
        .json;
    assert!(
        (249..=250).contains(&balance["credit_balance"].as_u64().unwrap()),
        "{balance}"
    );
}

#[tokio::test]
async fn content_kept_in_storage_is_fetched_and_checked() {
    let node = TestNode::start().await;
    let content = json!({"address": address(&a()), "time": TIME, "type": "large", "content": {"x": "y".repeat(60_000)}});
    let mut message = signed(&a(), MessageType::Post, &content);
    message["item_type"] = json!("storage");
    message.as_object_mut().unwrap().remove("item_content");
    node.reject(&message, 3).await;
    assert_eq!(
        node.post_bytes("/api/v0/storage/add_file", content.to_string().into_bytes())
            .await
            .status,
        200
    );
    node.accept(&message).await;
    let known = node.message(&hash(&message)).await;
    assert_eq!(known["message"]["item_content"], Value::Null);
    assert_eq!(known["message"]["content"]["type"], "large");
}

#[tokio::test]
async fn numbers_are_shown_as_they_were_signed() {
    let node = TestNode::start().await;
    // Read and written again as a number, this would end in 2.
    let number = "1795373897.9638321";
    let content = format!(
        r#"{{"address":"{}","time":{number},"type":"n","content":{{"x":{number},"y":1.50}}}}"#,
        address(&a())
    );
    let message = signed_text(&a(), MessageType::Post, &content, None);
    node.accept(&message).await;
    let hash = hash(&message);
    let nested = format!(r#"{{"x":{number},"y":1.50}}"#);
    assert_eq!(
        node.get(&format!("/api/v0/messages/{hash}/content")).await.text,
        nested
    );
    for path in [
        format!("/api/v0/messages/{hash}"),
        "/api/v0/messages.json".into(),
        "/api/v0/posts.json".into(),
    ] {
        assert!(
            node.get(&path)
                .await
                .text
                .contains(&format!(r#""content":{nested}"#)),
            "{path}"
        );
    }
    let content = format!(
        r#"{{"address":"{}","time":1,"key":"k","content":{nested}}}"#,
        address(&a())
    );
    node.accept(&signed_text(&a(), MessageType::Aggregate, &content, None))
        .await;
    let aggregates = node
        .get(&format!("/api/v0/aggregates/{}.json", address(&a())))
        .await
        .text;
    assert!(aggregates.contains(&nested), "{aggregates}");
}
