//! INSTANCE and V-PROGRAM messages: what they need, what they cost, and what they hold.

use aleph_sdk::client::{AlephAggregateClient, AlephClient};
use aleph_types::message::MessageType;
use serde_json::{Value, json};

use crate::support::{TIME, TestNode, a, address, aggregate_message, b, forget_message, hash, signed};

/// Credits per second of a compute unit without a card.
const UNIT: f64 = 14_250.0 / 3_600.0;

fn instance(rootfs: &str, changes: Value) -> Value {
    let mut content = json!({
        "address": address(&a()), "time": TIME, "allow_amend": false, "metadata": {"name": "test"},
        "authorized_keys": [],
        "environment": {"internet": true, "aleph_api": true, "hypervisor": "qemu", "trusted_execution": null,
                        "reproducible": false, "shared_cache": false},
        "resources": {"vcpus": 2, "memory": 4096, "seconds": 30},
        "payment": {"chain": "ETH", "type": "credit"},
        "requirements": null, "volumes": [],
        "rootfs": {"parent": {"ref": rootfs, "use_latest": true}, "persistence": "host", "size_mib": 40_960},
    });
    let Value::Object(changes) = changes else {
        panic!("changes are an object")
    };
    for (name, value) in changes {
        content[name] = value;
    }
    content
}

fn message(content: &Value) -> Value {
    signed(&a(), MessageType::Instance, content)
}

async fn cost(node: &TestNode, message: &Value) -> f64 {
    let estimate = node
        .post("/api/v0/price/estimate", &json!({ "message": message }))
        .await;
    assert_eq!(estimate.status, 200, "{}", estimate.text);
    let lines = estimate.json["detail"].as_array().unwrap();
    let credits = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
    let cost = credits(&estimate.json["cost"]);
    let sum: f64 = lines.iter().map(|line| credits(&line["cost_credit"])).sum();
    assert!((cost - sum).abs() < 1e-9, "{}", estimate.text);
    cost
}

#[tokio::test]
async fn price_follows_units_cards_and_disk() {
    let node = TestNode::start().await;
    let (_, rootfs) = node.store(b"image", json!({})).await;
    let priced = async |changes: Value| cost(&node, &message(&instance(&rootfs, changes))).await;
    let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
    near(priced(json!({})).await, 2.0 * UNIT);
    // Memory counts where it needs more units than the processors.
    near(
        priced(json!({"resources": {"vcpus": 1, "memory": 8192, "seconds": 30}})).await,
        4.0 * UNIT,
    );
    let volume = json!([{"persistence": "host", "name": "data", "mount": "/data", "size_mib": 1000}]);
    near(
        priced(json!({"volumes": volume})).await,
        2.0 * UNIT + 1000.0 * 0.179_67 / 3_600.0,
    );
    let card = |id: &str| {
        json!({
            "requirements": {"gpu": [{"vendor": "NVIDIA", "device_name": "GPU", "device_class": "0300", "device_id": id}]},
            "resources": {"vcpus": 6, "memory": 36_864, "seconds": 30},
        })
    };
    near(priced(card("10de:2684")).await, 71.875);
    // A card needs its units whatever else is asked for, and each of two needs them.
    near(priced(card("10de:2330")).await, 24.0 * 86_250.0 / 3_600.0);
    let mut two = card("10de:2684");
    let one = two["requirements"]["gpu"][0].clone();
    two["requirements"]["gpu"].as_array_mut().unwrap().push(one);
    near(priced(two).await, 2.0 * 71.875);
    // What is mounted as it is, is disk too.
    let (_, data) = node.store(&vec![0; 5 * 1024 * 1024], json!({})).await;
    let mounted = json!([{"mount": "/data", "ref": data, "use_latest": true}]);
    near(
        priced(json!({"volumes": mounted})).await,
        2.0 * UNIT + 5.0 * 0.179_67 / 3_600.0,
    );
}

#[tokio::test]
async fn instance_must_be_well_formed_and_paid_with_credits() {
    let node = TestNode::start().await;
    let (_, rootfs) = node.store(b"image", json!({})).await;
    for (changes, code) in [
        (json!({"payment": {"chain": "ETH", "type": "hold"}}), 202),
        (json!({"payment": {"chain": "ETH", "type": "superfluid"}}), 202),
        (json!({"payment": null}), 202),
        (
            json!({"resources": {"vcpus": 257, "memory": 2048, "seconds": 30}}),
            0,
        ),
        (
            json!({"resources": {"vcpus": 0, "memory": 2048, "seconds": 30}}),
            0,
        ),
        (json!({"rootfs": null}), 0),
        (
            json!({"requirements": {"gpu": [{"vendor": "NVIDIA", "device_name": "GPU", "device_class": "0300", "device_id": "10de:ffff"}]}}),
            0,
        ),
        (
            json!({"volumes": [{"mount": "/w", "ref": "b".repeat(64), "use_latest": true}]}),
            301,
        ),
    ] {
        node.reject(&message(&instance(&rootfs, changes)), code).await;
    }
    node.reject(&message(&instance(&"b".repeat(64), json!({}))), 301)
        .await;
    let large = node.store(&vec![1; 3 * 1024 * 1024], json!({})).await.1;
    let small = json!({"parent": {"ref": large, "use_latest": true}, "persistence": "host", "size_mib": 2});
    node.reject(&message(&instance(&large, json!({"rootfs": small}))), 304)
        .await;
    let copy = json!([{"persistence": "host", "name": "d", "mount": "/d", "size_mib": 2,
                       "parent": {"ref": large, "use_latest": true}}]);
    node.reject(&message(&instance(&rootfs, json!({"volumes": copy}))), 304)
        .await;
}

#[tokio::test]
async fn machine_needs_credits_for_a_day_and_is_charged_until_it_is_forgotten() {
    let node = TestNode::start_with(|config| {
        config.credits_of = [(address(&a()), 700_000)].into();
    })
    .await;
    let (_, rootfs) = node.store(b"image", json!({})).await;
    let running = message(&instance(&rootfs, json!({})));
    let first = node.accept(&running).await;
    // A second one is not covered beside the first.
    let second = message(&instance(&rootfs, json!({"metadata": {"name": "second"}})));
    node.reject(&second, 6).await;
    let consumed = async || {
        let reply = node
            .get(&format!("/api/v0/messages/{first}/consumed_credits"))
            .await;
        reply.json["consumed_credits"].as_u64().unwrap()
    };
    crate::support::until(async || consumed().await >= 2).await;
    let history = node
        .get(&format!(
            "/api/v0/addresses/{}/credit_history?direction=outgoing",
            address(&a())
        ))
        .await;
    let expense = &history.json["credit_history"][0];
    assert_eq!(
        (&expense["payment_method"], &expense["origin_ref"]),
        (&json!("credit_expense"), &json!(first))
    );
    assert!(expense["amount"].as_i64().unwrap() <= -2, "{expense}");
    // What it boots from cannot be forgotten under it.
    node.reject(&forget_message(&a(), TIME + 1.0, &[&rootfs]), 503)
        .await;
    node.accept(&forget_message(&a(), TIME + 2.0, &[&first])).await;
    let price = node.get(&format!("/api/v0/price/{first}")).await;
    assert_eq!(price.status, 410, "{}", price.text);
    let after = consumed().await;
    node.accept(&second).await;
    assert_eq!(
        consumed().await,
        after,
        "a forgotten machine is charged no longer"
    );
    node.accept(&forget_message(&a(), TIME + 3.0, &[&hash(&second)]))
        .await;
    node.accept(&forget_message(&a(), TIME + 4.0, &[&rootfs])).await;
}

#[tokio::test]
async fn machine_is_replaced_only_where_it_allows_it() {
    let node = TestNode::start().await;
    let (_, rootfs) = node.store(b"image", json!({})).await;
    let fixed = node.accept(&message(&instance(&rootfs, json!({})))).await;
    node.reject(&message(&instance(&rootfs, json!({"replaces": fixed}))), 302)
        .await;
    let open = node
        .accept(&message(&instance(&rootfs, json!({"allow_amend": true}))))
        .await;
    let newer = node
        .accept(&message(&instance(
            &rootfs,
            json!({"allow_amend": true, "replaces": open}),
        )))
        .await;
    node.reject(&message(&instance(&rootfs, json!({"replaces": newer}))), 303)
        .await;
    // It goes with what it replaces, and is charged no longer.
    node.accept(&forget_message(&a(), TIME + 1.0, &[&open])).await;
    assert_eq!(node.status(&newer).await, "forgotten");
    let open = node
        .accept(&message(&instance(
            &rootfs,
            json!({"allow_amend": true, "metadata": {"name": "again"}}),
        )))
        .await;
    let stranger = json!({"replaces": open, "address": address(&b())});
    let theirs = signed(&b(), MessageType::Instance, &instance(&rootfs, stranger));
    node.reject(&theirs, 2).await;
}

#[tokio::test]
async fn v_program_costs_what_a_confidential_machine_costs() {
    let node = TestNode::start().await;
    let (runtime, tree) = ("a".repeat(64), "b".repeat(64));
    let content = |workload: &str| {
        json!({
            "address": address(&a()), "time": TIME, "allow_amend": false,
            "environment": {"internet": true},
            "resources": {"vcpus": 2, "memory": 4096, "seconds": 30},
            "payment": {"chain": "ETH", "type": "credit"},
            "runtime": {"ref": runtime, "comment": "runtime"},
            "workload": {"ref": workload, "hash_tree": tree, "roothash": "c".repeat(64)},
            "verification": {"backend": "sev_snp", "policy": 0x30000, "measurements": [
                {"platform": "sev_snp", "registers": {"launch": "d".repeat(96)}, "vcpu_type": "EPYC-v4"}]},
            "volumes": [],
        })
    };
    let program = |workload: &str| signed(&a(), MessageType::VProgram, &content(workload));
    // What it boots from is its host's to find.
    let workload = "e".repeat(64);
    assert!((cost(&node, &program(&workload)).await - 2.0 * 28_500.0 / 3_600.0).abs() < 1e-6);
    node.accept(&program(&workload)).await;
    node.reject(&program("not a hash"), 0).await;
}

#[tokio::test]
async fn aggregate_is_forgotten_whole_by_any_of_its_elements() {
    let node = TestNode::start().await;
    let first = node
        .accept(&aggregate_message(&a(), "profile", TIME, json!({"a": 1})))
        .await;
    node.accept(&aggregate_message(&a(), "profile", TIME + 1.0, json!({"b": 2})))
        .await;
    node.accept(&aggregate_message(&a(), "other", TIME, json!({"c": 3})))
        .await;
    let forget = json!({"address": address(&a()), "time": TIME + 2.0, "hashes": [], "aggregates": [first]});
    node.accept(&signed(&a(), MessageType::Forget, &forget)).await;
    let left = node
        .get(&format!("/api/v0/aggregates/{}.json", address(&a())))
        .await;
    assert_eq!(left.json["data"], json!({"other": {"c": 3}}));
    // Each element is judged by itself: a delegate for one channel does not reach those of others.
    let element = |n: u8, channel: &str| {
        let content = json!({"address": address(&a()), "time": TIME + f64::from(n), "key": "shared", "content": {channel: n}});
        crate::support::signed_on(&a(), MessageType::Aggregate, &content, Some(channel))
    };
    let allowed = node.accept(&element(1, "LAB")).await;
    node.accept(&element(2, "OTHER")).await;
    let entry = json!([{"address": address(&b()), "channels": ["LAB"]}]);
    node.accept(&aggregate_message(
        &a(),
        "security",
        TIME,
        json!({"authorizations": entry}),
    ))
    .await;
    let theirs = json!({"address": address(&a()), "time": TIME + 4.0, "hashes": [], "aggregates": [allowed]});
    node.reject(
        &crate::support::signed_on(&b(), MessageType::Forget, &theirs, Some("LAB")),
        2,
    )
    .await;
    let post = node
        .accept(&crate::support::post_message(&a(), "t", TIME, json!({})))
        .await;
    let wrong = json!({"address": address(&a()), "time": TIME + 3.0, "hashes": [], "aggregates": [post]});
    node.reject(&signed(&a(), MessageType::Forget, &wrong), 0).await;
}

#[tokio::test]
async fn the_foundation_says_prices_and_cards_and_what_it_says_is_charged() {
    let node = TestNode::start().await;
    let client = AlephClient::builder(node.handle.url.clone()).build();
    // As the SDK reads them on the real network, by the foundation's own address.
    let cards = client
        .get_settings_aggregate()
        .await
        .unwrap()
        .settings
        .compatible_gpus;
    let card = cards.iter().find(|card| card.device_id == "10de:2684").unwrap();
    let said = async || client.get_pricing_aggregate().await.unwrap().pricing;
    let row = said().await.instance_gpu_standard;
    let tier = row
        .tiers
        .iter()
        .find(|tier| tier.model.as_ref() == Some(&card.model))
        .unwrap();
    assert_eq!((tier.compute_units, tier.vram), (6, Some(24 * 1024)));
    assert_eq!(
        (row.compute_unit.memory_mib, row.compute_unit.disk_mib),
        (6_144, 61_440)
    );
    assert_eq!(row.price["compute_unit"].credit, "43125");
    let (_, rootfs) = node.store(b"image", json!({})).await;
    let ask = message(&instance(&rootfs, json!({})));
    assert!((cost(&node, &ask).await - 2.0 * UNIT).abs() < 1e-6);
    node.handle.foundation.set_price("instance", "28500");
    assert_eq!(said().await.instance.price["compute_unit"].credit, "28500");
    assert!((cost(&node, &ask).await - 4.0 * UNIT).abs() < 1e-6);
    // What is no price is said as it is, and charged as before.
    node.handle.foundation.set_price("instance", "-1");
    assert_eq!(said().await.instance.price["compute_unit"].credit, "-1");
    assert!((cost(&node, &ask).await - 2.0 * UNIT).abs() < 1e-6);
    let both = node
        .get("/api/v0/aggregates/0xFba561a84A537fCaa567bb7A2257e7142701ae2A.json?with_info=1")
        .await;
    let keys: Vec<&String> = both.json["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["pricing", "settings"]);
    assert_eq!(both.json["info"], json!({}), "there is no message to name");
}
