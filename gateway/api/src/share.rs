//! Shares: one revision of a model, opened by a UUID and a token that the gateway never sees from our clients.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::model::Card;

/// `POST /v1/shares`, by the owner of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewShare {
    /// Identity of the share, chosen by the owner's machine because it is part of what is sealed.
    pub uuid: Uuid,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Seconds since 1970 after which it opens nothing; none for no end.
    #[serde(default)]
    pub expires: Option<u64>,
    /// SHA-256 of the token's auth, hex.
    pub auth_sha256: String,
    /// Nonce, then the sealed keys, base64.
    pub sealed: String,
}

/// `GET /v1/shares/{uuid}` with `Authorization: Bearer <auth hex>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareEnvelope {
    /// The share.
    pub uuid: Uuid,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Seconds since 1970; none for no end.
    pub expires: Option<u64>,
    /// Nonce, then the sealed keys, base64.
    pub sealed: String,
    /// The vault's `SignedHead`.
    pub head: Value,
    /// The card from the signed record.
    #[serde(default)]
    pub card: Option<Card>,
}

/// One share as its owner sees it in `GET /v1/shares`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareInfo {
    /// The share.
    pub uuid: Uuid,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Seconds since 1970; none for no end.
    pub expires: Option<u64>,
    /// Seconds since 1970.
    pub created: u64,
}
