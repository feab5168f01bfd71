//! X25519 keys: a reader's long-lived one, saved on the reader's machine, and a kernel's, in memory only.

use crate::digest::sha256;
use crate::encoding::hex_bytes;
use crate::keys::random;
use crate::keystore::Passphrase;
use crate::{Result, keyfile};
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

/// KEM identifier of X25519-HKDF-SHA256 in RFC 9180.
pub(crate) const KEM_ID: u16 = 0x0020;

/// Public half of a [`ReaderKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReaderPublic(#[serde(with = "hex_bytes")] pub [u8; 32]);

impl ReaderPublic {
    /// Key id of section 10: names the key in grants.
    pub fn id(&self) -> [u8; 16] {
        let hash = sha256(&[b"aleph-dataset/v1/rkey\0", &KEM_ID.to_be_bytes(), &self.0]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        id
    }

    /// Lowercase hex of the key.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// From 64 hex digits.
    ///
    /// # Errors
    /// `E_MALFORMED`.
    pub fn from_hex(text: &str) -> Result<Self> {
        crate::encoding::hex_array("the public key", text).map(Self)
    }
}

/// Private half; zeroized on drop, without `Debug`.
pub struct ReaderKey {
    secret: Zeroizing<[u8; 32]>,
    public: ReaderPublic,
}

impl ReaderKey {
    /// A fresh key from the system's generator.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self> {
        Self::from_secret(&random()?)
    }

    /// From 32 secret bytes.
    ///
    /// # Errors
    /// `E_KEY_POINT` when they are not usable.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self> {
        let private = private(secret)?;
        let mut public = [0; 32];
        public.copy_from_slice(&X25519HkdfSha256::sk_to_pk(&private).to_bytes());
        Ok(Self {
            secret: Zeroizing::new(*secret),
            public: ReaderPublic(public),
        })
    }

    /// Reads a key that [`ReaderKey::save`] wrote.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when others could read the file; `E_LOCKED` and `E_PASSPHRASE`.
    pub fn load(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self> {
        Self::from_secret(&*keyfile::load(path, passphrase)?)
    }

    /// Writes the key to a new file, mode 0600: in hex, or opened by `passphrase`.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when the file exists: nothing is overwritten.
    pub fn save(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
        keyfile::save(path, &self.secret, None, passphrase)
    }

    /// Public half.
    pub fn public(&self) -> ReaderPublic {
        self.public
    }

    /// Key id of the public half.
    pub fn id(&self) -> [u8; 16] {
        self.public.id()
    }

    pub(crate) fn private(&self) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey> {
        private(&self.secret)
    }
}

fn private(secret: &[u8; 32]) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey> {
    <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret).map_err(|_| crate::VaultError::KeyPoint)
}
