//! The Aleph client against a node that answers as told: what passes, what is retried, and which sentence each
//! refusal becomes.

use super::code;
use crate::message::{SignedMessage, sign_aggregate, sign_post, sign_store};
use crate::storage::{AlephStorage, ListLimits, PostQuery, Storage};
use crate::{VaultError, Wallet};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the node sends for one request; the last answer is repeated.
#[derive(Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    /// Announced length, when it is to be a lie.
    length: Option<usize>,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        body: body.into(),
        length: None,
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    answer(status, body.to_string())
}

/// A node with a script; records the request lines.
struct Node {
    storage: AlephStorage,
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    async fn start(script: Vec<(&'static str, Vec<Answer>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Vec<_> = script
            .into_iter()
            .map(|(path, answers)| (path, Mutex::new(answers)))
            .collect();
        let (script, record) = (Arc::new(script), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), record.clone()));
            }
        });
        Self {
            storage: AlephStorage::new(url).unwrap(),
            seen,
            task,
        }
    }

    fn requests(&self, part: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

type Script = Arc<Vec<(&'static str, Mutex<Vec<Answer>>)>>;

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) {
    let Some(line) = read_request(&mut stream).await else {
        return;
    };
    seen.lock().unwrap().push(line.clone());
    let answer = script
        .iter()
        .find(|(path, _)| line.contains(path))
        .map(|(_, answers)| {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            }
        });
    let answer = answer.unwrap_or_else(|| Answer {
        status: 404,
        body: Vec::new(),
        length: None,
    });
    let length = answer.length.unwrap_or(answer.body.len());
    let head = format!(
        "HTTP/1.1 {} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n",
        answer.status
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&answer.body).await;
    let _ = stream.shutdown().await;
}

/// Reads one request whole and returns its first line.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 65_536];
    loop {
        let read = stream.read(&mut piece).await.ok()?;
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        let length = text[..end]
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let chunked = text[..end].contains("transfer-encoding: chunked");
        let whole = if chunked {
            bytes.ends_with(b"0\r\n\r\n")
        } else {
            bytes.len() >= end + 4 + length.unwrap_or(0)
        };
        if whole {
            return String::from_utf8_lossy(&bytes).lines().next().map(str::to_owned);
        }
    }
}

fn object() -> (Bytes, SignedMessage, String) {
    let bytes = Bytes::from_static(b"sealed bytes");
    let name = hex::encode(crate::digest::sha256(&[&bytes]));
    let store = sign_store(&Wallet::generate().unwrap(), &name, bytes.len() as u64).unwrap();
    (bytes, store, name)
}

/// A message as a node lists it: envelope, parsed content and confirmation.
fn listed(message: &SignedMessage) -> Value {
    let mut value = message.value().clone();
    value["content"] = Value::Object(message.content().unwrap());
    value["confirmed"] = json!(false);
    value["confirmations"] = json!([]);
    value["size"] = json!(1);
    value
}

#[tokio::test]
async fn uploads_an_object_under_a_store_signed_elsewhere() {
    let (bytes, store, name) = object();
    let node = Node::start(vec![(
        "/storage/add_file",
        vec![json_answer(200, &json!({ "status": "success", "hash": name }))],
    )]);
    let node = node.await;
    node.storage.put(bytes, &store).await.unwrap();
    assert_eq!(node.requests("POST /api/v0/storage/add_file"), 1);
}

#[tokio::test]
async fn tries_again_when_the_node_is_busy_or_failing() {
    let (bytes, store, name) = object();
    let success = json_answer(200, &json!({ "status": "success", "hash": name }));
    let answers = vec![answer(429, ""), answer(503, ""), success];
    let node = Node::start(vec![("/storage/add_file", answers)]).await;
    node.storage.put(bytes, &store).await.unwrap();
    assert_eq!(node.requests("add_file"), 3);
}

#[tokio::test]
async fn does_not_send_again_what_the_node_already_has() {
    let (bytes, store, _) = object();
    let status = json!({ "status": "processed", "item_hash": store.item_hash(), "message": listed(&store) });
    let script = vec![
        ("/storage/add_file", vec![answer(502, "")]),
        ("/api/v0/messages/", vec![json_answer(200, &status)]),
    ];
    let node = Node::start(script).await;
    node.storage.put(bytes, &store).await.unwrap();
    assert_eq!(node.requests("add_file"), 1);
}

#[tokio::test]
async fn says_what_the_node_refuses() {
    let refusals = [
        (402, "E_PAYMENT"),
        (403, "E_FORBIDDEN"),
        (413, "E_TOO_LARGE"),
        (422, "E_REJECTED"),
    ];
    for (status, expected) in refusals {
        let (bytes, store, name) = object();
        let node = Node::start(vec![("/storage/add_file", vec![answer(status, "why")])]).await;
        let error = node.storage.put(bytes, &store).await.unwrap_err();
        assert_eq!(error.code(), expected);
        assert!(error.to_string().contains(&name));
        assert!(matches!(error, VaultError::Rejected { .. }) || error.hint().is_some());
        assert_eq!(node.requests("add_file"), 1, "a refusal is final");
    }
}

#[tokio::test]
async fn refuses_a_store_that_is_for_other_bytes_before_sending() {
    let (_, store, _) = object();
    let node = Node::start(vec![]).await;
    assert_eq!(
        code(node.storage.put(Bytes::from_static(b"other"), &store).await),
        "E_REJECTED"
    );
    assert_eq!(node.requests(""), 0);
}

#[tokio::test]
async fn downloads_again_when_a_download_breaks_off() {
    let (bytes, _, name) = object();
    let broken = Answer {
        status: 200,
        body: bytes[..4].to_vec(),
        length: Some(bytes.len()),
    };
    let node = Node::start(vec![("/storage/raw/", vec![broken, answer(200, bytes.to_vec())])]).await;
    assert_eq!(node.storage.get(&name).await.unwrap(), bytes);
    let missing = Node::start(vec![]).await;
    assert_eq!(code(missing.storage.get(&name).await), "E_UNAVAILABLE");
    assert_eq!(
        missing.requests("raw"),
        1,
        "what is not there is not asked for again"
    );
    assert_eq!(code(missing.storage.get("../../etc").await), "E_MALFORMED");
    assert_eq!(code(missing.storage.get(&"é".repeat(32)).await), "E_MALFORMED");
}

#[tokio::test]
async fn posts_and_waits_until_the_message_is_final() {
    let post = sign_post(&Wallet::generate().unwrap(), "t", json!({ "n": 1 }), None).unwrap();
    let published =
        json!({ "publication_status": { "status": "success", "failed": [] }, "message_status": "pending" });
    let hash = post.item_hash();
    let pending = json_answer(
        200,
        &json!({ "status": "pending", "item_hash": hash, "messages": [] }),
    );
    let processed = json_answer(
        200,
        &json!({ "status": "processed", "item_hash": hash, "message": listed(&post) }),
    );
    let mut rejected = listed(&post);
    rejected["content"] = json!({});
    let rejected = |code: i64| json!({ "status": "rejected", "item_hash": hash, "message": rejected, "error_code": code });
    let outcomes = [
        (vec![pending.clone(), processed], "no error"),
        (vec![pending.clone(), json_answer(200, &rejected(6))], "E_PAYMENT"),
        (vec![json_answer(200, &rejected(2))], "E_FORBIDDEN"),
        (vec![json_answer(200, &rejected(100))], "E_REJECTED"),
    ];
    for (answers, expected) in outcomes {
        let script = vec![
            ("/api/v0/messages/", answers),
            ("POST /api/v0/messages", vec![json_answer(202, &published)]),
        ];
        let node = Node::start(script).await;
        assert_eq!(code(node.storage.publish(&post).await), expected);
    }
    let refused = json!({ "message_status": "rejected", "error_code": 1, "details": {} });
    let node = Node::start(vec![("POST /api/v0/messages", vec![json_answer(422, &refused)])]).await;
    assert_eq!(code(node.storage.publish(&post).await), "E_FORBIDDEN");
}

#[tokio::test]
async fn what_a_node_keeps_pending_is_no_post_and_known() {
    let hash = "ab".repeat(32);
    let status = |status: &str| json!({ "status": status, "item_hash": hash, "messages": [] });
    let post = sign_post(&Wallet::generate().unwrap(), "t", json!({ "n": 1 }), None).unwrap();
    let mut message = listed(&post);
    message["content"] = json!({});
    let rejected = json!({ "status": "rejected", "item_hash": hash, "message": message, "error_code": 2 });
    for (answer, is_known) in [(status("pending"), true), (rejected, false)] {
        let node = Node::start(vec![("/api/v0/messages/", vec![json_answer(200, &answer)])]).await;
        assert_eq!(node.storage.post(&hash).await.unwrap(), None, "{answer}");
        assert_eq!(node.storage.knows(&hash).await.unwrap(), is_known, "{answer}");
    }
    assert!(!Node::start(vec![]).await.storage.knows(&hash).await.unwrap());
}

#[tokio::test]
async fn lists_only_posts_that_verify() {
    let wallet = Wallet::generate().unwrap();
    let good = sign_post(&wallet, "t", json!({ "n": 1, "tags": ["x"] }), None).unwrap();
    let mut forged = listed(&sign_post(&wallet, "t", json!({ "n": 2, "tags": ["x"] }), None).unwrap());
    forged["signature"] = good.value()["signature"].clone();
    let other = sign_post(&wallet, "other", json!({ "tags": ["x"] }), None).unwrap();
    let page = json!({
        "messages": [listed(&good), forged, listed(&other), { "type": "POST", "odd": true }],
        "pagination_per_page": 200, "pagination_page": 1, "pagination_total": 4, "pagination_item": "messages",
        "next_cursor": null,
    });
    let node = Node::start(vec![("/messages.json", vec![json_answer(200, &page)])]).await;
    let query = PostQuery {
        addresses: vec![wallet.address()],
        types: vec!["t".into()],
        tags: vec!["x".into()],
        ..PostQuery::default()
    };
    let posts = node.storage.posts(query).await.unwrap();
    assert_eq!(
        posts.iter().map(|post| &post.item_hash).collect::<Vec<_>>(),
        [&good.item_hash()]
    );
    let request = node.seen.lock().unwrap()[0].clone();
    assert!(
        request.contains("contentTypes=t") && request.contains("tags=x") && request.contains("msgType=POST")
    );
}

#[tokio::test]
async fn a_list_that_a_node_never_ends_is_refused() {
    let post = sign_post(&Wallet::generate().unwrap(), "t", json!({ "n": 1 }), None).unwrap();
    let page = |messages: Vec<Value>| {
        let page = json!({ "messages": messages, "pagination_per_page": 200, "next_cursor": "more" });
        vec![("/messages.json", vec![json_answer(200, &page)])]
    };
    let generous = ListLimits {
        messages: 1_000,
        bytes: 1 << 20,
        time: Duration::from_secs(60),
    };
    let (full, odd) = (vec![listed(&post); 3], vec![json!({ "odd": true }); 3]);
    let (bytes, time) = (post.size() * 5, Duration::from_millis(300));
    let cases = [
        (full.clone(), generous, "more than 1000 messages"),
        (odd, generous, "more than 1000 messages"),
        (full, ListLimits { bytes, ..generous }, "bytes"),
        (
            vec![],
            ListLimits { time, ..generous },
            "did not end within 300ms",
        ),
    ];
    for (messages, limits, reason) in cases {
        let mut node = Node::start(page(messages)).await;
        node.storage.limit(limits);
        let error = node.storage.posts(PostQuery::default()).await.unwrap_err();
        assert_eq!(error.code(), "E_LISTING");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn merges_aggregates_from_verified_messages_only() {
    let (wallet, other) = (Wallet::generate().unwrap(), Wallet::generate().unwrap());
    let element = |wallet: &Wallet, value: Value| {
        listed(&sign_aggregate(wallet, "k", value.as_object().unwrap().clone()).unwrap())
    };
    let mut forged = element(&wallet, json!({ "a": "forged" }));
    forged["signature"] = element(&wallet, json!({ "a": 0 }))["signature"].clone();
    let page = json!({
        "messages": [element(&wallet, json!({ "a": 1, "b": 1 })), forged, element(&other, json!({ "a": 3 }))],
        "pagination_per_page": 200, "pagination_page": 1, "pagination_total": 3, "pagination_item": "messages",
    });
    let node = Node::start(vec![("/messages.json", vec![json_answer(200, &page)])]).await;
    let merged = node.storage.aggregate(&wallet.address(), "k").await.unwrap();
    assert_eq!(merged, Some(json!({ "a": 1, "b": 1 })));
    assert_eq!(
        node.storage.aggregate(&wallet.address(), "other").await.unwrap(),
        None
    );
}

#[tokio::test]
async fn fetches_one_post_and_refuses_another_in_its_place() {
    let wallet = Wallet::generate().unwrap();
    let post = sign_post(&wallet, "t", json!({ "n": 1 }), None).unwrap();
    let status = json!({ "status": "processed", "item_hash": post.item_hash(), "message": listed(&post) });
    let node = Node::start(vec![("/api/v0/messages/", vec![json_answer(200, &status)])]).await;
    let found = node.storage.post(&post.item_hash()).await.unwrap().unwrap();
    assert_eq!(
        (found.sender, found.content),
        (wallet.address(), json!({ "n": 1 }))
    );
    assert_eq!(code(node.storage.post(&"0".repeat(64)).await), "E_MESSAGE");
    assert_eq!(
        Node::start(vec![])
            .await
            .storage
            .post(&post.item_hash())
            .await
            .unwrap(),
        None
    );
}

#[test]
fn takes_only_http_addresses() {
    for url in ["ftp://x/", "mailto:a@b", "file:///x"] {
        assert_eq!(
            code(AlephStorage::new(url.parse().unwrap())),
            "E_MALFORMED",
            "{url}"
        );
    }
}
