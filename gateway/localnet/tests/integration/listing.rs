//! Lists: filters, pages and cursors of messages, posts and hashes.

use aleph_types::message::MessageType;
use serde_json::{Value, json};

use crate::support::{
    TIME, TestNode, a, address, aggregate_message, b, hash, post_message, signed_on, store_message,
};

fn hashes(list: &Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item["item_hash"].as_str().unwrap().to_owned())
        .collect()
}

/// Follows cursors to the end.
async fn walk(node: &TestNode, path: &str, name: &str) -> Vec<String> {
    let (mut cursor, mut found) = (String::new(), Vec::new());
    loop {
        let page = node.get(&format!("{path}&cursor={cursor}")).await.json;
        found.extend(hashes(&page[name]));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return found,
        }
    }
}

#[tokio::test]
async fn messages_are_filtered_by_every_named_property() {
    let node = TestNode::start().await;
    let post = json!({"address": address(&a()), "time": TIME, "type": "card", "ref": "some-ref", "content": {"tags": ["x", "y"]}});
    let post = node
        .accept(&signed_on(&a(), MessageType::Post, &post, Some("LAB")))
        .await;
    let other = node
        .accept(&post_message(&b(), "note", TIME + 10.0, json!({})))
        .await;
    let aggregate = node
        .accept(&aggregate_message(&a(), "profile", TIME + 20.0, json!({})))
        .await;
    let (file, store) = node.store(b"file", json!({"time": TIME + 30.0})).await;
    let lower = address(&b()).to_lowercase();
    for (query, expected) in [
        ("msgTypes=POST".to_owned(), vec![&other, &post]),
        ("msgType=AGGREGATE".to_owned(), vec![&aggregate]),
        ("msgTypes=POST,STORE".to_owned(), vec![&store, &other, &post]),
        (format!("addresses={lower}"), vec![&other]),
        (
            format!("owners={}", address(&a())),
            vec![&store, &aggregate, &post],
        ),
        ("refs=some-ref".to_owned(), vec![&post]),
        (format!("contentHashes={file}"), vec![&store]),
        ("contentKeys=profile".to_owned(), vec![&aggregate]),
        ("contentTypes=card,note".to_owned(), vec![&other, &post]),
        ("chains=ETH".to_owned(), vec![&store, &aggregate, &other, &post]),
        ("chains=SOL".to_owned(), vec![]),
        ("channels=LAB".to_owned(), vec![&post]),
        ("tags=y,z".to_owned(), vec![&post]),
        (format!("hashes={post},{store}"), vec![&store, &post]),
        ("paymentTypes=credit".to_owned(), vec![&store]),
        (
            format!("startDate={}&endDate={}", TIME + 10.0, TIME + 30.0),
            vec![&aggregate, &other],
        ),
        ("msgStatuses=rejected".to_owned(), vec![]),
        (
            "msgStatuses=processed,removing".to_owned(),
            vec![&store, &aggregate, &other, &post],
        ),
        ("startBlock=1".to_owned(), vec![]),
        ("sortOrder=1&msgTypes=POST".to_owned(), vec![&post, &other]),
    ] {
        let list = node.get(&format!("/api/v0/messages.json?{query}")).await.json;
        assert_eq!(
            hashes(&list["messages"]).iter().collect::<Vec<_>>(),
            expected,
            "{query}"
        );
        assert_eq!(list["pagination_total"], expected.len(), "{query}");
    }
}

#[tokio::test]
async fn filter_that_means_nothing_is_refused() {
    let node = TestNode::start().await;
    for wrong in [
        "msgTypes=NOTE",
        "startDate=x",
        "sortOrder=2",
        "page=0",
        "cursor=%21",
        "msgStatuses=lost",
        "contentFormat=x",
    ] {
        assert_eq!(
            node.get(&format!("/api/v0/messages.json?{wrong}")).await.status,
            422,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn content_is_shown_whole_in_part_or_not_at_all() {
    let node = TestNode::start().await;
    node.accept(&post_message(&a(), "card", TIME, json!({"long": "text"})))
        .await;
    let message = |query: &'static str| {
        let node = &node;
        async move { node.get(&format!("/api/v0/messages.json?{query}")).await.json["messages"][0].clone() }
    };
    assert_eq!(
        message("contentFormat=full").await["content"]["content"],
        json!({"long": "text"})
    );
    assert!(message("excludeContent=true").await.get("content").is_none());
    let headers = message("contentFormat=headers&excludeContent=true").await;
    assert_eq!(
        headers["content"],
        json!({"address": address(&a()), "type": "card"})
    );
}

#[tokio::test]
async fn pages_and_cursors_show_everything_once_in_order() {
    let node = TestNode::start().await;
    // Groups of equal times, so that the hash has to decide.
    let mut all = Vec::new();
    for n in 0..23 {
        let time = TIME + f64::from(n / 4) + 0.123_456_7;
        let message = post_message(&a(), "n", time, json!(n));
        all.push((time, node.accept(&message).await));
    }
    all.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
    let expected: Vec<String> = all.into_iter().map(|(_, hash)| hash).collect();
    let mut paged = Vec::new();
    for page in 1..=5 {
        let list = node
            .get(&format!("/api/v0/messages.json?pagination=5&page={page}"))
            .await
            .json;
        assert_eq!(
            (&list["pagination_total"], &list["pagination_page"]),
            (&json!(23), &json!(page))
        );
        paged.extend(hashes(&list["messages"]));
    }
    assert_eq!(paged, expected);
    assert_eq!(
        walk(&node, "/api/v0/messages.json?pagination=5", "messages").await,
        expected
    );
    assert_eq!(
        walk(&node, "/api/v0/posts.json?pagination=7", "posts").await,
        expected
    );
    assert_eq!(
        walk(&node, "/api/v1/posts.json?pagination=23", "posts").await,
        expected
    );
    let mut ascending = walk(&node, "/api/v1/posts.json?pagination=4&sortOrder=1", "posts").await;
    ascending.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(ascending, sorted);
}

#[tokio::test]
async fn page_has_at_most_200_items() {
    let node = TestNode::start().await;
    for n in 0..205 {
        assert_eq!(
            node.publish_async(&post_message(&a(), "n", TIME + f64::from(n), json!(n)))
                .await
                .status,
            202
        );
    }
    crate::support::until(|| async {
        node.get("/api/v0/messages.json").await.json["pagination_total"] == 205
    })
    .await;
    let list = node.get("/api/v0/messages.json?pagination=1000").await.json;
    assert_eq!(
        (
            list["messages"].as_array().unwrap().len(),
            &list["pagination_per_page"]
        ),
        (200, &json!(200))
    );
    assert_eq!(
        walk(&node, "/api/v0/messages.json?pagination=1000", "messages")
            .await
            .len(),
        205
    );
}

#[tokio::test]
async fn posts_are_filtered() {
    let node = TestNode::start().await;
    let card = json!({"address": address(&a()), "time": TIME, "type": "card", "ref": "r", "content": {"tags": ["t"]}});
    let card = node
        .accept(&signed_on(&a(), MessageType::Post, &card, Some("LAB")))
        .await;
    let note = node
        .accept(&post_message(&b(), "note", TIME + 10.0, json!({})))
        .await;
    for (query, expected) in [
        ("types=card".to_owned(), vec![&card]),
        (format!("addresses={}", address(&b())), vec![&note]),
        (format!("hashes={card}"), vec![&card]),
        ("refs=r".to_owned(), vec![&card]),
        ("tags=t".to_owned(), vec![&card]),
        ("channels=LAB".to_owned(), vec![&card]),
        (format!("startDate={}", TIME + 5.0), vec![&note]),
        ("types=none".to_owned(), vec![]),
    ] {
        for version in ["v0", "v1"] {
            let list = node.get(&format!("/api/{version}/posts.json?{query}")).await.json;
            assert_eq!(
                hashes(&list["posts"]).iter().collect::<Vec<_>>(),
                expected,
                "{version} {query}"
            );
        }
    }
    let v1 = node.get("/api/v1/posts.json?types=card").await.json["posts"][0].clone();
    assert_eq!(v1["created"], "2026-11-18T11:06:40.000000+00:00");
    let v0 = node.get("/api/v0/posts.json?types=card").await.json["posts"][0].clone();
    assert_eq!(
        (&v0["time"], &v0["original_type"], &v0["ref"]),
        (&json!(TIME), &json!("card"), &json!("r"))
    );
}

#[tokio::test]
async fn hashes_are_listed_by_status() {
    let node = TestNode::start().await;
    let processed = node.accept(&post_message(&a(), "n", TIME, json!({}))).await;
    let lost = store_message(&a(), &"e".repeat(64), json!({}));
    node.reject(&lost, 4).await;
    let list = |status: &'static str| {
        let node = &node;
        async move { node.get(&format!("/api/v0/messages/hashes?{status}")).await.json }
    };
    assert_eq!(list("status=processed").await["hashes"], json!([processed]));
    assert_eq!(list("status=rejected").await["hashes"], json!([hash(&lost)]));
    assert_eq!(list("").await["pagination_total"], 2);
    let detailed = list("hash_only=false&status=processed").await;
    assert_eq!(detailed["hashes"][0]["status"], "processed");
}

#[tokio::test]
async fn node_says_what_it_is() {
    let node = TestNode::start().await;
    assert!(node.get("/api/v0/version").await.json["version"].is_string());
    assert_eq!(
        node.get("/api/v0/info/public.json").await.json,
        json!({"node_multi_addresses": []})
    );
    let limits = node.get("/api/v0/storage/limits.json").await.json;
    assert_eq!(
        limits["storage"],
        json!({"max_file_size": 104_857_600, "max_unauthenticated_upload_file_size": 26_214_400})
    );
    let metrics = node.get("/metrics").await;
    assert!(
        metrics.text.contains("pyaleph_status_sync_messages_total 0"),
        "{}",
        metrics.text
    );
    let ipfs = node.post_bytes("/api/v0/ipfs/add_file", b"x".to_vec()).await;
    assert_eq!(
        (ipfs.status, ipfs.text.as_str()),
        (403, "IPFS is disabled on this node")
    );
    assert_eq!(node.get("/localnet/v0/faults").await.status, 404);
}
