//! A service with two nodes behind one address: of those the second, which answers questions for logs that come alone, lacks the newest blocks.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use serde_json::{Value, json};

/// Where it listens, as an address of a node.
pub(crate) fn start(node: &str) -> String {
    let node = node.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            answer(client.unwrap(), &node);
        }
    });
    address
}

/// One question to each connection.
fn answer(mut client: TcpStream, node: &str) {
    let question = body(&mut client);
    let parsed: Value = serde_json::from_str(&question).unwrap();
    let answer = if parsed["method"] == "eth_getLogs" {
        json!({"jsonrpc": "2.0", "id": parsed["id"], "result": []}).to_string()
    } else {
        let mut full = TcpStream::connect(node).unwrap();
        let length = question.len();
        write!(
            full,
            "POST / HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{question}"
        )
        .unwrap();
        body(&mut full)
    };
    let length = answer.len();
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{answer}"
    )
    .unwrap();
    let _ = client.shutdown(Shutdown::Write);
}

/// What follows the head, by the length that this gives.
fn body(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}
