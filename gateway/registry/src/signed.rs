//! Addresses and tokens that authorise by themselves, for a while: an HMAC over what they allow.
//!
//! git-lfs clients send no bearer to the address that they upload to, and Xet's has a token of its own. Neither names
//! the account: a caller is its [`CallerKey`](crate::staging::CallerKey), the name of its folder.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Makes and checks signatures with one secret.
pub(crate) struct Signer(Hmac<Sha256>);

impl Signer {
    /// Signs with this secret; whoever has it may upload as anybody.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        // HMAC fills up a short key with zeros in any case.
        let mut key = [0; 64];
        key[..32].copy_from_slice(secret);
        Self(Hmac::new(&key.into()))
    }

    /// Signature of a purpose and the parts that it binds, in hex.
    pub(crate) fn sign(&self, purpose: &str, parts: &[&str]) -> String {
        hex::encode(self.mac(purpose, parts).finalize().into_bytes())
    }

    /// Whether a signature is right, in constant time.
    pub(crate) fn is_signed(&self, purpose: &str, parts: &[&str], signature: &str) -> bool {
        let Ok(signature) = hex::decode(signature) else {
            return false;
        };
        self.mac(purpose, parts).verify_slice(&signature).is_ok()
    }

    /// Each part with its length before it, so that no two lists of parts are signed alike.
    fn mac(&self, purpose: &str, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_purpose_and_parts() {
        let signer = Signer::new(&[7; 32]);
        let signature = signer.sign("object", &["ab", "c"]);
        assert!(signer.is_signed("object", &["ab", "c"], &signature));
        assert!(!signer.is_signed("object", &["a", "bc"], &signature));
        assert!(!signer.is_signed("part", &["ab", "c"], &signature));
        assert!(!signer.is_signed("object", &["ab", "c"], "zz"));
        assert!(!Signer::new(&[8; 32]).is_signed("object", &["ab", "c"], &signature));
    }
}
