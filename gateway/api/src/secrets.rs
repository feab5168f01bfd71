//! Secrets of an account, such as a key of another service, that its notebooks read by name.
//!
//! They are kept by a gateway, whose operator can read them; nothing here opens or keeps one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Longest name of a secret, in characters.
pub const SECRET_NAME_CHARS_MAX: usize = 64;
/// Longest value of a secret, in bytes: room for a certificate chain or a service's key file.
pub const SECRET_BYTES_MAX: usize = 32 * 1024;
/// Secrets of one account.
pub const SECRETS_MAX: usize = 64;

/// Name of a secret: `[A-Za-z_][A-Za-z0-9_]{0,63}`, so that it can stand in an address, in a command and in a cell as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// A text that cannot be the name of a secret. It does not repeat the text, which may be a value in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a secret is at most {SECRET_NAME_CHARS_MAX} letters (A to Z), digits and underscores, and does not begin \
     with a digit"
)]
pub struct NotASecretName;

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = NotASecretName;

    fn from_str(text: &str) -> Result<Self, NotASecretName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if begins && text.len() <= SECRET_NAME_CHARS_MAX && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(NotASecretName)
    }
}

impl TryFrom<String> for SecretName {
    type Error = NotASecretName;

    fn try_from(text: String) -> Result<Self, NotASecretName> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One secret as `GET /v1/secrets` lists it: never with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// When it was first stored, unix seconds.
    pub created: u64,
    /// When its value was last set, unix seconds.
    pub changed: u64,
    /// When a kernel last read it, unix seconds; none for never.
    #[serde(default)]
    pub last_read: Option<u64>,
}

/// Body of `PUT /v1/secrets/{name}`, and what `GET /v1/kernel-secrets/{name}` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretValue {
    /// The value.
    pub value: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_variables() {
        let long = "A".repeat(SECRET_NAME_CHARS_MAX);
        for name in ["OPENAI_API_KEY", "_", "a", "k2", &long] {
            assert_eq!(name.parse::<SecretName>().unwrap().as_str(), name);
        }
        let longer = "A".repeat(SECRET_NAME_CHARS_MAX + 1);
        for text in ["", "2k", "a-b", "a b", "a/b", "..", "é", "a\n", &longer] {
            assert_eq!(text.parse::<SecretName>(), Err(NotASecretName), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_in_json_without_being_repeated() {
        let error = serde_json::from_str::<SecretName>("\"sk-canary\"").unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn a_value_is_not_printed() {
        let value = SecretValue {
            value: Secret::new("canary"),
        };
        assert!(!format!("{value:?}").contains("canary"));
    }
}
