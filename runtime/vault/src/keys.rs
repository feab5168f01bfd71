//! Names and secrets of section 3 of the container: dataset id, epoch secret and what is derived from it.
//!
//! Secret types zeroize on drop and have neither `Debug`, `Display`, `Serialize` nor `Clone`.

use crate::digest::sha256;
use crate::encoding::hex_array;
use crate::{Result, VaultError};
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use sha2::Sha512;
use sha3::{Digest, Keccak256};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Name of a dataset or model: commits to its owner's address and 16 random bytes. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetId(pub [u8; 32]);

impl fmt::Display for DatasetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for DatasetId {
    type Err = VaultError;
    fn from_str(text: &str) -> Result<Self> {
        hex_array("the dataset id", text).map(Self)
    }
}

impl TryFrom<String> for DatasetId {
    type Error = VaultError;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DatasetId> for String {
    fn from(id: DatasetId) -> Self {
        id.to_string()
    }
}

/// A 20-byte account address; written with the EIP-55 checksum, read in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(pub [u8; 20]);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = hex::encode(self.0);
        let hash = Keccak256::digest(plain.as_bytes());
        f.write_str("0x")?;
        for (place, digit) in plain.chars().enumerate() {
            let byte = hash[place / 2];
            let nibble = if place % 2 == 0 { byte >> 4 } else { byte & 15 };
            let shown = if nibble >= 8 {
                digit.to_ascii_uppercase()
            } else {
                digit
            };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = VaultError;
    fn from_str(text: &str) -> Result<Self> {
        if !text.starts_with("0x") {
            return Err(VaultError::Malformed {
                what: "the address",
                reason: "it does not start with 0x".into(),
            });
        }
        hex_array("the address", text).map(Self)
    }
}

impl TryFrom<String> for Address {
    type Error = VaultError;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// Name of the dataset that `owner` made with `id_random`.
pub fn dataset_id(owner: &Address, id_random: &[u8; 16]) -> DatasetId {
    DatasetId(sha256(&[b"aleph-dataset/v1/id\0", &owner.0, id_random]))
}

/// Fresh random bytes for [`dataset_id`].
///
/// # Errors
/// When the system's generator fails.
pub fn new_id_random() -> Result<[u8; 16]> {
    random()
}

/// The 32-byte secret of one epoch of one dataset: whoever holds it reads that epoch.
pub struct EpochSecret(Zeroizing<[u8; 32]>);

impl EpochSecret {
    /// A fresh secret from the system's generator.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// Takes a secret received in an envelope.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself, to wrap it. Never log or store it in the clear.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A second copy, said aloud: secrets are not cloned silently.
    pub fn duplicate(&self) -> Self {
        Self(Zeroizing::new(*self.0))
    }

    /// Hex HMAC-SHA512, with this secret as key, of a text: shows that whoever says it holds the secret.
    pub fn proof(&self, text: &str) -> String {
        hex::encode(self.proving(text).finalize().into_bytes())
    }

    /// Whether a proof is that of the text, in constant time.
    pub fn proves(&self, text: &str, proof: &str) -> bool {
        hex::decode(proof).is_ok_and(|proof| self.proving(text).verify_slice(&proof).is_ok())
    }

    fn proving(&self, text: &str) -> Hmac<Sha512> {
        let mut mac = hmac512(&self.0);
        mac.update(b"alephlab/proof/v1\0");
        mac.update(text.as_bytes());
        mac
    }

    /// The epoch commitment EC that stands in the head.
    pub fn commitment(&self, dataset: &DatasetId, epoch: u32) -> [u8; 32] {
        *self.derive(b"aleph-dataset/v1/commit\0", dataset, epoch)
    }

    /// Key for data objects (CK).
    pub(crate) fn content_key(&self, dataset: &DatasetId, epoch: u32) -> Zeroizing<[u8; 32]> {
        self.derive(b"aleph-dataset/v1/content\0", dataset, epoch)
    }

    /// Key for manifest objects and leaf tables (MK).
    pub(crate) fn manifest_key(&self, dataset: &DatasetId, epoch: u32) -> Zeroizing<[u8; 32]> {
        self.derive(b"aleph-dataset/v1/manifest\0", dataset, epoch)
    }

    fn derive(&self, label: &[u8], dataset: &DatasetId, epoch: u32) -> Zeroizing<[u8; 32]> {
        expand(&self.0, &[label, &dataset.0, &epoch.to_be_bytes()])
    }
}

/// The 32-byte key of one object.
pub(crate) struct ObjectKey(pub(crate) Zeroizing<[u8; 32]>);

impl ObjectKey {
    /// OK of section 3: from the content or manifest key and the object's id.
    pub(crate) fn derive(parent: &[u8; 32], object_id: &[u8; 16]) -> Self {
        Self(expand(parent, &[b"aleph-dataset/v1/object\0", object_id]))
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self(Zeroizing::new(*self.0))
    }
}

/// HKDF-Expand-SHA512 from a uniform 32-byte secret. Own because crate `hkdf` refuses a PRK shorter than the
/// hash, while the specification's are 32 bytes on purpose.
pub(crate) fn expand<const N: usize>(secret: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    let mut previous = Zeroizing::new(Vec::new());
    for (block, counter) in out.chunks_mut(64).zip(1_u8..) {
        let mut mac = hmac512(secret);
        mac.update(&previous);
        for part in info {
            mac.update(part);
        }
        mac.update(&[counter]);
        previous = Zeroizing::new(mac.finalize().into_bytes().to_vec());
        let taken = block.len();
        block.copy_from_slice(&previous[..taken]);
    }
    out
}

/// HMAC-SHA512 keyed with 32 bytes.
pub(crate) fn hmac512(key: &[u8; 32]) -> Hmac<Sha512> {
    // A block is 128 bytes, so a padded 32-byte key is the same key.
    let mut block = Zeroizing::new([0_u8; 128]);
    block[..32].copy_from_slice(key);
    Hmac::new((&*block).into())
}

/// `N` bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| VaultError::Unavailable {
            what: "the system's random generator".into(),
            reason: error.to_string(),
        })?;
    Ok(bytes)
}
