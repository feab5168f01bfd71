//! Kernel WebSockets: framings, replacement, absence, origins.

use futures_util::SinkExt as _;
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Socket, TOKEN, V1, World, legacy, next, text};

const BUFFERS: [&[u8]; 2] = [&[0xff, 0x00, 0xfe], b"second"];

fn legacy_binary(message: &Value) -> Vec<u8> {
    let json = message.to_string();
    let mut at = 4 * (BUFFERS.len() + 2);
    let mut frame = u32::try_from(BUFFERS.len() + 1).unwrap().to_be_bytes().to_vec();
    for length in std::iter::once(json.len()).chain(BUFFERS.iter().map(|buffer| buffer.len())) {
        frame.extend(u32::try_from(at).unwrap().to_be_bytes());
        at += length;
    }
    frame.extend(json.bytes());
    BUFFERS.iter().for_each(|buffer| frame.extend(*buffer));
    frame
}

fn v1(message: &Value) -> Vec<u8> {
    let mut parts = vec![message["channel"].as_str().unwrap().as_bytes().to_vec()];
    parts.extend(
        ["header", "parent_header", "metadata", "content"].map(|key| message[key].to_string().into_bytes()),
    );
    parts.extend(BUFFERS.map(<[u8]>::to_vec));
    let count = parts.len() + 1;
    let mut at = 8 * (count + 1);
    let mut frame = u64::try_from(count).unwrap().to_le_bytes().to_vec();
    for part in &parts {
        frame.extend(u64::try_from(at).unwrap().to_le_bytes());
        at += part.len();
    }
    frame.extend(u64::try_from(at).unwrap().to_le_bytes());
    frame.extend(parts.concat());
    frame
}

async fn say(socket: &mut Socket, id: &str) {
    socket
        .send(Message::text(legacy(id, "shell").to_string()))
        .await
        .unwrap();
}

/// Ids of the next messages, in order.
async fn ids(socket: &mut Socket, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let message = text(&next(socket).await);
        ids.push(format!(
            "{} {}",
            message["channel"].as_str().unwrap(),
            message["header"]["msg_id"].as_str().unwrap()
        ));
    }
    ids
}

#[tokio::test]
async fn legacy_text_and_binary_round_trip() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let sent = legacy("1", "shell");
    socket.send(Message::text(sent.to_string())).await.unwrap();
    let reply = text(&next(&mut socket).await);
    for key in ["header", "content", "channel", "buffers"] {
        assert_eq!(reply[key], sent[key], "{key}");
    }
    assert_eq!(
        (&reply["msg_id"], &reply["msg_type"]),
        (&sent["header"]["msg_id"], &sent["header"]["msg_type"])
    );
    assert_eq!(text(&next(&mut socket).await)["channel"], "iopub");
    socket
        .send(Message::binary(legacy_binary(&legacy("2", "control"))))
        .await
        .unwrap();
    let Message::Binary(frame) = next(&mut socket).await else {
        panic!("buffers come in a binary frame")
    };
    assert!(frame.ends_with(&BUFFERS.concat()));
}

#[tokio::test]
async fn v1_is_chosen_when_offered_and_round_trips_byte_for_byte() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world
        .channels(kernel, "s", &[("sec-websocket-protocol", V1)])
        .await;
    let sent = v1(&legacy("1", "shell"));
    socket.send(Message::binary(sent.clone())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::binary(sent));
}

#[tokio::test]
async fn a_gateway_client_gets_text_and_a_sentence_instead_of_binary() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world
        .channels(kernel, "s", &[("user-agent", "Tornado/6.5")])
        .await;
    socket
        .send(Message::binary(legacy_binary(&legacy("1", "shell"))))
        .await
        .unwrap();
    let notice = text(&next(&mut socket).await);
    assert!(
        notice["content"]["text"].as_str().unwrap().contains("left out"),
        "{notice}"
    );
    assert_eq!(text(&next(&mut socket).await)["msg_id"], "1");
}

#[tokio::test]
async fn a_duplicate_session_replaces_and_an_absent_one_is_replayed() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut old = world.channels(kernel, "s", &[]).await;
    say(&mut old, "1").await;
    assert_eq!(ids(&mut old, 2).await, ["shell 1", "iopub 1"]);
    let mut new = world.channels(kernel, "s", &[]).await;
    assert!(matches!(next(&mut old).await, Message::Close(_)));
    say(&mut new, "2").await;
    assert_eq!(ids(&mut new, 2).await, ["shell 2", "iopub 2"]);
    say(&mut new, "3").await;
    drop(new);
    crate::support::eventually("no connection", || async {
        world
            .client()
            .kernel(kernel)
            .await
            .ok()
            .filter(|model| model.connections == 0)
    })
    .await;
    let mut back = world.channels(kernel, "s", &[]).await;
    assert_eq!(ids(&mut back, 2).await, ["shell 3", "iopub 3"]);
}

#[tokio::test]
async fn a_gateway_client_that_opens_twice_is_heard_on_both_and_loses_no_reply() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let agent = [("user-agent", "Tornado/6.5")];
    let mut used = world.channels(kernel, "s", &agent).await;
    // What it opened first and gave up may come in last.
    let mut given_up = world.channels(kernel, "s", &agent).await;
    say(&mut used, "1").await;
    assert_eq!(ids(&mut used, 2).await, ["shell 1", "iopub 1"]);
    assert_eq!(ids(&mut given_up, 2).await, ["shell 1", "iopub 1"]);
    say(&mut used, "2").await;
    assert_eq!(ids(&mut used, 2).await, ["shell 2", "iopub 2"]);
}

#[tokio::test]
async fn one_client_does_not_hear_the_replies_of_another() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut one = world.channels(kernel, "one", &[]).await;
    let mut two = world.channels(kernel, "two", &[]).await;
    say(&mut one, "1").await;
    assert_eq!(ids(&mut one, 2).await, ["shell 1", "iopub 1"]);
    assert_eq!(ids(&mut two, 1).await, ["iopub 1"]);
}

#[tokio::test]
async fn bad_input_gets_a_sentence_and_loses_nothing() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    for bad in [
        Message::text("{"),
        Message::text("{}"),
        Message::binary(vec![0, 0, 0]),
    ] {
        socket.send(bad).await.unwrap();
        let notice = text(&next(&mut socket).await);
        assert!(
            notice["content"]["text"]
                .as_str()
                .unwrap()
                .starts_with("A message was not passed"),
            "{notice}"
        );
    }
    say(&mut socket, "1").await;
    assert_eq!(ids(&mut socket, 1).await, ["shell 1"]);
}

#[tokio::test]
async fn refuses_foreign_origins_unknown_kernels_and_no_token() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let (token, none) = (format!("token {TOKEN}"), uuid::Uuid::new_v4());
    let own = world.url.clone();
    for (id, authorization, origin, status) in [
        (kernel, Some(token.as_str()), Some(own.as_str()), 101),
        (kernel, Some(token.as_str()), Some("https://evil.example"), 403),
        (kernel, Some(token.as_str()), Some("null"), 403),
        (kernel, None, None, 401),
        (none, Some(token.as_str()), None, 404),
    ] {
        let url = world.client().channels_url(id, "s");
        let mut request = url.as_str().into_client_request().unwrap();
        for (name, value) in [("authorization", authorization), ("origin", origin)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        let found = match connect_async(request).await {
            Ok(_) => 101,
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, status, "{origin:?}");
    }
}
