//! Access tokens: what an account gives its programs, each with a name, a scope and an end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::secret::Secret;

/// What a token may do; each scope holds the ones before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look: kernels, files, models, balance. Runs and changes nothing.
    Read,
    /// Also what a person does with kernels and notebooks.
    #[default]
    Run,
    /// All that the account may.
    Admin,
}

impl Scope {
    /// All of them, narrowest first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Run, Self::Admin];

    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| "a scope is read, run or admin".to_owned())
    }
}

/// `POST /v1/tokens`; 403 `token_scope` for a scope that the maker's own token does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// What the account calls it; unlike its other tokens' names.
    pub name: String,
    /// What it may do.
    #[serde(default)]
    pub scope: Scope,
    /// How long it works, seconds: 30 days when not said, 365 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
}

/// What the account sees of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// What it is revoked by.
    pub id: Uuid,
    /// What the account calls it.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds.
    pub expires: u64,
    /// The day (UTC) of its last use, as the unix second that it began with; none when it was never used.
    pub used: Option<u64>,
}

/// Answer to [`NewToken`]: the token, seen once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MadeToken {
    /// The token itself: `alab_` and 64 hex digits.
    pub token: Secret,
    /// What is kept of it.
    #[serde(flatten)]
    pub info: TokenInfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_scope_is_greater_and_all_read_back() {
        assert!(Scope::Read < Scope::Run && Scope::Run < Scope::Admin);
        for scope in Scope::ALL {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        assert!("root".parse::<Scope>().is_err());
        let new: NewToken = serde_json::from_str(r#"{"name":"ci"}"#).unwrap();
        assert_eq!((new.scope, new.life), (Scope::Run, None));
    }
}
