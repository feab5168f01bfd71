//! Accounts at the gateway: signing in by wallet, linking an address, who one is, roles, and tokens for kernels started
//! elsewhere.

use std::fmt;
use std::str::FromStr;

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
    /// The address that signed, EIP-55.
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
    /// The account: an address, or `acct_` and 32 hex digits where it began without one.
    #[serde(default)]
    pub account: String,
    /// The address that the account has proven, EIP-55; none until one is linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
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

/// What an account is to the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and uses its own.
    #[default]
    User,
    /// Also runs the gateway: accounts, credits, the audit log.
    Operator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::User, Self::Operator];

    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| "a role is operator or user".to_owned())
    }
}

/// An account, as `GET /v1/accounts` shows it to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// The account.
    pub account: String,
    /// The address that it has proven.
    pub address: Option<String>,
    /// What it is here.
    pub role: Role,
    /// It is the operator that the gateway was started with.
    pub by_settings: bool,
    /// Whether its tokens open anything.
    pub admitted: bool,
    /// The OpenID provider that it signs in at.
    pub issuer: Option<String>,
    /// What that calls the person; only for showing.
    pub label: Option<String>,
    /// Unix seconds.
    pub created: u64,
}

/// `PATCH /v1/accounts/{account}`, by an operator: what is not named stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// The role from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether who signs in at the OpenID provider may use the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<bool>,
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
