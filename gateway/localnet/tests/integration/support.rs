//! A node for one test, signers, and the requests that tests share.

use std::{future::Future, time::Duration};

use aleph_types::{
    account::{Account, EvmAccount, sign_message},
    chain::Chain,
    item_hash::AlephItemHash,
    message::{MessageType, item_type::ItemType, unsigned::UnsignedMessage},
    timestamp::Timestamp,
};
use alephlab_localnet::{Config, Handle, Localnet, bind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Time of signed contents in these tests: November 2026.
pub(crate) const TIME: f64 = 1_795_000_000.0;

/// How long a condition may take to come true.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running node with its own folder.
pub(crate) struct TestNode {
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) folder: TempDir,
    http: reqwest::Client,
}

/// Status and JSON body (null when the body is no JSON, with the text beside it).
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node with quick retries and whatever else the test sets.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(TempDir::new().unwrap(), adjust).await
    }

    pub(crate) async fn start_in(folder: TempDir, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(bind(([127, 0, 0, 1], 0).into()).await.unwrap(), folder.path());
        config.retry_interval = Duration::from_millis(10);
        config.max_attempts = 3;
        adjust(&mut config);
        let stop = CancellationToken::new();
        let handle = Localnet::start(config, stop.clone()).await.unwrap();
        Self {
            handle,
            stop,
            folder,
            http: reqwest::Client::new(),
        }
    }

    /// Stops the node and gives its folder to the next one.
    pub(crate) async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.handle.join.await.unwrap().unwrap();
        self.folder
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{}", self.handle.url, path.trim_start_matches('/'))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        reply(self.http.get(self.url(path))).await
    }

    pub(crate) async fn head(&self, path: &str) -> reqwest::Response {
        self.http.head(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn response(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        reply(self.http.post(self.url(path)).json(body)).await
    }

    pub(crate) async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Reply {
        reply(self.http.post(self.url(path)).body(body)).await
    }

    pub(crate) async fn post_form(&self, path: &str, form: reqwest::multipart::Form) -> Reply {
        reply(self.http.post(self.url(path)).multipart(form)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        reply(self.http.delete(self.url(path))).await
    }

    /// Publishes a message and waits for its verdict.
    pub(crate) async fn publish(&self, message: &Value) -> Reply {
        self.post("/api/v0/messages", &json!({"sync": true, "message": message}))
            .await
    }

    pub(crate) async fn publish_async(&self, message: &Value) -> Reply {
        self.post("/api/v0/messages", &json!({"sync": false, "message": message}))
            .await
    }

    /// Publishes a message that must be processed, and returns its hash.
    pub(crate) async fn accept(&self, message: &Value) -> String {
        let reply = self.publish(message).await;
        assert_eq!(
            (reply.status, &reply.json["message_status"]),
            (200, &json!("processed")),
            "{message}"
        );
        hash(message)
    }

    /// Publishes a message that must be rejected with `code`, which stays readable.
    pub(crate) async fn reject(&self, message: &Value, code: i64) {
        let reply = self.publish(message).await;
        assert_eq!(
            (reply.status, &reply.json["message_status"]),
            (422, &json!("rejected")),
            "{message}"
        );
        let known = self.message(&hash(message)).await;
        assert_eq!(
            (&known["status"], &known["error_code"]),
            (&json!("rejected"), &json!(code)),
            "{known}"
        );
        assert!(known["details"]["errors"].is_array(), "{known}");
    }

    pub(crate) async fn message(&self, hash: &str) -> Value {
        self.get(&format!("/api/v0/messages/{hash}")).await.json
    }

    pub(crate) async fn status(&self, hash: &str) -> Value {
        self.get(&format!("/api/v0/messages/{hash}/status")).await.json["status"].clone()
    }

    /// Stores a file for [`a`], paid with credits, and returns file hash and message hash.
    pub(crate) async fn store(&self, bytes: &[u8], extra: Value) -> (String, String) {
        let file = sha256(bytes);
        let message = store_message(&a(), &file, extra);
        let form = reqwest::multipart::Form::new()
            .part(
                "file",
                reqwest::multipart::Part::bytes(bytes.to_vec()).file_name("f"),
            )
            .text("metadata", json!({"message": message, "sync": true}).to_string());
        let reply = self.post_form("/api/v0/storage/add_file", form).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        (file, hash(&message))
    }
}

pub(crate) async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    Reply {
        status,
        json: serde_json::from_str(&text).unwrap_or_default(),
        text,
    }
}

/// Waits until the condition holds. Looks again and again: over HTTP nobody tells when it does.
pub(crate) async fn until<F, Fut>(mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("the condition did not come true in time");
}

/// Account A of the reference's vectors.
pub(crate) fn a() -> EvmAccount {
    EvmAccount::new(Chain::Ethereum, &[1; 32]).unwrap()
}

/// Account B of the reference's vectors.
pub(crate) fn b() -> EvmAccount {
    EvmAccount::new(Chain::Ethereum, &[2; 32]).unwrap()
}

pub(crate) fn address(account: &EvmAccount) -> String {
    account.address().as_str().to_owned()
}

/// A signed inline message on no channel.
pub(crate) fn signed(account: &EvmAccount, kind: MessageType, content: &Value) -> Value {
    signed_on(account, kind, content, None)
}

pub(crate) fn signed_on(
    account: &EvmAccount,
    kind: MessageType,
    content: &Value,
    channel: Option<&str>,
) -> Value {
    signed_text(account, kind, &content.to_string(), channel)
}

/// A signed inline message whose content is exactly this text.
pub(crate) fn signed_text(
    account: &EvmAccount,
    kind: MessageType,
    text: &str,
    channel: Option<&str>,
) -> Value {
    let content: Value = serde_json::from_str(text).unwrap();
    let message = UnsignedMessage {
        message_type: kind,
        item_type: ItemType::Inline,
        item_hash: AlephItemHash::from_bytes(text.as_bytes()).into(),
        item_content: text.to_owned(),
        time: Timestamp::from(content["time"].as_f64().unwrap_or(TIME)),
        channel: channel.map(|channel| channel.to_owned().into()),
    };
    serde_json::to_value(sign_message(account, message).unwrap()).unwrap()
}

/// A post of `account` for itself.
pub(crate) fn post_message(account: &EvmAccount, kind: &str, time: f64, content: Value) -> Value {
    let mut post = json!({"address": address(account), "time": time, "type": kind});
    post["content"] = content;
    signed(account, MessageType::Post, &post)
}

pub(crate) fn amend_message(account: &EvmAccount, original: &str, time: f64, content: Value) -> Value {
    let mut amend = json!({"address": address(account), "time": time, "type": "amend", "ref": original});
    amend["content"] = content;
    signed(account, MessageType::Post, &amend)
}

pub(crate) fn aggregate_message(account: &EvmAccount, key: &str, time: f64, content: Value) -> Value {
    let mut element = json!({"address": address(account), "time": time, "key": key});
    element["content"] = content;
    signed(account, MessageType::Aggregate, &element)
}

pub(crate) fn forget_message(account: &EvmAccount, time: f64, hashes: &[&str]) -> Value {
    let content = json!({"address": address(account), "time": time, "hashes": hashes, "reason": "test"});
    signed(account, MessageType::Forget, &content)
}

/// A STORE paid with credits; `extra` replaces or adds fields of the content.
pub(crate) fn store_message(account: &EvmAccount, file: &str, extra: Value) -> Value {
    let mut content = json!({
        "address": address(account),
        "time": TIME,
        "item_type": "storage",
        "item_hash": file,
        "payment": {"chain": "ETH", "type": "credit"},
    });
    let Value::Object(extra) = extra else {
        panic!("extra fields are an object")
    };
    for (name, value) in extra {
        content[name] = value;
    }
    signed(account, MessageType::Store, &content)
}

pub(crate) fn hash(message: &Value) -> String {
    message["item_hash"].as_str().unwrap().to_owned()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    AlephItemHash::from_bytes(bytes).to_string()
}
