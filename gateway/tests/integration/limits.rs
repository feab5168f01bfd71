//! What an agent's connection may send before and after it proved who it is.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, connect_async};

use crate::support::{World, legacy, next, text};

/// Less than the ten seconds that a hello may take: the limit, not the deadline, must end it.
const SOON: Duration = Duration::from_secs(7);

#[tokio::test]
async fn an_agent_that_is_not_known_yet_may_send_little() {
    let world = World::start().await;
    let url = format!("{}/v1/agent", world.url.replace("http", "ws"));
    let (mut socket, _) = connect_async(url).await.unwrap();
    let MaybeTlsStream::Plain(tcp) = socket.get_mut() else {
        panic!("no TLS here")
    };
    // A binary frame of 32 MiB, masked with zeros, of which 256 KiB come.
    let mut frame = vec![0x82, 0xff];
    frame.extend((32_u64 << 20).to_be_bytes());
    frame.extend([0; 4 + (256 << 10)]);
    // The gateway may have hung up before all is written.
    let _ = tcp.write_all(&frame).await;
    let ended = async {
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(SOON, ended)
        .await
        .expect("it is cut off at the limit");
}

#[tokio::test]
async fn an_agent_that_is_known_sends_large_messages() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let mut message = legacy("m", "shell");
    message["content"] = json!({ "code": "x".repeat(1 << 20) });
    futures_util::SinkExt::send(&mut socket, Message::text(message.to_string()))
        .await
        .unwrap();
    let reply = text(&next(&mut socket).await);
    assert_eq!(reply["content"], message["content"]);
}
