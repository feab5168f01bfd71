//! Keys in files that a passphrase opens: Web3 Secret Storage, version 3, as Ethereum's wallets write it (scrypt or PBKDF2,
//! AES-128-CTR, Keccak-256 over the derived key's second half and the ciphertext).
//!
//! Source: ethereum.org, "Web3 secret storage definition". Whoever has the file and no passphrase has scrypt to try each guess
//! with: 256 MiB of memory and about a second. Used by accounts; not here: where a passphrase comes from.

use crate::{Result, VaultError};
use aes::Aes128;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};
use std::path::Path;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::keys::random;

/// Bytes that are derived: a cipher's key and a MAC's.
const DERIVED_BYTES: usize = 32;
/// scrypt's cost, as Ethereum's wallets have it: N = 2^18.
const LOG_N: u8 = 18;
/// scrypt's block size and parallelism.
const BLOCK: (u32, u32) = (8, 1);
/// Most memory that a file may make us use, bytes: its parameters come from outside.
const MEMORY_MAX: u64 = 1 << 30;
/// Most rounds of PBKDF2, for the same reason.
const ROUNDS_MAX: u32 = 10_000_000;

/// A passphrase that opens key files. It remembers the last key that was derived: an account's files share their salt, so
/// that scrypt runs once.
pub struct Passphrase {
    text: Zeroizing<String>,
    derived: std::sync::Mutex<Option<(Kdf, Zeroizing<[u8; DERIVED_BYTES]>)>>,
}

impl Passphrase {
    /// What a person typed.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self {
            text,
            derived: std::sync::Mutex::default(),
        }
    }

    fn derive(&self, kdf: &Kdf) -> std::result::Result<Zeroizing<[u8; DERIVED_BYTES]>, String> {
        let mut known = self
            .derived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((of, key)) = &*known
            && of == kdf
        {
            return Ok(key.clone());
        }
        let key = kdf.derive(self.text.as_bytes())?;
        *known = Some((kdf.clone(), key.clone()));
        Ok(key)
    }

    /// Parameters for a new file: those that were used last, or fresh ones.
    fn parameters(&self) -> Result<Kdf> {
        let known = self
            .derived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*known {
            Some((kdf @ Kdf::Scrypt { n, .. }, _)) if *n == 1 << LOG_N => Ok(kdf.clone()),
            _ => Ok(Kdf::Scrypt {
                dklen: DERIVED_BYTES,
                n: 1 << LOG_N,
                r: BLOCK.0,
                p: BLOCK.1,
                salt: hex::encode(random::<32>()?),
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    crypto: Crypto,
    id: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    #[serde(flatten)]
    kdf: Kdf,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt {
        dklen: usize,
        n: u64,
        r: u32,
        p: u32,
        salt: String,
    },
    Pbkdf2 {
        c: u32,
        dklen: usize,
        prf: String,
        salt: String,
    },
}

impl Kdf {
    fn derive(&self, passphrase: &[u8]) -> std::result::Result<Zeroizing<[u8; DERIVED_BYTES]>, String> {
        let mut key = Zeroizing::new([0; DERIVED_BYTES]);
        let salt = |salt: &str| hex::decode(salt).map_err(|_| "its salt is not hex".to_owned());
        match self {
            Self::Scrypt {
                dklen,
                n,
                r,
                p,
                salt: text,
            } if *dklen == DERIVED_BYTES => {
                let memory = n
                    .checked_mul(128)
                    .and_then(|bytes| bytes.checked_mul(u64::from(*r)));
                let is_fit =
                    n.is_power_of_two() && memory.is_some_and(|bytes| bytes <= MEMORY_MAX) && *p <= 16;
                if !is_fit {
                    return Err(
                        "its scrypt parameters are none, or want more than 1 GiB of memory".to_owned(),
                    );
                }
                let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
                let params = scrypt::Params::new(log_n, *r, *p).map_err(|error| error.to_string())?;
                scrypt::scrypt(passphrase, &salt(text)?, &params, &mut *key)
                    .map_err(|error| error.to_string())?;
            }
            Self::Pbkdf2 {
                c,
                dklen,
                prf,
                salt: text,
            } if *dklen == DERIVED_BYTES && prf == "hmac-sha256" => {
                if !(1..=ROUNDS_MAX).contains(c) {
                    return Err("its number of PBKDF2 rounds is none, or too high".to_owned());
                }
                pbkdf2::pbkdf2_hmac::<sha2::Sha256>(passphrase, &salt(text)?, *c, &mut *key);
            }
            _ => return Err("its key derivation is not one that wallets use".to_owned()),
        }
        Ok(key)
    }
}

/// A key as the text of a file that `passphrase` opens. `address` names an account's key.
///
/// # Errors
/// When the system gives no random numbers.
pub(crate) fn seal(secret: &[u8], address: Option<&str>, passphrase: &Passphrase) -> Result<String> {
    let kdf = passphrase.parameters()?;
    let malformed = |reason: String| VaultError::Malformed {
        what: "the key file",
        reason,
    };
    let key = passphrase.derive(&kdf).map_err(malformed)?;
    let iv: [u8; 16] = random()?;
    let mut ciphertext = secret.to_vec();
    cipher(&key, &iv, &mut ciphertext);
    let file = File {
        address: address.map(|address| address.trim_start_matches("0x").to_ascii_lowercase()),
        crypto: Crypto {
            cipher: "aes-128-ctr".to_owned(),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            ciphertext: hex::encode(&ciphertext),
            kdf,
            mac: hex::encode(mac(&key, &ciphertext)),
        },
        id: uuid::Uuid::new_v4().to_string(),
        version: 3,
    };
    serde_json::to_string_pretty(&file).map_err(|error| malformed(error.to_string()))
}

/// The key in the text of a file.
///
/// # Errors
/// `E_PASSPHRASE` for another passphrase or a changed file, which cannot be told apart; `E_KEY_FILE` for what is no such file.
pub(crate) fn open(text: &str, path: &Path, passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>> {
    let refuse = |reason: String| VaultError::KeyFile {
        path: path.to_owned(),
        reason,
    };
    let file: File = serde_json::from_str(text).map_err(|error| {
        refuse(format!(
            "it is no key file: line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    if file.version != 3 || file.crypto.cipher != "aes-128-ctr" {
        return Err(refuse("only version 3 with aes-128-ctr can be read".to_owned()));
    }
    let bytes =
        |what: &str, text: &str| hex::decode(text).map_err(|_| refuse(format!("its {what} is not hex")));
    let sized = |what: &str, text: &str| -> Result<[u8; 32]> {
        let bytes = bytes(what, text)?;
        bytes
            .try_into()
            .map_err(|_| refuse(format!("its {what} has not 32 bytes")))
    };
    let iv: [u8; 16] = bytes("iv", &file.crypto.cipherparams.iv)?
        .try_into()
        .map_err(|_| refuse("its iv has not 16 bytes".to_owned()))?;
    let mut secret = Zeroizing::new(bytes("ciphertext", &file.crypto.ciphertext)?);
    let wanted = sized("mac", &file.crypto.mac)?;
    let key = passphrase.derive(&file.crypto.kdf).map_err(refuse)?;
    if !bool::from(mac(&key, &secret).ct_eq(&wanted)) {
        return Err(VaultError::Passphrase {
            path: path.to_owned(),
        });
    }
    cipher(&key, &iv, &mut secret);
    Ok(secret)
}

fn cipher(key: &[u8; DERIVED_BYTES], iv: &[u8; 16], bytes: &mut [u8]) {
    let (mut own, iv) = (Zeroizing::new([0_u8; 16]), *iv);
    own.copy_from_slice(&key[..16]);
    Ctr128BE::<Aes128>::new(&(*own).into(), &iv.into()).apply_keystream(bytes);
}

fn mac(key: &[u8; DERIVED_BYTES], ciphertext: &[u8]) -> [u8; 32] {
    Keccak256::new()
        .chain_update(&key[16..])
        .chain_update(ciphertext)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned()))
    }

    fn at() -> &'static Path {
        Path::new("wallet.json")
    }

    /// Test vectors of the definition: secret and passphrase are the same in both.
    #[test]
    fn opens_the_vectors_of_the_definition() {
        let pbkdf2 = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",
            "kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
            "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
            "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let scrypt = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
            "kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,
            "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
            "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        for text in [pbkdf2, scrypt] {
            let secret = open(text, at(), &passphrase("testpassword")).unwrap();
            assert_eq!(
                hex::encode(&*secret),
                "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
            );
        }
        let error = open(pbkdf2, at(), &passphrase("testpassworD")).unwrap_err();
        assert_eq!(error.code(), "E_PASSPHRASE");
    }

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_only_and_two_files_cost_one_derivation() {
        let mine = passphrase("correct horse");
        let sealed = [7, 8].map(|byte| seal(&[byte; 32], Some("0xAB"), &mine).unwrap());
        let file: File = serde_json::from_str(&sealed[0]).unwrap();
        let other: File = serde_json::from_str(&sealed[1]).unwrap();
        assert!(file.crypto.kdf == other.crypto.kdf);
        assert_ne!(file.crypto.cipherparams.iv, other.crypto.cipherparams.iv);
        assert_eq!(file.address.as_deref(), Some("ab"));
        let again = passphrase("correct horse");
        assert_eq!(*open(&sealed[0], at(), &again).unwrap(), [7; 32]);
        assert_eq!(*open(&sealed[1], at(), &again).unwrap(), [8; 32]);
        let changed = sealed[0].replacen(&file.crypto.ciphertext[..4], "0000", 1);
        assert_eq!(open(&changed, at(), &again).unwrap_err().code(), "E_PASSPHRASE");
    }

    #[test]
    fn files_that_would_take_all_memory_or_are_none_are_refused_at_once() {
        let sealed = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
            "kdfparams":{"dklen":32,"n":NUMBER,"p":1,"r":8,"salt":"ab"},
            "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"","version":3}"#;
        for (n, reason) in [
            ("1099511627776", "1 GiB"),
            ("262145", "scrypt"),
            ("18446744073709551615", "scrypt"),
        ] {
            let error = open(&sealed.replace("NUMBER", n), at(), &passphrase("x")).unwrap_err();
            assert_eq!(error.code(), "E_KEY_FILE");
            assert!(error.to_string().contains(reason), "{error}");
        }
        let old = sealed
            .replace("NUMBER", "2")
            .replace("\"version\":3", "\"version\":1");
        for text in [old.as_str(), "{}", "0011", ""] {
            assert_eq!(
                open(text, at(), &passphrase("x")).unwrap_err().code(),
                "E_KEY_FILE"
            );
        }
    }
}
