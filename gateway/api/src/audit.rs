//! The gateway's log of what was done with accounts: who, what, when and how it went, never what was in it.

use serde::{Deserialize, Serialize};

/// One line, as `GET /v1/audit` shows it to the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its place, from 1, without gaps.
    pub seq: u64,
    /// Unix seconds.
    pub time: u64,
    /// Whose account.
    pub account: String,
    /// `sign_in`, `sign_out_others`, `token_made`, `token_revoked`, `credit_given`, `account_made`, `account_admitted`,
    /// `account_dismissed`, `address_linked` or `role_set`.
    pub action: String,
    /// What it was done to or with: a token's id and scope, an address, the way of a sign-in.
    pub subject: String,
    /// `done` or `refused`.
    pub result: String,
    /// SHA-256 of the hash before and of all this, hex.
    pub hash: String,
}
