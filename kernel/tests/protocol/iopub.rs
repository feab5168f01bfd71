//! IOPub: welcome, hasty clients, stalled clients.

use std::time::Duration;

use alephlab_kernel::{Channel, Connection, Limits};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeromq::{Socket, SocketRecv, SubSocket};

use crate::client::{Client, parse, stream, types};
use crate::{Served, serve, serve_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_is_welcomed_and_starting_is_said_once() {
    let served = serve().await;
    let mut first = served.client().await;
    let starting = first.iopub().await;
    assert_eq!(
        (starting.msg_type.as_str(), starting.text("execution_state")),
        ("status", "starting")
    );
    assert_eq!(starting.parent, None);
    // `connect` asserts the welcome of the second one.
    let mut second = Client::connect(&served.info, "client-2").await;
    let (_, messages) = second.run("print a").await;
    assert_eq!(types(&messages), ["execute_input", "stream"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_selects_messages_and_is_echoed_in_the_welcome() {
    let served = serve().await;
    let mut client = served.client().await;
    let mut errors = SubSocket::new();
    errors.subscribe("error").await.unwrap();
    errors
        .connect(&Connection::new(served.info.clone()).address(Channel::IoPub))
        .await
        .unwrap();
    let welcome = parse(errors.recv().await.unwrap());
    assert_eq!(welcome.content, json!({ "subscription": "error" }));
    client.run("print a\nerror E 1").await;
    assert_eq!(parse(errors.recv().await.unwrap()).content["ename"], "E");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_before_it_has_subscribed_still_sees_busy_and_idle() {
    let served = serve().await;
    let mut client = Client::connect_quietly(&served.info, "hasty").await;
    let id = client.ask("kernel_info_request", json!({})).await;
    let messages = client.until_idle(&id).await;
    assert_eq!(messages[0].content["execution_state"], "busy");
    client.reply(&id).await;
}

/// A subscriber that reads no more once it is welcomed.
async fn stalled(served: &Served) -> UnixStream {
    let address = Connection::new(served.info.clone()).address(Channel::IoPub);
    let mut stream = UnixStream::connect(address.strip_prefix("ipc://").unwrap())
        .await
        .unwrap();
    let mut greeting = [0_u8; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).await.unwrap();
    let mut theirs = [0_u8; 64];
    stream.read_exact(&mut theirs).await.unwrap();
    stream
        .write_all(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
        .await
        .unwrap();
    stream.write_all(b"\x00\x01\x01").await.unwrap();
    // Until then the kernel may not know of the subscription, and what it publishes is for others only.
    let mut text = String::new();
    while !text.contains("\"subscription\"") {
        let mut bytes = [0_u8; 1024];
        let length = tokio::time::timeout(crate::client::DEADLINE, stream.read(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "the kernel closed the connection");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_changes_nothing_for_the_others() {
    // Room for one flood: the client that reads catches up between two cells, however slow this machine is.
    let limits = Limits {
        budget_bytes: 2 * 1024 * 1024,
        over_budget: Duration::from_secs(600),
    };
    let served = serve_with(limits, false).await;
    let mut client = served.client().await;
    let _stalled = stalled(&served).await;
    for _ in 0..8 {
        let (reply, messages) = client.run("flood 1").await;
        assert_eq!(reply.content["status"], "ok");
        assert_eq!(stream(&messages, "stdout").len(), 1024 * 1024);
    }
    let info = client.ask_control("kernel_info_request", json!({})).await;
    client.control_reply(&info).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_misses_text_but_no_status_and_is_told_once() {
    let limits = Limits {
        budget_bytes: 2 * 1024 * 1024,
        over_budget: Duration::from_secs(600),
    };
    let served = serve_with(limits, false).await;
    let mut client = served.client().await;
    let mut stalled = stalled(&served).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        let id = client.ask("execute_request", json!({ "code": "flood 1" })).await;
        client.until_idle(&id).await;
        client.reply(&id).await;
        ids.push(id);
    }
    // Now it reads again.
    let mut text = String::new();
    let last = format!("\"{}\"", ids[7]);
    while !(text.rfind("\"idle\"") > text.rfind(&last)
        && text.contains(&last)
        && text.rfind("\"idle\"").is_some())
    {
        let mut bytes = vec![0_u8; 64 * 1024];
        let length = tokio::time::timeout(crate::client::DEADLINE, stalled.read(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "the kernel closed the connection");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    assert_eq!(text.matches("output dropped").count(), 1);
    assert_eq!(text.matches("\"idle\"").count(), 8);
    assert_eq!(text.matches("\"busy\"").count(), 8);
    assert!(text.len() < 5 * 1024 * 1024, "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stays_over_its_budget_is_disconnected() {
    let limits = Limits {
        budget_bytes: 256 * 1024,
        over_budget: Duration::ZERO,
    };
    let served = serve_with(limits, false).await;
    let client = served.client().await;
    // The client itself reads on its own task, so that it stays within the small budget.
    let Client {
        mut iopub,
        session,
        mut shell,
        ..
    } = client;
    tokio::spawn(async move { while iopub.recv().await.is_ok() {} });
    let mut stalled = stalled(&served).await;
    let content = json!({ "code": "repeat 20000 a line of text" });
    for _ in 0..8 {
        let parts = session.encode(
            "execute_request",
            &alephlab_kernel::Parent::none(),
            &json!({}),
            &content,
        );
        zeromq::SocketSend::send(&mut shell, parts.frames(&[]).try_into().unwrap())
            .await
            .unwrap();
        shell.recv().await.unwrap();
    }
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(crate::client::DEADLINE, stalled.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still connected");
}
