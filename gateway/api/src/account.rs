//! Accounts at the gateway: signing in by wallet, who one is, and tokens for kernels started elsewhere.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::secret::Secret;
use crate::token::Scope;

/// `GET /v1/sign-in?address=0x..`: the text to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Single use, valid for five minutes.
    pub nonce: String,
    /// What the wallet signs by EIP-191.
    pub message: String,
}

/// `POST /v1/sign-in`; 403 `not_admitted` for an account that this gateway does not admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// The account.
    pub address: String,
    /// From the [`Challenge`].
    pub nonce: String,
    /// 65 bytes, hex with `0x`.
    pub signature: String,
}

/// Answer to [`SignIn`]: the account's token, seen once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedIn {
    /// The account, EIP-55.
    pub address: String,
    /// Opens what the account may.
    pub token: Secret,
    /// When the token ends, RFC 3339; gateways before this field gave tokens without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// `GET /v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The account, EIP-55.
    pub address: String,
    /// Whether it runs this gateway, and the token may do what its operator may.
    pub operator: bool,
    /// What the token may do.
    #[serde(default = "all")]
    pub scope: Scope,
}

/// Tokens of gateways before scopes opened all.
fn all() -> Scope {
    Scope::Admin
}

/// `POST /v1/kernel-sessions`: for a kernel that the gateway did not start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelSession {
    /// The kernel's id.
    pub kernel_id: Uuid,
    /// Opens key requests, shares and registry reads, nothing else, for 30 days.
    pub token: Secret,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the gateway.
    pub version: String,
    /// Address of the Aleph node.
    pub aleph: String,
    /// State of this machine's agent: `connected`, `connecting`, `off`.
    pub agent: String,
    /// What is between kernels and the rest of this machine, such as `bubblewrap, cgroup v2`; none while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
}
