//! The account's secp256k1 key: address, EIP-191 text signatures and their check. The wallet never leaves the
//! user's own machine; broker and gateway only check signatures.

use crate::keys::{Address, random};
use crate::keystore::Passphrase;
use crate::signer::{Program, ProgramFile, Signer};
use crate::{Result, VaultError, keyfile};
use aleph_types::account::{Account, EvmAccount};
use aleph_types::chain::Chain;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde::Deserialize;
use sha3::{Digest, Keccak256};
use std::path::Path;
use zeroize::Zeroizing;

/// What signs for an account: its key, zeroized on drop, or a program that has it. Without `Debug`.
pub struct Wallet {
    signer: Signer,
}

impl Wallet {
    /// A fresh wallet from the system's generator.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self> {
        let secret = Zeroizing::new(random()?);
        Self::from_secret(&secret)
    }

    /// From a 32-byte secp256k1 scalar.
    ///
    /// # Errors
    /// `E_MALFORMED` for zero or a number beyond the curve's order.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self> {
        let account = EvmAccount::new(Chain::Ethereum, secret).map_err(|_| VaultError::Malformed {
            what: "the wallet's key",
            reason: "it is no scalar".into(),
        })?;
        Ok(Self {
            signer: Signer::Key(account),
        })
    }

    /// Of an account whose key is elsewhere: `program` signs for it.
    pub fn of_program(program: Program) -> Self {
        Self {
            signer: Signer::Program(program),
        }
    }

    /// Reads a wallet that [`Wallet::save`] wrote, or a wallet's key file (version 3) of another program.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when others could read the file; `E_LOCKED` and `E_PASSPHRASE`.
    pub fn load(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self> {
        let text = keyfile::read(path)?;
        if let Ok(ProgramFile { address, signer }) = serde_json::from_str(&text) {
            return Program::new(&address, signer).map(Self::of_program);
        }
        Self::from_secret(&*keyfile::sized(&keyfile::open(&text, path, passphrase)?, path)?)
    }

    /// Reads another wallet's key file (version 3), and nothing else: a file from elsewhere must not name a program.
    ///
    /// # Errors
    /// `E_KEY_FILE` and `E_PASSPHRASE`.
    pub fn of_keystore(path: &Path, passphrase: &Passphrase) -> Result<Self> {
        let secret = keyfile::open(&keyfile::read(path)?, path, Some(passphrase))?;
        Self::from_secret(&*keyfile::sized(&secret, path)?)
    }

    /// The address in the file of a wallet that only a passphrase opens, if it says one; not to be relied on.
    ///
    /// # Errors
    /// `E_KEY_FILE`.
    pub fn address_in(path: &Path) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Named {
            address: String,
        }
        let text = keyfile::read(path)?;
        let named = serde_json::from_str::<Named>(&text).ok();
        // Key files of Ethereum's wallets leave the 0x out.
        let plain = |named: Named| format!("0x{}", named.address.trim_start_matches("0x"));
        let address = named.and_then(|named| plain(named).parse::<Address>().ok());
        Ok(address.map(|address| address.to_string()))
    }

    /// Writes the key to a new file, mode 0600: in hex, or opened by `passphrase`; of a program, which and for whom.
    ///
    /// # Errors
    /// `E_KEY_FILE`, also when the file exists: nothing is overwritten.
    pub fn save(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
        match &self.signer {
            Signer::Key(account) => {
                let secret: Zeroizing<[u8; 32]> = Zeroizing::new(account.signing_key().to_bytes().into());
                keyfile::save(path, &*secret, Some(&self.address()), passphrase)
            }
            Signer::Program(program) => {
                let text = serde_json::to_string(&program.file()).map_err(|error| VaultError::KeyFile {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
                keyfile::write(path, &text)
            }
        }
    }

    /// Whether a program has the key, and not this process.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.signer, Signer::Program(_))
    }

    /// The account's address with EIP-55 checksum.
    pub fn address(&self) -> String {
        self.owner().to_string()
    }

    /// The account's address as 20 bytes.
    pub fn owner(&self) -> Address {
        match &self.signer {
            Signer::Key(account) => address_of(VerifyingKey::from(account.signing_key())),
            Signer::Program(program) => program.owner(),
        }
    }

    /// The account as the Aleph SDK's builders take it.
    pub fn account(&self) -> &Signer {
        &self.signer
    }

    /// EIP-191 personal signature over `text`: `0x` and 65 bytes r, s, v with low s.
    ///
    /// # Errors
    /// `E_MALFORMED` when a program that has the key does not sign; a key here always does.
    pub fn sign_text(&self, text: &str) -> Result<String> {
        let signature = self.signer.sign_raw(text.as_bytes());
        let signature = signature.map_err(|error| VaultError::Malformed {
            what: "the signature",
            reason: error.to_string(),
        })?;
        Ok(signature.as_str().to_owned())
    }

    /// Signature over a hash itself, such as that of EIP-712 typed data: `0x` and 65 bytes r, s, v with low s.
    ///
    /// # Errors
    /// `E_MALFORMED` for an account whose key is elsewhere: programs sign texts.
    pub fn sign_hash(&self, hash: &[u8; 32]) -> Result<String> {
        let refuse = |reason: String| VaultError::Malformed {
            what: "the signature",
            reason,
        };
        let Signer::Key(account) = &self.signer else {
            return Err(refuse(
                "the key is elsewhere, where only texts are signed".to_owned(),
            ));
        };
        let signed = account.signing_key().sign_prehash_recoverable(hash);
        let (signature, recovery) = signed.map_err(|error| refuse(error.to_string()))?;
        Ok(format!(
            "0x{}{:02x}",
            hex::encode(signature.to_bytes()),
            27 + recovery.to_byte()
        ))
    }
}

/// Who signed a hash itself, such as that of EIP-712 typed data: `signature` is 65 bytes r, s, v in hex.
///
/// # Errors
/// As [`recover_text`].
pub fn recover_hash(hash: &[u8; 32], signature: &str) -> Result<Address> {
    let bytes: [u8; 65] = crate::encoding::hex_array("the signature", signature)?;
    Ok(address_of(recover(hash, &bytes)?))
}

/// Who signed `text` with this EIP-191 signature.
///
/// # Errors
/// `E_MALFORMED` for what is no signature, and for a high s, which is refused because it could be flipped.
pub fn recover_text(text: &str, signature: &str) -> Result<Address> {
    let bytes: [u8; 65] = crate::encoding::hex_array("the signature", signature)?;
    let mut hasher = Keccak256::new();
    hasher.update(format!("\x19Ethereum Signed Message:\n{}", text.len()));
    hasher.update(text);
    Ok(address_of(recover(&hasher.finalize(), &bytes)?))
}

/// Which key signed a hash with this signature: r, s and v, of which s is low and v is 27 or 28.
pub(crate) fn recover(hash: &[u8], bytes: &[u8; 65]) -> Result<VerifyingKey> {
    let refuse = |reason: &str| VaultError::Malformed {
        what: "the signature",
        reason: reason.to_owned(),
    };
    let parsed = Signature::from_slice(&bytes[..64]).map_err(|_| refuse("it is no point"))?;
    if parsed.normalize_s().is_some() {
        return Err(refuse("its s is high"));
    }
    let recovery = match bytes[64] {
        v @ (27 | 28) => RecoveryId::from_byte(v - 27),
        _ => None,
    };
    let recovery = recovery.ok_or_else(|| refuse("its last byte is neither 27 nor 28"))?;
    VerifyingKey::recover_from_prehash(hash, &parsed, recovery).map_err(|_| refuse("no key gives it"))
}

/// Checks that `address` signed `text`.
///
/// # Errors
/// `E_MALFORMED`, saying what is wrong; used for sign-in and wherever a signed text is shown.
pub fn verify_text(address: &str, text: &str, signature: &str) -> Result<()> {
    let wanted: Address = address.parse()?;
    if recover_text(text, signature)? == wanted {
        return Ok(());
    }
    Err(VaultError::Malformed {
        what: "the signature",
        reason: format!("it is not by {wanted}"),
    })
}

fn address_of(key: VerifyingKey) -> Address {
    let point = key.to_encoded_point(false);
    let hash = Keccak256::digest(&point.as_bytes()[1..]);
    let mut address = [0; 20];
    address.copy_from_slice(&hash[12..]);
    Address(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_address_of_the_reference_keys() {
        for (byte, address) in [
            (1, "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"),
            (2, "0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c"),
        ] {
            let wallet = Wallet::from_secret(&[byte; 32]).unwrap();
            assert_eq!(wallet.address(), address);
            assert_eq!(wallet.owner().to_string(), address);
        }
        assert!(Wallet::from_secret(&[0; 32]).is_err());
        assert!(Wallet::from_secret(&[255; 32]).is_err());
    }

    #[test]
    fn signs_texts_that_only_it_signed() {
        let (wallet, other) = (Wallet::generate().unwrap(), Wallet::generate().unwrap());
        let signature = wallet.sign_text("sign in").unwrap();
        verify_text(&wallet.address(), "sign in", &signature).unwrap();
        verify_text(&wallet.address().to_lowercase(), "sign in", &signature).unwrap();
        assert!(verify_text(&wallet.address(), "sign in!", &signature).is_err());
        assert!(verify_text(&other.address(), "sign in", &signature).is_err());
        assert!(verify_text(&wallet.address(), "sign in", &signature[..130]).is_err());
    }

    #[test]
    fn refuses_the_flipped_twin_of_a_signature() {
        let wallet = Wallet::generate().unwrap();
        let mut bytes: [u8; 65] = crate::encoding::hex_array("", &wallet.sign_text("x").unwrap()).unwrap();
        let parsed = Signature::from_slice(&bytes[..64]).unwrap();
        let (r, s) = parsed.split_scalars();
        let high = Signature::from_scalars(r, -s).unwrap();
        bytes[..64].copy_from_slice(&high.to_bytes());
        bytes[64] = 55 - bytes[64];
        assert!(
            recover_text("x", &hex::encode(bytes))
                .unwrap_err()
                .to_string()
                .contains("high")
        );
    }

    #[test]
    fn survives_saving() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.key");
        let wallet = Wallet::generate().unwrap();
        wallet.save(&path, None).unwrap();
        assert_eq!(Wallet::load(&path, None).unwrap().address(), wallet.address());
        assert!(wallet.save(&path, None).is_err());
        let locked = dir.path().join("locked.key");
        let passphrase = |text: &str| Passphrase::new(Zeroizing::new(text.to_owned()));
        wallet.save(&locked, Some(&passphrase("open"))).unwrap();
        assert_eq!(Wallet::load(&locked, None).err().unwrap().code(), "E_LOCKED");
        let wrong = Wallet::load(&locked, Some(&passphrase("other")));
        assert_eq!(wrong.err().unwrap().code(), "E_PASSPHRASE");
        let opened = Wallet::load(&locked, Some(&passphrase("open"))).unwrap();
        assert_eq!(opened.address(), wallet.address());
        assert_eq!(Wallet::address_in(&locked).unwrap(), Some(wallet.address()));
        // Of a program the file says which, and no key.
        let outside = dir.path().join("outside.key");
        let program = Program::new(&wallet.address(), vec!["sign".into(), "--ledger".into()]).unwrap();
        Wallet::of_program(program).save(&outside, None).unwrap();
        let loaded = Wallet::load(&outside, None).unwrap();
        assert!(loaded.is_elsewhere() && loaded.address() == wallet.address());
        // What comes from elsewhere as a key file installs no program.
        let imported = Wallet::of_keystore(&outside, &passphrase("open"));
        assert_eq!(imported.err().unwrap().code(), "E_KEY_FILE");
    }
}
