//! Clients that break, vanish, forge or collide: none of them may cost the others anything.

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeromq::{Socket, SocketSend, ZmqMessage};

use crate::client::{Client, stream};
use crate::serve;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_on_any_channel_end_nothing() {
    let served = serve().await;
    let mut client = served.client().await;
    for channel in 1..=5 {
        let path = format!("{}-{channel}", served.info.ip);
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            &[0xff; 64],
            &[0; 4096],
            b"",
        ] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    }
    // Frames of the right protocol and the wrong content.
    for frames in [
        vec![Bytes::from_static(b"one")],
        vec![Bytes::from_static(b"<IDS|MSG>"); 3],
        vec![Bytes::new(); 9],
    ] {
        let message = ZmqMessage::try_from(frames).unwrap();
        client.shell.send(message.clone()).await.unwrap();
        client.control.send(message).await.unwrap();
    }
    let (reply, messages) = client.run("print still here").await;
    assert_eq!(reply.content["status"], "ok");
    assert_eq!(stream(&messages, "stdout"), "still here\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_reply_with_a_wrong_signature_is_no_answer() {
    let served = serve().await;
    let mut client = served.client().await;
    let content = json!({ "code": "input name?", "allow_stdin": true });
    let id = client.ask("execute_request", content).await;
    client.question().await;
    let forger = alephlab_kernel::Session::new(b"another key");
    let parts = forger.encode(
        "input_reply",
        &alephlab_kernel::Parent::none(),
        &json!({}),
        &json!({ "status": "ok", "value": "forged" }),
    );
    let message = ZmqMessage::try_from(parts.frames(&[])).unwrap();
    client.stdin.send(message).await.unwrap();
    client.answer("true").await;
    let messages = client.until_idle(&id).await;
    assert_eq!(stream(&messages, "stdout"), "got true\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_while_it_is_asked_does_not_hold_the_kernel() {
    let served = serve().await;
    let mut other = Client::connect(&served.info, "client-2").await;
    let mut asked = served.client().await;
    let content = json!({ "code": "input name?", "allow_stdin": true });
    let id = asked.ask("execute_request", content).await;
    asked.question().await;
    drop(asked);
    let interrupt = other.ask_control("interrupt_request", json!({})).await;
    other.control_reply(&interrupt).await;
    other.until_idle(&id).await;
    let (reply, _) = other.run("print on").await;
    assert_eq!(reply.content["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_under_its_identity_gets_its_replies() {
    let served = serve().await;
    let first = served.client().await;
    let mut second = served.client().await;
    let (reply, _) = second.run("print a").await;
    assert_eq!(reply.content["status"], "ok");
    first.shell.close().await;
    let (reply, _) = second.run("print b").await;
    assert_eq!(reply.content["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kernel_has_a_session_of_its_own_and_messages_are_never_the_same_twice() {
    let mut sessions = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let served = serve().await;
        let mut client = served.client().await;
        let (reply, messages) = client.run("print a\nprint b").await;
        sessions.push(reply.header["session"].to_string());
        for message in messages.iter().chain([&reply]) {
            assert_eq!(message.header["session"].to_string(), *sessions.last().unwrap());
            ids.push(message.header["msg_id"].to_string());
        }
    }
    assert_ne!(sessions[0], sessions[1]);
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}
