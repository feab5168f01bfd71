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
    /// What the gateway answers under it, at most.
    #[serde(default)]
    pub limits: ShareLimits,
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
    /// What it opens at most.
    #[serde(default)]
    pub limits: ShareLimits,
    /// What it has opened so far.
    #[serde(default)]
    pub used: ShareUse,
}

/// What a gateway answers under one share, at most. Who opened it before a limit was reached can keep it, and clients of ours
/// fetch ciphertext from Aleph: for them a download is one opening of the share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShareLimits {
    /// Files downloaded to their end, and openings by clients of ours.
    pub downloads: Option<u64>,
    /// Bytes of content sent.
    pub bytes: Option<u64>,
    /// Requests in one minute.
    pub per_minute: Option<u32>,
}

/// What a share has opened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShareUse {
    /// As [`ShareLimits::downloads`] counts.
    pub downloads: u64,
    /// As [`ShareLimits::bytes`] counts.
    pub bytes: u64,
    /// Seconds since 1970; none for never.
    pub last: Option<u64>,
}
