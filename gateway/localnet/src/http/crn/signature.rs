//! Who signed a request to a CRN (reference, section 8): a wallet vouches for a key, and the key for one operation.
//!
//! Wallets are Ethereum's; `SOL` is refused.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha3::{Digest, Keccak256};

/// How far the time of an operation may be from now.
const MAX_SKEW: TimeDelta = TimeDelta::minutes(2);

/// What a request is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) domain: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

/// A payload in hexadecimal digits and the signature of its bytes.
#[derive(Deserialize)]
struct Signed {
    payload: String,
    signature: String,
}

/// What the wallet signs.
#[derive(Deserialize)]
struct KeyPayload {
    pubkey: Jwk,
    alg: String,
    domain: String,
    address: String,
    expires: DateTime<Utc>,
    #[serde(default)]
    chain: Option<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

/// What the key signs.
#[derive(Deserialize)]
struct Operation {
    time: DateTime<Utc>,
    method: String,
    path: String,
    domain: String,
}

/// The address of the wallet behind a request, if both signatures are good and for just this request.
pub(super) fn check(key: &Value, operation: &Value, expected: &Expected<'_>) -> Result<String, Refusal> {
    let now = Utc::now();
    let (bytes, signature, vouched): (_, _, KeyPayload) = read(key, "X-SignedPubKey")?;
    let point = point(&vouched)?;
    if vouched.expires < now {
        return Err(unauthorized("Token expired"));
    }
    if vouched.domain != expected.domain {
        return Err(unauthorized("Invalid domain"));
    }
    let signer = recover(&bytes, &signature).ok_or_else(|| unauthorized("Invalid signature"))?;
    if !signer.eq_ignore_ascii_case(&vouched.address) {
        return Err(unauthorized("Invalid signature"));
    }
    let (bytes, signature, operation): (_, _, Operation) = read(operation, "X-SignedOperation")?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
        .verify(&bytes, &signature)
        .map_err(|_| unauthorized("Signature could not verified"))?;
    if (now - operation.time).abs() > MAX_SKEW {
        return Err(unauthorized("Token expired"));
    }
    for (found, wanted, name) in [
        (&operation.domain, expected.domain, "domain"),
        (&operation.path, expected.path, "path"),
        (&operation.method, expected.method, "method"),
    ] {
        if found != wanted {
            return Err(unauthorized(&format!("Invalid {name}")));
        }
    }
    Ok(signer)
}

fn read<T: DeserializeOwned>(header: &Value, name: &str) -> Result<(Vec<u8>, Vec<u8>, T), Refusal> {
    let malformed = || Refusal {
        status: StatusCode::BAD_REQUEST,
        reason: format!("Invalid {name} format"),
    };
    let signed = Signed::deserialize(header).map_err(|_| malformed())?;
    let digits = signed.signature.trim_start_matches("0x");
    let signature = hex::decode(digits).map_err(|_| malformed())?;
    let bytes = hex::decode(&signed.payload).map_err(|_| malformed())?;
    let payload = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
    Ok((bytes, signature, payload))
}

/// The key as an uncompressed point.
fn point(vouched: &KeyPayload) -> Result<Vec<u8>, Refusal> {
    let malformed = || Refusal {
        status: StatusCode::BAD_REQUEST,
        reason: "Invalid X-SignedPubKey data".into(),
    };
    let key = &vouched.pubkey;
    let is_known = vouched.alg == "ECDSA" && key.kty == "EC" && key.crv == "P-256";
    let is_ethereum = vouched.chain.as_deref().is_none_or(|chain| chain == "ETH");
    if !is_known || !is_ethereum {
        return Err(malformed());
    }
    let mut point = vec![4];
    for part in [&key.x, &key.y] {
        let part = URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed())?;
        if part.len() != 32 {
            return Err(malformed());
        }
        point.extend(part);
    }
    Ok(point)
}

fn unauthorized(reason: &str) -> Refusal {
    Refusal {
        status: StatusCode::UNAUTHORIZED,
        reason: reason.into(),
    }
}

/// The address whose wallet signed these bytes as a text (EIP-191).
fn recover(bytes: &[u8], signature: &[u8]) -> Option<String> {
    let (&v, rs) = signature.split_last()?;
    let signature = Signature::from_slice(rs).ok()?;
    let id = RecoveryId::from_byte(if v >= 27 { v - 27 } else { v })?;
    let text = format!("\x19Ethereum Signed Message:\n{}", bytes.len());
    let digest = Keccak256::new().chain_update(text).chain_update(bytes).finalize();
    let key = VerifyingKey::recover_from_prehash(&digest, &signature, id).ok()?;
    let point = key.to_encoded_point(false);
    let hash = Keccak256::digest(point.as_bytes().get(1..)?);
    Some(format!("0x{}", hex::encode(hash.get(12..)?)))
}
