//! HPKE envelopes (RFC 9180, base mode, X25519-HKDF-SHA256 or X-Wing of draft-ietf-hpke-pq, HKDF-SHA256, AES-256-GCM): the
//! one way in which a secret is wrapped for somebody's public key. Grants and delegations say what info and AAD are.

use crate::encoding::{base64_bytes, hex_vec};
use crate::keys::{DatasetId, EpochSecret};
use crate::readerkey::{ReaderKey, ReaderPublic, X25519_ID, XWING_ID};
use crate::{Result, VaultError};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// An encapsulated key and what is sealed under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The encapsulated key: 32 bytes of X25519, 1,120 of X-Wing.
    #[serde(with = "hex_vec")]
    pub enc: Vec<u8>,
    /// Ciphertext and tag.
    #[serde(with = "base64_bytes")]
    pub ct: Vec<u8>,
}

impl Sealed {
    /// Seals `plaintext` for `to`; `aad` may depend on the encapsulated key.
    pub(crate) fn seal(
        to: &ReaderPublic,
        info: &[u8],
        aad: impl FnOnce(&[u8]) -> Vec<u8>,
        plaintext: &[u8],
    ) -> Result<Self> {
        match to {
            ReaderPublic::X25519(bytes) => Self::seal_by::<X25519HkdfSha256>(bytes, info, aad, plaintext),
            ReaderPublic::XWing(bytes) => Self::seal_by::<XWing>(&**bytes, info, aad, plaintext),
        }
    }

    fn seal_by<K: Kem>(
        public: &[u8],
        info: &[u8],
        aad: impl FnOnce(&[u8]) -> Vec<u8>,
        plaintext: &[u8],
    ) -> Result<Self> {
        let public = K::PublicKey::from_bytes(public).map_err(|_| VaultError::KeyPoint)?;
        let (key, mut context) =
            hpke::setup_sender::<AesGcm256, HkdfSha256, K>(&OpModeS::Base, &public, info)
                .map_err(|_| VaultError::KeyPoint)?;
        let enc = key.to_bytes().to_vec();
        let ct = context
            .seal(plaintext, &aad(&enc))
            .map_err(|_| VaultError::KeyPoint)?;
        Ok(Self { enc, ct })
    }

    /// Which KEM made it, if one that we know.
    pub(crate) fn kem_id(&self) -> Option<u16> {
        match self.enc.len() {
            32 => Some(X25519_ID),
            1120 => Some(XWING_ID),
            _ => None,
        }
    }

    /// Opens with the reader's or kernel's key.
    pub(crate) fn open(&self, key: &ReaderKey, info: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        match self.kem_id() {
            Some(X25519_ID) => self.open_by::<X25519HkdfSha256>(&key.x25519()?, info, aad),
            Some(XWING_ID) => self.open_by::<XWing>(&key.xwing()?, info, aad),
            _ => Err(VaultError::KeyPoint),
        }
    }

    fn open_by<K: Kem>(&self, key: &K::PrivateKey, info: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let enc = K::EncappedKey::from_bytes(&self.enc).map_err(|_| VaultError::KeyPoint)?;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, K>(
            &OpModeR::Base,
            key,
            &enc,
            info,
            &self.ct,
            aad,
        );
        opened.map(Zeroizing::new).map_err(|error| match error {
            HpkeError::DecapError | HpkeError::ValidationError => VaultError::KeyPoint,
            _ => VaultError::GrantOpen {
                reason: "it was made for another key or changed on the way".into(),
            },
        })
    }
}

/// Wraps the secret of a fresh epoch for its owner: how a broker hands a publish back to `alephlab keys`.
///
/// # Errors
/// `E_KEY_POINT` for an unusable reader key.
pub fn seal_epoch_secret(
    to: &ReaderPublic,
    dataset: &DatasetId,
    epoch: u32,
    secret: &EpochSecret,
) -> Result<Sealed> {
    Sealed::seal(to, &publish_info(dataset, epoch), |_| Vec::new(), secret.expose())
}

/// Opens what [`seal_epoch_secret`] made.
///
/// # Errors
/// `E_GRANT_OPEN` or `E_KEY_POINT`.
pub fn open_epoch_secret(
    key: &ReaderKey,
    dataset: &DatasetId,
    epoch: u32,
    sealed: &Sealed,
) -> Result<EpochSecret> {
    let opened = sealed.open(key, &publish_info(dataset, epoch), &[])?;
    let bytes = opened.as_slice().try_into();
    let bytes = bytes.map_err(|_| VaultError::GrantOpen {
        reason: "it does not hold 32 bytes".into(),
    })?;
    Ok(EpochSecret::from_bytes(bytes))
}

fn publish_info(dataset: &DatasetId, epoch: u32) -> Vec<u8> {
    [
        b"alephlab/publish/v1/secret\0".as_slice(),
        &dataset.0,
        &epoch.to_be_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_key_info_and_aad() {
        let (key, other) = (ReaderKey::generate().unwrap(), ReaderKey::generate().unwrap());
        for public in key.publics() {
            let sealed = Sealed::seal(public, b"info", |_| b"aad".to_vec(), b"secret").unwrap();
            assert_eq!(sealed.kem_id(), Some(public.kem_id()));
            assert_eq!(&**sealed.open(&key, b"info", b"aad").unwrap(), b"secret");
            let refused = |key: &ReaderKey, info: &[u8], aad: &[u8]| {
                assert_eq!(sealed.open(key, info, aad).unwrap_err().code(), "E_GRANT_OPEN");
            };
            refused(&other, b"info", b"aad");
            refused(&key, b"other", b"aad");
            refused(&key, b"info", b"other");
            // Every part of the encapsulated key counts: of X-Wing the lattice's and the curve's.
            for at in [0, sealed.enc.len() / 2, sealed.enc.len() - 2] {
                let mut changed = sealed.clone();
                changed.enc[at] ^= 1;
                assert_eq!(
                    changed.open(&key, b"info", b"aad").unwrap_err().code(),
                    "E_GRANT_OPEN"
                );
            }
        }
    }

    #[test]
    fn a_key_of_x25519_alone_says_what_it_lacks() {
        let sealed = Sealed::seal(
            &ReaderKey::generate().unwrap().public(),
            b"",
            |_| Vec::new(),
            b"x",
        )
        .unwrap();
        let refused = sealed
            .open(&ReaderKey::from_secret(&[7; 32]).unwrap(), b"", b"")
            .unwrap_err();
        assert!(refused.to_string().contains("X-Wing"), "{refused}");
    }

    #[test]
    fn refuses_points_of_small_order_and_foreign_lengths() {
        let key = ReaderKey::generate().unwrap();
        let zero = ReaderPublic::X25519([0; 32]);
        assert_eq!(
            Sealed::seal(&zero, b"", |_| Vec::new(), b"x").unwrap_err().code(),
            "E_KEY_POINT"
        );
        let mut sealed = Sealed::seal(&key.publics()[1], b"", |_| Vec::new(), b"x").unwrap();
        for length in [0, 31, 32, 33, 1119, 1121] {
            sealed.enc = vec![0; length];
            assert_eq!(
                sealed.open(&key, b"", b"").unwrap_err().code(),
                "E_KEY_POINT",
                "{length}"
            );
        }
        // Coefficients of an ML-KEM key are below its modulus (FIPS 203, 7.2).
        let large = ReaderPublic::XWing(Box::new([0xff; 1216]));
        assert_eq!(
            Sealed::seal(&large, b"", |_| Vec::new(), b"x")
                .unwrap_err()
                .code(),
            "E_KEY_POINT"
        );
    }

    /// RFC 9180 A.1.1: the same KEM and KDF as ours, with the AEAD of that vector.
    #[test]
    fn opens_the_base_vector_of_rfc_9180() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let secret = bytes("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
        let key = ReaderKey::from_secret(&secret.try_into().unwrap()).unwrap();
        assert_eq!(
            key.public().to_hex(),
            "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"
        );
        let enc = bytes("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
        let opened = hpke::single_shot_open::<hpke::aead::AesGcm128, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key.x25519().unwrap(),
            &<X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&enc).unwrap(),
            &bytes("4f6465206f6e2061204772656369616e2055726e"),
            &bytes(
                "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
            ),
            &bytes("436f756e742d30"),
        );
        assert_eq!(opened.unwrap(), b"Beauty is truth, truth beauty");
    }
}
