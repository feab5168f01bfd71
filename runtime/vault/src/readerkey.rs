//! Keys that secrets are wrapped for: a reader's long-lived ones, saved on the reader's machine, and a kernel's, in memory
//! only. Each is two: X-Wing (ML-KEM-768 and X25519 in one), which a quantum computer does not open later either and which
//! is used wherever both sides have it, and X25519, which every reader of the container has (docs/adr/0013).

use crate::digest::sha256;
use crate::encoding::hex_array;
use crate::keys::{DatasetId, hmac512, random};
use crate::keystore::Passphrase;
use crate::{Result, VaultError, keyfile};
use hmac::Mac;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, Kem, Serializable};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// KEM identifier of X25519-HKDF-SHA256 in RFC 9180.
pub(crate) const X25519_ID: u16 = 0x0020;
/// KEM identifier of X-Wing in draft-ietf-hpke-pq.
pub(crate) const XWING_ID: u16 = 0x647a;
/// Bytes of an X-Wing public key.
const XWING_BYTES: usize = 1216;

/// Public half of one key of a [`ReaderKey`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReaderPublic {
    /// A point of Curve25519.
    X25519([u8; 32]),
    /// An ML-KEM-768 encapsulation key, then a point of Curve25519.
    XWing(Box<[u8; XWING_BYTES]>),
}

impl ReaderPublic {
    /// HPKE's identifier of the key's KEM.
    pub fn kem_id(&self) -> u16 {
        match self {
            Self::X25519(_) => X25519_ID,
            Self::XWing(_) => XWING_ID,
        }
    }

    /// The key as its KEM writes it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::X25519(bytes) => bytes,
            Self::XWing(bytes) => &**bytes,
        }
    }

    /// Key id of section 10: names the key in grants.
    pub fn id(&self) -> [u8; 16] {
        let kem_id = self.kem_id().to_be_bytes();
        let hash = sha256(&[b"aleph-dataset/v1/rkey\0", &kem_id, self.bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        id
    }

    /// Lowercase hex of the key.
    pub fn to_hex(&self) -> String {
        hex::encode(self.bytes())
    }

    /// From 64 hex digits of an X25519 key, or 2,432 of an X-Wing key.
    ///
    /// # Errors
    /// `E_MALFORMED`.
    pub fn from_hex(text: &str) -> Result<Self> {
        if text.len() > 2 * 32 + 2 {
            let key = hex_array("the public key", text)?;
            return Ok(Self::XWing(Box::new(key)));
        }
        hex_array("the public key", text).map(Self::X25519)
    }
}

impl fmt::Debug for ReaderPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ReaderPublic({:#06x} {})",
            self.kem_id(),
            hex::encode(self.id())
        )
    }
}

impl TryFrom<String> for ReaderPublic {
    type Error = VaultError;
    fn try_from(text: String) -> Result<Self> {
        Self::from_hex(&text)
    }
}

impl From<ReaderPublic> for String {
    fn from(key: ReaderPublic) -> Self {
        key.to_hex()
    }
}

/// Private half; zeroized on drop, without `Debug`.
pub struct ReaderKey {
    x25519: Zeroizing<[u8; 32]>,
    /// The seed of the X-Wing key, drawn by itself: whoever breaks the one key has learned nothing of the other.
    xwing: Option<Zeroizing<[u8; 32]>>,
    /// Of both, the one to be preferred first.
    publics: Vec<ReaderPublic>,
}

impl ReaderKey {
    /// A fresh key from the system's generator.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self> {
        Self::new(Zeroizing::new(random()?), Some(Zeroizing::new(random()?)))
    }

    /// From the 32 secret bytes of an X25519 key, without an X-Wing key.
    ///
    /// # Errors
    /// `E_KEY_POINT` when they are not usable.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self> {
        Self::new(Zeroizing::new(*secret), None)
    }

    /// DK of section 3, for one dataset: only a machine with this key finds equal plaintexts again.
    pub(crate) fn dedup_key(&self, dataset: &DatasetId) -> Zeroizing<[u8; 32]> {
        let mut mac = hmac512(&self.x25519);
        mac.update(b"alephlab/dedup/v1/key\0");
        mac.update(&dataset.0);
        let bytes = Zeroizing::new(<[u8; 64]>::from(mac.finalize().into_bytes()));
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&bytes[..32]);
        key
    }

    fn new(x25519: Zeroizing<[u8; 32]>, xwing: Option<Zeroizing<[u8; 32]>>) -> Result<Self> {
        let mut publics = Vec::new();
        if let Some(seed) = &xwing {
            let bytes = XWing::sk_to_pk(&private::<XWing>(seed)?).to_bytes().to_vec();
            let bytes = bytes.try_into().map_err(|_| VaultError::KeyPoint)?;
            publics.push(ReaderPublic::XWing(Box::new(bytes)));
        }
        let point = X25519HkdfSha256::sk_to_pk(&private::<X25519HkdfSha256>(&x25519)?).to_bytes();
        publics.push(ReaderPublic::X25519(point.into()));
        Ok(Self {
            x25519,
            xwing,
            publics,
        })
    }

    /// Reads a key that [`ReaderKey::save`] wrote: both secrets, or only that of X25519.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when others could read the file; `E_LOCKED` and `E_PASSPHRASE`.
    pub fn load(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self> {
        let secrets = keyfile::load(path, passphrase)?;
        let one = |bytes: &[u8]| bytes.try_into().ok().map(Zeroizing::new);
        let (first, second) = secrets.split_at(secrets.len().min(32));
        let key = one(first).zip(match second {
            [] => Some(None),
            seed => one(seed).map(Some),
        });
        let (x25519, xwing) = key.ok_or_else(|| VaultError::KeyFile {
            path: path.to_owned(),
            reason: "it does not hold a reader key's 64 bytes".into(),
        })?;
        Self::new(x25519, xwing)
    }

    /// Writes the key to a new file, mode 0600: in hex, or opened by `passphrase`.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when the file exists: nothing is overwritten.
    pub fn save(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
        let mut secrets = Zeroizing::new(Vec::with_capacity(64));
        secrets.extend_from_slice(&*self.x25519);
        secrets.extend(self.xwing.iter().flat_map(|seed| seed.iter()));
        keyfile::save(path, &secrets, None, passphrase)
    }

    /// Public half, of the key that others should wrap for.
    pub fn public(&self) -> ReaderPublic {
        self.publics[0].clone()
    }

    /// Public halves of all its keys, the one to be preferred first.
    pub fn publics(&self) -> &[ReaderPublic] {
        &self.publics
    }

    /// Its key of this KEM with this key id, if it is one of its own.
    pub(crate) fn has(&self, kem_id: u16, key_id: &[u8; 16]) -> bool {
        let mut all = self.publics.iter();
        all.any(|public| public.kem_id() == kem_id && public.id() == *key_id)
    }

    pub(crate) fn x25519(&self) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey> {
        private::<X25519HkdfSha256>(&self.x25519)
    }

    /// # Errors
    /// `E_GRANT_OPEN` when there is none.
    pub(crate) fn xwing(&self) -> Result<<XWing as Kem>::PrivateKey> {
        let seed = self.xwing.as_ref().ok_or_else(|| VaultError::GrantOpen {
            reason: "it was made for an X-Wing key, and this account has none".into(),
        })?;
        private::<XWing>(seed)
    }
}

fn private<K: Kem>(secret: &[u8; 32]) -> Result<K::PrivateKey> {
    K::PrivateKey::from_bytes(secret).map_err(|_| VaultError::KeyPoint)
}

/// A public key's name for people, who compare it: the first 16 bytes of the SHA-256 of its hex, in lower case. Of any text, so
/// that what is no key is shown as well.
pub fn fingerprint(key: &str) -> String {
    let hash = sha256(&[key.to_ascii_lowercase().as_bytes()]);
    let pairs: Vec<String> = hash[..16].chunks(2).map(hex::encode).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_survive_saving_and_a_file_of_the_one_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reader.key");
        let key = ReaderKey::generate().unwrap();
        key.save(&path, None).unwrap();
        let loaded = ReaderKey::load(&path, None).unwrap();
        assert_eq!(loaded.publics(), key.publics());
        assert_eq!((key.public().kem_id(), key.publics().len()), (XWING_ID, 2));
        let (old, path) = (
            ReaderKey::from_secret(&[7; 32]).unwrap(),
            dir.path().join("old.key"),
        );
        old.save(&path, None).unwrap();
        let loaded = ReaderKey::load(&path, None).unwrap();
        assert_eq!(
            (loaded.public().kem_id(), loaded.publics()),
            (X25519_ID, old.publics())
        );
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{}00", text.trim())).unwrap();
        assert_eq!(ReaderKey::load(&path, None).err().unwrap().code(), "E_KEY_FILE");
    }

    #[test]
    fn public_keys_are_told_apart_by_their_length() {
        let key = ReaderKey::generate().unwrap();
        for public in key.publics() {
            let json = serde_json::to_string(public).unwrap();
            assert_eq!(serde_json::from_str::<ReaderPublic>(&json).unwrap(), *public);
            assert!(key.has(public.kem_id(), &public.id()));
        }
        for digits in [0, 62, 66, 2430, 2434] {
            assert_eq!(
                ReaderPublic::from_hex(&"a".repeat(digits)).unwrap_err().code(),
                "E_MALFORMED"
            );
        }
    }
}
