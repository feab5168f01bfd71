//! The websocket: history, then messages as they are accepted, filtered like lists.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::support::{TIME, TestNode, a, address, b, post_message};

async fn next(
    socket: &mut (impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> Value {
    let frame = tokio::time::timeout(Duration::from_secs(10), socket.next())
        .await
        .expect("no frame in time");
    serde_json::from_str(frame.unwrap().unwrap().to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn history_comes_first_and_then_what_is_accepted() {
    let node = TestNode::start().await;
    let mut old = Vec::new();
    for n in 0..3 {
        old.push(
            node.accept(&post_message(&a(), "n", TIME + f64::from(n), json!(n)))
                .await,
        );
    }
    let url = node.url("/api/ws0/messages").replace("http://", "ws://");
    let (mut socket, _) = connect_async(format!("{url}?history=2&addresses={}", address(&a())))
        .await
        .unwrap();
    for expected in &old[1..] {
        assert_eq!(next(&mut socket).await["item_hash"], *expected);
    }
    node.accept(&post_message(&b(), "n", TIME + 10.0, json!({})))
        .await;
    let new = node
        .accept(&post_message(&a(), "n", TIME + 11.0, json!({"live": true})))
        .await;
    let live = next(&mut socket).await;
    assert_eq!(
        (&live["item_hash"], &live["content"]["content"]["live"]),
        (&json!(new), &json!(true))
    );
}

#[tokio::test]
async fn history_has_a_limit() {
    let node = TestNode::start().await;
    let url = node.url("/api/ws0/messages").replace("http://", "ws://");
    assert!(connect_async(format!("{url}?history=200")).await.is_err());
    assert!(connect_async(format!("{url}?msgTypes=NOTE")).await.is_err());
}
