//! Hex and base64 forms of byte fields in JSON. Used by every record that crosses HTTP.

use crate::{Result, VaultError};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Exactly `N` bytes from hex, with or without `0x`.
pub(crate) fn hex_array<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N]> {
    let mut out = [0; N];
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode_to_slice(digits, &mut out).map_err(|_| VaultError::Malformed {
        what,
        reason: format!("expected {} hex digits", 2 * N),
    })?;
    Ok(out)
}

/// serde form of `[u8; N]`: lowercase hex.
pub(crate) mod hex_bytes {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        value: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        super::hex_array("a hexadecimal value", &text).map_err(D::Error::custom)
    }
}

/// serde form of `Vec<u8>`: lowercase hex.
pub(crate) mod hex_vec {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// serde form of `Vec<u8>`: standard base64 with padding.
pub(crate) mod base64_bytes {
    use super::{Deserialize, Deserializer, Error, Serializer};
    use base64::{Engine, engine::general_purpose::STANDARD};

    pub(crate) fn serialize<S: Serializer>(value: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(from)?)
            .map_err(D::Error::custom)
    }
}
