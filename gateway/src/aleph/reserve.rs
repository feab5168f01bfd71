//! Asks a node to hold a card for a short time, so that a message which is paid for from the moment it is posted is posted
//! only where there is room. A node forgets what it held by itself, and holds it once however often it is asked.
//!
//! Only a clear no keeps a host from being rented. A node that does not know the question, or whose answer cannot be read, is
//! rented without: it says in its own time whether it has room. One that says nothing at all may not be there, and nothing is
//! posted for it.

use std::time::{Duration, SystemTime};

use alephlab_api::time;
use alephlab_vault::Wallet;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use url::Url;

use super::ask::{Answer, SMALL, Unanswered, ask};
use super::host;
use crate::error::Result;

const PATH: &str = "/control/reserve_resources";
/// How long the wallet vouches for the key of one request, which is not kept; a node's clock may be wrong by some minutes.
const VOUCHED: Duration = Duration::from_secs(600);

/// What came of asking a node to hold a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// It does, for a short time.
    Yes,
    /// It has not said, for this reason.
    Unsaid(String),
    /// It will not, for this reason.
    Refused(String),
}

/// Asks a node to hold what the content of an INSTANCE needs.
///
/// # Errors
/// When the node cannot be reached, or says nothing in time: then nothing is to be posted for it, either.
pub(super) async fn reserve(
    http: &reqwest::Client,
    wallet: &Wallet,
    node: &Url,
    content: &str,
) -> Result<Held> {
    let (key, operation) = match headers(wallet, node) {
        Ok(headers) => headers,
        Err(error) => return Ok(Held::Unsaid(error.to_string())),
    };
    let mut url = node.clone();
    url.set_path(PATH);
    let request = http
        .post(url)
        .header("X-SignedPubKey", key)
        .header("X-SignedOperation", operation)
        .header("content-type", "application/json")
        .body(content.to_owned());
    match ask(request, SMALL).await {
        Ok(answer) => Ok(understood(&answer)),
        Err(error @ Unanswered::Unreachable { .. }) => Err(error.into()),
        Err(error) => Ok(Held::Unsaid(error.to_string())),
    }
}

fn understood(answer: &Answer) -> Held {
    let because = |text: &str| {
        let reason = answer.reason().map(|reason| format!(": {reason}"));
        Held::Refused(format!("{text}{}", reason.unwrap_or_default()))
    };
    match answer.status {
        200 => Held::Yes,
        // What it says is its own text for the same.
        503 => Held::Refused("its node has no room for it any more".to_owned()),
        402 => Held::Refused("its node wants more credits for it".to_owned()),
        401 | 403 => because("its node does not let the gateway's account reserve it"),
        // Of the real node: that there is no such card any more, too.
        400 => because("its node cannot hold it"),
        409 | 410 | 413 | 415 | 422 => because("its node refuses it"),
        // It does not know the question, cannot answer now, or is asked too often.
        status => Held::Unsaid(format!("it answers with status {status}")),
    }
}

/// The two headers of an owner's request: the wallet vouches for a key made for it, and the key for this one operation.
/// The SDK makes them only for operations that it has itself.
fn headers(wallet: &Wallet, node: &Url) -> Result<(String, String)> {
    let domain = node.host_str().ok_or_else(|| host("its address has no name"))?;
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|error| host(&error))?;
    // An uncompressed point: 4, then both coordinates.
    let point = key.public_key().as_ref();
    let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(host("the key of the request is not of its curve"));
    };
    let jwk =
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    let payload = json!({
        "pubkey": jwk, "alg": "ECDSA", "domain": domain, "address": wallet.address(),
        "expires": time::format(SystemTime::now() + VOUCHED), "chain": "ETH",
    })
    .to_string();
    let signature = wallet.sign_text(&payload).map_err(|error| host(&error))?;
    let vouched = json!({
        "sender": wallet.address(), "payload": hex::encode(&payload), "signature": signature,
        "content": {"domain": domain},
    });
    let operation =
        json!({"time": time::now(), "method": "POST", "path": PATH, "domain": domain}).to_string();
    let signature = key
        .sign(&SystemRandom::new(), operation.as_bytes())
        .map_err(|error| host(&error))?;
    let signed = json!({"payload": hex::encode(&operation), "signature": hex::encode(signature)});
    Ok((vouched.to_string(), signed.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::ask::testing;
    use super::*;

    async fn answered(status: &str, body: &[u8]) -> Held {
        let node = testing::node(status, body.to_vec(), body.len()).await;
        let wallet = Wallet::generate().unwrap();
        reserve(&reqwest::Client::new(), &wallet, &node, "{}")
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn only_a_clear_no_is_one() {
        assert_eq!(answered("200 OK", br#"{"status": "reserved"}"#).await, Held::Yes);
        // It is held or not: what it says of until when is not needed.
        assert_eq!(answered("200 OK", b"<html>").await, Held::Yes);
        for unsaid in [
            "404 Not Found",
            "405 Method Not Allowed",
            "429 Too Many",
            "500 Oh",
            "502 Bad",
            "301 Moved",
        ] {
            let held = answered(unsaid, b"no").await;
            assert!(matches!(held, Held::Unsaid(_)), "{unsaid}: {held:?}");
        }
        let long = answered("200 OK", &vec![b' '; SMALL + 1]).await;
        assert!(matches!(long, Held::Unsaid(_)), "{long:?}");
        for refused in [
            "400 Bad", "401 Who", "402 Pay", "403 No", "409 No", "422 What", "503 Full",
        ] {
            let held = answered(refused, b"no\x1b\n").await;
            let Held::Refused(reason) = &held else {
                panic!("{refused}: {held:?}")
            };
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
        let real =
            br#"{"status": "error", "error": "Failed to reserves all resources", "reason": "no GPU left"}"#;
        let expected = "its node cannot hold it: no GPU left".to_owned();
        assert_eq!(answered("400 Bad Request", real).await, Held::Refused(expected));
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_reached_is_not_rented() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node: Url = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        drop(listener);
        let wallet = Wallet::generate().unwrap();
        assert!(
            reserve(&reqwest::Client::new(), &wallet, &node, "{}")
                .await
                .is_err()
        );
        let (_kept, silent) = testing::silent().await;
        assert!(
            reserve(&testing::impatient(), &wallet, &silent, "{}")
                .await
                .is_err()
        );
    }
}
