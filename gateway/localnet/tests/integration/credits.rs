//! Credits that move between accounts, and the history of them.

use aleph_types::message::MessageType;
use serde_json::{Value, json};

use crate::support::{TIME, TestNode, a, address, b, signed_on, until};

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
        (json!([{"address": to, "amount": 1_001}]), 0),
        (
            json!([{"address": to, "amount": 600}, {"address": "0xC", "amount": 600}]),
            0,
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
    // What ends soon is spent first: the sum is lost or kept by what is left of it.
    let soon = db_now_millis() + 2_000;
    node.accept(&transfer(
        &json!([{"address": to, "amount": 200, "expiration": soon}]),
        TIME + 1.0,
    ))
    .await;
    assert_eq!(balance(&node, &to).await, 1_200);
    let onward = json!({
        "address": to, "time": TIME + 2.0, "type": "aleph_credit_transfer",
        "content": {"transfer": {"credits": [{"address": "0xC", "amount": 150}]}},
    });
    node.accept(&signed_on(&b(), MessageType::Post, &onward, Some(CHANNEL)))
        .await;
    assert_eq!(balance(&node, &to).await, 1_050);
    until(async || balance(&node, &to).await != 1_050).await;
    assert_eq!(balance(&node, &to).await, 1_000);
}

fn db_now_millis() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn history_shows_both_sides_and_every_row_once() {
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
    // Many receivers of one message are as many rows, also over pages.
    let many: Vec<Value> = (1..=5)
        .map(|n| json!({"address": format!("0xD{n}"), "amount": n}))
        .collect();
    node.accept(&transfer(&json!(many), TIME + 1.0)).await;
    let (mut cursor, mut amounts) = (String::new(), Vec::new());
    loop {
        let page = node
            .get(&path(&from, &format!("?pagination=2&cursor={cursor}")))
            .await;
        let rows = page.json["credit_history"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        amounts.extend(rows.iter().map(|row| row["amount"].as_i64().unwrap()));
        match page.json["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(amounts, [-1, -2, -3, -4, -5, -300]);
    let nobody = node.get(&path("0x00", "/summary")).await.json;
    assert_eq!(nobody["entry_count"], 0);
}
