//! Credits that move between accounts, and the history of them.

use aleph_types::message::MessageType;
use serde_json::{Value, json};

use crate::support::{TIME, TestNode, a, address, b, signed_on};

const CHANNEL: &str = "ALEPH_CREDIT";
/// [`TIME`] in whole seconds.
const SECONDS: i64 = 1_795_000_000;

fn transfer(credits: &Value, time: f64) -> Value {
    transfer_on(CHANNEL, credits, time)
}

fn transfer_on(channel: &str, credits: &Value, time: f64) -> Value {
    let content = json!({
        "address": address(&a()), "time": time, "type": "aleph_credit_transfer",
        "content": {"transfer": {"credits": credits}},
    });
    signed_on(&a(), MessageType::Post, &content, Some(channel))
}

async fn balance(node: &TestNode, owner: &str) -> u64 {
    let reply = node.get(&format!("/api/v0/addresses/{owner}/balance")).await;
    reply.json["credit_balance"].as_u64().unwrap()
}

async fn node() -> TestNode {
    TestNode::start_with(|config| config.credits = 1_000).await
}

#[tokio::test]
async fn credits_move_once_and_only_on_their_channel() {
    let node = node().await;
    let (from, to) = (address(&a()), address(&b()));
    let elsewhere = transfer_on("OTHER", &json!([{"address": to, "amount": 300}]), TIME);
    node.accept(&elsewhere).await;
    assert_eq!(balance(&node, &to).await, 1_000, "stored, without effect");
    let moved = transfer(
        &json!([{"address": to.to_lowercase(), "amount": 300}]),
        TIME + 1.0,
    );
    node.accept(&moved).await;
    node.accept(&moved).await;
    assert_eq!(
        (balance(&node, &from).await, balance(&node, &to).await),
        (700, 1_300)
    );
}

#[tokio::test]
async fn transfer_of_more_than_there_is_or_of_nonsense_moves_nothing() {
    let node = node().await;
    let (from, to) = (address(&a()), address(&b()));
    for (time, (credits, code)) in [
        (json!([{"address": to, "amount": 1_001}]), 6),
        (
            json!([{"address": to, "amount": 600}, {"address": "0xC", "amount": 600}]),
            6,
        ),
        (
            json!([{"address": to, "amount": u64::MAX}, {"address": "0xC", "amount": 1}]),
            0,
        ),
        (json!([]), 0),
        (json!([{"address": to, "amount": 0}]), 0),
        (json!([{"address": to, "amount": -1}]), 0),
        (json!([{"address": " ", "amount": 1}]), 0),
        (json!([{"address": from, "amount": 1}]), 0),
        (
            json!([{"address": to, "amount": 1}, {"address": to.to_lowercase(), "amount": 1}]),
            0,
        ),
        (json!([{"address": to, "amount": 1, "expiration": -1}]), 0),
    ]
    .into_iter()
    .enumerate()
    {
        node.reject(&transfer(&credits, TIME + time as f64), code).await;
    }
    assert_eq!(
        (balance(&node, &from).await, balance(&node, &to).await),
        (1_000, 1_000)
    );
}

#[tokio::test]
async fn credits_that_expire_are_spent_first_and_then_lost() {
    let node = node().await;
    let (from, to) = (address(&a()), address(&b()));
    // Seconds instead of milliseconds are January 1970, and the credits are lost.
    let seconds = json!([{"address": to, "amount": 100, "expiration": SECONDS + 3_600}]);
    node.accept(&transfer(&seconds, TIME)).await;
    assert_eq!(
        (balance(&node, &from).await, balance(&node, &to).await),
        (900, 1_000)
    );
    let millis = (SECONDS + 100 * 365 * 86_400) * 1_000;
    let lasting = json!([{"address": to, "amount": 200, "expiration": millis}]);
    node.accept(&transfer(&lasting, TIME + 1.0)).await;
    assert_eq!(balance(&node, &to).await, 1_200);
}

#[tokio::test]
async fn history_shows_both_sides_and_what_was_consumed() {
    let node = node().await;
    let (from, to) = (address(&a()), address(&b()));
    let none = node
        .get(&format!("/api/v0/addresses/{from}/credit_history"))
        .await;
    assert_eq!(none.status, 404);
    node.accept(&transfer(&json!([{"address": to, "amount": 300}]), TIME))
        .await;
    let path = |owner: &str, query: &str| format!("/api/v0/addresses/{owner}/credit_history{query}");
    let sent = node.get(&path(&from, "")).await.json;
    assert_eq!(sent["credit_history"][0]["amount"], -300);
    assert_eq!(sent["credit_history"][0]["origin"], json!(to));
    assert_eq!(
        (&sent["pagination_total"], &sent["address"]),
        (&json!(1), &json!(from))
    );
    let received = node.get(&path(&to, "?direction=incoming")).await.json;
    assert_eq!(received["credit_history"][0]["amount"], 300);
    assert_eq!(received["credit_history"][0]["payment_method"], "credit_transfer");
    assert_eq!(node.get(&path(&to, "?direction=outgoing")).await.status, 404);
    assert_eq!(node.get(&path(&to, "?direction=sideways")).await.status, 422);
    let summary = node.get(&path(&from, "/summary")).await.json;
    assert_eq!(
        summary,
        json!({"address": from, "entry_count": 1, "total_amount": -300, "total_incoming": 0, "total_outgoing": -300})
    );
    let nobody = node.get(&path("0x00", "/summary")).await.json;
    assert_eq!(nobody["entry_count"], 0);
}
