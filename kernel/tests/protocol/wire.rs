//! Signatures, headers, heartbeat, both transports.

use bytes::Bytes;
use jupyter_protocol::Transport;
use serde_json::{Value, json};
use zeromq::{SocketRecv, SocketSend, ZmqMessage};

use alephlab_kernel::evaluator::scripted;
use alephlab_kernel::{Config, Connection, Kernel, Limits, Session};

use crate::client::{Client, ipc, parse};
use crate::serve;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_is_dropped_in_silence_and_the_kernel_lives_on() {
    let served = serve().await;
    let mut client = served.client().await;
    let stranger = Session::new(b"another key");
    let own = std::mem::replace(&mut client.session, stranger);
    client.ask("execute_request", json!({ "code": "set x 1" })).await;
    client
        .ask_control("shutdown_request", json!({ "restart": false }))
        .await;
    client.session = own;
    client.shell.send(ZmqMessage::from("garbage")).await.unwrap();
    let (reply, _) = client.run("get x").await;
    assert_eq!(reply.content["ename"], "NameError");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parent_header_comes_back_with_fields_that_the_kernel_does_not_know() {
    let served = serve().await;
    let mut client = served.client().await;
    let (message, _) = client.message("kernel_info_request", &json!({}));
    let mut frames: Vec<Bytes> = message.into_vec();
    let mut header: Value = serde_json::from_slice(&frames[2]).unwrap();
    header["subshell_id"] = json!("s-1");
    header["date"] = json!("2026-01-02T03:04:05.678900+01:00");
    frames[2] = Bytes::from(header.to_string());
    frames[1] = Bytes::from(sign(&frames[2..6]));
    client
        .shell
        .send(ZmqMessage::try_from(frames).unwrap())
        .await
        .unwrap();
    let reply = client.reply(header["msg_id"].as_str().unwrap()).await;
    assert_eq!(reply.parent_header, header);
    assert_ne!(reply.header["session"], header["session"]);
}

fn sign(parts: &[Bytes]) -> String {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(crate::client::KEY.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_signed_over_its_four_parts() {
    let served = serve().await;
    let mut client = served.client().await;
    client.ask("kernel_info_request", json!({})).await;
    let reply = client.shell.recv().await.unwrap();
    let frames = reply.clone().into_vec();
    assert_eq!(frames[1], sign(&frames[2..6]));
    assert_eq!(parse(reply).header["version"], "5.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heartbeat_echoes_bytes_while_a_cell_runs() {
    let served = serve().await;
    let mut client = served.client().await;
    let gate = served.file("gate");
    let cell = client
        .ask(
            "execute_request",
            json!({ "code": format!("until {}", gate.display()) }),
        )
        .await;
    for ping in [b"ping".to_vec(), vec![0, 255, 7]] {
        client
            .heartbeat
            .send(ZmqMessage::from(ping.clone()))
            .await
            .unwrap();
        assert_eq!(
            client.heartbeat.recv().await.unwrap().into_vec(),
            [Bytes::from(ping)]
        );
    }
    std::fs::write(&gate, "").unwrap();
    client.reply(&cell).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_serves_tcp_and_names_the_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut info = ipc(folder.path());
    info.transport = Transport::TCP;
    info.ip = "127.0.0.1".into();
    let listeners: Vec<_> = (0..5)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    (info.shell_port, info.iopub_port, info.stdin_port) = (ports[0], ports[1], ports[2]);
    (info.control_port, info.hb_port) = (ports[3], ports[4]);
    let start = || {
        let connection = Connection::new(info.clone());
        Kernel::start(Config {
            connection,
            engine: scripted::engine(None),
            limits: Limits::default(),
            history: None,
        })
    };
    let error = start().await.err().unwrap();
    assert_eq!(error.code(), "bind");
    assert!(error.to_string().contains(&ports[0].to_string()), "{error}");
    drop(listeners);
    let _kernel = start().await.unwrap();
    let mut client = Client::connect(&info, "tcp").await;
    let (reply, _) = client.run("print a").await;
    assert_eq!(reply.content["status"], "ok");
}
