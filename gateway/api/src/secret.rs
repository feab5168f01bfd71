//! A string that must not be seen: tokens that cross a socket or stand in a bootstrap file.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret string: never printed, overwritten when dropped, equal only by [`Secret::expose`].
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret over.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself. Only for a header, a 0600 file or a key derivation.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Keeps the compiler from dropping a write that nothing reads.
        std::hint::black_box(&bytes);
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_nothing_of_itself() {
        let secret = Secret::new("hf_canary");
        assert!(!format!("{secret:?}").contains("canary"));
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hf_canary\"");
    }
}
