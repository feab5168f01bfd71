//! Receipts: hashed as EIP-712 typed data, signed by the gateway's receipt key, and chained for each payer.
//!
//! The key is a file of its own (0600), not in the database and not the operator's wallet: it can state what was paid, and
//! move nothing. [`check_chain`] is what `alephlab receipt verify` does, without a gateway.

use std::path::Path;

use alephlab_api::receipt::{Receipt, SignedReceipt};
use alephlab_vault::{Address, VaultError, Wallet, recover_hash};
use sha3::{Digest as _, Keccak256};

use crate::error::{GatewayError, Result};

const DOMAIN_TYPE: &[u8] = b"EIP712Domain(string name,string version)";
const DOMAIN_NAME: &[u8] = b"Alephlab receipt";
const DOMAIN_VERSION: &[u8] = b"1";
const RECEIPT_TYPE: &[u8] =
    b"Receipt(string id,address payer,address payee,string kind,string subject,uint256 units,\
uint256 unitPrice,uint256 amount,string asset,uint256 sequence,uint256 entry,bytes32 previous,uint256 time)";

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
        Ok(Self { wallet, payee })
    }

    /// Who signs.
    pub(crate) fn address(&self) -> String {
        self.wallet.address()
    }

    /// Signs a text (EIP-191).
    pub(crate) fn sign_text(&self, text: &str) -> Result<String> {
        let signed = self.wallet.sign_text(text);
        signed.map_err(|error| GatewayError::Setting {
            setting: "the receipt key",
            reason: error.to_string(),
        })
    }

    /// Signs the hash of another statement of the gateway.
    pub(crate) fn sign_hash(&self, hash: &[u8; 32]) -> Result<String> {
        let signed = self.wallet.sign_hash(hash);
        signed.map_err(|error| GatewayError::Setting {
            setting: "the receipt key",
            reason: error.to_string(),
        })
    }

    pub(crate) fn sign(&self, receipt: Receipt) -> Result<SignedReceipt> {
        let failed = |reason: String| GatewayError::Setting {
            setting: "the receipt key",
            reason,
        };
        let hash = hash(&receipt).map_err(|error| failed(error.to_string()))?;
        let signature = self
            .wallet
            .sign_hash(&hash)
            .map_err(|error| failed(error.to_string()))?;
        Ok(SignedReceipt { receipt, signature })
    }
}

/// What is signed: the hash of the receipt as typed data (EIP-712, `hashStruct` under our domain).
///
/// # Errors
/// [`ReceiptError::Malformed`].
pub(crate) fn hash(receipt: &Receipt) -> std::result::Result<[u8; 32], ReceiptError> {
    let malformed = |field| ReceiptError::Malformed {
        sequence: receipt.sequence,
        field,
    };
    let text = |text: &str| keccak(&[text.as_bytes()]);
    let number = |number: u64| {
        let mut word = [0; 32];
        word[24..].copy_from_slice(&number.to_be_bytes());
        word
    };
    let address = |address: &str, field| {
        let address: Address = address.parse().map_err(|_| malformed(field))?;
        let mut word = [0; 32];
        word[12..].copy_from_slice(&address.0);
        Ok::<_, ReceiptError>(word)
    };
    // An account that began without an address keeps its id, also when it links one: its receipts are one chain.
    let payer = match receipt.payer.strip_prefix("acct_") {
        Some(_) => {
            let mut word = text(&receipt.payer);
            word[..12].fill(0);
            word
        }
        None => address(&receipt.payer, "payer")?,
    };
    let mut previous = [0; 32];
    hex::decode_to_slice(&receipt.previous, &mut previous).map_err(|_| malformed("previous"))?;
    let id = receipt.id.to_string();
    let domain = keccak(&[
        &keccak(&[DOMAIN_TYPE]),
        &keccak(&[DOMAIN_NAME]),
        &keccak(&[DOMAIN_VERSION]),
    ]);
    let structure = keccak(&[
        &keccak(&[RECEIPT_TYPE]),
        &text(&id),
        &payer,
        &address(&receipt.payee, "payee")?,
        &text(&receipt.kind),
        &text(&receipt.subject),
        &number(receipt.units),
        &receipt.unit_price.to_bytes(),
        &receipt.amount.to_bytes(),
        &text(receipt.asset.name()),
        &number(receipt.sequence),
        &number(receipt.entry),
        &previous,
        &number(receipt.time),
    ]);
    Ok(keccak(&[b"\x19\x01", &domain, &structure]))
}

/// Keccak-256 of these parts, one after the other.
pub(crate) fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Keccak256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Checks receipts of one payer, in order and without a gap: signatures, that each follows the one before, and that none is over
/// more than its units cost. The first may be any; a chain that begins with 1 is complete up to its end.
///
/// # Errors
/// The first [`ReceiptError`].
pub fn check_chain(receipts: &[SignedReceipt], signer: &str) -> std::result::Result<(), ReceiptError> {
    let mut before: Option<(&Receipt, [u8; 32])> = None;
    for SignedReceipt { receipt, signature } in receipts {
        let sequence = receipt.sequence;
        let hash = hash(receipt)?;
        let signed_by = recover_hash(&hash, signature);
        if !signed_by.is_ok_and(|by| by.to_string().eq_ignore_ascii_case(signer)) {
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
        let cost = receipt.unit_price.part(receipt.units, 3_600);
        if cost.is_some_and(|cost| receipt.amount > cost) {
            return Err(ReceiptError::Amount { sequence });
        }
        before = Some((receipt, hash));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alephlab_api::money::{Amount, Asset};
    use uuid::Uuid;

    use super::*;

    fn chain(key: &ReceiptKey, payer: &str, count: u64) -> Vec<SignedReceipt> {
        let mut previous = "00".repeat(32);
        (1..=count)
            .map(|sequence| {
                let receipt = Receipt {
                    id: Uuid::from_u128(u128::from(sequence)),
                    payer: payer.to_owned(),
                    payee: key.payee.to_string(),
                    kind: "compute".into(),
                    subject: format!("kernel {sequence}"),
                    units: 100,
                    unit_price: Amount::from_whole(3_600),
                    amount: Amount::from_whole(100),
                    asset: Asset::Credit,
                    sequence,
                    entry: sequence * 7,
                    previous: previous.clone(),
                    time: 1_795_000_000,
                };
                previous = hex::encode(hash(&receipt).unwrap());
                key.sign(receipt).unwrap()
            })
            .collect()
    }

    #[test]
    fn chain_holds_and_every_change_to_it_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let payer = Wallet::generate().unwrap();
        let key = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
        let again = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
        let signer = key.address();
        assert_eq!(again.address(), signer, "a key is made once");
        let receipts = chain(&key, &payer.address(), 4);
        check_chain(&receipts, &signer).unwrap();
        check_chain(&receipts[2..], &signer).unwrap();
        assert!(matches!(
            check_chain(&receipts, &payer.address()),
            Err(ReceiptError::Signature { sequence: 1, .. })
        ));
        let mut without = receipts.clone();
        without.remove(1);
        assert!(matches!(
            check_chain(&without, &signer),
            Err(ReceiptError::Chain { sequence: 3 })
        ));
        let twice = [&receipts[..1], &receipts[..]].concat();
        assert!(matches!(
            check_chain(&twice, &signer),
            Err(ReceiptError::Chain { sequence: 1 })
        ));
        let changes: [fn(&mut Receipt); 11] = [
            |one| one.payer = one.payee.replace('0', "1"),
            |one| one.payee = "0x00000000000000000000000000000000000000aD".into(),
            |one| one.kind.push('x'),
            |one| one.subject.push('x'),
            |one| one.units += 1,
            |one| one.unit_price = Amount::from_whole(3_601),
            |one| one.amount = Amount::from_whole(99),
            |one| one.asset = Asset::Aleph,
            |one| one.entry += 1,
            |one| one.time += 1,
            |one| one.id = Uuid::nil(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = receipts.clone();
            let before = changed[1].receipt.clone();
            change(&mut changed[1].receipt);
            assert!(
                changed[1].receipt == before || check_chain(&changed, &signer).is_err(),
                "{number}"
            );
        }
    }

    #[test]
    fn receipt_over_more_than_its_units_cost_is_refused_though_it_is_signed() {
        let folder = tempfile::tempdir().unwrap();
        let payer = Wallet::generate().unwrap();
        let key = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
        let mut receipt = chain(&key, &payer.address(), 1).remove(0).receipt;
        receipt.amount = Amount::from_whole(101);
        let signed = key.sign(receipt).unwrap();
        let refused = check_chain(&[signed], &key.address());
        assert!(matches!(refused, Err(ReceiptError::Amount { sequence: 1 })));
    }
}
