//! Signed requests to a CRN that the SDK does not make, and wrong ones.

use aleph_types::account::{Account, EvmAccount};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Reply, TestNode, a, b, reply};

/// What a request is signed for; tests change one thing each.
pub(crate) struct Signing<'a> {
    account: &'a EvmAccount,
    address: String,
    alg: &'a str,
    chain: &'a str,
    key_domain: &'a str,
    expires: DateTime<Utc>,
    method: &'a str,
    path: &'a str,
    domain: &'a str,
    time: DateTime<Utc>,
    /// Signs the operation with another key than the wallet vouched for.
    is_other_key: bool,
}

impl<'a> Signing<'a> {
    fn new(account: &'a EvmAccount, method: &'a str, path: &'a str) -> Self {
        Self {
            account,
            address: account.address().as_str().to_owned(),
            alg: "ECDSA",
            chain: "ETH",
            key_domain: "127.0.0.1",
            expires: Utc::now() + TimeDelta::hours(1),
            method,
            path,
            domain: "127.0.0.1",
            time: Utc::now(),
            is_other_key: false,
        }
    }

    /// The two headers.
    fn headers(&self) -> (Value, Value) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point: &[u8] = key.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..])});
        let payload = json!({
            "pubkey": jwk, "alg": self.alg, "domain": self.key_domain, "address": self.address,
            "expires": self.expires.to_rfc3339(), "chain": self.chain,
        })
        .to_string();
        let signature = self.account.sign_raw(payload.as_bytes()).unwrap();
        let vouched = json!({
            "sender": self.address, "payload": hex::encode(&payload), "signature": signature.as_str(),
            "content": {"domain": self.key_domain},
        });
        let operation = json!({
            "time": self.time.to_rfc3339(), "method": self.method, "path": self.path, "domain": self.domain,
        })
        .to_string();
        let signer = if self.is_other_key {
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
        } else {
            key
        };
        let signature = signer.sign(&SystemRandom::new(), operation.as_bytes()).unwrap();
        let operation = json!({"payload": hex::encode(&operation), "signature": hex::encode(signature)});
        (vouched, operation)
    }
}

fn with(request: reqwest::RequestBuilder, (key, operation): (Value, Value)) -> reqwest::RequestBuilder {
    request
        .header("X-SignedPubKey", key.to_string())
        .header("X-SignedOperation", operation.to_string())
}

const RESERVE: &str = "/control/reserve_resources";

pub(crate) async fn reserve(node: &TestNode, account: &EvmAccount, content: &str) -> Reply {
    let headers = Signing::new(account, "POST", RESERVE).headers();
    let request = reqwest::Client::new()
        .post(node.url(RESERVE))
        .body(content.to_owned());
    reply(with(request, headers)).await
}

pub(crate) async fn get(node: &TestNode, account: &EvmAccount, path: &str) -> Reply {
    let headers = Signing::new(account, "GET", path).headers();
    reply(with(reqwest::Client::new().get(node.url(path)), headers)).await
}

/// A request that is signed right but for one thing.
async fn answer(node: &TestNode, change: impl FnOnce(&mut Signing<'_>)) -> u16 {
    let account = a();
    let mut signing = Signing::new(&account, "POST", RESERVE);
    change(&mut signing);
    let headers = signing.headers();
    let request = reqwest::Client::new().post(node.url(RESERVE)).body("{}");
    reply(with(request, headers)).await.status
}

#[tokio::test]
async fn each_part_of_a_signature_is_checked() {
    let node = crate::network::node_with_a_card().await;
    // Signed right, the body is what is wrong.
    let unchanged = reply(with(
        reqwest::Client::new().post(node.url(RESERVE)).body("{}"),
        Signing::new(&a(), "POST", RESERVE).headers(),
    ))
    .await;
    assert_eq!(
        (unchanged.status, unchanged.text.contains("content")),
        (400, true),
        "{}",
        unchanged.text
    );
    let hour = TimeDelta::hours(1);
    assert_eq!(
        answer(&node, |signing| signing.expires = Utc::now() - hour).await,
        401
    );
    assert_eq!(
        answer(&node, |signing| signing.time = Utc::now() - TimeDelta::minutes(3)).await,
        401
    );
    assert_eq!(
        answer(&node, |signing| signing.time = Utc::now() + TimeDelta::minutes(3)).await,
        401
    );
    assert_eq!(
        answer(&node, |signing| signing.key_domain = "crn.example.org").await,
        401
    );
    assert_eq!(
        answer(&node, |signing| signing.domain = "crn.example.org").await,
        401
    );
    assert_eq!(
        answer(&node, |signing| signing.path = "/control/machine/x/stop").await,
        401
    );
    assert_eq!(answer(&node, |signing| signing.method = "GET").await, 401);
    assert_eq!(answer(&node, |signing| signing.is_other_key = true).await, 401);
    let other = b().address().as_str().to_owned();
    assert_eq!(answer(&node, |signing| signing.address = other).await, 401);
    assert_eq!(answer(&node, |signing| signing.alg = "none").await, 400);
    assert_eq!(answer(&node, |signing| signing.chain = "SOL").await, 400);
}

#[tokio::test]
async fn missing_and_malformed_headers_are_bad_requests() {
    let node = crate::network::node_with_a_card().await;
    let (key, operation) = Signing::new(&a(), "POST", RESERVE).headers();
    let post = || reqwest::Client::new().post(node.url(RESERVE)).body("{}");
    assert_eq!(reply(post()).await.status, 400);
    assert_eq!(
        reply(post().header("X-SignedPubKey", key.to_string()))
            .await
            .status,
        400
    );
    assert_eq!(
        reply(post().header("X-SignedOperation", operation.to_string()))
            .await
            .status,
        400
    );
    for broken in [
        json!("text"),
        json!({}),
        json!({"payload": "zz", "signature": "00"}),
    ] {
        assert_eq!(
            reply(with(post(), (broken.clone(), operation.clone())))
                .await
                .status,
            400,
            "{broken}"
        );
        assert_eq!(
            reply(with(post(), (key.clone(), broken.clone()))).await.status,
            400,
            "{broken}"
        );
    }
    // A byte more in what the wallet signed, although it means the same, is another signer's.
    let mut forged = key.clone();
    forged["payload"] = json!(format!("{}20", key["payload"].as_str().unwrap()));
    assert_eq!(reply(with(post(), (forged, operation.clone()))).await.status, 401);
    let mut forged = operation.clone();
    forged["payload"] = json!(format!("{}20", operation["payload"].as_str().unwrap()));
    assert_eq!(reply(with(post(), (key, forged))).await.status, 401);
}
