//! Receipts: hashed as EIP-712 typed data, signed by the gateway's receipt key, and chained for each payer. All of a gateway's
//! receipts are leaves of one log (`log`), whose root is posted on Aleph now and then (`posting`).
//!
//! The key is a file of its own (0600), not in the database and not the operator's wallet: it can state what was paid, and
//! move nothing. [`check_chain`], [`check_head`], [`check_proof`] and [`check_consistency`] are what `alephlab receipt verify` does,
//! without an account.

mod log;
mod posting;
mod proof;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;

use alephlab_api::receipt::{Receipt, ReceiptHead, SignedReceipt, Unit};
use alephlab_vault::{Address, VaultError, Wallet, recover_hash};
use sha3::{Digest as _, Keccak256};

use crate::error::{GatewayError, Result};

pub use posting::Posting;
pub use proof::{check_consistency, check_head, check_proof};

pub(crate) use log::{Hash, consistency, inclusion, joined, leaf, subtrees, whole};
pub(crate) use posting::keep_posting;
#[cfg(test)]
pub(crate) use posting::post as post_once;

const DOMAIN_TYPE: &[u8] = b"EIP712Domain(string name,string version)";
const DOMAIN_NAME: &[u8] = b"Alephlab receipt";
/// Receipts of the first version, which no longer are written.
const RECEIPT_TYPE_1: &[u8] =
    b"Receipt(string id,address payer,address payee,string kind,string subject,uint256 units,\
uint256 unitPrice,uint256 amount,string asset,uint256 sequence,uint256 entry,bytes32 previous,uint256 time)";
const RECEIPT_TYPE_2: &[u8] =
    b"Receipt(string id,address payer,address payee,string kind,string subject,string model,string commit,\
uint256 units,string unit,uint256 unitPrice,uint256 amount,string asset,uint256 sequence,uint256 entry,\
bytes32 previous,uint256 time)";
const HEAD_TYPE: &[u8] = b"Head(uint256 size,bytes32 root,address poster,string previous)";

/// Why receipts are not what they say.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// A field is not of its form.
    #[error("receipt {sequence} is malformed: its {field} is none")]
    Malformed {
        /// Which receipt.
        sequence: u64,
        /// Which field.
        field: &'static str,
    },
    /// Another key signed it, or it was changed.
    #[error("receipt {sequence} is not signed by {signer}: it was changed, or is another gateway's")]
    Signature {
        /// Which receipt.
        sequence: u64,
        /// Who should have signed.
        signer: String,
    },
    /// It does not follow the one before.
    #[error(
        "receipt {sequence} does not follow the one before it: one is missing, doubled or another payer's"
    )]
    Chain {
        /// Which receipt.
        sequence: u64,
    },
    /// It is of a form that this program does not know.
    #[error("receipt {sequence} is of version {version}, which this program does not know")]
    Version {
        /// Which receipt.
        sequence: u64,
        /// Its version.
        version: u8,
    },
    /// What stands on Aleph is no statement of this key.
    #[error("the message {message} on Aleph is no root of receipts that {signer} signed: {reason}")]
    Head {
        /// Item hash of the message.
        message: String,
        /// Whose it should be.
        signer: String,
        /// Why not.
        reason: &'static str,
    },
    /// The proof does not lead to the root.
    #[error(
        "receipt {sequence} is not under the root of {size} receipts that {message} posts on Aleph: {reason}"
    )]
    Inclusion {
        /// Which receipt.
        sequence: u64,
        /// Of how many the root is.
        size: u64,
        /// Item hash of the message.
        message: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// One root does not continue another.
    #[error(
        "the root of {to} receipts does not continue that of {from}: the gateway has changed or dropped receipts after it had \
         posted them, or gave a wrong proof"
    )]
    Consistency {
        /// Size of the earlier root.
        from: u64,
        /// Size of the later one.
        to: u64,
    },
    /// The amount is more than units and price say.
    #[error("receipt {sequence} is over more than its units cost at its price")]
    Amount {
        /// Which receipt.
        sequence: u64,
    },
}

/// Signs receipts of payments to `payee`.
pub(crate) struct ReceiptKey {
    wallet: Wallet,
    pub(crate) payee: Address,
    /// Why no more roots are posted: what stands on Aleph by this key is not in the database.
    pub(crate) fault: OnceLock<String>,
}

impl ReceiptKey {
    /// The key in `folder`, made when there is none.
    pub(crate) fn open(folder: &Path, payee: Address) -> Result<Self> {
        let path = folder.join("receipt.key");
        let unusable = |error: VaultError| GatewayError::Setting {
            setting: "the receipt key",
            reason: error.to_string(),
        };
        let wallet = if path.exists() {
            Wallet::load(&path, None).map_err(unusable)?
        } else {
            let wallet = Wallet::generate().map_err(unusable)?;
            wallet.save(&path, None).map_err(unusable)?;
            wallet
        };
        Ok(Self {
            wallet,
            payee,
            fault: OnceLock::new(),
        })
    }

    /// Who signs.
    pub(crate) fn address(&self) -> String {
        self.wallet.address()
    }

    /// Signs a text (EIP-191).
    pub(crate) fn sign_text(&self, text: &str) -> Result<String> {
        self.wallet.sign_text(text).map_err(|error| failed(&error))
    }

    /// Signs the hash of another statement of the gateway.
    pub(crate) fn sign_hash(&self, hash: &Hash) -> Result<String> {
        self.wallet.sign_hash(hash).map_err(|error| failed(&error))
    }

    pub(crate) fn sign(&self, receipt: Receipt) -> Result<(SignedReceipt, Hash)> {
        let hash = hash(&receipt).map_err(|error| failed(&error))?;
        let signature = self.wallet.sign_hash(&hash).map_err(|error| failed(&error))?;
        Ok((SignedReceipt { receipt, signature }, hash))
    }

    /// States a root, for whoever posts it.
    pub(crate) fn sign_head(
        &self,
        (size, root): (u64, &Hash),
        poster: &str,
        previous: Option<String>,
    ) -> Result<ReceiptHead> {
        let mut head = ReceiptHead {
            signer: self.address(),
            size,
            root: hex::encode(root),
            previous,
            signature: String::new(),
        };
        let hash = head_hash(&head, poster).ok_or_else(|| failed(&"the root is none"))?;
        head.signature = self.wallet.sign_hash(&hash).map_err(|error| failed(&error))?;
        Ok(head)
    }
}

fn failed(reason: &dyn std::fmt::Display) -> GatewayError {
    GatewayError::Setting {
        setting: "the receipt key",
        reason: reason.to_string(),
    }
}

/// What is signed: the hash of the receipt as typed data (EIP-712, `hashStruct` under our domain).
///
/// # Errors
/// [`ReceiptError::Malformed`], [`ReceiptError::Version`].
pub(crate) fn hash(receipt: &Receipt) -> std::result::Result<Hash, ReceiptError> {
    let sequence = receipt.sequence;
    let malformed = |field| ReceiptError::Malformed { sequence, field };
    let account = |account: &str, field| account_word(account).ok_or_else(|| malformed(field));
    let mut previous = [0; 32];
    hex::decode_to_slice(&receipt.previous, &mut previous).map_err(|_| malformed("previous"))?;
    let mut words = vec![
        text(&receipt.id.to_string()),
        account(&receipt.payer, "payer")?,
        account(&receipt.payee, "payee")?,
        text(receipt.kind.name()),
        text(&receipt.subject),
    ];
    let units = number(receipt.units);
    let kind = match receipt.version {
        1 => {
            // What it does not sign it does not say.
            let unsigned = [
                ("model", receipt.model.is_some()),
                ("commit", receipt.commit.is_some()),
                ("unit", receipt.unit != Unit::Hour),
            ];
            if let Some((field, _)) = unsigned.into_iter().find(|(_, said)| *said) {
                return Err(malformed(field));
            }
            words.push(units);
            RECEIPT_TYPE_1
        }
        2 => {
            let model = receipt.model.map(|model| model.to_string()).unwrap_or_default();
            let commit = receipt.commit.as_deref().unwrap_or_default();
            words.extend([text(&model), text(commit), units, text(receipt.unit.name())]);
            RECEIPT_TYPE_2
        }
        version => return Err(ReceiptError::Version { sequence, version }),
    };
    words.extend([
        receipt.unit_price.to_bytes(),
        receipt.amount.to_bytes(),
        text(receipt.asset.name()),
        number(sequence),
        number(receipt.entry),
        previous,
        number(receipt.time),
    ]);
    Ok(typed(receipt.version, kind, &words))
}

/// What is signed of a root; none where root or poster are none.
fn head_hash(head: &ReceiptHead, poster: &str) -> Option<Hash> {
    let mut root = [0; 32];
    hex::decode_to_slice(&head.root, &mut root).ok()?;
    let poster = account_word(poster)?;
    let previous = text(head.previous.as_deref().unwrap_or_default());
    Some(typed(2, HEAD_TYPE, &[number(head.size), root, poster, previous]))
}

/// EIP-712 under the domain of this version.
fn typed(version: u8, kind: &[u8], words: &[Hash]) -> Hash {
    let domain = keccak(&[
        &keccak(&[DOMAIN_TYPE]),
        &keccak(&[DOMAIN_NAME]),
        &text(&version.to_string()),
    ]);
    let structure = keccak(&[&keccak(&[kind]), words.as_flattened()]);
    keccak(&[b"\x19\x01", &domain, &structure])
}

fn text(text: &str) -> Hash {
    keccak(&[text.as_bytes()])
}

fn number(number: u64) -> Hash {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

/// An address; or an account that began without one, which keeps its id also when it links one: its receipts are one chain.
fn account_word(account: &str) -> Option<Hash> {
    if account.starts_with("acct_") {
        let mut word = text(account);
        word[..12].fill(0);
        return Some(word);
    }
    let address: Address = account.parse().ok()?;
    let mut word = [0; 32];
    word[12..].copy_from_slice(&address.0);
    Some(word)
}

/// Keccak-256 of these parts, one after the other.
pub(crate) fn keccak(parts: &[&[u8]]) -> Hash {
    let mut hasher = Keccak256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn is_signed(hash: &Hash, signature: &str, signer: &str) -> bool {
    recover_hash(hash, signature).is_ok_and(|by| by.to_string().eq_ignore_ascii_case(signer))
}

/// Checks receipts of one payer, in order and without a gap: signatures, that each follows the one before, and that none is over
/// more than its units cost. The first may be any; a chain that begins with 1 is complete up to its end.
///
/// # Errors
/// The first [`ReceiptError`].
pub fn check_chain(receipts: &[SignedReceipt], signer: &str) -> std::result::Result<(), ReceiptError> {
    let mut before: Option<(&Receipt, Hash)> = None;
    for SignedReceipt { receipt, signature } in receipts {
        let sequence = receipt.sequence;
        let hash = hash(receipt)?;
        if !is_signed(&hash, signature, signer) {
            let signer = signer.to_owned();
            return Err(ReceiptError::Signature { sequence, signer });
        }
        let follows = match before {
            Some((before, hash)) => {
                sequence == before.sequence + 1
                    && receipt.previous == hex::encode(hash)
                    && receipt.payer == before.payer
            }
            None => sequence > 1 || receipt.previous == "00".repeat(32),
        };
        if !follows {
            return Err(ReceiptError::Chain { sequence });
        }
        let cost = receipt.unit_price.part(receipt.units, receipt.unit.parts());
        if cost.is_some_and(|cost| receipt.amount > cost) {
            return Err(ReceiptError::Amount { sequence });
        }
        before = Some((receipt, hash));
    }
    Ok(())
}
